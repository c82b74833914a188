"""An adaptation to another domain: for the terminal, the report and the run's README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from warmstart.shift import FEATURES, parse_trainable

from . import format as fmt
from . import view
from .card import escape, model_card
from .terminal import verdict_view
from .view import Json

__all__ = ["adaptation_card", "adaptation_rows", "adaptation_section", "adaptation_view"]

_VALIDATORS = (
    ("weighted", "Weighted risk (less)", "less"),
    ("embedded", "Embedded risk (less)", "less"),
    ("neighbours", "Neighbourhood density (more)", "more"),
)
_SHARES = (("source", "Source"), ("em", "Target by EM"), ("bbse", "Target by BBSE"),
           ("true", "Target, by its labels"))  # fmt: skip
_MOST_CLASSES = 50


def adaptation_rows(results: Json, dash: str = "–") -> list[dict[str, Any]]:
    """One dict of texts for each method: label, words, mean rank, votes, scores, difference.

    Args:
        results: The content of results.json.
        dash: Between the bounds of an interval.
    """
    found = results.get("adaptation") or {}
    decision = found.get("decision") or {}
    metric = view.primary_of(results)
    pairs = {pair.get("a"): pair for pair in results.get("pairs") or []}
    rows = []
    for arm in results.get("arms") or []:
        name, own = arm.get("name"), arm.get("adaptation") or {}
        rank = (decision.get("mean_ranks") or {}).get(name)
        votes = (decision.get("preferred_by") or {}).get(name)
        score = ((arm.get("scores") or {}).get("metrics") or {}).get(metric)
        pair = pairs.get(name)
        rows.append(
            {
                "name": name,
                "label": fmt.clean(arm.get("label") or name),
                "kept": name == decision.get("kept"),
                "words": ", ".join(_words(arm, decision)),
                "judged": own.get("judged") or {},
                "rank": fmt.MISSING if rank is None else f"{rank:.1f}",
                "votes": fmt.MISSING if votes is None else f"{len(votes)} of {len(_VALIDATORS)}",
                "preferred": tuple(votes or ()),
                "target": fmt.metric_value(metric, (score or {}).get("value")),
                "interval": fmt.interval(metric, score.get("low"), score.get("high"), dash)
                if score
                else "",
                "difference": fmt.difference(metric, pair["difference"]) if pair else fmt.MISSING,
                "difference_interval": f"{fmt.difference(metric, pair['low'])} to "
                f"{fmt.difference(metric, pair['high'])}"
                if pair
                else "",
                "source": fmt.metric_value(metric, (own.get("source") or {}).get("value")),
            }
        )
    return rows


def _words(arm: Json, decision: Json) -> list[str]:
    words = ["kept"] if arm.get("name") == decision.get("kept") else []
    if arm.get("name") in (decision.get("excluded") or []):
        words.append("left out of the choice")
    if arm.get("status") not in (None, "done"):
        words.append(str(arm.get("status")))
    return words


def adaptation_view(results: Json) -> RenderableType:
    """The methods side by side, what they were chosen by, and the verdict, for the terminal."""
    rows = adaptation_rows(results, dash="-")
    labelled = any(row["target"] != fmt.MISSING for row in rows)
    metric = fmt.metric_words(view.primary_of(results))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Method", overflow="fold", min_width=14)
    heads = ["Mean\nrank", "Prefer\nit"]
    heads += [f"Target\n{metric}", "Against\nsource only"] if labelled else []
    for head in (*heads, f"Source\n{metric}"):
        table.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        label = Text(row["label"])
        if row["words"]:
            label.append(f"\n[{row['words']}]")
        cells = [row["rank"], row["votes"]]
        if labelled:
            cells += [f"{row['target']}\n{row['interval']}",
                      f"{row['difference']}\n{row['difference_interval']}"]  # fmt: skip
        cells.append(row["source"])
        shown = (cell.replace(fmt.MISSING, "-").replace("−", "-").rstrip() for cell in cells)
        table.add_row(label, *(Text(cell) for cell in shown), style="bold" if row["kept"] else "")
    note = Text(
        "Mean rank and preference are by three validators that read no target label.", style="dim"
    )
    evidence = [Text(f"  {line}", style="dim") for line in _evidence(results)]
    return Group(table, note, *evidence, Text(), verdict_view(results))


def adaptation_section(results: Json) -> str | None:
    """The report's section on the two domains as HTML; None where the results hold no adaptation.

    All texts pass through Jinja2's escaping.
    """
    found = results.get("adaptation")
    if not found:
        return None
    from jinja2 import Environment, StrictUndefined

    source = files(__package__) / "templates" / "adapt.html.j2"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    metric = fmt.metric_words(view.primary_of(results))
    heads = [head for _, head, _ in _VALIDATORS]
    return template.render(
        about=_about(results),
        heads=[*heads, "Mean rank", "Prefer it", f"Target {metric}", "Against source only",
               f"Source {metric}"],
        rows=[_html_row(row) for row in adaptation_rows(results)],
        evidence=_evidence(results),
        shares=_shares(found.get("shares") or {}),
    )  # fmt: skip


def _html_row(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = [
        {
            "text": fmt.MISSING if row["judged"].get(key) is None else f"{row['judged'][key]:.4g}",
            "small": "",
            "better": key in row["preferred"],
        }
        for key, _, _ in _VALIDATORS
    ]
    for key, small in (("rank", ""), ("votes", ""), ("target", "interval"),
                       ("difference", "difference_interval"), ("source", "")):  # fmt: skip
        cells.append({"text": row[key], "small": row[small] if small else "", "better": False})
    return {"label": row["label"], "words": row["words"], "kept": row["kept"], "cells": cells}


def _about(results: Json) -> str:
    found = results.get("adaptation") or {}
    target = found.get("target") or {}
    data = results.get("data") or {}
    text = (
        f"Learned from {fmt.clean(data.get('source') or 'the source')} with labels and from "
        f"{target.get('adapted_to', 0):,} rows of {fmt.clean(target.get('source') or 'the target')}"
        f" without. {_trained(str(found.get('trainable') or FEATURES))}"
    )
    if target.get("test"):
        return text + (
            f"The target does have labels: those of {target['test']:,} held-out rows were read "
            "once, for the numbers of this report, after everything had been chosen."
        )
    return text + "The target has no labels that could be reported on."


def _trained(part: str) -> str:
    """Which part of the encoder learned, as a sentence; empty where none did."""
    tuning = parse_trainable(part)
    return "" if tuning is None else f"Beside bottleneck and head, {tuning.title} learned. "


def _evidence(results: Json) -> list[str]:
    found = results.get("adaptation") or {}
    lines = []
    gap = found.get("gap")
    if gap:
        lines.append(
            f"A linear classifier tells the domains apart with an error of {gap['error']:.3f}: "
            f"A-distance {gap['a_distance']:.2f} ({gap['low']:.2f} to {gap['high']:.2f}; 0 is no "
            "difference, 2 is complete)."
        )
    if gap and gap.get("overlap") is not None:
        lines.append(
            f"About {100 * gap['overlap']:.0f} % of the target lies where the source has rows; "
            f"{gap['effective']:.0f} of {gap['weighed']} validation rows carry the importance "
            "weights."
        )
    conflict = found.get("conflict")
    if conflict:
        said = "taken for a difference" if conflict["found"] else "not taken for a difference"
        lines.append(
            f"Class shares: {100 * conflict['em']:.0f} % of the target's rows would have to change "
            f"class by EM, {100 * conflict['bbse']:.0f} % by BBSE, and the two are "
            f"{100 * conflict['apart']:.0f} % apart: {said}."
        )
    return lines


def _shares(shares: Mapping[str, Any]) -> dict[str, Any] | None:
    kinds = [(key, head) for key, head in _SHARES if shares.get(key)]
    if not kinds:
        return None
    names = list(shares[kinds[0][0]])[:_MOST_CLASSES]
    rows = [
        {
            "label": fmt.clean(name),
            "cells": [f"{100 * shares[key].get(name, 0.0):.1f} %" for key, _ in kinds],
        }
        for name in names
    ]
    return {"heads": [head for _, head in kinds], "rows": rows}


def adaptation_card(results: Json, *, name: str) -> str:
    """The README.md of an adapted model: the model card, and how it was carried over.

    Args:
        results: The content of results.json.
        name: What the model is called.
    """
    decision = (results.get("adaptation") or {}).get("decision") or {}
    lines = [
        model_card(results, decision.get("kept"), name=name, folder=name).rstrip("\n"),
        "",
        "## From the source to the target",
        "",
        escape(_about(results)),
        "",
        *(f"- {escape(line)}" for line in (*decision.get("sentences", ()), *_evidence(results))),
        "",
        *_markdown_table(results),
    ]
    return "\n".join(lines) + "\n"


def _markdown_table(results: Json) -> Sequence[str]:
    rows = adaptation_rows(results)
    metric = escape(fmt.metric_words(view.primary_of(results)))
    lines = [
        f"| method | mean rank | validators that prefer it | target {metric} | against source only "
        f"| source {metric} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        words = f" ({escape(row['words'])})" if row["words"] else ""
        target = f"{row['target']} {row['interval']}".strip()
        gap = row["difference"]
        if row["difference_interval"]:
            gap += f" ({row['difference_interval']})"
        cells = (f"{escape(row['label'])}{words}", row["rank"], row["votes"], target, gap,
                 row["source"])  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines
