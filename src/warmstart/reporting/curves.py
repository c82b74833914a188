"""Plots of what was tried before and after training: learning rates, and interpolated weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .format import clean
from .plots import percent_axis
from .svg import ARM_COLORS, FAINT, INK, PAPER, figure, has_glyphs, style, to_svg

__all__ = ["interpolation_curve", "rate_sweeps"]

_WIDTH = 344


def rate_sweeps(sweeps: Sequence[Mapping[str, Any]], name: str = "rates") -> str | None:
    """The loss while the learning rate rose, and what each layer group bears.

    Args:
        sweeps: Dicts of `RateSweep.to_dict`: the whole first, then groups.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a sweep of two steps.
    """
    drawable = [sweep for sweep in sweeps if len(sweep["losses"]) > 1]
    if not drawable:
        return None
    whole = next((sweep for sweep in drawable if sweep["group"] is None), drawable[0])
    groups = [sweep for sweep in drawable if sweep["group"] is not None]
    heights = [190, *([44 + 22 * len(groups)] if groups else [])]
    with style(name):
        drawn, axes = figure(_WIDTH, sum(heights), rows=len(heights))
        if groups:
            axes[0].get_gridspec().set_height_ratios(heights)
        _sweep(axes[0], whole)
        if groups:
            _by_group(axes[1], groups)
        axes[-1].set_xlabel("learning rate (log scale)")
        return to_svg(drawn, name, _rate_words(whole, groups))


def interpolation_curve(points: Sequence[Mapping[str, Any]], name: str = "wise") -> str | None:
    """Validation loss and accuracy on the way from the untouched weights to the tuned ones.

    Args:
        points: The curve of `strategies.interpolate`: dicts with `share`, `chosen`,
            `validation_loss`, `validation_accuracy`, and further accuracies such as an old
            task's, which are drawn dashed.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None with fewer than two points.
    """
    if len(points) < 2:
        return None
    scores = [key for key in points[0] if key.endswith("accuracy") and _drawn(points, key)]
    losses = [key for key in ("validation_loss",) if _drawn(points, key)]
    panels = [shown for shown in (losses, scores) if shown]
    if not panels:
        return None
    chosen = next((point for point in points if point.get("chosen")), None)
    with style(name):
        drawn, axes = figure(_WIDTH, 38 + 126 * len(panels), rows=len(panels))
        for axis, shown in zip(axes, panels, strict=True):
            for number, key in enumerate(shown):
                _line(axis, points, key, number)
            if chosen is not None:
                axis.axvline(chosen["share"], color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
            axis.set_title("Validation loss" if shown is losses else "Accuracy")
            if len(shown) > 1:
                axis.legend(loc="best", handlelength=2.2)
            percent_axis(axis.xaxis, "accuracy", 6)
            percent_axis(axis.yaxis, "" if shown is losses else "accuracy", 4)
        axes[-1].set_xlabel("share of the tuned weights")
        return to_svg(drawn, name, _curve_words(points, chosen, [*losses, *scores]))


def _sweep(axis: Any, sweep: Mapping[str, Any]) -> None:
    rates, smoothed = sweep["rates"], sweep["smoothed"]
    axis.set_xscale("log")
    axis.plot(rates, [_or_nan(value) for value in sweep["losses"]], color=FAINT, linewidth=0.7)
    axis.plot(rates, [_or_nan(value) for value in smoothed], color=ARM_COLORS[0])
    finite = [value for value in smoothed if math.isfinite(value)]
    if finite:
        low = min(finite)
        high = max(finite[: finite.index(low) + 1])  # the run-away end would hide all else
        room = (high - low) or abs(low) or 1.0
        axis.set_ylim(low - 0.15 * room, high + 0.5 * room)
    for key, color, label in (
        ("tenth", ARM_COLORS[2], "lowest / 10"),
        ("steepest", ARM_COLORS[1], "steepest"),
    ):
        if sweep[key] is not None:
            axis.axvline(sweep[key], color=color, linewidth=1.2, linestyle="--", label=label)
    if sweep["steepest"] is not None:
        axis.legend(loc="best", handlelength=2.2)
    axis.set_title("Training loss while the rate rises")


def _by_group(axis: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    axis.set_xscale("log")
    for place, sweep in enumerate(groups):
        color = ARM_COLORS[1]
        if sweep["steepest"] is not None:
            ends = sorted((sweep["tenth"], sweep["steepest"]))
            axis.plot(ends, [place, place], color=FAINT, linewidth=1.0)
            axis.plot([sweep["steepest"]], [place], "o", color=color, markersize=6)
            axis.plot(
                [sweep["tenth"]], [place], "D", color=ARM_COLORS[2], markersize=5,
                markerfacecolor=PAPER, markeredgewidth=1.4,
            )  # fmt: skip
    axis.set_xlim(min(s["rates"][0] for s in groups), max(s["rates"][-1] for s in groups))
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.set_yticks(range(len(groups)), [_label(sweep["group"]) for sweep in groups], color=INK)
    axis.set_title("One group moving: steepest (dot), lowest / 10 (diamond)")


def _line(axis: Any, points: Sequence[Mapping[str, Any]], key: str, number: int) -> None:
    axis.plot(
        [point["share"] for point in points],
        [_or_nan(point[key]) for point in points],
        color=ARM_COLORS[number % len(ARM_COLORS)],
        linestyle="-" if number == 0 else "--",
        marker="o",
        markersize=3,
        label=_label(key.replace("_", " ")),
    )


def _rate_words(whole: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    parts = [_one_sweep("all groups" if whole["group"] is None else whole["group"], whole)]
    parts += [_one_sweep(str(sweep["group"]), sweep) for sweep in groups if sweep is not whole]
    return clean(f"Learning-rate finder. {'; '.join(parts)}.")


def _one_sweep(label: str, sweep: Mapping[str, Any]) -> str:
    if sweep["steepest"] is None:
        return f"{label}: the loss never fell"
    return f"{label}: steepest at {sweep['steepest']:.1e}, lowest / 10 at {sweep['tenth']:.1e}"


def _curve_words(
    points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None, keys: Sequence[str]
) -> str:
    parts = [
        f"{key.replace('_', ' ')} from {points[0][key]:.3f} untouched to {points[-1][key]:.3f} "
        "tuned"
        for key in keys
    ]
    kept = "" if chosen is None else f" Kept: {chosen['share']:.0%} of the tuned weights."
    return clean(f"Interpolated weights: {'; '.join(parts)}.{kept}")


def _label(text: Any) -> str:
    label = clean(str(text))
    label = label if has_glyphs(label) else "group"
    label = label if len(label) <= 24 else label[:23] + "…"
    return label.replace("$", r"\$")


def _drawn(points: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(isinstance(point.get(key), int | float) for point in points)


def _or_nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan
