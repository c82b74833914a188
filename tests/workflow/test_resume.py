"""Interrupted, repeated, refused, replaced, raced."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from warmstart.core import RunError, UsageError, verify_manifest
from warmstart.strategies import Fitted, Probe
from warmstart.workflow import compare, fit, open_run
from warmstart.workflow.folders import lock_of, run_folder


class Counted(Probe):
    """A probe that counts its fits, and is interrupted when asked to."""

    name: ClassVar[str] = "counted"
    seeded: ClassVar[bool] = True
    fits: ClassVar[list[tuple[float, int]]] = []
    stop: ClassVar[set[tuple[float, int]]] = set()

    @property
    def runs_once(self) -> bool:
        return False

    def fit(self, backbone: Any, view: Any, run: Any) -> Fitted:
        mark = (float(self.l2), run.seed)
        type(self).fits.append(mark)
        if mark in self.stop:
            raise KeyboardInterrupt
        return super().fit(backbone, view, run)


@pytest.fixture(autouse=True)
def fresh() -> None:
    Counted.fits.clear()
    Counted.stop.clear()


@pytest.fixture
def again(table: Path, tiny_text: Path, tmp_path: Path) -> Any:
    def go(**settings: Any) -> Any:
        values: dict[str, Any] = {
            "strategies": [Counted(l2=0.1), Counted(l2=0.01)], "seeds": 2, "budget": "none",
            "backbone": tiny_text, "out": tmp_path / "run",
        }  # fmt: skip
        return compare(table, **(values | settings))

    return go


def test_an_interrupted_comparison_goes_on_where_it_stopped(again: Any, tmp_path: Path) -> None:
    Counted.stop.add((0.1, 1))
    with pytest.raises(KeyboardInterrupt) as stop:
        again()
    assert stop.value.__notes__ == [f"The unfinished run is in {tmp_path / 'run.partial'}."]
    assert Counted.fits == [(0.1, 0), (0.01, 0), (0.1, 1)]
    assert (tmp_path / "run.partial").is_dir()
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match="unfinished"):
        open_run(tmp_path / "run")
    Counted.stop.clear()
    Counted.fits.clear()
    run = again()
    assert Counted.fits == [(0.1, 1), (0.01, 1)], "finished seeds are not run again"
    assert not (tmp_path / "run.partial").exists()
    verify_manifest(run.folder)
    whole = again(out=tmp_path / "whole")
    tables = [pq.read_table(r.folder / "predictions.parquet").to_pylist() for r in (run, whole)]
    assert tables[0] == tables[1]
    strip = ("seconds", "peak_memory_bytes", "latency_ms")
    one, two = ([{k: v for k, v in arm.items() if k not in strip} for arm in r.results["arms"]]
                for r in (run, whole))  # fmt: skip
    for arm in (*one, *two):  # whether the vectors lay in the cache is told by the clock
        if "notes" in arm:
            arm["notes"] = [note for note in arm["notes"] if "lay in the cache" not in note]
    assert one == two


def test_a_training_goes_on_from_its_checkpoint(
    table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside fine-tuning: the repeated call ends with the uninterrupted one's weights."""
    import signal

    from warmstart.core import Interrupted
    from warmstart.training import loop as module

    def go(out: str) -> Any:
        return fit(table, strategy="finetune", controls="none",
                   settings={"epochs": 3, "rate": 1e-3}, device="cpu", backbone=tiny_text,
                   out=tmp_path / out)  # fmt: skip

    whole = go("whole")
    real = module.Scribe.step
    steps = 0

    def step(self: Any, *args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, *args)

    monkeypatch.setattr(module.Scribe, "step", step)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        go("run")
    assert list((tmp_path / "run.partial").rglob("step-*"))
    run = go("run")
    tables = [pq.read_table(r.folder / "predictions.parquet") for r in (run, whole)]
    np.testing.assert_array_equal(*[np.array(t.column("scores").to_pylist()) for t in tables])
    assert 42 <= steps <= 43, "3 epochs of 14 steps, at most one of them lost"
    assert run.arm()["epochs"] == whole.arm()["epochs"]


def test_other_settings_are_refused_until_replaced(again: Any, tmp_path: Path) -> None:
    Counted.stop.add((0.01, 0))
    with pytest.raises(KeyboardInterrupt):
        again()
    Counted.stop.clear()
    for change in ({"seeds": 3}, {"strategies": [Counted(l2=0.1)]}, {"metric": "macro_f1"},
                   {"limit": 60}, {"max_length": 16}, {"budget": "10m"}):  # fmt: skip
        with pytest.raises(RunError, match=r"unfinished run of other settings.*--replace"):
            again(**change)
    run = again(seeds=1, replace=True)
    assert run.results["settings"]["seeds"] == 1


def test_a_finished_run_is_not_overwritten(again: Any, tmp_path: Path) -> None:
    first = again(seeds=1)
    created = first.results["created"], (first.folder / "manifest.json").read_bytes()
    with pytest.raises(RunError, match=r"exists already.*--out.*--replace"):
        again(seeds=1)
    assert (first.folder / "manifest.json").read_bytes() == created[1]
    second = again(seeds=2, replace=True)
    assert second.results["settings"]["seeds"] == 2
    assert [p.name for p in tmp_path.iterdir() if "run" in p.name] == ["run"]


def test_a_failed_replacement_leaves_the_old_run(again: Any, tmp_path: Path) -> None:
    first = again(seeds=1)
    Counted.stop.add((0.01, 0))
    with pytest.raises(KeyboardInterrupt):
        again(seeds=1, replace=True)
    assert open_run(first.folder).best == first.best


def test_other_peoples_folders_are_not_replaced(again: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds other files than a run's"):
        again(replace=True)
    assert (tmp_path / "run" / "thesis.txt").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises((RunError, UsageError), match="file"):
        again(out=tmp_path / "file", replace=True)
    assert (tmp_path / "file").read_text() == "x"


def test_one_process_writes_a_run(again: Any, tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "run")
    lock.parent.mkdir()
    code = (
        "import sys, time; from filelock import FileLock\n"
        f"lock = FileLock({str(lock)!r}); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(RunError, match="Another process is writing"):
                again()
        finally:
            other.kill()
    assert again(seeds=1).best


def test_a_lock_outlives_its_holder(tmp_path: Path) -> None:
    """Who waits with the file open and who comes later must meet on one and the same file.

    Removed on release, the file of the waiting process would be another than a newcomer's.
    """
    final = tmp_path / "run"
    with run_folder(final, {"a": 1}):
        waiting = os.open(lock_of(final), os.O_RDWR)
    fcntl.flock(waiting, fcntl.LOCK_EX)  # its turn has come
    try:
        with (
            pytest.raises(RunError, match="Another process is writing"),
            run_folder(final, {"a": 1}, replace=True),
        ):
            raise AssertionError("two writers")
    finally:
        os.close(waiting)
    with run_folder(final, {"a": 1}, replace=True):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".locks", "run"]


def test_of_many_writers_one_works(tmp_path: Path) -> None:
    """Threads that race for a name: never two inside, and the folder is written whole once."""
    inside = 0
    most = 0
    outcomes: list[str] = []
    guard = threading.Lock()
    start = threading.Barrier(8)

    def write(number: int) -> None:
        nonlocal inside, most
        start.wait()
        for _ in range(10):
            try:
                with run_folder(tmp_path / "run", {"same": True}):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.002)
                    with guard:
                        inside -= 1
                outcome = "wrote"
            except RunError as error:
                outcome = str(error)
            with guard:
                outcomes.append(outcome)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert most == 1
    assert outcomes.count("wrote") == 1
    assert all(o == "wrote" or "Another process" in o or "exists already" in o for o in outcomes)
    assert not (tmp_path / "run.partial").exists()


def test_default_folders_number_themselves(again: Any) -> None:
    first, second = again(out=None, seeds=1), again(out=None, seeds=1)
    assert [str(r.folder) for r in (first, second)] == ["runs/compare-topics",
                                                        "runs/compare-topics-2"]  # fmt: skip
    Counted.stop.add((0.01, 0))
    with pytest.raises(KeyboardInterrupt):
        again(out=None, seeds=1)
    Counted.stop.clear()
    Counted.fits.clear()
    third = again(out=None, seeds=1)
    assert str(third.folder) == "runs/compare-topics-3"
    assert Counted.fits == [(0.01, 0)]


def test_the_chosen_input_size_is_kept_for_the_resumed_run(
    again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.workflow import prepare

    sizes = iter([16, 24])

    def choose(backbone: Any, dataset: Any, budget: float) -> Any:
        size = next(sizes)
        return backbone.with_settings(max_length=size), f"Inputs are read at {size} tokens."

    monkeypatch.setattr(prepare, "fit_input_size", choose)
    Counted.stop.add((0.01, 0))
    with pytest.raises(KeyboardInterrupt):
        again(budget="10m", seeds=1)
    Counted.stop.clear()
    run = again(budget="10m", seeds=1)
    assert run.results["backbone"]["max_length"] == 16
    assert "Inputs are read at 16 tokens." in run.results["data"]["split"]["notes"]


def test_what_no_run_began_is_never_discarded(tmp_path: Path) -> None:
    """`--replace` gives up an unfinished run, not a folder of the user's that has its name."""
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis.txt").write_text("years of work")
    (tmp_path / "file.partial").write_text("x")
    for name in ("mine", "file"):
        with (
            pytest.raises(RunError, match="holds other files than a run's"),
            run_folder(tmp_path / name, {"a": 1}, replace=True),
        ):
            raise AssertionError("entered")
    assert (tmp_path / "mine.partial" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file.partial").read_text() == "x"


def test_a_link_or_a_name_that_is_no_text_is_refused_before_the_work(tmp_path: Path) -> None:
    """At the end of the work the one could not be renamed over, the other not be written."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    odd = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8"), run_folder(odd, {"a": 1}):
        raise AssertionError("entered")
    with pytest.raises(UsageError, match="is a link"), run_folder(tmp_path / "link", {"a": 1}):
        raise AssertionError("entered")
