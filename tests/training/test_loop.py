"""The loop: accumulation, clipping, early stopping, several players, limits."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.core import OutOfMemory, Run, Streams, UsageError, WarmstartError
from warmstart.training import (
    Callback,
    Diverged,
    EarlyStopping,
    ExampleRows,
    History,
    RowLoader,
    StepOutput,
    engine,
    fit_loop,
    pick_precision,
    set_training,
)

Toy = Callable[..., SimpleNamespace]


def squares(batch: Tensor, state: Any) -> Tensor:
    return ((state.modules["model"](batch) - 1.0) ** 2).mean()


def line(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def fit_line(folder: Path, batches: Any, model: nn.Module, **changes: Any) -> History:
    optimizer = changes.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    arguments: dict[str, Any] = {
        "step": squares, "modules": {"model": model}, "optimizers": optimizer, "loaders": batches,
        "run": Run(folder, device="cpu"), "epochs": 1,
    }  # fmt: skip
    return fit_loop(**(arguments | changes))


def rows(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32))


def test_one_step_of_sgd_by_hand(tmp_path: Path) -> None:
    model = line()
    weight, bias, x = model.weight.detach().clone(), model.bias.detach().clone(), rows(5)
    residual = x @ weight.T + bias - 1.0
    fit_line(tmp_path, [x], model)
    torch.testing.assert_close(model.weight, weight - 0.1 * (2 * residual * x).mean(0))
    torch.testing.assert_close(model.bias, bias - 0.1 * 2 * residual.mean(0))


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    x = rows(10)
    large, small = line(), line()
    fit_line(tmp_path / "large", [x], large, epochs=3)
    fit_line(tmp_path / "small", [x[:4], x[4:8], x[8:]], small, epochs=3, accumulate=3)
    torch.testing.assert_close(large.weight, small.weight)
    torch.testing.assert_close(large.bias, small.bias)


def test_the_last_step_of_an_epoch_takes_what_is_left(tmp_path: Path) -> None:
    x = rows(10)
    model, twin = line(), line()
    history = fit_line(tmp_path / "a", [x[:4], x[4:8], x[8:]], model, accumulate=2)
    fit_line(tmp_path / "b", [x[:8], x[8:]], twin)
    assert history.steps == 2
    torch.testing.assert_close(model.weight, twin.weight)


def test_weigh_sets_the_share_of_a_batch(tmp_path: Path) -> None:
    x = rows(6)
    model, twin = line(), line()
    fit_line(tmp_path / "a", [x[:2], x[2:]], model, accumulate=2, weigh=lambda _: 1.0)

    def step(batch: Tensor, state: Any) -> Tensor:
        return (squares(batch[:2], state) + squares(batch[2:], state)) / 2

    fit_line(tmp_path / "b", [x], twin, step=step)
    torch.testing.assert_close(model.weight, twin.weight)


def test_clipping_known_answer(tmp_path: Path) -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)

    def step(batch: Tensor, state: Any) -> Tensor:  # gradient (3, 4), norm 5
        loss: Tensor = state.modules["model"](batch).sum()
        return loss

    history = fit_line(
        tmp_path, [torch.tensor([[3.0, 4.0]])], model, step=step, clip=1.0,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
    )  # fmt: skip
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.6, -0.8]]))
    assert history.epochs[0]["train_grad_norm"] == pytest.approx(5.0)


def test_early_stopping_restores_the_best(tmp_path: Path) -> None:
    model = line()
    values = iter([3.0, 2.0, 2.5, float("nan"), 9.0, 9.0])
    kept: list[Tensor] = []

    def evaluate(state: Any) -> dict[str, float]:
        kept.append(model.weight.detach().clone())
        return {"validation_loss": next(values)}

    history = fit_line(
        tmp_path, [rows(4)], model, epochs=6, evaluate=evaluate,
        callbacks=[EarlyStopping(patience=3)],
    )  # fmt: skip
    assert history.stopped == "early"
    assert history.best_epoch == 2
    assert len(history.epochs) == 5
    assert torch.equal(model.weight, kept[1])
    assert not torch.equal(kept[1], kept[4])


def test_early_stopping_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='Did you mean "accuracy"'):
        fit_line(
            tmp_path, [rows(4)], line(), evaluate=lambda _: {"accuracy": 1.0},
            callbacks=[EarlyStopping("acuracy", mode="max")],
        )  # fmt: skip
    with pytest.raises(UsageError, match="patience must be at least 1"):
        EarlyStopping(patience=0)


class Linear1(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


def test_turns_move_one_player_at_a_time(tmp_path: Path) -> None:
    """A saddle x*y: x descends, y ascends, in turns, as alternating descent by hand does."""
    x, y = Linear1(1.0), Linear1(1.0)
    wanted: list[tuple[str, bool, bool]] = []

    def step(batches: Any, state: Any) -> StepOutput:
        assert set(batches) == {"real", "noise"}
        wanted.append((state.turn, x.value.requires_grad, y.value.requires_grad))
        product = x.value * y.value * batches["real"].mean()
        return StepOutput({"game": product if state.turn == "x" else -product})

    history = fit_loop(
        step=step, modules={"x": x, "y": y}, run=Run(tmp_path, device="cpu"), epochs=2,
        optimizers={n: torch.optim.SGD(m.parameters(), lr=0.1) for n, m in (("x", x), ("y", y))},
        loaders={"real": [torch.ones(2)] * 3, "noise": [torch.zeros(2)] * 2},
        turns={"x": ["x"], "y": ["y"]}, log_every=1,
    )  # fmt: skip
    a, b = 1.0, 1.0
    for _ in range(6):
        a -= 0.1 * b
        b += 0.1 * a
    assert x.value.item() == pytest.approx(a)
    assert y.value.item() == pytest.approx(b)
    assert wanted[:2] == [("x", True, False), ("y", False, True)]
    assert x.value.requires_grad
    assert y.value.requires_grad
    assert {"train_x_loss", "train_y_loss"} <= set(history.epochs[0])


def test_second_loader_goes_round_on_its_own(tmp_path: Path) -> None:
    seen: list[int] = []

    def step(batches: Any, state: Any) -> Tensor:
        seen.append(int(batches["b"][0, 0]))
        return squares(batches["a"], state)

    fit_line(
        tmp_path, {"a": [rows(2)] * 3, "b": [torch.full((2, 1), float(i)) for i in range(2)]},
        line(), step=step, epochs=2,
    )  # fmt: skip
    assert seen == [0, 1, 0, 1, 0, 1]


def test_a_step_may_do_its_own_backward(tmp_path: Path) -> None:
    x, model, twin = rows(8), line(), line()

    def step(batch: Tensor, state: Any) -> StepOutput:
        losses = []
        for part in batch.split(2):
            loss = squares(part, state) * len(part) / len(batch)
            state.backward(loss)
            losses.append(loss.detach())
        return StepOutput(torch.stack(losses).sum(), manual=True)

    fit_line(tmp_path / "a", [x[:4], x[4:]], model, step=step, accumulate=2)
    fit_line(tmp_path / "b", [x], twin)
    torch.testing.assert_close(model.weight, twin.weight)


def test_deadline_and_max_steps(tmp_path: Path, toy: Toy) -> None:
    history = toy(tmp_path / "steps", run={"max_steps": 7}, checkpoints=None).history
    assert (history.stopped, history.steps, history.cut) == ("max_steps", 7, True)
    assert "validation_loss" in history.epochs[-1]  # what was cut short is still judged
    past = toy(tmp_path / "past", run={"deadline": time.monotonic() - 1.0}).history
    assert (past.stopped, past.steps) == ("deadline", 0)
    soon = time.monotonic() + 0.3
    history = toy(
        tmp_path / "soon", run={"deadline": soon}, epochs=500, checkpoints=None,
        schedules=None, callbacks=[], steps_hook=lambda _: time.sleep(0.01),
    ).history  # fmt: skip
    assert history.stopped == "deadline"
    assert 0 < history.steps < 2500
    enough = toy(tmp_path / "enough", run={"max_steps": 20}, checkpoints=None, callbacks=[])
    assert enough.history.stopped == "finished"


def test_the_callers_random_state_is_untouched_and_unused(toy: Toy, tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    one = toy(tmp_path / "one", checkpoints=None)
    after = (torch.rand(1).item(), random.random())
    torch.manual_seed(1)
    random.seed(1)
    assert (torch.rand(1).item(), random.random()) == after
    torch.manual_seed(2)
    two = toy(tmp_path / "two", checkpoints=None)
    for key, value in one.tensors.items():
        assert torch.equal(value, two.tensors[key])


def test_workers_change_nothing(toy: Toy, tmp_path: Path) -> None:
    one = toy(tmp_path / "one", checkpoints=None, epochs=2)
    two = toy(tmp_path / "two", checkpoints=None, epochs=2, num_workers=3)
    assert one.seen == two.seen
    for key, value in one.tensors.items():
        assert torch.equal(value, two.tensors[key])


def test_rows_are_prepared_by_threads_and_kept(kit: Any) -> None:
    """Nothing is forked beside running threads, and what was prepared stays for later epochs."""
    callers: list[tuple[int, str]] = []

    def preprocess(values: Any) -> dict[str, Tensor]:
        callers.append((os.getpid(), threading.current_thread().name))
        found: dict[str, Tensor] = kit.preprocess_vectors(values)
        return found

    source = ExampleRows(kit.ToyRows(), preprocess, streams=Streams(0))
    loader = RowLoader(source, 4, streams=Streams(0), num_workers=3)
    first = list(loader.batches(0))
    assert len(callers) == len(first) == 10
    assert {pid for pid, _ in callers} == {os.getpid()}
    assert all(name.startswith("warmstart-rows") for _, name in callers)
    list(loader.batches(1))
    assert len(callers) == 10
    half = loader.batches(2)
    next(half)
    half.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("warmstart-rows")]


def test_an_error_in_a_thread_reaches_the_loop(kit: Any) -> None:
    def preprocess(values: Any) -> dict[str, Tensor]:
        raise OSError("an image that vanished")

    source = ExampleRows(kit.ToyRows(), preprocess, streams=Streams(0))
    with pytest.raises(OSError, match="vanished"):
        list(RowLoader(source, 4, streams=Streams(0), num_workers=2).batches(0))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), MemoryError()]
)
def test_a_full_memory_is_an_error_of_ours(tmp_path: Path, error: Exception) -> None:
    def full(batch: Any, state: Any) -> Tensor:
        raise error

    model = line()
    with pytest.raises(OutOfMemory, match="lower batch_size, image size or max_length"):
        fit_loop(
            step=full, modules={"model": model}, run=Run(tmp_path, device="cpu"), epochs=1,
            optimizers=torch.optim.SGD(model.parameters(), lr=0.1), loaders=[rows(2)],
        )  # fmt: skip
    assert issubclass(OutOfMemory, WarmstartError)
    assert issubclass(Diverged, WarmstartError)


@pytest.mark.parametrize(
    ("device", "wanted"), [("cuda:1", "cuda:1"), ("cuda", None), ("cpu", None)]
)
def test_accelerate_is_told_which_gpu(
    device: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []
    chosen: list[torch.device] = []
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)

    def accelerator(**_: Any) -> SimpleNamespace:
        told.append(os.environ.get("ACCELERATE_TORCH_DEVICE"))
        return SimpleNamespace(distributed_type=None)

    monkeypatch.setattr(engine, "Accelerator", accelerator)
    engine._accelerator(torch.device(device), "no", (), None)
    assert told == [wanted]
    assert [str(d) for d in chosen] == ([wanted] if wanted else [])
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_callbacks_are_called_in_order(tmp_path: Path) -> None:
    calls: list[str] = []

    class Watch(Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                calls.append(name)
            return super().__getattribute__(name)

    fit_line(
        tmp_path, [rows(2)] * 2, line(), callbacks=[Watch()], evaluate=lambda _: {"a": 1.0},
        evaluate_every=1,
    )  # fmt: skip
    assert calls == [
        "on_start", "on_stage", "on_step", "on_evaluate", "on_step", "on_evaluate",
        "on_epoch_end", "on_end",
    ]  # fmt: skip


def test_frozen_parts_are_in_eval_mode(kit: SimpleNamespace, tmp_path: Path) -> None:
    model = kit.ToyNet()
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)
    set_training(model)
    assert not model.body.training
    assert not model.body[1].training
    assert model.drop.training
    assert model.head.training
    before = {key: value.clone() for key, value in model.body.state_dict().items()}

    def step(batch: Tensor, state: Any) -> Tensor:
        loss: Tensor = state.modules["model"]({"x": batch}).square().mean()
        return loss

    learned = torch.optim.SGD(model.head.parameters(), lr=0.1)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    fit_line(tmp_path, [x], model, step=step, optimizer=learned, epochs=2)
    for key, value in model.body.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not model.training  # ready to predict


def test_divergence_is_an_error(tmp_path: Path) -> None:
    def step(batch: Tensor, state: Any) -> Tensor:
        return squares(batch, state) * float("inf")

    with pytest.raises(Diverged, match=r"fit diverged: loss is (inf|nan) at step 1\..*Lower it"):
        fit_line(tmp_path, [rows(2)], line(), step=step)
    assert Diverged.exit_code == 7


def test_divergence_names_the_title_the_very_step_and_the_rate(tmp_path: Path) -> None:
    """The loss is looked at every ten steps; what is told is where it happened."""

    def step(batch: Tensor, state: Any) -> Tensor:
        return squares(batch, state) * (float("nan") if state.step == 3 else 1.0)

    optimizer = torch.optim.SGD((model := line()).parameters(), lr=0.125)
    message = r"Stage 2 of 3 diverged: loss is nan at step 4\. .*highest here is 0\.12\."
    with pytest.raises(Diverged, match=message):
        fit_line(
            tmp_path, [rows(2)] * 20, model, step=step, optimizer=optimizer, title="Stage 2 of 3"
        )


def test_an_end_whose_validation_loss_is_no_number_is_divergence(tmp_path: Path) -> None:
    def evaluate(state: Any) -> dict[str, float]:
        return {"validation_loss": float("nan")}

    with pytest.raises(Diverged, match="validation loss is nan at step 2"):
        fit_line(tmp_path, [rows(2)] * 2, line(), evaluate=evaluate, epochs=1)


def test_usage_errors(tmp_path: Path) -> None:
    model, other = line(), line()
    with pytest.raises(UsageError, match="epochs must be at least 1"):
        fit_line(tmp_path, [rows(2)], model, epochs=0)
    with pytest.raises(UsageError, match="name of a folder"):
        fit_line(tmp_path, [rows(2)], model, name="../fit")
    with pytest.raises(UsageError, match="at least one batch"):
        fit_line(tmp_path, [], model)
    foreign = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="holds a parameter of no module"):
        fit_line(tmp_path, [rows(2)], model, optimizer=foreign)
    with pytest.raises(UsageError, match="clip must be above 0"):
        fit_line(tmp_path, [rows(2)], model, clip=0.0)
    with pytest.raises(UsageError, match='names optimizer "men"'):
        fit_line(tmp_path, [rows(2)], model, turns={"a": ["men"]})
    with pytest.raises(UsageError, match="scalar losses"):
        fit_line(tmp_path, [rows(2)], model, step=lambda b, s: s.modules["model"](b))


def test_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == "no"
    with pytest.raises(UsageError, match="not available on cpu"):
        pick_precision("bf16", cpu)
    with pytest.raises(UsageError, match="unknown"):
        pick_precision("fp7", cpu)


def test_metrics_lines(toy: Toy, tmp_path: Path) -> None:
    result = toy(tmp_path, checkpoints=None, callbacks=[])
    log = result.run.read_log()
    kinds = [entry["kind"] for entry in log]
    assert kinds.count("epoch") == kinds.count("evaluation") == 4
    assert [entry["step"] for entry in log if entry["kind"] == "train"] == [3, 6, 9, 12, 15, 18]
    assert all(entry["fit"] == "fit" for entry in log)


def test_histories_follow_on_one_another() -> None:
    first = History(epochs=({"epoch": 1, "step": 5, "seconds": 2.0},), steps=5, seconds=2.0)
    later = History(
        epochs=({"epoch": 1, "step": 3, "seconds": 1.0, "a": 4.0},), steps=3, seconds=1.0,
        best_epoch=1, best_step=3, stopped="early",
    )  # fmt: skip
    both = first.then(later)
    assert both.epochs[1] == {"epoch": 2, "step": 8, "seconds": 3.0, "a": 4.0}
    assert (both.best_epoch, both.best_step, both.steps, both.stopped) == (2, 8, 8, "early")
    assert both.curve("a") == [4.0]
