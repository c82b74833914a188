"""The one training loop.

Everything that trains in warmstart trains here: a step function says what is minimised, loaders
say on what, optimisers say what moves, callbacks watch. Adversarial training, episodes, gradient
caching and unfreezing are step functions, turns and callbacks, never a second loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import Optimizer

from warmstart.core import Run, UsageError, progress, tells_out_of_memory

from .checkpoints import Checkpoints
from .engine import Engine
from .feed import Feed
from .history import History, Stopped
from .interruption import Pause, catch_signals, private_random_state, seed_all
from .keeper import Keeper
from .loaders import Loader
from .schedules import Schedule
from .scribe import Scribe
from .state import Callback, EvaluateFunction, LoopState, StepFunction
from .trackers import check_trackers

__all__ = ["fit_loop"]


@tells_out_of_memory("Training")
def fit_loop(
    *,
    step: StepFunction,
    modules: Mapping[str, nn.Module],
    optimizers: Optimizer | Mapping[str, Optimizer],
    loaders: Loader | Sequence[Any] | Mapping[str, Loader | Sequence[Any]],
    run: Run,
    epochs: int,
    schedules: Schedule | Mapping[str, Schedule] | None = None,
    evaluate: EvaluateFunction | None = None,
    evaluate_every: int | None = None,
    evaluate_first: bool = False,
    callbacks: Sequence[Callback] = (),
    turns: Mapping[str, Sequence[str]] | None = None,
    accumulate: int = 1,
    weigh: Callable[[Any], float] | None = None,
    clip: float | None = None,
    mixed_precision: str = "auto",
    checkpoints: Checkpoints | None = None,
    name: str = "fit",
    title: str | None = None,
    stage: str | None = None,
    log_every: int = 10,
    device: str | None = None,
) -> History:
    """Train until the epochs are done, a callback stops, or the run's limits are reached.

    With `checkpoints`, a fit of the same name in the same run folder continues where its newest
    whole checkpoint stands, and takes the steps that the uninterrupted fit would have taken.

    Args:
        step: `(batch, state) -> losses`: mean losses over the batch, as `StepOutput`, a scalar or
            named scalars. Calls `state.modules`. With several loaders, `batch` is a dict by name.
        modules: What is trained or used, by name; checkpoints keep all of it.
        optimizers: One, or several by name. Each group's `lr` is its base rate.
        loaders: One, or several by name; the first one's length is the epoch.
        run: Folder, seed, deadline, step limit, log.
        epochs: Passes over the first loader.
        schedules: Multiplier of the base rates by step, one for all or by optimiser name.
        evaluate: `(state) -> metrics` on the validation rows, after every epoch.
        evaluate_every: Evaluate after so many steps as well.
        evaluate_first: Evaluate before the first step too, so that a start that no step improves
            on is what `EarlyStopping` keeps.
        callbacks: Called in order at fixed points.
        turns: Turn name to optimiser names, for adversarial training: every batch is taken once a
            turn (`state.turn` names it) and only that turn's optimisers move. None: one turn, all.
        accumulate: Batches a step, each weighted by its rows.
        weigh: Weight of a batch within its step; its rows by default.
        clip: Largest norm of the gradient of a turn's parameters; None for no clipping.
        mixed_precision: `auto`, `bf16`, `fp16` or `no`.
        checkpoints: When to write checkpoints; None for none, and no resuming.
        name: Of this fit within the run.
        title: What messages and the progress bar call it; `name` when None.
        stage: Name passed to `on_stage` at the start; `name` when None.
        log_every: Steps between two lines of metrics.jsonl.
        device: Name of the device; the run's when None.

    Returns:
        What happened. The modules hold the trained weights, in evaluation mode.

    Raises:
        UsageError: For settings that cannot work.
        RunError: When a checkpoint belongs to other settings or every one is damaged.
        Interrupted: After Ctrl-C or SIGTERM, with a checkpoint written if `checkpoints` is given.
        Diverged: When a loss is infinite or not a number.
        OutOfMemory: When a step does not fit into memory.
    """
    _check(name, epochs, accumulate, log_every, evaluate_every)
    engine = Engine(
        modules, _named(optimizers), device=device or run.device, mixed_precision=mixed_precision,
        schedules=schedules, turns=turns, clip=clip, trackers=check_trackers(run.trackers),
        folder=run.folder / "trackers",
    )  # fmt: skip
    feed = Feed(loaders, accumulate=accumulate, weigh=weigh, rank=engine.rank, world=engine.world)
    with ExitStack() as stack:
        stack.enter_context(private_random_state())
        signals = stack.enter_context(catch_signals())
        state = _state(
            engine, run, name, epochs,
            title=title or name, callbacks=callbacks, pause=signals.pause_point,
        )  # fmt: skip
        scribe = Scribe(state, engine, log_every)
        keeper = Keeper(checkpoints, state, engine, feed=feed, scribe=scribe, signals=signals)
        stack.callback(engine.close)
        keeper.resume()
        for callback in callbacks:
            callback.on_start(state)
        if not state.resumed:
            state.begin_stage(stage or name)
        bar = stack.enter_context(progress.task(state.title, epochs * feed.steps, unit="steps"))
        bar.advance(state.step)
        try:
            if evaluate_first and state.step == 0:
                _judge(evaluate, state, engine, scribe)
            while state.stopped is None and state.epoch < epochs:
                engine.set_training()
                for window in feed.windows(state.epoch):
                    if evaluate_every and state.step % evaluate_every == 0 and state.step:
                        _judge(evaluate, state, engine, scribe)
                    state.stopped = state.stopped or _limit(run, state)
                    if state.stopped:
                        break
                    seed_all(state.streams, "step", state.step, engine.rank)
                    rate = engine.set_rates(state.step)
                    output, recorded = engine.optimise(step, window, state)
                    state.step += 1
                    feed.commit(window)
                    scribe.step(recorded, rate)
                    for callback in callbacks:
                        callback.on_step(state, output)
                    bar.advance()
                    keeper.boundary()
                else:
                    _judge(evaluate, state, engine, scribe)
                    scribe.epoch()
                    keeper.boundary()
            _finish(evaluate, state, engine, scribe, keeper)
        except Pause:
            keeper.interrupt()
        return scribe.history()


def _judge(
    evaluate: EvaluateFunction | None, state: LoopState, engine: Engine, scribe: Scribe
) -> None:
    """Evaluate once at this step and tell the callbacks."""
    if evaluate is None or state.judged == state.step:
        return
    seed_all(state.streams, "evaluate", state.step, engine.rank)
    for module in engine.raw.values():
        module.eval()
    try:
        state.metrics = {key: float(value) for key, value in evaluate(state).items()}
    finally:
        engine.set_training()
    state.judged = state.step
    scribe.evaluation()
    for callback in state.callbacks:
        callback.on_evaluate(state, state.metrics)


def _finish(
    evaluate: EvaluateFunction | None,
    state: LoopState,
    engine: Engine,
    scribe: Scribe,
    keeper: Keeper,
) -> None:
    """Evaluate what a limit cut short, let the callbacks close, keep the end."""
    reason = state.stopped or "finished"
    if keeper.done:
        for callback in state.callbacks:
            callback.on_end(state)
        return
    cut = reason in ("deadline", "max_steps")
    if cut:
        keeper.save()  # a later session with more time goes on from here
    _judge(evaluate, state, engine, scribe)
    scribe.refuse_divergence()
    if scribe.open_epoch:
        scribe.epoch()
    state.stopped = reason
    keeper.closed = True  # from here on the modules may hold the best weights, not the last
    for callback in state.callbacks:
        callback.on_end(state)
    if not cut:
        keeper.save(done=True)
    if keeper.signalled:
        keeper.interrupt()


def _limit(run: Run, state: LoopState) -> Stopped | None:
    if run.max_steps is not None and state.step >= run.max_steps:
        return "max_steps"
    late = run.out_of_time()
    if state.world > 1:
        late = _any_process(late, state)
    return "deadline" if late else None


def _any_process(mine: bool, state: LoopState) -> bool:
    import torch

    flag = torch.tensor([float(mine)], device=state.device)
    return bool(state.sum_over_processes(flag).item() > 0)


def _state(
    engine: Engine,
    run: Run,
    name: str,
    epochs: int,
    *,
    title: str,
    callbacks: Sequence[Callback],
    pause: Callable[[], None],
) -> LoopState:
    return engine.state(
        run, run.streams.child("training", name),
        name=name, title=title, epochs=epochs, callbacks=tuple(callbacks),
        mode_call=engine.set_training, pause_call=pause,
    )  # fmt: skip


def _named(optimizers: Optimizer | Mapping[str, Optimizer]) -> dict[str, Optimizer]:
    return {"main": optimizers} if isinstance(optimizers, Optimizer) else dict(optimizers)


def _check(
    name: str, epochs: int, accumulate: int, log_every: int, evaluate_every: int | None
) -> None:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UsageError(f"a fit's name is the name of a folder, got {name!r}. Usual: finetune.")
    for setting, value in (
        ("epochs", epochs),
        ("accumulate", accumulate),
        ("log_every", log_every),
        ("evaluate_every", 1 if evaluate_every is None else evaluate_every),
    ):
        if value < 1:
            raise UsageError(f"{setting} must be at least 1, got {value}.")
