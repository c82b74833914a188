"""From the cells of a k-shot grid to its table, its pairs and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from warmstart.core import Config
from warmstart.evaluation import METRICS, compare_arms, measure, score_metric

from .arms import Arm
from .shots import OUT_OF_TIME, Cell, ShotTask, Unserved
from .verdict import Verdict

__all__ = ["ShotPair", "ShotScore", "shots_json"]

VALIDATION = (
    "At most k further rows of each class, drawn alike from the validation part: they set knobs "
    "(the number of neighbours, a penalty, when to stop) in arms that use them and are never "
    "trained on; the probe cross-validates inside its k rows. No test row is used for any choice."
)


class ShotScore(Config):
    """One arm at one k.

    Attributes:
        k: Rows a class; 0 for an arm that reads none.
        draws: Draws that count.
        value: Mean of the primary metric over them, None where none counts.
        low: Lower bound of the 95 % interval; draws and test rows are resampled.
        high: Upper bound.
        values: The metric of each draw.
        seconds: Mean time of a fit.
        trainable_parameters: Weights that were learned.
        reason: Why draws are missing, if any are.
    """

    k: int
    draws: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    seconds: float | None = None
    trainable_parameters: int | None = None
    reason: str | None = None


class ShotPair(Config):
    """Arm a at `k_a` minus arm b at `k_b`, on the same draws and test rows."""

    a: str
    b: str
    k_a: int
    k_b: int
    difference: float
    low: float
    high: float
    significant: bool
    draws: int


def shots_json(
    arms: Sequence[Arm], cells: Sequence[Cell], unserved: Sequence[Unserved], task: ShotTask
) -> tuple[dict[str, Any], Verdict]:
    """The table as JSON values, and the verdict drawn from it."""
    table = _Table(cells, task)
    scores = {arm.name: [table.score(arm, k) for k in table.sizes(arm)] for arm in arms}
    titles = {arm.name: arm.title for arm in arms}
    pairs = _pairs(table, arms, scores)
    values = {
        "k": list(task.shots),
        "draws": task.draws,
        "seed": task.seed,
        "test_rows": len(task.test),
        "validation": VALIDATION,
        "left_out": [{"k": one.k, "reason": one.reason} for one in unserved],
        "arms": [
            {
                "name": arm.name,
                "label": arm.title,
                "settings": arm.strategy.model_dump(mode="json"),
                "learns": arm.strategy.learns,
                "cells": [one.model_dump(mode="json") for one in scores[arm.name]],
            }
            for arm in arms
        ],
        "pairs": [pair.model_dump(mode="json") for pair in pairs],
    }
    sentences = _sentences(scores, pairs, titles, task, unserved)
    verdict = Verdict(
        best=None, cheapest_within=None, negative_transfer=(), below_control=(),
        sentences=tuple(sentences), next=tuple(_next(pairs, titles, task.primary)),
    )  # fmt: skip
    return values, verdict


class _Table:
    """Cells by arm and size, and their probabilities, which are read when they are needed."""

    def __init__(self, cells: Sequence[Cell], task: ShotTask) -> None:
        self.task = task
        self._cells: dict[tuple[str, int], list[Cell]] = {}
        for cell in cells:
            self._cells.setdefault((cell.arm.name, cell.k), []).append(cell)

    def sizes(self, arm: Arm) -> tuple[int, ...]:
        return self.task.shots if arm.strategy.learns else (0,)

    def of(self, name: str, k: int) -> list[Cell]:
        """The cells that count, of an arm at a size, or of an arm that reads no rows."""
        found = self._cells.get((name, k)) or self._cells.get((name, 0), [])
        return [cell for cell in found if cell.counts]

    def score(self, arm: Arm, k: int) -> ShotScore:
        every = self._cells[arm.name, k]
        good = [cell for cell in every if cell.counts]
        reasons = dict.fromkeys(cell.reason for cell in every if cell.reason)
        reason = "; ".join(str(one) for one in reasons) or None
        if not good:
            return ShotScore(k=k, draws=0, reason=reason)
        metric, truth_N = self.task.primary, self.task.test.labels_N
        proba_SNC = np.stack([cell.proba(self.task) for cell in good])
        found = score_metric(proba_SNC, truth_N, metric)
        results = [cell.result for cell in good if cell.result is not None]
        return ShotScore(
            k=k, draws=len(good), value=found.value, low=found.low, high=found.high,
            values=tuple(measure(one, truth_N, [metric])[metric] for one in proba_SNC),
            seconds=float(np.mean([one.seconds for one in results])),
            trainable_parameters=results[0].trainable_parameters, reason=reason,
        )  # fmt: skip

    def compare(self, a: str, k_a: int, b: str, k_b: int) -> ShotPair | None:
        """The difference over the draws that both have; arms without rows count in each."""
        ours = {cell.draw: cell for cell in self.of(a, k_a)}
        theirs = {cell.draw: cell for cell in self.of(b, k_b)}
        still = {name for name, cells in ((a, ours), (b, theirs)) for cell in cells.values()
                 if not cell.k}  # fmt: skip
        draws = sorted(
            set(theirs) if a in still else set(ours) if b in still else set(ours) & set(theirs)
        )
        if not draws or not ours or not theirs:
            return None

        def stack(name: str, cells: Mapping[int, Cell]) -> np.ndarray:
            chosen = [0] * len(draws) if name in still else draws
            return np.stack([cells[draw].proba(self.task) for draw in chosen])

        found = compare_arms(
            stack(a, ours), stack(b, theirs), self.task.test.labels_N, metric=self.task.primary,
            resamples=1000, paired_seeds=True,
        )  # fmt: skip
        return ShotPair(
            a=a, b=b, k_a=k_a, k_b=k_b, difference=found.difference, low=found.low,
            high=found.high, significant=found.significant, draws=len(draws),
        )  # fmt: skip


def _pairs(
    table: _Table, arms: Sequence[Arm], scores: Mapping[str, Sequence[ShotScore]]
) -> list[ShotPair]:
    """At each k the leader against every other arm, and against itself at the k before."""
    found: list[ShotPair | None] = []
    for place, k in enumerate(table.task.shots):
        leader = _leader(scores, k)
        if leader is None:
            continue
        found += [table.compare(leader, k, arm.name, k) for arm in arms if arm.name != leader]
        here = _at(scores[leader], k)
        if place and here is not None and here.k:
            found.append(table.compare(leader, k, leader, table.task.shots[place - 1]))
    return [pair for pair in found if pair is not None]


def _at(rows: Sequence[ShotScore], k: int) -> ShotScore | None:
    """An arm's score at k, or its only one where it reads no rows."""
    for one in rows:
        if one.k in (k, 0) and one.value is not None:
            return one
    return None


def _leader(scores: Mapping[str, Sequence[ShotScore]], k: int) -> str | None:
    """The arm of the highest mean at k, among those that have all the draws that any has."""
    found = {name: one for name, rows in scores.items() if (one := _at(rows, k)) is not None}
    most = max((one.draws for one in found.values() if one.k), default=1)
    whole = {name: one.value for name, one in found.items() if not one.k or one.draws == most}
    return max(whole, key=lambda name: whole[name] or 0.0) if whole else None


def _shown(metric: str, value: float) -> str:
    return f"{value * 100:.1f} %" if METRICS[metric].percent else f"{value:.3f}"


def _points(metric: str, value: float) -> str:
    return f"{value * 100:+.1f} points" if METRICS[metric].percent else f"{value:+.3f}"


def _rows(k: int) -> str:
    return f"{k} row{'s' if k != 1 else ''} a class"


def _sentences(
    scores: Mapping[str, Sequence[ShotScore]],
    pairs: Sequence[ShotPair],
    titles: Mapping[str, str],
    task: ShotTask,
    unserved: Sequence[Unserved],
) -> list[str]:
    """Who leads at each k and whether it is clear, what zero labels give, what is missing."""
    metric = task.primary
    title = METRICS[metric].words
    found: list[str] = []
    for k in task.shots:
        leader = _leader(scores, k)
        here = None if leader is None else _at(scores[leader], k)
        if leader is None or here is None or here.value is None:
            continue
        rivals = [p for p in pairs if p.a == leader and p.k_a == k == p.k_b and p.b != leader]
        equal = [titles[p.b] for p in rivals if p.difference == 0]
        level = [titles[p.b] for p in rivals if not p.significant and p.difference != 0]
        who = _and([titles[leader], *equal])
        leads = "lead" if equal else "leads"
        words = f"With {_rows(k)} {who} {leads}: {title} {_shown(metric, here.value)}"
        if rivals and not level and len(equal) < len(rivals):
            words += ", clearly above every other arm"
        elif level:
            words += f"; no clear difference to {_and(level)}"
        found.append(words + ".")
    found += _still(scores, pairs, titles, task)
    found += [f"k = {one.k} is left out: {one.reason}." for one in unserved]
    found += _missing(scores, titles, task)
    return found or ["No cell ended, so there is nothing to say."]


def _missing(
    scores: Mapping[str, Sequence[ShotScore]], titles: Mapping[str, str], task: ShotTask
) -> list[str]:
    """A sentence for each arm and reason: at which k draws are missing, and how many."""
    found = []
    for name, rows in scores.items():
        for reason in dict.fromkeys(one.reason for one in rows if one.reason):
            short = [one for one in rows if one.reason == reason]
            if not short[0].k:
                found.append(f"{titles[name]} is left out: {reason}.")
                continue
            none = [str(one.k) for one in short if not one.draws]
            some = [f"{one.draws} of {task.draws} draws at k = {one.k}"
                    for one in short if one.draws]  # fmt: skip
            parts = some + ([f"none at k = {_and(none)}"] if none else [])
            cure = " A larger --budget or fewer --draws cures that." * (reason == OUT_OF_TIME)
            found.append(f"{titles[name]} has {_and(parts)}: {reason}.{cure}")
    return found


def _still(
    scores: Mapping[str, Sequence[ShotScore]],
    pairs: Sequence[ShotPair],
    titles: Mapping[str, str],
    task: ShotTask,
) -> list[str]:
    """From which k on labels are worth more than none."""
    found = []
    for name, rows in scores.items():
        if not rows or rows[0].k or rows[0].value is None:
            continue
        beaten = [p for p in pairs if p.b == name and p.significant and p.difference > 0]
        reached = f"{METRICS[task.primary].words} {_shown(task.primary, rows[0].value)}"
        shown = f"{titles[name]} reaches {reached} without a label"
        if beaten:
            first = min(beaten, key=lambda p: p.k_a)
            found.append(
                f"{shown}; from {_rows(first.k_a)} on {titles[first.a]} is clearly above it."
            )
        else:
            found.append(f"{shown}, and no arm is clearly above it at any k.")
    return found


def _next(pairs: Sequence[ShotPair], titles: Mapping[str, str], metric: str) -> list[str]:
    """What the last step up gave, and so whether more labels are worth their price."""
    steps = [pair for pair in pairs if pair.a == pair.b]
    if not steps:
        return []
    last = max(steps, key=lambda pair: pair.k_a)
    words = (
        f"from {last.k_b} to {_rows(last.k_a)} {titles[last.a]} changed by "
        f"{_points(metric, last.difference)}"
    )
    if last.significant and last.difference > 0:
        return [f"More labels still pay: {words}, which is clear."]
    return [f"More labels may not be worth their price: {words}, which is no clear difference."]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
