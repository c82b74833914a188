"""Plots of a shift: both sets in one plane, and the error by stretch of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .format import clean
from .plots import percent_axis
from .svg import ARM_COLORS, FAINT, figure, style, to_svg

__all__ = ["plane_plot", "window_plot"]


def plane_plot(
    plane: Mapping[str, Any], name: str = "plane", sides: tuple[str, str] = ("source", "target")
) -> str | None:
    """Source and target rows in the first two principal components of all rows.

    Args:
        plane: `source` and `target` as lists of (x, y), and `shares` of the variance.
        name: Prefix of the ids, unique in the page.
        sides: What the two sets are called.

    Returns:
        An `<svg>` element; None without a point.
    """
    if not plane.get("source") or not plane.get("target"):
        return None
    with style(name):
        drawn, (axis,) = figure(480, 400)
        looks = ((ARM_COLORS[0], "o"), (ARM_COLORS[1], "^"))
        for side, words, (color, mark) in zip(("source", "target"), sides, looks, strict=True):
            points = plane[side]
            axis.scatter(
                [x for x, _ in points], [y for _, y in points], s=11, color=color, marker=mark,
                alpha=0.55, linewidths=0, label=words,
            )  # fmt: skip
        for axis_of, share in zip(("x", "y"), plane["shares"], strict=True):
            words = f"component {1 if axis_of == 'x' else 2} ({share:.0%} of the variance)"
            getattr(axis, f"set_{axis_of}label")(words)
        axis.legend(loc="best", markerscale=1.6, handletextpad=0.2)
        alt = (
            f"{len(plane['source'])} {sides[0]} and {len(plane['target'])} {sides[1]} rows in the "
            "first two principal components of all rows."
        )
        return to_svg(drawn, name, alt, max_width=640)


def window_plot(windows: Sequence[Mapping[str, Any]], name: str = "windows") -> str | None:
    """Error by stretch of time with 95 % intervals, and the expectation beside it.

    Args:
        windows: Dicts of `shift.Window`.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a stretch.
    """
    if not windows:
        return None
    with style(name):
        drawn, (axis,) = figure(480, 260)
        for place, one in enumerate(windows):
            error = one["error"]
            reach = 1.96 * error["error"]
            bounds = [max(error["value"] - reach, 0.0), min(error["value"] + reach, 1.0)]
            axis.plot([place, place], bounds, color=ARM_COLORS[1], linewidth=2.4)
            axis.plot([place], [error["value"]], "o", color=ARM_COLORS[1],
                      label="error" if place == 0 else None)  # fmt: skip
        known = [(i, one["expected"]["value"]) for i, one in enumerate(windows) if one["expected"]]
        if known:
            axis.plot([i for i, _ in known], [value for _, value in known], color=FAINT,
                      linestyle="--", marker="D", markersize=4, label="expected")  # fmt: skip
        axis.set_xticks(
            range(len(windows)), [clean(one["first"])[:10].replace("$", r"\$") for one in windows]
        )
        axis.set_xlabel("stretch of time, by its first row")
        axis.set_title("Share of wrong answers")
        percent_axis(axis.yaxis, "accuracy", 5)
        axis.legend(loc="best")
        words = "; ".join(
            f"from {clean(one['first'])[:10]}: {one['error']['value']:.1%}" for one in windows
        )
        return to_svg(drawn, name, f"Error by stretch of time. {words}.", max_width=640)
