"""`fit`: one way of adapting, judged against what costs less."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from warmstart.backbones import Backbone
from warmstart.core import UsageError, nearest
from warmstart.planning import (
    Arm,
    Plan,
    parse_arms,
    plan_by_tree,
)
from warmstart.strategies import Strategy, make, speaking_names

from .course import (
    ShowAudit,
    check_before_reading,
    check_seed,
    deciding_metric,
    run_course,
    run_settings,
)
from .measured_plan import Looking, measured_plan
from .plan import command_options
from .prepare import Prepared, Source, prepare
from .retained import read_retained
from .retrieval import fit_interactions, interaction_options
from .runs import FinishedRun

__all__ = ["CONTROLS", "Controls", "fit"]

CONTROLS = ("cheap", "full", "none")
_PLAN_SECONDS = 60.0
Controls = Literal["cheap", "full", "none"]


def fit(
    data: Source,
    *,
    strategy: str | Strategy | None = None,
    quick: bool = False,
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
    retain: Source | None = None,
    max_forgetting: float | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    trackers: Sequence[str] = (),
    allow_bin: bool = False,
    command: str | None = None,
    show_audit: ShowAudit | None = None,
    **reading: Any,
) -> FinishedRun:
    """Adapt a backbone by one strategy, judge it against its controls, and write a run folder.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        strategy: Name or value; what `plan` recommends otherwise, by what was measured before for
            the same rows and settings, or by what is measured now within a minute.
        quick: Whether, without a strategy, the number of labels alone decides.
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
        retain: Labelled rows of an old task; how well the backbone still serves them is tracked
            each epoch and measured at the end.
        max_forgetting: Points that the old task may lose: training stops beyond it, and the best
            weights within it are kept.
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
    check_seed(seed)
    own = interaction_options(
        data, reading, limit=limit, image_size=image_size, max_length=max_length, group=group,
        shots=shots, retain=retain, max_forgetting=max_forgetting,
    )  # fmt: skip
    if own is not None:
        if strategy is not None and not isinstance(strategy, str):
            raise UsageError(f"a track for interactions is given by name, got {strategy!r}.")
        return fit_interactions(
            data, strategy=strategy, settings=settings, controls=controls, backbone=backbone,
            seed=seed, metric=metric, out=out, replace=replace, device=device, trackers=trackers,
            allow_bin=allow_bin, command=command, **own,
        )  # fmt: skip
    started = time.monotonic()
    if controls not in CONTROLS:
        raise UsageError(f"controls {controls!r} is unknown.{nearest(controls, CONTROLS)}")
    chosen = make(strategy, settings) if isinstance(strategy, str) else strategy
    check_before_reading(metric, out, replace=replace)
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size, max_length=max_length,
        device=device, group=group, shots=shots, allow_bin=allow_bin,
        trackers=trackers, **reading,
    )  # fmt: skip
    old = read_retained(retain, prepared, max_forgetting)
    plan: Plan | None = None
    if chosen is None:
        options = {"backbone": backbone, "allow_bin": allow_bin, "group": group,
                   "image_size": image_size, "max_length": max_length, "metric": metric,
                   "limit": limit, **reading}  # fmt: skip
        plan = _plan(prepared, metric, device, seed, quick, command_options(options))
        chosen = make(plan.strategy, settings)
    arms = _with_controls(parse_arms([chosen])[0], controls, prepared.dataset.modality)
    recorded = run_settings(
        prepared, arms, seeds=1, budget=float("inf"), limit=limit, metric=metric,
        seed=seed, retain=old and old.dataset.fingerprint, max_forgetting=max_forgetting,
    )  # fmt: skip
    return run_course(
        prepared, arms, recorded, verb="fit", out=out, replace=replace, started=started,
        task_settings={"seeds": 1, "first_seed": seed, "budget": float("inf"),
                       "device": device, "group": group, "trackers": tuple(trackers),
                       "asked": arms[0].name, "max_forgetting": max_forgetting},
        metric=metric, keep_models=False, command=command, show_audit=show_audit,
        substitute=_untouched_stand_in if controls != "none" else None, sizes_open=False,
        old=old, plan=plan,
    )  # fmt: skip


def _plan(
    prepared: Prepared,
    metric: str | None,
    device: str,
    seed: int,
    quick: bool,
    options: Sequence[str],
) -> Plan:
    """The plan that the fit follows."""
    train = prepared.split.view(prepared.dataset).train
    looking = Looking(
        prepared.dataset, prepared.split, prepared.backbone, device=device, seed=seed,
        metric=deciding_metric(metric, train.labels_N, len(prepared.dataset.label_names)),
        within=_PLAN_SECONDS, options=tuple(options),
    )  # fmt: skip
    if not quick:
        looking = looking.as_planned()
    tree = plan_by_tree(
        train, names_speak=_names_can_speak(prepared), distance=looking.distance, options=options
    )
    return tree if quick else measured_plan(tree, looking, anew=False)


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
