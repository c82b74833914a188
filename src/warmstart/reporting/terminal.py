"""Results as Rich renderables that read at 80 columns and without colour.

A renderable measures the console it is printed on: the comparison drops its least important columns
when they do not fit and says so. What colour says, a word says too. Texts from data are never read
as Rich markup, and their control characters are made visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import format as fmt
from . import view
from .view import Json

__all__ = [
    "ComparisonTable",
    "audit_view",
    "comparison_view",
    "counting_view",
    "plan_view",
    "rates_view",
    "scores_view",
    "verdict_view",
]

# Kept first to last: what is at the end is left out first when the console is narrow.
_KEEP = ("score", "seconds", "trainable", "money", "co2", "memory", "latency", "size")
_TITLES = {
    "seconds": "Time",
    "trainable": "Trained",
    "memory": "Memory",
    "latency": "Latency",
    "size": "Size",
    "money": "Cost",
    "co2": "CO₂",
}
_STATUS_STYLE = {
    "shortened": "yellow",
    "cut": "yellow",
    "failed": "red",
    "not applicable": "dim",
}


class ComparisonTable:
    """The arms side by side, in as many columns as the console has room for.

    A row takes one line where the console is wide. Elsewhere intervals, shares and status words
    stand on a second line; if that does not fit either, the least important columns are left out.

    Args:
        results: The content of results.json.
    """

    def __init__(self, results: Json) -> None:
        columns, self._rows = view.arm_rows(results, dash="-")
        self._titles = {"score": dict(columns)["score"], **_TITLES}
        present = dict(columns)
        self._keys = [key for key in self._titles if key in present]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        keys, left_out = list(self._keys), []
        table = self._table(keys, stacked=False)
        if not self._fits(console, options, table, stacked=False):
            table = self._table(keys, stacked=True)
        while not self._fits(console, options, table, stacked=True) and len(keys) > 1:
            dropped = next(key for key in reversed(_KEEP) if key in keys)
            keys.remove(dropped)
            left_out.append(self._titles[dropped])
            table = self._table(keys, stacked=True)
        yield table
        if left_out:
            names = ", ".join(reversed(left_out))
            yield Text(f"Left out at this width: {names}. results.json has them.", style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(40, options.max_width), options.max_width)

    def _fits(
        self, console: Console, options: ConsoleOptions, table: Table, *, stacked: bool
    ) -> bool:
        wide = options.update(width=1000)
        arms = Text("\n").join([_arm(row, stacked=stacked) for row in self._rows] or [Text("Arm")])
        arm = Measurement.get(console, wide, arms).maximum
        whole = Measurement.get(console, wide, table).maximum
        # The arm's name may wrap down to 18 letters.
        return whole - max(arm - 18, 0) <= options.max_width

    def _table(self, keys: list[str], *, stacked: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("Arm", overflow="fold", min_width=12)
        for key in keys:
            title = self._titles[key] + (" (95 %)" if key == "score" and not stacked else "")
            table.add_column(
                Text(title), justify="left" if key == "score" else "right", no_wrap=True
            )
        previous = None
        for row in self._rows:
            if previous == "arm" and row["role"] == "control":
                table.add_section()
            previous = row["role"]
            style = "bold" if row["best"] else _STATUS_STYLE.get(row["status"], "")
            cells = [_cell(row, key, stacked=stacked) for key in keys]
            table.add_row(_arm(row, stacked=stacked), *cells, style=style)
        return table


def comparison_view(results: Json) -> RenderableType:
    """The whole of a comparison: table, notices, the best arm's paired differences, verdict.

    Results of a k-shot table and of recommenders are shown as such.
    """
    if results.get("task_type") == "retrieve":
        from .ranking_terminal import ranking_view  # which ends in this module's verdict

        return ranking_view(results)
    if results.get("adaptation"):
        from .adapt import adaptation_view  # which ends in this module's verdict

        return adaptation_view(results)
    if results.get("shots"):
        from .shots import shots_view  # which ends in this module's verdict

        return shots_view(results)
    parts: list[RenderableType] = [ComparisonTable(results)]
    parts += [Text(f"  {notice}", style="dim") for notice in view.notices(results)]
    pairs = view.pair_rows(results)
    shown = [pair for pair in pairs if pair["with_best"]] or pairs
    if shown:
        parts += [Text(), _pairs(shown, view.primary_of(results))]
    if len(shown) < len(pairs):
        rest = len(pairs) - len(shown)
        said = (
            "1 pair without the best arm is"
            if rest == 1
            else f"{rest} pairs without the best arm are"
        )
        more = f"{said} in the report."
        parts.append(Text(more, style="dim"))
    return Group(*parts, Text(), verdict_view(results))


def verdict_view(results: Json) -> RenderableType:
    """The verdict in words, what must not be overlooked, and what to try next."""
    said = results.get("verdict") or {}
    sentences = [fmt.clean(text) for text in said.get("sentences") or []]
    lines: list[RenderableType] = [
        Text(sentence, style="bold" if number == 0 else "")
        for number, sentence in enumerate(sentences)
    ]
    if not lines:
        lines.append(Text("No arm finished, so there is no verdict."))
    lines += [
        Text.assemble((f"{kind.capitalize()}: ", "bold red"), sentence)
        for kind, sentence in view.verdict_flags(results)
    ]
    lines += [Text(sentence) for sentence in view.remarks(results)]
    reasons = [fmt.clean(reason) for reason in said.get("why") or []]
    if reasons:
        lines.append(Text("Why:", style="bold"))
        lines += [_item(reason) for reason in reasons]
    steps = [fmt.clean(step) for step in said.get("next") or []]
    if steps:
        lines.append(Text("Next:", style="bold"))
        lines += [_item(step) for step in steps]
    return Group(*lines)


def audit_view(found: Json) -> RenderableType:
    """What the audit found, problems first; each line starts with its kind.

    Args:
        found: The JSON of an audit.
    """
    styles = {"problem": "bold red", "warning": "yellow", "fact": "dim"}
    lines: list[RenderableType] = [
        _item(text, head=f"{kind:<8}", style=styles[kind])
        for kind, texts in view.audit_lines(found)
        for text in texts
    ]
    return Group(*lines) if lines else Text("The audit found nothing to report.")


def scores_view(measured: Json) -> RenderableType:
    """Every metric of one model with its interval, then accuracy by group and the classes.

    Args:
        measured: The JSON of `evaluation.Scores`.
    """
    table = _plain_table("Metric", "Value", "95 % interval", "Rows")
    for name, one in (measured.get("metrics") or {}).items():
        head = fmt.metric_title(name) + (" (decides)" if name == measured.get("primary") else "")
        _score_row(table, name, head, one, bold=name == measured.get("primary"))
    parts: list[RenderableType] = [table]
    groups = measured.get("by_group") or {}
    if groups:
        by_group = _plain_table("Accuracy of group", "Value", "95 % interval", "Rows")
        for name, one in groups.items():
            _score_row(by_group, "accuracy", fmt.clean(name), one)
        parts += [Text(), by_group]
    classes = view.class_rows(measured)
    if classes:
        shown = classes[: view.CONFUSION_CLASSES]
        by_class = _plain_table("Class", "Precision", "Recall", "F1", "Rows")
        for row in shown:
            cells = [row[key].replace("–", "-") for key in ("precision", "recall", "f1", "n")]
            by_class.add_row(Text(row["label"]), *(Text(cell) for cell in cells))
        parts += [Text(), by_class]
        if len(shown) < len(classes):
            more = f"The {len(shown)} weakest of {len(classes)} classes; results.json has all."
            parts.append(Text(more, style="dim"))
    if measured.get("invalid"):
        words = f"{measured['invalid']} predictions are not finite numbers and count as wrong."
        parts.append(Text(words, style="bold red"))
    return Group(*parts)


def plan_view(planned: Json) -> RenderableType:
    """A plan: what is recommended, the rule that spoke, its grounds, alternatives, the command.

    Args:
        planned: The JSON of a plan.
    """
    if planned.get("expected"):
        from .plan import measured_plan_view

        return measured_plan_view(planned)
    name = fmt.clean(planned.get("strategy") or "nothing")
    lines: list[RenderableType] = [Text.assemble("Recommended: ", (name, "bold"))]
    if planned.get("rule"):
        lines.append(Text(f"Rule: {fmt.clean(planned['rule'])}."))
    for key, title in (
        ("settings", "With"),
        ("reasons", "Because"),
        ("missing", "Not measured"),
        ("alternatives", "Worth an arm too"),
        ("warnings", "Look at first"),
    ):
        items = _plan_items(planned.get(key))
        if items:
            lines.append(Text(f"{title}:", style="bold"))
            lines += [_item(text) for text in items]
    if planned.get("command"):
        lines.append(Text.assemble("Run: ", (fmt.clean(planned["command"]), "bold")))
    return Group(*lines)


def counting_view(counted: Json) -> RenderableType:
    """What a strategy would learn, and the memory that takes.

    Args:
        counted: The JSON of `planning.Counting`.
    """
    learned = _plain_table("Learned in", "Shape", "Each", "Number", "In all")
    matrices = [row for row in counted["matrices"] if len(row["shape"]) != 1 or row.get("base")]
    vectors = [row for row in counted["matrices"] if row not in matrices]
    for row in matrices:
        shape = " x ".join(map(str, row["shape"]))
        fewer = f" ({row['base'] / row['each']:.0f} times fewer)" if row.get("base") else ""
        learned.add_row(
            Text(fmt.clean(row["name"]).removesuffix(".weight")),
            Text(shape),
            Text(f"{row['each']:,}{fewer}"),
            Text(f"{row['count']:,}"), Text(f"{row['trained']:,}"),
        )  # fmt: skip
    for title, number, size in (
        ("biases and norms", sum(r["count"] for r in vectors), sum(r["trained"] for r in vectors)),
        ("adapter", 1, counted["adapter"]),
        ("head", 1, counted["head"]),
    ):
        if size:
            learned.add_row(Text(title), Text(), Text(), Text(f"{number:,}"), Text(f"{size:,}"))
    share = f"{counted['trained'] / counted['total']:.2%}"
    parts = counted["memory"]
    before = _plain_table("Training memory", counted["dtype"])
    for key, title in (
        ("weights", "Weights"),
        ("gradients", "Gradients"),
        ("optimizer", "Optimiser states (Adam)"),
        ("total", "Before activations"),
    ):
        before.add_row(Text(title), Text(fmt.memory(parts[key])))
    for row in counted["activations"]:
        before.add_row(
            Text(f"With activations, batch of {row['batch_size']} (length {counted['length']})"),
            Text(fmt.memory(row["total"])),
        )
    size = counted["size"]
    lines: list[RenderableType] = [
        Text(
            f"{counted['strategy']} on {fmt.clean(counted['backbone'])} ({counted['family']}): "
            f"{counted['trained']:,} of {counted['total']:,} parameters ({share}).",
            style="bold",
        ),
        learned,
        Text(),
        before,
    ]
    if not counted["activations"] and counted["matrices"]:
        lines.append(Text("Activations cannot be told for this architecture without its weights."))
    on_disk = f"On disk: {fmt.memory(size['learned'])} learned, {fmt.memory(size['all'])} in all."
    lines += [Text(), Text(on_disk)]
    lines += [Text(fmt.clean(note)) for note in counted["notes"]]
    return Group(*lines)


def rates_view(rows: list[Mapping[str, Any]]) -> RenderableType:
    """What is learned how fast: a row a layer group, as printed before training starts."""
    table = _plain_table("Layer group", "Parameters", "Learning rate")
    for one in rows:
        frozen = bool(one.get("frozen"))
        table.add_row(
            Text(fmt.clean(one.get("group"))),
            Text(fmt.count(one.get("parameters"))),
            Text("frozen" if frozen else fmt.rate(one.get("rate"))),
            style="dim" if frozen else "",
        )
    return table


def _arm(row: Mapping[str, Any], *, stacked: bool = False) -> Text:
    text = Text(row["label"])
    if row["words"]:
        text.append("\n" if stacked else " ")
        text.append(f"[{', '.join(row['words'])}]", style="red" if row["flagged"] else "")
    return text


def _cell(row: Mapping[str, Any], key: str, *, stacked: bool) -> Text:
    if key == "score":
        text = f"{row['value']}\n{row['interval']}" if stacked else row["score"]
    elif key == "trainable":
        gap = "\n" if stacked else ", "
        text = row["trainable"] + (f"{gap}{row['share']}" if row["share"] != fmt.MISSING else "")
    else:
        text = row["short_seconds" if key == "seconds" else key]
    return Text(text.replace(fmt.MISSING, "-").rstrip())


def _pairs(pairs: list[dict[str, Any]], metric: str) -> Table:
    table = _plain_table(
        f"{fmt.metric_title(metric)}, same rows", "Difference", "95 % interval", "So"
    )
    for pair in pairs:
        table.add_row(
            Text(f"{pair['a']} minus {pair['b']}"),
            Text(pair["difference"].replace("−", "-")),
            Text(pair["interval"].replace("−", "-")),
            Text(pair["words"], style="bold" if pair["significant"] else "dim"),
        )
    table.columns[-1].justify = "left"
    return table


def _plain_table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(Text(first), overflow="fold")
    for name in others:
        table.add_column(Text(name), justify="right")
    return table


def _score_row(table: Table, metric: str, head: str, one: Json, *, bold: bool = False) -> None:
    table.add_row(
        Text(head),
        Text(fmt.metric_value(metric, one.get("value")).replace("–", "-")),
        Text(fmt.interval(metric, one.get("low"), one.get("high"), "-")),
        Text(str(one.get("n", "-"))),
        style="bold" if bold else "",
    )


def _item(text: str, *, head: str = "-", style: str = "") -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(head, style=style), Text(text))
    return Padding(grid, (0, 0, 0, 2))


def _plan_items(content: object) -> list[str]:
    if content is None:
        return []
    if isinstance(content, Mapping):
        return [f"{fmt.clean(k).replace('_', ' ')}: {view.plain(v)}" for k, v in content.items()]
    if isinstance(content, list | tuple):
        return [view.message(one) for one in content]
    return [fmt.clean(content)]
