"""The plot of a ranking: each backbone's score with its interval, over its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .format import clean, count
from .svg import ARM_COLORS, INK, figure, style, to_svg

__all__ = ["size_plot"]


def size_plot(
    points: Sequence[Mapping[str, Any]], title: str, percent: bool, name: str = "sizes"
) -> str | None:
    """The ordering score over parameters; a point carries its place in the order.

    Args:
        points: Dicts with label, place, parameters, value, low and high.
        title: What the score is.
        percent: Whether it is a share of 1.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a point.
    """
    if not points:
        return None
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    scale = 100 if percent else 1
    with style(name):
        drawn, (axis,) = figure(480, 300)
        axis.set_xscale("log")
        sizes = [max(point["parameters"], 1) for point in points]
        axis.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        for point, size in zip(points, sizes, strict=True):
            color = ARM_COLORS[0] if point["place"] == 1 else ARM_COLORS[1]
            bounds = [scale * point["low"], scale * point["high"]]
            axis.plot([size, size], bounds, color=color, linewidth=2.2)
            axis.plot([size], [scale * point["value"]], "o", color=color, markersize=7)
            axis.annotate(
                str(point["place"]), (size, scale * point["value"]), xytext=(7, 3),
                textcoords="offset points", color=INK,
            )  # fmt: skip
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axis.xaxis.set_minor_formatter(NullFormatter())
        if max(sizes) / min(sizes) < 10:  # no power of ten need lie in view
            axis.set_xticks(sorted({min(sizes), max(sizes)}))
        axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        if percent:
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axis.set_xlabel("parameters; the number is the place in the order")
        axis.set_title(f"{clean(title)}, 95 % interval")
        digits = 1 if percent else 3
        words = "; ".join(
            f"{point['place']} {clean(point['label'])}, {count(point['parameters'])} parameters: "
            f"{scale * point['value']:.{digits}f}"
            for point in points
        )
        return to_svg(drawn, name, f"{clean(title)} over parameters. {words}.", max_width=640)
