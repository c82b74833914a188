"""`compare`: several ways of adapting on one split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import UsageError
from warmstart.planning import (
    Arm,
    Prices,
    parse_arms,
    parse_duration,
)
from warmstart.strategies import Strategy

from .course import ShowAudit, check_before_reading, run_course, run_settings, with_all_named
from .prepare import Source, prepare
from .retrieval import compare_interactions, interaction_options, named_contenders
from .runs import FinishedRun
from .shots import compare_shots

__all__ = ["DEFAULT_ARMS", "compare"]

DEFAULT_ARMS = {
    "text": ("zero-shot", "probe", "finetune", "scratch", "tfidf"),
    "image": ("zero-shot", "probe", "finetune", "scratch", "cnn"),
}


def compare(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    strategies: Sequence[str | Strategy] | None = None,
    seeds: int | None = None,
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
    shots: str | int | Sequence[int] | None = None,
    draws: int = 5,
    command: str | None = None,
    show_audit: ShowAudit | None = None,
    **reading: Any,
) -> FinishedRun:
    """Try ways of adapting a backbone on one split, and say which was worth it.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        backbone: What to start from; the default for the modality otherwise.
        strategies: Arms such as `probe` or `probe:depth=auto`, or `all` for every strategy that
            reads this kind of row; the four ways and the controls otherwise.
        seeds: Training seeds for each seeded arm, as far as the budget allows; the split stays.
            3 otherwise, 1 on interactions.
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
        shots: Rows a class, such as `(1, 4, 16)`: the k-shot table instead (see `compare_shots`),
            in which draws take the place of seeds.
        draws: Draws of each number of shots.
        command: The command line, for the report.
        show_audit: Called with the audit before any training.
        **reading: Passed to `read`: text=, label=, image=, split_column=, skip_bad=, ...

    Returns:
        The finished run.

    On interactions (a folder or file with users, items and times) tracks and baselines are
    compared under one cut in time instead, see `compare_interactions`.

    Raises:
        WarmstartError: With a sentence that says what to do.
    """
    own = interaction_options(
        data, reading, limit=limit, image_size=image_size, max_length=max_length, group=group,
        shots=shots, keep_models=keep_models, prices=prices if prices != Prices() else None,
        draws=draws if draws != 5 else None,
    )  # fmt: skip
    if own is not None:
        return compare_interactions(
            data, strategies=named_contenders(strategies), backbone=backbone, budget=budget,
            metric=metric, out=out, replace=replace, device=device, trackers=trackers,
            allow_bin=allow_bin, command=command, seeds=1 if seeds is None else seeds, **own,
        )  # fmt: skip
    if strategies is not None and not strategies:
        raise UsageError("strategies names no arm. Leave it out for the usual ones, or say all.")
    if shots is not None:
        if keep_models:
            raise UsageError("keep_models does not go with shots: the k-shot table keeps no model.")
        return compare_shots(
            data, shots=shots, draws=draws, backbone=backbone, strategies=strategies,
            budget=budget, limit=limit, image_size=image_size, max_length=max_length,
            metric=metric, group=group, out=out, replace=replace, device=device,
            trackers=trackers, allow_bin=allow_bin, command=command, show_audit=show_audit,
            **reading,
        )  # fmt: skip
    seeds = 3 if seeds is None else seeds
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}. Typical values: 1 to 5.")
    started = time.monotonic()
    seconds = float("inf") if str(budget) == "none" else parse_duration(budget)
    check_before_reading(metric, out, replace=replace, strategies=strategies)
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size,
        max_length=max_length, device=device, group=group, allow_bin=allow_bin,
        trackers=trackers, **reading,
    )  # fmt: skip
    modality = prepared.dataset.modality
    arms = parse_arms(with_all_named(strategies, modality) or DEFAULT_ARMS[modality])
    settings = run_settings(prepared, arms, seeds=seeds, budget=seconds, limit=limit, metric=metric)
    return run_course(
        prepared, arms, settings, verb="compare", out=out, replace=replace, started=started,
        task_settings={"seeds": seeds, "budget": seconds, "prices": prices or Prices(),
                       "device": device, "group": group, "trackers": tuple(trackers)},
        metric=metric, keep_models=keep_models, command=command, show_audit=show_audit,
        substitute=None if strategies else _prototypes_for_zero_shot,
        sizes_open=(image_size if modality == "image" else max_length) is None,
    )  # fmt: skip


def _prototypes_for_zero_shot(arm: Arm) -> Arm | None:
    """Class means stand in where zero-shot is not applicable."""
    return parse_arms(["prototypes"])[0] if arm.strategy.name == "zero-shot" else None
