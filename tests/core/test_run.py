"""The run: a log that survives a kill, limits, and runs below it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from warmstart.core import Run


def test_lines_are_kept_in_order_and_on_disk(tmp_path: Path) -> None:
    run = Run(tmp_path / "a" / "b")
    assert (run.read_log(), run.log_count()) == ([], 0)
    run.log(step=1, loss=np.float32(0.5), note="ü\u2028\x85\n")  # line ends inside a text
    run.log(step=2, loss=float("nan"))
    first, second = run.read_log()
    assert first == {"step": 1, "loss": 0.5, "note": "ü\u2028\x85\n"}
    assert second["step"] == 2
    assert np.isnan(second["loss"])
    assert run.log_count() == len(run.log_path.read_bytes().split(b"\n")) - 1 == 2
    assert Run(tmp_path / "a" / "b").log_count() == 2


def test_a_log_torn_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    run = Run(tmp_path)
    rows = [{"step": i, "name": "señal 信号"} for i in range(3)]
    for row in rows:
        run.log(**row)
    raw = run.log_path.read_bytes()
    for size in range(len(raw)):
        whole = raw[:size].count(b"\n")
        run.log_path.write_bytes(raw[:size])
        assert run.read_log() == rows[:whole], size
        run.log(step=9)  # goes on a line of its own
        assert run.read_log() == [*rows[:whole], {"step": 9}], size


def test_truncation(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(5):
        run.log(step=step, name="é")
    kept = run.log_path.read_bytes().splitlines(keepends=True)[:3]
    run.truncate_log(3)
    assert run.log_path.read_bytes() == b"".join(kept)
    run.truncate_log(10)
    assert run.log_count() == 3
    run.truncate_log(0)
    assert run.log_path.read_bytes() == b""
    run.log(step=7)
    assert run.read_log() == [{"step": 7}]


def test_a_failed_truncation_leaves_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    for step in range(4):
        run.log(step=step)

    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        run.truncate_log(1)
    assert run.log_count() == 4
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_deadline(tmp_path: Path) -> None:
    assert not Run(tmp_path).out_of_time()
    assert not Run(tmp_path, deadline=time.monotonic() + 60).out_of_time()
    assert Run(tmp_path, deadline=time.monotonic()).out_of_time()


def test_a_child_keeps_what_is_not_changed(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=5, deadline=9.0, max_steps=7, device="cpu", trackers=("tensorboard",))
    child = run.child("arm", max_steps=2)
    assert child.folder == tmp_path / "arm"
    assert child.folder.is_dir()
    assert (child.seed, child.deadline, child.max_steps) == (5, 9.0, 2)
    assert (child.device, child.trackers) == ("cpu", ("tensorboard",))
    assert child.streams.seed("x") == run.streams.seed("x")
    assert run.child("other", seed=6).streams.seed("x") != run.streams.seed("x")
    child.log(step=1)
    assert run.log_count() == 0
    assert json.loads(child.log_path.read_text()) == {"step": 1}
    with pytest.raises(TypeError, match="stepz"):
        run.child("arm", stepz=1)
