"""A resumed fit is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from warmstart.core import Interrupted, RunError
from warmstart.training import Callback, Checkpoints

Toy = Callable[..., SimpleNamespace]


class Killed(Exception):
    pass


def lines(result: SimpleNamespace) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in result.run.read_log()
    ]


def assert_same(one: SimpleNamespace, other: SimpleNamespace) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for key in one.tensors:
        assert torch.equal(one.tensors[key], other.tensors[key]), key
    mine, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for place, state in mine["state"].items():
        for key, value in state.items():
            assert torch.equal(value, theirs["state"][place][key])
    assert lines(one) == lines(other)
    strip = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in each.history.epochs]
        for each in (one, other)
    ]
    assert strip[0] == strip[1]
    assert one.history.best_step == other.history.best_step
    assert one.history.stopped == other.history.stopped


def interrupted(toy: Toy, folder: Path, points: list[int], **changes: Any) -> SimpleNamespace:
    """Run until done, raising at the given calls of the step function."""
    calls = 0

    def hook(state: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in points:
            raise Killed

    for _ in range(len(points) + 1):
        try:
            return toy(folder, steps_hook=hook, **changes)
        except Killed:
            continue
    raise AssertionError("never finished")


@pytest.mark.parametrize("seed", range(4))
def test_resume_equals_uninterrupted(toy: Toy, tmp_path: Path, seed: int) -> None:
    points = random.Random(seed).sample(range(1, 45), 5)
    whole = toy(tmp_path / "whole", checkpoints=None)
    assert_same(interrupted(toy, tmp_path / "cut", points), whole)


def test_resume_with_rare_checkpoints(toy: Toy, tmp_path: Path) -> None:
    whole = toy(tmp_path / "whole", checkpoints=None)
    rare = Checkpoints(every_steps=7, every_seconds=None)
    assert_same(interrupted(toy, tmp_path / "cut", [12, 31], checkpoints=rare), whole)


def test_killed_before_the_first_checkpoint_leaves_no_lines(toy: Toy, tmp_path: Path) -> None:
    whole = toy(tmp_path / "whole", checkpoints=None)
    never = Checkpoints(every_steps=None, every_seconds=None)
    assert_same(interrupted(toy, tmp_path / "cut", [25], checkpoints=never), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_survives_a_kill_in_mid_epoch(toy: Toy, tmp_path: Path, workers: int) -> None:
    whole = toy(tmp_path / "whole", checkpoints=None, epochs=2)
    seen: list[list[int]] = []
    calls = 0

    def hook(state: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:  # the first batch of the fourth step
            raise Killed

    with pytest.raises(Killed):
        toy(tmp_path / "cut", steps_hook=hook, epochs=2, num_workers=workers)
    rest = toy(tmp_path / "cut", epochs=2, num_workers=workers)
    seen = whole.seen[:6] + rest.seen
    assert seen == whole.seen
    assert_same(rest, whole)


def test_a_finished_fit_is_not_trained_again(toy: Toy, tmp_path: Path) -> None:
    first = toy(tmp_path)
    again = toy(tmp_path)
    assert again.seen == []
    assert all(torch.equal(again.tensors[key], value) for key, value in first.tensors.items())
    assert again.history == first.history.model_copy(update={"seconds": again.history.seconds})
    assert lines(again) == lines(first)


def test_frozen_and_unfrozen_is_restored(toy: Toy, tmp_path: Path) -> None:
    class Unfreeze(Callback):
        def on_stage(self, state: Any, name: str) -> None:
            for key, parameter in state.modules["model"].named_parameters():
                parameter.requires_grad_(name == "all" or key.startswith("head"))

        def on_epoch_end(self, state: Any, record: Any) -> None:
            if state.epoch == 1:
                state.begin_stage("all")

    whole = toy(tmp_path / "whole", checkpoints=None, callbacks=[Unfreeze()])
    cut = interrupted(toy, tmp_path / "cut", [7, 23], callbacks=[Unfreeze()])
    assert_same(cut, whole)


def test_other_settings_are_refused(toy: Toy, tmp_path: Path) -> None:
    toy(tmp_path)
    with pytest.raises(RunError, match="other settings"):
        toy(tmp_path, accumulate=1)
    with pytest.raises(RunError, match="other settings"):
        toy(tmp_path, run={"seed": 4})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_a_checkpoint(
    toy: Toy, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    whole = toy(tmp_path / "whole", checkpoints=None)
    before = signal.getsignal(number)
    calls = 0

    def hook(state: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 13:
            os.kill(os.getpid(), number)

    never = Checkpoints(every_steps=None, every_seconds=None)
    with pytest.raises(Interrupted, match=number.name) as caught:
        toy(tmp_path / "cut", steps_hook=hook, checkpoints=never)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    rest = toy(tmp_path / "cut", checkpoints=never)
    assert len(rest.seen) == len(whole.seen) - 14  # the step in work was finished: none was lost
    assert_same(rest, whole)


def test_a_signal_during_evaluation(toy: Toy, tmp_path: Path) -> None:
    whole = toy(tmp_path / "whole", checkpoints=None, evaluate=lambda state: {"validation_loss": 1})

    def evaluate(state: Any) -> dict[str, float]:
        if state.step == 5 and not state.resumed:
            os.kill(os.getpid(), signal.SIGTERM)
        state.pause_point()
        return {"validation_loss": 1}

    with pytest.raises(Interrupted):
        toy(tmp_path / "cut", evaluate=evaluate)
    assert_same(toy(tmp_path / "cut", evaluate=evaluate), whole)


def test_a_signal_while_the_fit_ends_is_not_lost(toy: Toy, tmp_path: Path) -> None:
    class Late(Callback):
        def on_end(self, state: Any) -> None:
            if not state.resumed:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = toy(tmp_path / "whole", checkpoints=None, callbacks=[])
    with pytest.raises(Interrupted):
        toy(tmp_path / "cut", callbacks=[Late()])
    again = toy(tmp_path / "cut", callbacks=[Late()])
    assert again.seen == []
    assert all(torch.equal(again.tensors[key], value) for key, value in whole.tensors.items())


def test_a_limit_is_no_end(toy: Toy, tmp_path: Path) -> None:
    """A fit cut by max_steps goes on when more steps are allowed, as if it had not been cut."""
    whole = toy(tmp_path / "whole", checkpoints=None)
    cut = toy(tmp_path / "cut", run={"max_steps": 7})
    assert cut.history.stopped == "max_steps"
    assert cut.history.steps == 7
    assert_same(toy(tmp_path / "cut"), whole)


DRIVER = '''
import importlib.util, os, pathlib, random, signal, sys, hashlib, json, logging
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
sys.modules["kit"] = kit
spec.loader.exec_module(kit)
root = pathlib.Path(sys.argv[2])

def digest(result):
    h = hashlib.sha256()
    for key, value in sorted(result.tensors.items()):
        h.update(key.encode() + value.numpy().tobytes())
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in result.run.read_log()]
    h.update(json.dumps(lines).encode())
    return h.hexdigest()

def child(deadly):
    """Run the fit and die at the deadly-th flush, rename or step."""
    events = 0
    def tick(*_):
        nonlocal events
        events += 1
        if events == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
    fsync, replace, rename = os.fsync, pathlib.Path.replace, pathlib.Path.rename
    os.fsync = lambda handle: (tick(), fsync(handle))[1]
    pathlib.Path.replace = lambda self, to: (tick(), replace(self, to), tick())[1]
    pathlib.Path.rename = lambda self, to: (tick(), rename(self, to), tick())[1]
    kit.run_toy(root / "cut", steps_hook=tick)

kills, chance = 0, random.Random(int(sys.argv[3]))
for _ in range(200):
    deadly = chance.randint(1, 120)
    pid = os.fork()
    if pid == 0:
        child(deadly)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        kills += 1
    elif status == 0:
        break
    else:
        sys.exit(f"the child failed with {status}")
end = kit.run_toy(root / "cut")
left = [path.name for path in (root / "cut" / "checkpoints" / "fit").iterdir()]
whole = kit.run_toy(root / "whole", checkpoints=None)
print(json.dumps({"same": digest(end) == digest(whole), "kills": kills, "left": sorted(left)}))
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_anywhere(tmp_path: Path) -> None:
    """Killed at random flushes, renames and steps, also inside a save: nothing is lost or torn."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    kit = Path(__file__).with_name("conftest.py")
    done = subprocess.run(
        [sys.executable, str(script), str(kit), str(tmp_path), "5"],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["same"]
    assert result["kills"] >= 3
    assert [name for name in result["left"] if name.endswith((".tmp", ".old"))] == []
