"""Checkpoints: whole or not at all, damage noticed, nothing but tensors and JSON inside."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import RunError, UsageError
from warmstart.training import Checkpoints, checkpoints

VALUES: dict[str, Any] = {
    "tensor": torch.arange(6.0).reshape(2, 3),
    "scalar": torch.tensor(3),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "array": np.array([1, 2, 3]),
    "nested": {1: [True, None, "x"], (2, "y"): {"$odd": 2.5}},
    "pair": (0.9, 0.999),
    "inf": math.inf,
    "count": 7,
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other) and type(one) is type(other)


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, 3, VALUES)
    assert {item.name for item in path.iterdir()} == {
        "manifest.json", "state.json", "tensors.safetensors"
    }  # fmt: skip
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert same(VALUES, found.values)


def test_shared_and_partial_memory_is_kept_apart(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    values = {"all": base, "again": base, "part": base[2:4], "turned": base.reshape(2, 3).T}
    checkpoints.save(tmp_path, 1, values)
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert same(values, found.values)


def test_two_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        checkpoints.save(tmp_path, step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_the_last_good_one_is_used(tmp_path: Path, name: str, caplog: Any) -> None:
    checkpoints.save(tmp_path, 1, {"x": torch.ones(3)})
    newest = checkpoints.save(tmp_path, 2, {"x": torch.zeros(3)})
    raw = bytearray((newest / name).read_bytes())
    raw[len(raw) // 2] ^= 0x04
    (newest / name).write_bytes(raw)
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.path.name == "step-00000001"
    assert "passed over" in caplog.text


def test_torn_and_temporary_folders_are_swept(tmp_path: Path) -> None:
    good = checkpoints.save(tmp_path, 1, {"x": 1})
    torn = tmp_path / "step-00000002"
    torn.mkdir()
    (torn / "state.json").write_text("{}")
    (tmp_path / ".step-00000003.abcdefgh.tmp").mkdir()
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.path == good
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_a_second_process_sweeps_nothing(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"x": 1})
    being_written = [tmp_path / ".start.json.0badcafe.tmp", tmp_path / "step-00000002"]
    being_written[0].write_text("{")
    being_written[1].mkdir()
    assert checkpoints.load_newest(tmp_path, tidy=False) is not None
    assert all(path.exists() for path in being_written)


def test_a_state_set_aside_comes_back(tmp_path: Path) -> None:
    good = checkpoints.save(tmp_path, 1, {"x": 1})
    good.rename(tmp_path / f".{good.name}.abcdefgh.old")  # killed between the two renames
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.path == good


def test_nothing_and_nothing_whole(tmp_path: Path) -> None:
    assert checkpoints.load_newest(tmp_path / "none") is None
    path = checkpoints.save(tmp_path, 1, {"x": 1})
    (path / "state.json").write_text("[]")
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged"):
        checkpoints.load_newest(tmp_path)


def test_a_full_disk_is_an_error_not_a_loss(tmp_path: Path, monkeypatch: Any) -> None:
    checkpoints.save(tmp_path, 1, {"x": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoints.save(tmp_path, 2, {"x": 2})
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.values == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="callbacks/0/x: it is a set"):
        checkpoints.save(tmp_path, 1, {"callbacks": [{"x": {1}}]})
    with pytest.raises(UsageError, match="keep must be at least 1"):
        Checkpoints(keep=0)


def test_when_one_is_due() -> None:
    policy = Checkpoints(every_seconds=None, every_steps=5)
    assert [step for step in range(1, 12) if policy.due(step)] == [5, 10]
    assert Checkpoints(every_seconds=0.0).due(1)
