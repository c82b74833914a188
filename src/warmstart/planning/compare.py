"""Compare ways of adapting on one split: measure, divide the budget, run, score, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from warmstart.core import (
    BackboneError,
    DataError,
    Meter,
    NotApplicable,
    OutOfMemory,
    Run,
    WarmstartError,
    progress,
)
from warmstart.strategies import Cost
from warmstart.training import Diverged

from .arms import Allowance, Arm, allow, full_seconds, kept_allowance, read_seed, run_seed
from .budget import RESERVE, as_budget, divide
from .outcome import conclude
from .pricing import duration
from .task import ArmResult, Comparison, Embedding, Task, enough_for

__all__ = ["run_comparison", "timed"]

# What takes one arm out of a comparison; mistakes in settings and damaged folders stop it.
_LEAVES_OUT = (NotApplicable, DataError, BackboneError, Diverged, OutOfMemory)


def run_comparison(
    arms: Sequence[Arm], task: Task, *, substitute: Callable[[Arm], Arm | None] | None = None
) -> Comparison:
    """Run every arm on the same rows and judge them.

    Arms without steps come first, then a few real steps of each training arm are timed and the
    time left is divided. Without a budget only the arm that was asked for is timed, so that what
    it takes can be held against what was expected. The first seed of every arm runs before any
    second seed, and further seeds run only while they fit.

    Args:
        arms: What to compare.
        task: What they share.
        substitute: Given an arm that is not applicable, another one to run beside, or None.
    """
    results = [ArmResult(arm, "done") for arm in arms]
    for result in list(results):
        try:
            result.arm.strategy.check(task.backbone, task.view)
        except NotApplicable as error:
            _leave_out(result, error, task)
            other = substitute(result.arm) if substitute else None
            if other is not None and other.name not in {r.name for r in results}:
                results.insert(results.index(result) + 1, ArmResult(other, "done"))
    if _asked_is_out(results, task):
        return conclude(results, task)
    runnable = [r for r in results if r.status != "not applicable"]
    _measure_all(runnable, task)
    if _asked_is_out(results, task):
        return conclude(results, task)
    slow = [r for r in runnable if r.cost is not None and task.limited]
    quick = [r for r in runnable if not (r.cost and task.limited) and r.status == "done"]
    for result in quick:
        _run(result, task, seed=task.first_seed)
        if _asked_is_out(results, task):
            return conclude(results, task)
    if slow:
        _tell_shares(slow, task)
    for position, result in enumerate(slow):
        if task.left <= 0 and result.name != task.asked:
            _cut_off(result)
            continue
        wanted = {r.name: full_seconds(r.cost) for r in slow[position:]}
        available = _for_training(task, len(wanted))
        shares = divide(wanted, available)
        spare = max(0.0, available - sum(shares.values()))
        _run(result, task, seed=task.first_seed, seconds=shares[result.name], spare=spare)
    _more_seeds([*quick, *slow], task)
    return conclude(results, task)


def _for_training(task: Task, waiting: int) -> float:
    """Seconds that so many arms may train for: what is left, less predicting and saving."""
    reserve = max(RESERVE * task.left, waiting * task.predicting_seconds)
    return max(1.0, task.left - reserve)


def _tell_shares(slow: Sequence[ArmResult], task: Task) -> None:
    """Say at once where the budget is so small that most of the arms will be cut."""
    wanted = sum(full_seconds(result.cost) for result in slow)
    if wanted > 3 * _for_training(task, len(slow)):
        enough = enough_for(slow, task, spent=task.budget - task.left)
        assert enough is not None  # these arms were timed
        progress.note(
            f"{len(slow)} arms would train for {duration(wanted)} in all, and "
            f"{duration(task.left)} are left: most will be cut. With --budget "
            f"{as_budget(enough)} all could end; --limit or fewer --strategies "
            "help too."
        )


def _asked_is_out(results: Sequence[ArmResult], task: Task) -> bool:
    """Whether the arm that a fit was asked for cannot be had: its controls are then no use."""
    return any(result.name == task.asked and result.error is not None for result in results)


def _measure_all(results: Sequence[ArmResult], task: Task) -> None:
    """Time a few steps of each arm, within half of what the budget has left.

    Arms that are then still to be timed are cut: what they take is not known, so nothing can be
    given to them. Arms without steps, finished ones and the one that was asked for stay.
    """
    until = task.left / 2
    for result in results:
        asked = result.name == task.asked
        if _finished(result, task):
            continue  # nothing to plan
        if task.limited and result.arm.strategy.seeded and not asked and task.left < until:
            _cut_off(result)
        elif task.limited or asked:
            result.cost = _measure(result, task)


def _cut_off(result: ArmResult) -> None:
    """Mark an arm that never ran."""
    result.status, result.reason = "cut", "the budget left no time for it"
    progress.note(f"{result.arm.title} is cut: {result.reason}.")


def _finished(result: ArmResult, task: Task) -> bool:
    """Whether its first seed lies on disk, from before an interruption."""
    return read_seed(_seed_folder(result, task, task.first_seed)) is not None


def _measure(result: ArmResult, task: Task) -> Cost | None:
    run = Run(_seed_folder(result, task, task.first_seed), seed=task.first_seed, device=task.device)
    try:
        return result.arm.strategy.measure(task.backbone, task.view, run)
    except _LEAVES_OUT as error:
        _leave_out(result, error, task)
        return None


def _leave_out(result: ArmResult, error: WarmstartError, task: Task) -> None:
    """Mark an arm that cannot go on: not applicable, or failed; what its seeds gave stays.

    Of the arm that a fit was asked for the error itself tells.
    """
    if not result.seeds:
        result.status = "not applicable" if isinstance(error, NotApplicable) else "failed"
        result.reason, result.error = str(error), error
    if result.name != task.asked:
        progress.note(f"{result.arm.title} is left out: {error}")


def _seed_folder(result: ArmResult, task: Task, seed: int) -> Path:
    return task.folder / "arms" / result.arm.folder_name / f"seed-{seed}"


def _run(
    result: ArmResult,
    task: Task,
    *,
    seed: int,
    seconds: float | None = None,
    spare: float = 0.0,
    allowance: Allowance | None = None,
) -> None:
    """Run one seed within its time, or take it from disk.

    Args:
        result: The arm, to which the seed is added.
        task: What arms share.
        seed: Training seed.
        seconds: The first seed's share of the budget.
        spare: What all arms together leave of it; for a later seed what the first one took beyond
            its estimate.
        allowance: What an earlier seed was granted: another one gets the same.
    """
    folder = _seed_folder(result, task, seed)
    found = read_seed(folder)
    if found is None:
        granted = kept_allowance(folder, allowance or allow(result.cost, seconds))
        run = Run(
            folder,
            seed=seed,
            deadline=_deadline(granted, seconds, spare, task),
            max_steps=granted.max_steps,
            device=task.device,
            trackers=task.trackers,
            max_forgetting=task.max_forgetting,
        )
        which = f", seed {seed}" if seed != task.first_seed else ""
        progress.note(f"{result.arm.title}{which}{granted.words()}")
        best = max((task.validation_value(p) for p in result.validation), default=-1.0)
        try:
            found = run_seed(
                result.arm, task.backbone, task.view, task.test.without_labels(), run,
                allowance=granted, keep=lambda proba_MC: task.validation_value(proba_MC) > best,
            )  # fmt: skip
        except _LEAVES_OUT as error:
            _leave_out(result, error, task)
            return
    if result.seeds and found[0].status == "cut":
        progress.note(f"{result.arm.title}, seed {seed}: too slow, left out.")
        return
    result.add(found)


def _deadline(granted: Allowance, seconds: float | None, spare: float, task: Task) -> float | None:
    """When an arm is stopped: half as late again as its share, since clocks have moods.

    Where more than that is wanted by no arm, it may have that too. Never later than the budget
    allows, less what predicting, saving and judging take. An arm that could not be measured has
    all of that.
    """
    if not task.limited:
        return None
    share = seconds if seconds is not None else granted.estimated
    most = min(task.left * (1 - RESERVE / 2), task.left - task.closing_seconds)
    allowed = most if share is None else min(max(1.5 * share, share + spare), most)
    return time.monotonic() + max(allowed, 10.0)


def _more_seeds(results: Sequence[ArmResult], task: Task) -> None:
    """Second and later seeds, while what the first one took still fits into the time left.

    Each gets the step limit of the first, so that seeds can be averaged.
    """
    for seed in range(task.first_seed + 1, task.first_seed + task.seeds):
        for result in results:
            if not result.seeds or result.arm.strategy.runs_once or result.status == "cut":
                continue
            if len(result.seeds) < seed - task.first_seed:
                continue
            taken = max(s.seconds for s in result.seeds)
            ready = read_seed(_seed_folder(result, task, seed)) is not None
            if not ready and (task.folder / "results.json").is_file():
                continue  # a session before had decided that all seeds were there
            if ready or 1.3 * taken <= task.left * (1 - RESERVE):
                granted = result.seeds[0].allowance
                spare = max(0.0, 1.3 * taken - (granted.estimated or 0.0))
                _run(result, task, seed=seed, allowance=granted, spare=spare)


def timed(work: Callable[[], Any], device: str = "auto") -> tuple[Any, Embedding]:
    """Run something and say how many seconds and how much memory it took."""
    with Meter(device) as meter:
        value = work()
    return value, Embedding(seconds=meter.seconds, peak_bytes=meter.peak_bytes)
