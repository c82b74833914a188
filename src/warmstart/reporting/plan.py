"""A measured plan for people: what each way is worth, why, what it takes, and the quadrants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart._version import __version__
from warmstart.core import write_atomic

from . import format as fmt
from .pages import page, trusted
from .svg import ARM_COLORS, FAINT, GRID, figure, style, to_svg
from .view import Json, plain

__all__ = [
    "expected_rows",
    "measured_plan_view",
    "quadrant_lines",
    "quadrant_plot",
    "render_plan_report",
    "write_plan_report",
]

_MANY = 1_000
_FIELDS = {
    (False, False): ("few labels, near", "probe, zero-shot"),
    (True, False): ("many labels, near", "fine-tuning, probe"),
    (False, True): ("few labels, far", "LoRA, earlier layers"),
    (True, True): ("many labels, far", "fine-tuning, scratch"),
}
"""By (many labels, far domain): what a field of the picture says."""


def expected_rows(planned: Json) -> list[dict[str, str]]:
    """What each way is expected to be worth, as texts, best first."""
    found = []
    for one in planned.get("expected") or []:
        price = one.get("price") or {}
        chosen = one["strategy"] == planned.get("strategy")
        second = one["strategy"] == planned.get("runner_up")
        word = "recommended" if chosen else "runner-up" if second else ""
        found.append(
            {
                "name": one["strategy"],
                "label": fmt.clean(one["title"]),
                "word": "out" if one.get("out") else word,
                "gain": _points(one["gain"]),
                "interval": f"{_points(one['low'])} to {_points(one['high'])}",
                "prior": _points(one["prior"]),
                "seconds": fmt.seconds(price.get("seconds"), short=True),
                "epoch": fmt.seconds(price.get("seconds_per_epoch"), short=True),
                "memory": fmt.memory(price.get("peak_bytes")),
                "out": fmt.clean(one.get("out") or ""),
            }
        )
    return found


def measured_plan_view(planned: Json) -> RenderableType:
    """The recommendation, the table of expectations, the reasons, the picture, the command.

    Args:
        planned: The JSON of a plan.
    """
    name = fmt.clean(planned.get("strategy") or "nothing")
    lines: list[RenderableType] = [Text.assemble("Recommended: ", (name, "bold"))]
    if planned.get("sentence"):
        lines.append(Text(fmt.clean(planned["sentence"])))
    lines += [Text(), _table(planned)]
    ruled_out = [row for row in expected_rows(planned) if row["out"]]
    lines += [Text(f"  {row['label']} is out: {row['out']}.", style="dim") for row in ruled_out]
    told = {str(reason.get("text")) for reason in planned.get("reasons") or []}
    rest = [one for one in planned.get("evidence") or [] if one.get("text") not in told]
    for title, items in (
        ("Because", planned.get("reasons")),
        ("Also measured", rest),
        ("Not measured", planned.get("missing")),
        ("Look at first", planned.get("warnings")),
    ):
        texts = [fmt.clean(one["text"] if isinstance(one, Mapping) else one) for one in items or []]
        if texts:
            lines.append(Text(f"{title}:", style="bold"))
            lines += [Text.assemble("  - ", text) for text in texts]
    lines += [Text(), *map(Text, quadrant_lines(planned.get("quadrant")))]
    if planned.get("seconds"):
        lines.append(Text(f"Measured in {fmt.seconds(planned['seconds'])}.", style="dim"))
    if planned.get("command"):
        lines.append(Text.assemble("Run: ", (fmt.clean(planned["command"]), "bold")))
    return Group(*lines)


def quadrant_lines(quadrant: Json | None, width: int = 25) -> list[str]:
    """The four quadrants in text, with the data as a star; none without a quadrant."""
    if not quadrant:
        return []
    many = quadrant["labels"] >= _MANY
    distance = quadrant.get("distance")
    lines = []
    for far in (True, False):
        cells = [_FIELDS[side, far] for side in (False, True)]
        here = [
            many == side and (distance is None or (distance > 0) == far) for side in (False, True)
        ]
        mark = "?" if distance is None else "*"
        heads = [f"{mark} {cell[0]}" if own else f"  {cell[0]}" for cell, own in
                 zip(cells, here, strict=True)]  # fmt: skip
        lines.append(" | ".join(head.ljust(width) for head in heads).rstrip())
        lines.append(" | ".join(f"  {cell[1]}".ljust(width) for cell in cells).rstrip())
        if far:
            lines.append("-" * width + "-+-" + "-" * width)
    word = (
        f"* is your data: {quadrant['labels']:,} labels."
        if distance is not None
        else f"? is where your data may lie: {quadrant['labels']:,} labels, domain distance not "
        "known."
    )
    return [*lines, word]


def quadrant_plot(quadrant: Json | None, name: str = "quadrant") -> str | None:
    """Labels against distance, with the data as a point (a line where the distance is not known).

    Args:
        quadrant: The JSON of `planning.Quadrant`.
        name: Prefix of the ids, unique in the page.

    Returns:
        An `<svg>` element; None without a quadrant.
    """
    if not quadrant:
        return None
    labels, distance = max(1, int(quadrant["labels"])), quadrant.get("distance")
    with style(name):
        drawn, (axis,) = figure(480, 320)
        axis.set_xscale("log")
        low, high = min(10, labels / 2), max(100_000, labels * 2)
        axis.set_xlim(low, high)
        axis.set_ylim(-2, 2)
        axis.axvline(_MANY, color=FAINT, linewidth=1)
        axis.axhline(0, color=FAINT, linewidth=1)
        for (many, far), (title, advice) in _FIELDS.items():
            x = (_MANY * high) ** 0.5 if many else (low * _MANY) ** 0.5
            y = 1.5 if far else -1.5
            axis.text(x, y, title, ha="center", va="bottom")
            axis.text(x, y - 0.1, advice, ha="center", va="top", color=FAINT)
        if distance is None:
            axis.axvline(labels, color=ARM_COLORS[1], linewidth=2.4)
        else:
            axis.plot([labels], [distance], "o", color=ARM_COLORS[1], markersize=9)
        axis.set_yticks([-1, 1], ["near", "far"])
        axis.grid(color=GRID, axis="x")
        axis.set_xlabel("labelled training rows")
        axis.set_ylabel("distance from the pretraining data")
        alt = f"The data lies among: {quadrant['name']}, with {labels:,} labels."
        return to_svg(drawn, name, fmt.clean(alt), max_width=640)


def write_plan_report(planned: Json, path: Path, *, source: str = "", command: str = "") -> Path:
    """Write the report of a plan; it loads nothing and runs no script.

    Args:
        planned: The JSON of a plan.
        path: The file to write, replaced whole.
        source: Name of the data.
        command: How it was asked for.

    Returns:
        The path.
    """
    write_atomic(Path(path), render_plan_report(planned, source=source, command=command))
    return Path(path)


def render_plan_report(planned: Json, *, source: str = "", command: str = "") -> str:
    """The report as one self-contained HTML page."""
    quadrant = planned.get("quadrant") or {}
    title = Path(source).name or source or "data"
    return page(
        "plan.html.j2",
        {
            "title": fmt.clean(title),
            "version": fmt.clean(__version__),
            "strategy": fmt.clean(planned.get("strategy") or "nothing"),
            "sentence": fmt.clean(planned.get("sentence") or planned.get("rule") or ""),
            "rows": expected_rows(planned),
            "reasons": _texts(planned.get("reasons")),
            "evidence": [_evidence(one) for one in planned.get("evidence") or []],
            "missing": _texts(planned.get("missing")),
            "warnings": _texts(planned.get("warnings")),
            "quadrant": trusted(quadrant_plot(quadrant)),
            "where": fmt.clean(quadrant.get("name") or ""),
            "textbook": fmt.clean(quadrant.get("advice") or ""),
            "rule": fmt.clean(planned.get("rule") or ""),
            "tree": fmt.clean(planned.get("tree") or planned.get("strategy") or ""),
            "prior": fmt.clean(planned.get("prior") or ""),
            "metric": fmt.metric_words(str(planned.get("metric") or "accuracy")),
            "seconds": fmt.seconds(planned.get("seconds") or None),
            "run": fmt.clean(planned.get("command") or ""),
            "command": fmt.clean(command),
        },
    )


def _texts(items: Sequence[Any] | None) -> list[str]:
    return [fmt.clean(one["text"] if isinstance(one, Mapping) else one) for one in items or []]


def _evidence(one: Json) -> dict[str, str]:
    interval = one.get("interval")
    return {
        "name": fmt.clean(one["name"]).replace("_", " "),
        "value": f"{one['value']:.4g}",
        "interval": f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else fmt.MISSING,
        "seconds": f"{one.get('seconds') or 0:.1f}",
        "text": plain(one["text"]),
    }


def _table(planned: Json) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(Text("Way"), overflow="fold")
    for title in ("Points from the probe", "95 %", "By labels", "Time", "Memory"):
        table.add_column(Text(title), justify="right")
    for row in expected_rows(planned):
        cells = [row[key].replace(fmt.MISSING, "-") for key in
                 ("gain", "interval", "prior", "seconds", "memory")]  # fmt: skip
        label = row["label"] + (f" [{row['word']}]" if row["word"] else "")
        styles = {"recommended": "bold", "out": "dim"}
        table.add_row(Text(label), *map(Text, cells), style=styles.get(row["word"], ""))
    return table


def _points(value: float) -> str:
    """A share in hundredths with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"
