"""Compare ways of adapting on one split: measure, divide the budget, run, score, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, WarmstartError, progress
from warmstart.data import Dataset, View
from warmstart.evaluation import Scores, compare_arms, score
from warmstart.strategies import Cost

from .arms import Arm, SeedResult, Status, read_seed, run_seed
from .budget import divide
from .meter import Meter, Prices
from .verdict import ArmFacts, Pair, Verdict, judge

__all__ = ["ArmResult", "Comparison", "Task", "run_comparison"]

_RESERVE = 0.1  # of the time left, for predicting, saving and timing


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
            result.status, result.reason = "not applicable", str(error)
            other = substitute(result.arm) if substitute else None
            if other is not None and other.name not in {r.name for r in results}:
                results.insert(results.index(result) + 1, ArmResult(other, "done"))
    runnable = [r for r in results if r.status != "not applicable"]
    limited = task.budget < float("inf")
    for result in runnable:
        result.cost = _measure(result, task) if limited else None
    quick = [r for r in runnable if r.cost is None and r.status != "failed"]
    slow = [r for r in runnable if r.cost is not None]
    for result in quick:
        _run(result, task, seed=task.first_seed, seconds=None)
    for position, result in enumerate(slow):
        wanted = {r.name: _full_seconds(r) for r in slow[position:]}
        share = divide(wanted, max(1.0, task.left * (1 - _RESERVE)))[result.name]
        _run(result, task, seed=task.first_seed, seconds=share)
    _more_seeds([*quick, *slow], task)
    truth_N = task.test.labels_N
    for result in runnable:
        if result.seeds:
            _score(result, task, truth_N)
    pairs = _pairs([r for r in runnable if r.scores is not None], task.primary, truth_N)
    return Comparison(results, pairs, _verdict(results, pairs, task))


def _full_seconds(result: ArmResult) -> float:
    """Time at full length, with a margin for the clock's moods."""
    return 1.15 * result.cost.seconds if result.cost else 0.0


def _measure(result: ArmResult, task: Task) -> Cost | None:
    run = Run(_seed_folder(result, task, task.first_seed), seed=task.first_seed, device=task.device)
    if read_seed(run.folder) is not None:
        return None  # finished before an interruption: nothing to plan
    try:
        return result.arm.strategy.measure(task.backbone, task.view, run)
    except WarmstartError as error:
        result.status, result.reason = "failed", str(error)
        return None


def _seed_folder(result: ArmResult, task: Task, seed: int) -> Path:
    return task.folder / "arms" / result.arm.folder_name / f"seed-{seed}"


def _run(result: ArmResult, task: Task, *, seed: int, seconds: float | None) -> None:
    """Run one seed within its time, or take it from disk."""
    folder = _seed_folder(result, task, seed)
    found = read_seed(folder)
    if found is None:
        cost = result.cost
        full = cost.epochs * cost.steps_per_epoch if cost else None
        limit = None
        if cost is not None and seconds is not None and seconds < _full_seconds(result):
            limit = max(1, cost.steps_within(seconds / 1.15))
        # Hurrying past the promise is allowed for by half; what is slower still is stopped.
        deadline = time.monotonic() + max(1.5 * seconds, 10.0) if seconds is not None else None
        run = Run(
            folder,
            seed=seed,
            deadline=deadline,
            max_steps=limit,
            device=task.device,
            trackers=task.trackers,
        )
        estimate = None
        if cost is not None and full is not None:
            estimate = cost.seconds * min(1.0, (limit or full) / full)
        progress.note(f"{result.arm.strategy.title}: {_announce(limit, full, cost, seed)}")
        try:
            found = run_seed(
                result.arm,
                task.backbone,
                task.view,
                task.test.without_labels(),
                run,
                estimated=estimate,
                full_steps=full,
                keep_model=seed == task.first_seed,
            )
        except NotApplicable as error:
            result.status, result.reason = "not applicable", str(error)
            return
    result.add(found)


def _announce(limit: int | None, full: int | None, cost: Cost | None, seed: int) -> str:
    which = f"seed {seed}" if seed else "running"
    if cost is None or full is None:
        return which
    if limit is not None and limit < full:
        return f"{which}, {limit} of {full} steps, as the budget allows"
    return f"{which}, up to {full} steps, about {cost.seconds:.0f} s without early stop"


def _more_seeds(results: Sequence[ArmResult], task: Task) -> None:
    """Second and later seeds, while what the first one took still fits into the time left."""
    for seed in range(task.first_seed + 1, task.first_seed + task.seeds):
        for result in results:
            if not result.seeds or result.arm.strategy.runs_once or result.status == "cut":
                continue
            if len(result.seeds) < seed - task.first_seed:
                continue
            taken = max(s.seconds for s in result.seeds)
            ready = read_seed(_seed_folder(result, task, seed)) is not None
            if not ready and 1.3 * taken > task.left * (1 - _RESERVE):
                continue
            _run_like_first(result, task, seed)


def _run_like_first(result: ArmResult, task: Task, seed: int) -> None:
    """Another seed under the same step limit as the first, so that seeds can be averaged."""
    first = result.seeds[0]
    seconds = None
    if result.cost is not None:
        share = _full_seconds(result)
        if first.status == "shortened" and first.seconds_estimated is not None:
            share = 1.15 * first.seconds_estimated
        seconds = share
    _run(result, task, seed=seed, seconds=seconds)


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
    estimates = [s.seconds_estimated for s in result.seeds if s.seconds_estimated is not None]
    values |= {
        "scores": result.scores.model_dump(mode="json"),
        "validation": result.validation_scores.main.value,
        "trainable_parameters": first.trainable_parameters,
        "total_parameters": first.total_parameters,
        "seconds": seconds,
        "seconds_estimated": float(np.mean(estimates)) if estimates else None,
        "peak_memory_bytes": max(s.peak_memory_bytes for s in result.seeds),
        "size_bytes": first.size_bytes,
        "latency_ms": first.latency_ms,
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
