"""The common course of `compare` and `fit`: from rows and arms to a finished run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.core import DataError, NotApplicable, UsageError, fingerprint, nearest, progress
from warmstart.data import Audit
from warmstart.evaluation import METRICS, Forgetting, metric_names, primary_metric
from warmstart.planning import (
    Arm,
    Comparison,
    Embedding,
    Plan,
    Task,
    check_cost,
    elapsed_clock,
    parse_arms,
    run_comparison,
)
from warmstart.strategies import Strategy, names, strategy_class

from .embedding import embed_all
from .familiar import keep_familiarity
from .folders import check_free, default_folder, run_folder
from .prepare import Prepared, settle_size
from .recommending import open_run
from .results import comparison_json, write_run
from .retained import OldRows, measure_retained
from .runs import FinishedRun

__all__ = [
    "ShowAudit",
    "check_before_reading",
    "check_seed",
    "deciding_metric",
    "refuse_problems",
    "run_course",
    "run_settings",
    "with_all_named",
]

ShowAudit = Callable[[Audit], None]


def run_settings(
    prepared: Prepared,
    arms: Sequence[Arm],
    *,
    seeds: int,
    budget: float,
    limit: int | None,
    metric: str | None,
    **more: Any,
) -> dict[str, Any]:
    """What decides the result; a partial run is continued only under the same settings."""
    values = {
        "arms": {arm.name: arm.strategy.model_dump(mode="json") for arm in arms},
        "seeds": seeds,
        "budget_seconds": None if budget == float("inf") else budget,
        "limit": limit,
        "metric": metric,
        "image_size": prepared.backbone.image_size,
        "max_length": prepared.backbone.max_length,
        "backbone": prepared.backbone.fingerprint,
        "dataset": prepared.dataset.fingerprint,
        "split": prepared.split.fingerprint,
        **{name: value for name, value in more.items() if value is not None},
    }
    return values | {"fingerprint": fingerprint(values)}


def run_course(
    prepared: Prepared,
    arms: Sequence[Arm],
    settings: Mapping[str, Any],
    *,
    verb: str,
    out: str | Path | None,
    replace: bool,
    started: float,
    task_settings: Mapping[str, Any],
    metric: str | None,
    keep_models: bool,
    command: str | None,
    show_audit: ShowAudit | None,
    substitute: Callable[[Arm], Arm | None] | None,
    sizes_open: bool,
    old: OldRows | None = None,
    plan: Plan | None = None,
) -> FinishedRun:
    """The common course of both verbs, from the folder to the report."""
    final = Path(out) if out else default_folder(verb, prepared.dataset.source, settings)
    view = prepared.split.view(prepared.dataset)
    if old is not None:
        view = replace_fields(view, retain=old.view)
    primary = deciding_metric(metric, view.train.labels_N, view.n_classes)
    with (
        run_folder(final, settings, replace=replace) as folder,
        elapsed_clock(folder, started) as begun,
    ):
        if sizes_open:
            prepared = settle_size(prepared, folder, task_settings["budget"])
        audited = prepared.audit()
        refuse_problems(audited)
        embedding = Embedding()
        if any(arm.strategy.uses_features for arm in arms):
            vectors_ND, embedding = embed_all(prepared, folder, task_settings["device"])
            audited = prepared.audit(vectors_ND)
        if show_audit:
            show_audit(audited)
        refuse_problems(audited)
        task = Task(
            backbone=prepared.backbone,
            view=view,
            test=prepared.split.test_rows(prepared.dataset),
            folder=folder,
            primary=primary,
            started=begun,
            embedding=embedding,
            **task_settings,
        )
        comparison: Comparison = run_comparison(arms, task, substitute=substitute)
        _refuse_empty(comparison, task.asked)
        results = comparison_json(
            comparison, task, prepared, audited, settings=settings,
            command=command or f"warmstart {verb} {prepared.dataset.source}",
        )  # fmt: skip
        results |= _planned(comparison, task, plan)
        if old is not None:
            lost = measure_retained(folder, comparison, prepared, old, task.device)
            results["forgetting"] = _forgetting_json(lost, old)
        keep_familiarity(folder, comparison, prepared, task.device, task.kept_rows)
        if task.left < 0:
            took = task.budget - task.left
            progress.note(f"This took {took:,.0f} s, and the budget is {task.budget:,.0f} s.")
        write_run(folder, results, comparison, prepared, name=final.name, keep_models=keep_models)
    return open_run(final, code=prepared.backbone.code)


def _planned(comparison: Comparison, task: Task, plan: Plan | None) -> dict[str, Any]:
    """What results.json says of the plan that a fit followed, and of what it was to take."""
    found: dict[str, Any] = {}
    if plan is not None:
        found["plan"] = plan.model_dump(mode="json")
    for result in comparison.arms:
        checked = check_cost(result, task, plan.cost if plan is not None else None)
        if result.name == task.asked and checked is not None:
            found["cost_check"] = checked.model_dump(mode="json")
    return found


def _forgetting_json(lost: Forgetting | None, old: OldRows) -> dict[str, Any]:
    """What results.json says of the old task."""
    if lost is None:
        sentence = "The kept model has no encoder of the backbone, so nothing of it was forgotten."
        return {"source": old.dataset.source, "budget": old.budget, "sentence": sentence}
    return {
        "source": old.dataset.source, "budget": old.budget, **lost.model_dump(mode="json"),
        "sentence": lost.sentence(old.budget),
    }  # fmt: skip


def check_before_reading(
    metric: str | None,
    out: str | Path | None,
    *,
    replace: bool,
    strategies: Sequence[str | Strategy] | None = None,
) -> None:
    """Refuse what no data can make right, while nothing has been read yet.

    Args:
        metric: The metric that shall decide, as the user named it.
        out: Folder for the run, as the user named it.
        replace: Whether a run there may be replaced.
        strategies: Arms as the user named them, `all` among them.

    Raises:
        UsageError: For a metric, a strategy or a setting that is unknown or out of its range.
        RunError: For a folder that is taken.
    """
    deciders = [name for name, found in METRICS.items() if found.higher_is_better]
    if metric is not None and metric not in deciders:
        raise UsageError(f"metric {metric!r} cannot decide.{nearest(metric, deciders)}")
    if out is not None:
        check_free(Path(out), replace)
    parse_arms([named for named in strategies or () if named != "all"])


def check_seed(seed: int) -> None:
    """Refuse a seed that the tables of a run could not hold.

    Raises:
        UsageError: Outside 64 bits.
    """
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"seed must be between -2^63 and 2^63 - 1, got {seed}. Usual: 0.")


def deciding_metric(metric: str | None, labels_N: np.ndarray, classes: int) -> str:
    """The metric that decides: the user's, checked before any work, or the data's.

    Raises:
        UsageError: For an unknown metric, or one that cannot decide.
    """
    if metric is None:
        return primary_metric(labels_N)
    usable = [name for name in metric_names(classes) if METRICS[name].higher_is_better]
    if metric not in usable:
        raise UsageError(f"metric {metric!r} cannot decide.{nearest(metric, usable)}")
    return metric


def refuse_problems(audited: Audit) -> None:
    """Stop where the audit found what makes results worthless.

    Raises:
        DataError: With every problem.
    """
    if audited.problems:
        raise DataError(" ".join(found.message for found in audited.problems))


def _refuse_empty(comparison: Comparison, asked: str | None) -> None:
    """A run in which what was asked for, or anything, could not be tried is an error."""
    if asked is not None:
        comparison = Comparison(
            [result for result in comparison.arms if result.name == asked], [], comparison.verdict
        )
    if not any(result.seeds for result in comparison.arms):
        only = comparison.arms[0]
        if len(comparison.arms) == 1 and isinstance(only.error, NotApplicable):
            raise NotApplicable(f"{only.arm.strategy.title} cannot be used here: {only.reason}.")
        if len(comparison.arms) == 1 and only.error is not None:
            raise only.error
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in comparison.arms)
        raise UsageError(f"No arm could be run. {reasons}.")


def with_all_named(
    strategies: Sequence[str | Strategy] | None, modality: str
) -> Sequence[str | Strategy] | None:
    """The arms as they were named, with `all` written out for the modality."""
    if strategies is None or "all" not in strategies:
        return strategies
    every = [name for name in names() if modality in strategy_class(name).modalities]
    told = [item for item in strategies if item != "all"]
    plain = {item for item in told if isinstance(item, str)}
    return [*told, *(name for name in every if name not in plain)]
