"""The plots of a comparison, as inline SVG: curves, the forest of intervals, reliability.

Panels are drawn narrow (about 340 px), so that a phone shows them at their own size. The confusion
matrix is drawn as an HTML table by the report, since it is text: it reads in every script, by
keyboard and aloud.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.evaluation import METRICS
from warmstart.training import RETAINED

from .format import clean, metric_title, metric_value, metric_words, with_interval
from .svg import ARM_COLORS, FAINT, INK, PAPER, figure, has_glyphs, style, to_svg

__all__ = ["forest", "learning_curves", "percent_axis", "reliability", "shot_curve"]

_WIDTH = 344


def learning_curves(arm: Mapping[str, Any], name: str = "curves", color: int = 0) -> str | None:
    """Loss and validation score per epoch of one arm; thin lines are its training seeds.

    The score is the one that `settings.metric` names, by which the best epoch is told, where there
    is one. The score on an old task (`--retain`) is drawn dashed beside the new one's.

    Args:
        arm: An arm of the results; `history` holds, for each seed, one dict an epoch.
        name: Prefix of the ids, unique in the page.
        color: Number of the arm's colour.

    Returns:
        An `<svg>` element; None where no seed has an epoch.
    """
    runs = [run for run in arm.get("history") or [] if run]
    if not runs:
        return None
    keys = {key for run in runs for epoch in run for key in epoch if _is_number(epoch[key])}
    losses = [key for key in ("train_loss", "validation_loss") if key in keys]
    scores = sorted(
        key for key in keys if key.startswith("validation_") and key != "validation_loss"
    )
    watched = f"validation_{(arm.get('settings') or {}).get('metric')}"
    scores = [watched] if watched in keys else scores[:1]
    scores += [old for key in scores if (old := RETAINED + _metric_of(key)) in keys]
    if not losses and not scores:
        return None
    ink = ARM_COLORS[color % len(ARM_COLORS)]
    panels = ([losses] if losses else []) + ([scores] if scores else [])
    with style(name):
        drawn, axes = figure(_WIDTH, 38 + 126 * len(panels), rows=len(panels))
        for axis, shown in zip(axes, panels, strict=True):
            for key in shown:
                beside = key == "train_loss" or key.startswith(RETAINED)
                _lines(axis, runs, key, FAINT if beside else ink, "--" if beside else "-")
            axis.set_title("Loss" if shown is losses else _title(shown[0]))
            if len(shown) == 2:
                axis.legend(loc="best", handlelength=2.2)
            _whole_epochs(axis, max(len(run) for run in runs))
            percent_axis(axis.yaxis, "" if shown is losses else _metric_of(shown[0]), 4)
        axes[-1].set_xlabel("epoch")
        return to_svg(drawn, name, _curve_words(arm, runs, losses, scores))


def forest(
    rows: Sequence[Mapping[str, Any]], metric: str, *, best: str | None = None, name: str = "forest"
) -> str | None:
    """The primary metric of every arm with its interval, best at the top.

    Args:
        rows: Dicts with label, name, role ("arm" or "control"), value, low and high.
        metric: The metric's name.
        best: Name of the arm whose value is drawn down the whole plot.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a row.
    """
    if not rows:
        return None
    with style(name):
        drawn, (axis,) = figure(_WIDTH, 54 + 38 * len(rows))
        bounds = [
            row[key] for row in rows for key in ("low", "value", "high") if _is_number(row[key])
        ]
        left, right = min(bounds), max(bounds)
        spread = (right - left) or 0.1
        axis.set_xlim(left - 0.06 * spread, right + 0.06 * spread)
        axis.set_ylim(len(rows) - 0.65, -0.75)
        for place, row in enumerate(rows):
            _interval(axis, row, place, metric)
            if row["name"] == best:
                axis.axvline(row["value"], color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        percent_axis(axis.xaxis, metric, 5)
        axis.set_xlabel(f"{metric_title(metric)}, 95 % interval")
        words = "; ".join(f"{row['label']} {with_interval(metric, row)}" for row in rows)
        alt = clean(f"{metric_title(metric)} with 95 % interval: {words}.")
        return to_svg(drawn, name, alt, max_width=480)


def reliability(
    bins: Sequence[Mapping[str, Any]], name: str = "reliability", color: int = 0
) -> str | None:
    """Measured accuracy against stated confidence, a point a bin, larger with more rows.

    Args:
        bins: Dicts with n, confidence and accuracy.
        name: Prefix of the ids, unique in the page.
        color: Number of the arm's colour.

    Returns:
        An `<svg>` element; None without a bin.
    """
    if not bins:
        return None
    ink = ARM_COLORS[color % len(ARM_COLORS)]
    most = max(one["n"] for one in bins)
    with style(name):
        drawn, (axis,) = figure(_WIDTH, 290)
        axis.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axis.plot(
            [one["confidence"] for one in bins],
            [one["accuracy"] for one in bins],
            color=ink,
            linewidth=1,
        )
        axis.scatter(
            [one["confidence"] for one in bins],
            [one["accuracy"] for one in bins],
            s=[14 + 110 * one["n"] / most for one in bins],
            color=ink,
        )
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        percent_axis(axis.xaxis, "accuracy", 5)
        percent_axis(axis.yaxis, "accuracy", 5)
        axis.set_xlabel("stated confidence (larger dot: more rows)")
        axis.set_title("Measured accuracy")
        words = "; ".join(
            f"confidence {one['confidence']:.2f}: right {one['accuracy']:.2f} of {one['n']}"
            for one in bins
        )
        return to_svg(drawn, name, f"Reliability. {words}.")


def shot_curve(
    arms: Sequence[Mapping[str, Any]], metric: str, shots: Sequence[int], name: str = "shots"
) -> str | None:
    """The metric by the number of labelled rows a class, a line an arm, on a logarithmic axis.

    Bands are 95 % intervals; an arm that reads no rows is a dashed line across.

    Args:
        arms: Dicts with name, label and cells, each with k, value, low and high.
        metric: The metric's name.
        shots: The k on the axis.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a value.
    """
    shown = [(place, arm, points) for place, arm in enumerate(arms) if (points := _points(arm))]
    if not shown or not shots:
        return None
    with style(name):
        drawn, (axis,) = figure(480, 340)
        axis.set_xscale("log", base=2)
        axis.set_xlim(min(shots) / 1.25, max(shots) * 1.25)
        for place, arm, points in shown:
            color, label = ARM_COLORS[place % len(ARM_COLORS)], _drawable(arm)
            if points[0]["k"] == 0:
                axis.axhline(points[0]["value"], color=color, linestyle="--", label=label)
                continue
            ks = [one["k"] for one in points]
            mark = "osD^vPX"[place % 7]
            axis.plot(ks, [one["value"] for one in points], color=color, marker=mark,
                      markersize=4.5, label=label)  # fmt: skip
            if all(_is_number(one[key]) for one in points for key in ("low", "high")):
                axis.fill_between(ks, [one["low"] for one in points],
                                  [one["high"] for one in points], color=color, alpha=0.13,
                                  linewidth=0)  # fmt: skip
        axis.set_xticks(list(shots), labels=[str(k) for k in shots])
        axis.minorticks_off()
        percent_axis(axis.yaxis, metric, 6)
        axis.set_xlabel("labelled rows a class")
        axis.set_title(metric_title(metric))
        axis.legend(loc="best", handlelength=2.4)
        words = "; ".join(
            f"{clean(arm.get('label') or arm.get('name'))}: "
            + ", ".join(
                f"{metric_value(metric, one['value'])} with {one['k'] or 'none'}" for one in points
            )
            for _, arm, points in shown
        )
        alt = clean(f"{metric_title(metric)} by labelled rows a class. {words}.")
        return to_svg(drawn, name, alt, max_width=640)


def _points(arm: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    cells = [one for one in arm.get("cells") or [] if _is_number(one.get("value"))]
    return sorted(cells, key=lambda one: one["k"])


def _lines(axis: Any, runs: Sequence[Any], key: str, color: str, dash: str) -> None:
    label = "training" if key == "train_loss" else "validation"
    label = "old task" if key.startswith(RETAINED) else label
    for number, run in enumerate(runs):
        points = [
            (epoch.get("epoch", place + 1), epoch[key])
            for place, epoch in enumerate(run)
            if _is_number(epoch.get(key))
        ]
        if points:
            axis.plot(
                [point[0] for point in points],
                [point[1] for point in points],
                color=color,
                linestyle=dash,
                marker="o" if len(points) < 15 else None,
                markersize=3,
                alpha=1.0 if len(runs) == 1 else 0.65,
                label=label if number == 0 else None,
            )


def _metric_of(key: str) -> str:
    return key.removeprefix("validation_")


def _title(key: str) -> str:
    return f"Validation {metric_words(_metric_of(key))}"


def _whole_epochs(axis: Any, epochs: int) -> None:
    axis.set_xlim(0.7, epochs + 0.3)
    axis.set_xticks(range(1, epochs + 1, -(-epochs // 8)))


def _interval(axis: Any, row: Mapping[str, Any], place: int, metric: str) -> None:
    is_arm = row["role"] == "arm"
    color = ARM_COLORS[0] if is_arm else FAINT
    if row["low"] is not None and row["high"] is not None:
        axis.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2.4)
    axis.plot(
        [row["value"]],
        [place],
        marker="o" if is_arm else "D",
        markersize=8 if is_arm else 6.5,
        color=color,
        markerfacecolor=color if is_arm else PAPER,
        markeredgewidth=1.6,
    )
    words = f"{_drawable(row)} · {metric_value(metric, row['value'])}"
    axis.text(axis.get_xlim()[0], place - 0.34, words, va="center", ha="left", color=INK)


def percent_axis(axis: Any, metric: str, bins: int) -> None:
    """Few ticks, in per cent where the metric is a share."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = METRICS.get(metric)
    axis.set_major_locator(MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]))
    if shown is not None and shown.percent:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g} %"))


def _drawable(row: Mapping[str, Any]) -> str:
    label = clean(row["label"])
    if not has_glyphs(label):
        label = clean(row["name"])
    if not has_glyphs(label):
        label = "arm"
    label = label if len(label) <= 30 else label[:29] + "…"
    return label.replace("$", r"\$")


def _curve_words(
    arm: Mapping[str, Any], runs: Sequence[Any], losses: Sequence[str], scores: Sequence[str]
) -> str:
    label = clean(arm.get("label") or arm.get("name") or "arm")
    parts = []
    for key in (*losses, *scores):
        values = [epoch[key] for epoch in runs[0] if _is_number(epoch.get(key))]
        if values:
            parts.append(f"{key.replace('_', ' ')} from {values[0]:.3f} to {values[-1]:.3f}")
    epochs = max(len(run) for run in runs)
    seeds = f", {len(runs)} seeds, first one told" if len(runs) > 1 else ""
    return f"Learning curves of {label} over {epochs} epochs{seeds}: {'; '.join(parts)}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
