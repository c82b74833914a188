"""Compare ways of adapting on one split: measure, divide the budget, run, score, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import (
    BackboneError,
    DataError,
    NotApplicable,
    Run,
    WarmstartError,
    progress,
)
from warmstart.data import Dataset, View
from warmstart.evaluation import Scores, compare_arms, score
from warmstart.strategies import Cost

from .arms import (
    Allowance,
    Arm,
    SeedResult,
    Status,
    allow,
    full_seconds,
    kept_allowance,
    read_seed,
    run_seed,
)
from .budget import divide
from .meter import Meter, Prices
from .verdict import ArmFacts, Pair, Verdict, judge

__all__ = ["ArmResult", "Comparison", "Task", "run_comparison"]

_RESERVE = 0.1  # of the time left, for predicting, saving and timing
# What takes one arm out of a comparison; mistakes in settings and damaged folders stop it.
_LEAVES_OUT = (NotApplicable, DataError, BackboneError)


@dataclass(frozen=True)
class Task:
    """What every arm of a comparison shares.

    Attributes:
        backbone: Where adaptation starts.
        view: Training and validation rows.
        test: Test rows, with labels; arms get them without.
        folder: Where arms keep their results while the comparison runs.
        primary: The metric that decides.
        seeds: Training seeds for each seeded arm.
        first_seed: The first of them; the others count up from it.
        budget: Seconds for everything.
        started: `time.monotonic()` at the start.
        embedding_seconds: Time that the shared features took.
        device: Device name.
        prices: What the machine costs.
        group: Column for accuracy by group.
        trackers: Experiment trackers.
    """

    backbone: Backbone
    view: View
    test: Dataset
    folder: Path
    primary: str
    seeds: int
    budget: float
    started: float
    first_seed: int = 0
    embedding_seconds: float = 0.0
    device: str = "auto"
    prices: Prices = field(default_factory=Prices)
    group: str | None = None
    trackers: tuple[str, ...] = ()

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.budget - (time.monotonic() - self.started)


@dataclass
class ArmResult:
    """An arm with everything that was measured of it."""

    arm: Arm
    status: Status
    reason: str | None = None
    error: WarmstartError | None = None
    seeds: list[SeedResult] = field(default_factory=list)
    validation: list[np.ndarray] = field(default_factory=list)
    test: list[np.ndarray] = field(default_factory=list)
    scores: Scores | None = None
    validation_scores: Scores | None = None
    cost: Cost | None = None

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    def add(self, found: tuple[SeedResult, np.ndarray, np.ndarray]) -> None:
        """Take in one seed."""
        result, validation_MC, test_NC = found
        self.seeds.append(result)
        self.validation.append(validation_MC)
        self.test.append(test_NC)
        order: list[Status] = ["done", "shortened", "cut"]
        self.status = max((s.status for s in self.seeds), key=order.index)


@dataclass
class Comparison:
    """All arms, the pairs and the verdict."""

    arms: list[ArmResult]
    pairs: list[Pair]
    verdict: Verdict


def run_comparison(
    arms: Sequence[Arm], task: Task, *, substitute: Callable[[Arm], Arm | None] | None = None
) -> Comparison:
    """Run every arm on the same rows and judge them.

    Arms without steps come first, then a few real steps of each training arm are timed and the
    time left is divided. The first seed of every arm runs before any second seed, and further
    seeds run only while they fit.

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
            _leave_out(result, error)
            other = substitute(result.arm) if substitute else None
            if other is not None and other.name not in {r.name for r in results}:
                results.insert(results.index(result) + 1, ArmResult(other, "done"))
    runnable = [r for r in results if r.status != "not applicable"]
    limited = task.budget < float("inf")
    for result in runnable:
        result.cost = _measure(result, task) if limited else None
    quick = [r for r in runnable if r.cost is None and r.status == "done"]
    slow = [r for r in runnable if r.cost is not None]
    for result in quick:
        _run(result, task, seed=task.first_seed)
    for position, result in enumerate(slow):
        wanted = {r.name: full_seconds(r.cost) for r in slow[position:]}
        share = divide(wanted, max(1.0, task.left * (1 - _RESERVE)))[result.name]
        _run(result, task, seed=task.first_seed, seconds=share)
    _more_seeds([*quick, *slow], task)
    truth_N = task.test.labels_N
    for result in runnable:
        if result.seeds:
            _score(result, task, truth_N)
    pairs = _pairs([r for r in runnable if r.scores is not None], task.primary, truth_N)
    return Comparison(results, pairs, _verdict(results, pairs, task))


def _measure(result: ArmResult, task: Task) -> Cost | None:
    run = Run(_seed_folder(result, task, task.first_seed), seed=task.first_seed, device=task.device)
    if read_seed(run.folder) is not None:
        return None  # finished before an interruption: nothing to plan
    try:
        return result.arm.strategy.measure(task.backbone, task.view, run)
    except _LEAVES_OUT as error:
        _leave_out(result, error)
        return None


def _leave_out(result: ArmResult, error: WarmstartError) -> None:
    """Mark an arm that cannot go on: not applicable, or failed; what its seeds gave stays."""
    if not result.seeds:
        result.status = "not applicable" if isinstance(error, NotApplicable) else "failed"
        result.reason, result.error = str(error), error
    progress.note(f"{result.arm.strategy.title} is left out: {error}")


def _seed_folder(result: ArmResult, task: Task, seed: int) -> Path:
    return task.folder / "arms" / result.arm.folder_name / f"seed-{seed}"


def _run(
    result: ArmResult,
    task: Task,
    *,
    seed: int,
    seconds: float | None = None,
    allowance: Allowance | None = None,
) -> None:
    """Run one seed within its time, or take it from disk.

    Args:
        result: The arm, to which the seed is added.
        task: What arms share.
        seed: Training seed.
        seconds: The first seed's share of the budget.
        allowance: What an earlier seed was granted: another one gets the same.
    """
    folder = _seed_folder(result, task, seed)
    found = read_seed(folder)
    if found is None:
        granted = kept_allowance(folder, allowance or allow(result.cost, seconds))
        run = Run(
            folder,
            seed=seed,
            deadline=_deadline(granted, seconds),
            max_steps=granted.max_steps,
            device=task.device,
            trackers=task.trackers,
        )
        which = f", seed {seed}" if seed != task.first_seed else ""
        progress.note(f"{result.arm.strategy.title}{which}{granted.words()}")
        first = seed == task.first_seed
        try:
            found = run_seed(
                result.arm, task.backbone, task.view, task.test.without_labels(), run,
                allowance=granted, keep_model=first,
            )  # fmt: skip
        except _LEAVES_OUT as error:
            _leave_out(result, error)
            return
    if result.seeds and found[0].status == "cut":
        progress.note(f"{result.arm.strategy.title}, seed {seed}: too slow, left out.")
        return
    result.add(found)


def _deadline(granted: Allowance, seconds: float | None) -> float | None:
    """When an arm is stopped: half as late again as its share, since clocks have moods."""
    share = seconds if seconds is not None else granted.estimated
    return None if share is None else time.monotonic() + max(1.5 * share, 10.0)


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
            if ready or 1.3 * taken <= task.left * (1 - _RESERVE):
                _run(result, task, seed=seed, allowance=result.seeds[0].allowance)


def _score(result: ArmResult, task: Task, truth_N: np.ndarray) -> None:
    groups = task.test.column(task.group) if task.group else None
    names = task.view.label_names
    result.scores = score(
        np.stack(result.test), truth_N, names, primary=task.primary, groups=groups
    )
    result.validation_scores = score(
        np.stack(result.validation),
        task.view.validation.labels_N,
        names,
        primary=task.primary,
        resamples=100,
    )


def _pairs(results: Sequence[ArmResult], metric: str, truth_N: np.ndarray) -> list[Pair]:
    pairs = []
    for position, first in enumerate(results):
        for second in results[position + 1 :]:
            paired = compare_arms(
                np.stack(first.test), np.stack(second.test), truth_N, metric=metric
            )
            pairs.append(Pair.of(first.name, second.name, paired))
    return pairs


def _verdict(results: Sequence[ArmResult], pairs: Sequence[Pair], task: Task) -> Verdict:
    facts = []
    for result in results:
        if result.scores is None or result.validation_scores is None:
            continue
        main = result.scores.main
        facts.append(
            ArmFacts(
                name=result.name,
                title=result.arm.strategy.title,
                role=result.arm.strategy.role,
                status=result.status,
                validation=result.validation_scores.main.value,
                test=main.value,
                low=main.low,
                high=main.high,
                seconds=arm_seconds(result, task),
                from_scratch=result.arm.strategy.from_scratch,
            )
        )
    skipped = {r.name: r.reason for r in results if r.status == "not applicable" and r.reason}
    return judge(
        facts, pairs, metric=task.primary, train_rows=len(task.view.train), skipped=skipped
    )


def arm_seconds(result: ArmResult, task: Task) -> float:
    """Mean seconds of a seed, the shared embedding included where the arm stands on it."""
    own = float(np.mean([s.seconds for s in result.seeds]))
    return own + (task.embedding_seconds if result.arm.strategy.uses_features else 0.0)


def arm_json(result: ArmResult, task: Task) -> dict[str, Any]:
    """One arm as it stands in results.json."""
    strategy = result.arm.strategy
    values: dict[str, Any] = {
        "name": result.name,
        "label": strategy.title,
        "role": strategy.role,
        "status": result.status,
        "reason": result.reason,
        "settings": strategy.model_dump(mode="json"),
        "seeds": len(result.seeds),
        "notes": [],
    }
    if not result.seeds or result.scores is None or result.validation_scores is None:
        return values
    first = result.seeds[0]
    seconds = arm_seconds(result, task)
    values |= {
        "scores": result.scores.model_dump(mode="json"),
        "validation": result.validation_scores.main.value,
        "trainable_parameters": first.trainable_parameters,
        "total_parameters": first.total_parameters,
        "seconds": seconds,
        "seconds_estimated": first.allowance.estimated,
        "seconds_full": first.allowance.seconds_full,
        "peak_memory_bytes": max(s.peak_memory_bytes for s in result.seeds),
        "size_bytes": first.size_bytes,
        "latency_ms": first.latency_ms,
        "opens_with": list(first.opens_with),
        "epochs": float(np.mean([s.epochs for s in result.seeds])),
        "cost": task.prices.cost(seconds),
        "history": [list(s.history) for s in result.seeds],
        "rates": list(first.rates) or None,
        "notes": sorted({note for s in result.seeds for note in s.notes}),
        "chosen": first.values,
    }
    return values


def timed(work: Callable[[], Any], device: str = "auto") -> tuple[Any, float]:
    """Run something and say how many seconds it took."""
    with Meter(device) as meter:
        value = work()
    return value, meter.seconds
