"""From probabilities to scores, pairs, the verdict, and the JSON that reports are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from warmstart.data import Dataset
from warmstart.evaluation import Paired, compare_arms, measure, score

from .never_worse import Gap, against_controls
from .task import ArmResult, Comparison, Task, enough_for
from .verdict import ArmFacts, Pair, Verdict, judge
from .why import Evidence, explain

__all__ = ["arm_json", "conclude"]


def conclude(results: Sequence[ArmResult], task: Task) -> Comparison:
    """Score every arm on the test rows, compare all pairs on the same rows, and judge."""
    truth_N = task.test.labels_N
    groups = task.test.column(task.group) if task.group else None
    scored = [result for result in results if result.seeds]
    for result in scored:
        result.scores = score(
            np.stack(result.test), truth_N, task.view.label_names, primary=task.primary,
            groups=groups, clusters=groups,
        )  # fmt: skip
        result.validation_scores = score(
            np.stack(result.validation),
            task.view.validation.labels_N,
            task.view.label_names,
            primary=task.primary,
            resamples=100,
        )
    pairs = [
        Pair.of(
            first.name,
            second.name,
            compare_arms(
                np.stack(first.test),
                np.stack(second.test),
                truth_N,
                metric=task.primary,
                clusters=groups,
            ),
        )
        for position, first in enumerate(scored)
        for second in scored[position + 1 :]
    ]
    return Comparison(list(results), pairs, _verdict(scored, results, pairs, task))


def _kept_metrics(result: ArmResult, task: Task) -> dict[str, float]:
    """The kept seed's own metrics on the test rows."""
    return measure(result.test[result.kept(task)], task.test.labels_N)


def _verdict(
    scored: Sequence[ArmResult], results: Sequence[ArmResult], pairs: Sequence[Pair], task: Task
) -> Verdict:
    facts = []
    for result in scored:
        assert result.scores is not None
        assert result.validation_scores is not None
        main = result.scores.main
        facts.append(
            ArmFacts(
                name=result.name,
                title=result.arm.title,
                role=result.arm.role,
                status=result.status,
                validation=result.validation_scores.main.value,
                test=main.value,
                low=main.low,
                high=main.high,
                seconds=result.seconds(task),
                from_scratch=result.arm.strategy.from_scratch,
                seeds=len(result.seeds),
                kept_seed=result.seeds[result.kept(task)].seed,
                uses_backbone=result.arm.strategy.uses_backbone,
                learns=result.arm.strategy.learns,
                kept_test=_kept_metrics(result, task)[task.primary],
            )
        )
    skipped = {r.name: r.reason for r in results if r.status == "not applicable" and r.reason}
    verdict = judge(
        facts, pairs, metric=task.primary, skipped=skipped, asked=task.asked,
        unreached=[r.arm.title for r in results if r.status == "cut" and not r.seeds],
        enough=enough_for(
            [r for r in results if r.status in {"cut", "shortened"}], task, spent=task.budget
        ),
    )  # fmt: skip
    verdict = verdict.model_copy(update={"why": tuple(_why(verdict, facts, scored, pairs, task))})
    if task.asked not in {fact.name for fact in facts}:
        return verdict
    return _of_fit(verdict, facts, scored, task)


def _why(
    verdict: Verdict,
    facts: Sequence[ArmFacts],
    scored: Sequence[ArmResult],
    pairs: Sequence[Pair],
    task: Task,
) -> list[str]:
    if verdict.best is None:
        return []
    evidence = {
        result.name: Evidence.of(
            result.arm.strategy.name,
            result.seeds[0].trainable_parameters,
            len(task.view.train),
            result.seeds[result.kept(task)].history,
            shortened=result.status == "shortened",
        )
        for result in scored
    }
    judged = [fact for fact in facts if fact.status in {"done", "shortened"}]
    return explain(judged, pairs, evidence, verdict.best)


def _of_fit(
    verdict: Verdict, facts: Sequence[ArmFacts], scored: Sequence[ArmResult], task: Task
) -> Verdict:
    """The verdict of a fit, which says whether what was asked for beat its controls."""
    by_name = {result.name: result for result in scored}
    asked = by_name[task.asked or ""]

    def ahead(control: ArmResult) -> Gap:
        def pair(one: Sequence[np.ndarray], other: Sequence[np.ndarray], rows: Dataset) -> Paired:
            return compare_arms(
                np.stack(one), np.stack(other), rows.labels_N, metric=task.primary,
                clusters=rows.column(task.group) if task.group else None,
            )  # fmt: skip

        return Gap(
            validation=pair(control.validation, asked.validation, task.view.validation),
            test=pair(control.test, asked.test, task.test),
        )

    others = {fact.name: fact for fact in facts if fact.name != asked.name}
    return against_controls(
        verdict,
        next(fact for fact in facts if fact.name == asked.name),
        others,
        {name: ahead(by_name[name]) for name in others},
        strategy=asked.arm.strategy.name,
    )


def arm_json(result: ArmResult, task: Task) -> dict[str, Any]:
    """One arm as it stands in results.json."""
    strategy = result.arm.strategy
    values: dict[str, Any] = {
        "name": result.name,
        "label": result.arm.title,
        "role": result.arm.role,
        "status": result.status,
        "reason": result.reason,
        "settings": strategy.model_dump(mode="json"),
        "seeds": len(result.seeds),
        "notes": [],
    }
    if not result.seeds or result.scores is None or result.validation_scores is None:
        return values
    first = result.seeds[0]
    kept = result.seeds[result.kept(task)]
    seconds = result.seconds(task)
    notes = {note for s in result.seeds for note in s.notes}
    if strategy.uses_features and task.embedding.from_cache:
        notes.add("Its vectors lay in the cache; the time to make them is estimated from a sample.")
    return values | {
        "scores": result.scores.model_dump(mode="json"),
        "validation": result.validation_scores.main.value,
        "kept": {"seed": kept.seed, "metrics": _kept_metrics(result, task)},
        "trainable_parameters": first.trainable_parameters,
        "total_parameters": first.total_parameters,
        "seconds": seconds,
        "seconds_estimated": first.allowance.estimated,
        "seconds_full": first.allowance.seconds_full,
        "peak_memory_bytes": result.peak_bytes(task),
        "size_bytes": kept.size_bytes,
        "latency_ms": kept.latency_ms,
        "opens_with": list(kept.opens_with),
        "epochs": float(np.mean([s.epochs for s in result.seeds])),
        "cost": task.prices.cost(seconds),
        "history": [list(s.history) for s in result.seeds],
        "rates": list(first.rates) or None,
        "notes": sorted(notes),
        "chosen": kept.values,
    }
