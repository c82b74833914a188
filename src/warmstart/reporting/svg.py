"""A matplotlib figure as inline SVG that takes the page's colours and font.

The figure is drawn without pyplot (no global state) and comes out the same each time: no date, ids
salted with the figure's name. Fixed ink colours become CSS variables with the drawn colour as the
fall-back, so that the page's dark mode reaches into the plot.
"""

from __future__ import annotations

import atexit
import html
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["ARM_COLORS", "FAINT", "GRID", "INK", "figure", "has_glyphs", "style", "to_svg"]

INK = "#1d2026"
FAINT = "#6a707c"
GRID = "#dfe2e7"
PAPER = "#fefefe"
# Okabe and Ito 2008: told apart under the common kinds of colour blindness.
ARM_COLORS: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#a87900",
    "#56b4e9",
)
_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--line",
    PAPER: "--paper",
    **{color: f"--arm-{number}" for number, color in enumerate(ARM_COLORS)},
}
_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "svg.fonttype": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "lines.linewidth": 1.6,
}


@cache
def _settle() -> None:
    """Before matplotlib is imported: a folder of its own where the usual ones are read-only.

    It would make one itself, with warnings.
    """
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules:
        return
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - a home that is not there is no error
    for name, usual in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        folder = Path(os.environ.get(name) or home / usual) / "matplotlib"
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            own = tempfile.mkdtemp(prefix="warmstart-matplotlib-")
            os.environ["MPLCONFIGDIR"] = own
            atexit.register(shutil.rmtree, own, ignore_errors=True)
            return


@contextmanager
def style(name: str) -> Iterator[None]:
    """The settings of every plot, for the time of drawing it."""
    _settle()
    import matplotlib as mpl

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": f"warmstart-{name}"}):
        yield


def figure(width: float, height: float, rows: int = 1) -> tuple[Any, Sequence[Any]]:
    """An empty figure of that size in CSS pixels, and its axes from top to bottom."""
    _settle()
    from matplotlib.figure import Figure

    # A point is 1/72 inch and the SVG's view box counts points: one point is one CSS pixel here.
    drawn = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = drawn.subplots(rows, 1, squeeze=False)
    return drawn, [row[0] for row in axes]


def to_svg(drawn: Any, name: str, alt: str, *, max_width: int | None = None) -> str:
    """The figure as an `<svg>` element.

    Args:
        drawn: A figure made inside `style(name)`; call this there too.
        name: Unique in the page; every id in the element starts with it.
        alt: What the plot says, for those who do not see it.
        max_width: How wide the page may show it, in pixels; the drawn width by default.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    FigureCanvasSVG(drawn)
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The style element would reach the whole page: the page's own sheet has the rule for plots.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"""(['"])DejaVu Sans\1(, [^;"]*)?""", "inherit", text)
    text = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) inherit", r"font-size: \2", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable}, {color})")
    box = re.search(r'viewBox="0 0 ([\d.]+) ', text)
    width = float(box.group(1)) if box else 400.0
    head = (
        f'<svg class="plot" role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'style="max-width: {max_width or width:.0f}px"'
    )
    start = re.match(r"<svg[^>]*>", text)
    assert start is not None
    view = re.search(r'viewBox="[^"]*"', start.group(0))
    opening = f'{head} {view.group(0) if view else ""} xmlns="http://www.w3.org/2000/svg">'
    body = text[start.end() :]
    if "xlink:" in body:
        opening = opening.replace(" xmlns=", ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns=')
    return opening + body.strip()


def has_glyphs(text: str) -> bool:
    """Whether the plots' font can measure every letter; other text belongs in HTML."""
    _settle()
    from matplotlib.font_manager import FontProperties, get_font
    from matplotlib.font_manager import findfont as find

    letters = get_font(find(FontProperties(family="DejaVu Sans"))).get_charmap()
    return all(ord(letter) in letters for letter in text)
