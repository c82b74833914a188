"""`compare` and `fit`: arms on one split, and the folder that tells what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import DataError, NotApplicable, UsageError, fingerprint, nearest
from warmstart.data import Audit
from warmstart.evaluation import METRICS, metric_names, primary_metric
from warmstart.planning import (
    Arm,
    Comparison,
    Embedding,
    Prices,
    Task,
    elapsed_clock,
    parse_arms,
    parse_duration,
    plan_by_tree,
    run_comparison,
)
from warmstart.strategies import Strategy, make, speaking_names

from .embedding import embed_all
from .folders import default_folder, run_folder
from .prepare import Prepared, Source, prepare, settle_size
from .results import comparison_json, write_run
from .runs import FinishedRun, open_run

__all__ = ["DEFAULT_ARMS", "compare", "fit"]

DEFAULT_ARMS = {
    "text": ("zero-shot", "probe", "finetune", "scratch", "tfidf"),
    "image": ("zero-shot", "probe", "finetune", "scratch", "cnn"),
}
CONTROLS = ("cheap", "full", "none")
Controls = Literal["cheap", "full", "none"]
_Show = Callable[[Audit], None]


def compare(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    strategies: Sequence[str | Strategy] | None = None,
    seeds: int = 3,
    budget: str | float = "15m",
    limit: int | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    keep_models: bool = False,
    prices: Prices | None = None,
    device: str = "auto",
    trackers: Sequence[str] = (),
    allow_bin: bool = False,
    command: str | None = None,
    show_audit: _Show | None = None,
    **reading: Any,
) -> FinishedRun:
    """Try ways of adapting a backbone on one split, and say which was worth it.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        backbone: What to start from; the default for the modality otherwise.
        strategies: Arms such as `probe` or `probe:depth=auto`; the four ways and the controls
            otherwise.
        seeds: Training seeds for each seeded arm, as far as the budget allows; the split stays.
        budget: Time for everything: `15m`, `90s`, seconds, or `none`.
        limit: At most so many rows, drawn by class.
        image_size: Pixels on a side; None lets the budget decide.
        max_length: Tokens; None lets the budget decide.
        metric: Primary metric: accuracy, macro_f1, balanced_accuracy. Accuracy by default, macro
            F1 where the rarest class holds under 5 % of the rows.
        group: Column that is kept whole in the split and by which accuracy is shown.
        out: Folder for the run; `runs/compare-NAME` otherwise.
        replace: Whether a run of that name may be replaced.
        keep_models: Whether every arm's model is kept, not only the best one's.
        prices: What the machine costs.
        device: `auto`, `cpu`, `cuda`, `mps`.
        trackers: Experiment trackers to report to.
        allow_bin: Whether a backbone's pickled weights may be read (with weights_only).
        command: The command line, for the report.
        show_audit: Called with the audit before any training.
        **reading: Passed to `read`: text=, label=, image=, split_column=, skip_bad=, ...

    Returns:
        The finished run.

    Raises:
        WarmstartError: With a sentence that says what to do.
    """
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}. Typical values: 1 to 5.")
    started = time.monotonic()
    seconds = float("inf") if str(budget) == "none" else parse_duration(budget)
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size,
        max_length=max_length, device=device, group=group, allow_bin=allow_bin,
        trackers=trackers, **reading,
    )  # fmt: skip
    modality = prepared.dataset.modality
    arms = parse_arms(strategies or DEFAULT_ARMS[modality])
    settings = _settings(prepared, arms, seeds=seeds, budget=seconds, limit=limit, metric=metric)
    return _run(
        prepared, arms, settings, verb="compare", out=out, replace=replace, started=started,
        task_settings={"seeds": seeds, "budget": seconds, "prices": prices or Prices(),
                       "device": device, "group": group, "trackers": tuple(trackers)},
        metric=metric, keep_models=keep_models, command=command, show_audit=show_audit,
        substitute=None if strategies else _prototypes_for_zero_shot,
        sizes_open=(image_size if modality == "image" else max_length) is None,
    )  # fmt: skip


def fit(
    data: Source,
    *,
    strategy: str | Strategy | None = None,
    settings: Mapping[str, Any] | None = None,
    backbone: Backbone | str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    group: str | None = None,
    shots: int | None = None,
    controls: Controls = "cheap",
    out: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    trackers: Sequence[str] = (),
    allow_bin: bool = False,
    command: str | None = None,
    show_audit: _Show | None = None,
    **reading: Any,
) -> FinishedRun:
    """Adapt a backbone by one strategy, judge it against its controls, and write a run folder.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        strategy: Name or value; what `plan` recommends otherwise.
        settings: Settings of a strategy given by name: `{"l2": 0.01}`.
        backbone: What to start from; the default for the modality otherwise.
        seed: Training seed.
        limit: At most so many rows, drawn by class.
        image_size: Pixels on a side; the backbone's own otherwise.
        max_length: Tokens; the backbone's own otherwise.
        metric: Primary metric, see `compare`.
        group: Column that is kept whole in the split.
        shots: Training rows a class.
        controls: What the result is judged against, on the same rows: `cheap` for the untouched
            model, the probe and, for text, TF-IDF; `full` for training from scratch as well;
            `none`. Where a control is better on the validation rows, its model is kept.
        out: Folder for the run; `runs/fit-NAME` otherwise.
        replace: Whether a run of that name may be replaced.
        device: `auto`, `cpu`, `cuda`, `mps`.
        trackers: Experiment trackers to report to.
        allow_bin: Whether a backbone's pickled weights may be read (with weights_only).
        command: The command line, for the report.
        show_audit: Called with the audit before any training.
        **reading: Passed to `read`.

    Returns:
        The finished run; `run.predict([...])` answers at once.
    """
    started = time.monotonic()
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size, max_length=max_length,
        device=device, group=group, shots=shots, allow_bin=allow_bin,
        trackers=trackers, **reading,
    )  # fmt: skip
    if strategy is None:
        plan = plan_by_tree(
            prepared.split.view(prepared.dataset).train,
            names_speak=_names_can_speak(prepared),
        )
        strategy = plan.strategy
    chosen = make(strategy, settings) if isinstance(strategy, str) else strategy
    if controls not in CONTROLS:
        raise UsageError(f"controls {controls!r} is unknown.{nearest(controls, CONTROLS)}")
    arms = _with_controls(parse_arms([chosen])[0], controls, prepared.dataset.modality)
    recorded = _settings(
        prepared, arms, seeds=1, budget=float("inf"), limit=limit, metric=metric
    ) | {"seed": seed}
    return _run(
        prepared, arms, recorded, verb="fit", out=out, replace=replace, started=started,
        task_settings={"seeds": 1, "first_seed": seed, "budget": float("inf"),
                       "device": device, "group": group, "trackers": tuple(trackers),
                       "asked": arms[0].name},
        metric=metric, keep_models=False, command=command, show_audit=show_audit,
        substitute=_untouched_stand_in if controls != "none" else None, sizes_open=False,
    )  # fmt: skip


def _names_can_speak(prepared: Prepared) -> bool:
    image = prepared.dataset.modality == "image"
    if image and prepared.backbone.modality != "image-text":
        return False
    return speaking_names(prepared.dataset.label_names)


def _with_controls(asked: Arm, controls: Controls, modality: str) -> list[Arm]:
    """What was asked for, and beside it what costs less."""
    names = {"none": [], "cheap": ["zero-shot", "probe"], "full": ["zero-shot", "probe"]}[controls]
    if controls != "none" and modality == "text":
        names.append("tfidf")
    if controls == "full":
        names.append("scratch")
    beside = [Arm(name, make(name), control=True) for name in names]
    return [asked, *(arm for arm in beside if arm.strategy.name != asked.strategy.name)]


def _untouched_stand_in(arm: Arm) -> Arm | None:
    """The class means of the untouched model, where class names mean nothing to it."""
    if arm.strategy.name != "zero-shot" or not arm.control:
        return None
    return Arm("prototypes", make("prototypes"), control=True)


def _prototypes_for_zero_shot(arm: Arm) -> Arm | None:
    """Class means stand in where zero-shot is not applicable."""
    return parse_arms(["prototypes"])[0] if arm.strategy.name == "zero-shot" else None


def _settings(
    prepared: Prepared,
    arms: Sequence[Arm],
    *,
    seeds: int,
    budget: float,
    limit: int | None,
    metric: str | None,
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
    }
    return values | {"fingerprint": fingerprint(values)}


def _run(
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
    show_audit: _Show | None,
    substitute: Callable[[Arm], Arm | None] | None,
    sizes_open: bool,
) -> FinishedRun:
    """The common course of both verbs, from the folder to the report."""
    final = Path(out) if out else default_folder(verb, prepared.dataset.source, settings)
    view = prepared.split.view(prepared.dataset)
    primary = _primary(metric, view.train.labels_N, view.n_classes)
    with (
        run_folder(final, settings, replace=replace) as folder,
        elapsed_clock(folder, started) as begun,
    ):
        if sizes_open:
            prepared = settle_size(prepared, folder, task_settings["budget"])
        audited = prepared.audit()
        _refuse_problems(audited)
        embedding = Embedding()
        if any(arm.strategy.uses_features for arm in arms):
            vectors_ND, embedding = embed_all(prepared, folder, task_settings["device"])
            audited = prepared.audit(vectors_ND)
        if show_audit:
            show_audit(audited)
        _refuse_problems(audited)
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
        write_run(folder, results, comparison, prepared, name=final.name, keep_models=keep_models)
    return open_run(final)


def _primary(metric: str | None, labels_N: np.ndarray, classes: int) -> str:
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


def _refuse_problems(audited: Audit) -> None:
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
