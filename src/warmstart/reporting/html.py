"""The report: one HTML file that opens offline, on a phone, in light and in dark.

Everything a reader needs is inside: styles, plots, numbers. Nothing is fetched and no script runs.
All texts pass through Jinja2's escaping; the plots alone are trusted markup, made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.core import write_atomic
from warmstart.evaluation import METRICS

from . import adapt, curves, plots, shots, view
from . import format as fmt
from .pages import machine_facts, page, trusted, when
from .view import Json

__all__ = ["render_report", "write_report"]

WISE_CURVE = "wise_curve"


def write_report(results: Json, path: Path) -> Path:
    """Write the report of a comparison.

    Args:
        results: The content of results.json.
        path: The file to write, replaced whole.

    Returns:
        The path.
    """
    write_atomic(Path(path), render_report(results))
    return Path(path)


def render_report(results: Json) -> str:
    """The report of a comparison as one self-contained HTML page.

    Args:
        results: The content of results.json; missing parts leave their place empty.
    """
    return page("report.html.j2", _context(results))


def _context(results: Json) -> dict[str, Any]:
    primary = view.primary_of(results)
    columns, rows = view.arm_rows(results)
    data = results.get("data") or {}
    verdict = results.get("verdict") or {}
    return {
        "verb": _verb(results),
        "title": fmt.clean(Path(str(data.get("source") or "comparison")).name or "comparison"),
        "when": when(results.get("created")),
        "version": fmt.clean(results.get("warmstart") or ""),
        "summary": _summary(results),
        "sentences": [fmt.clean(text) for text in verdict.get("sentences") or []],
        "remarks": view.remarks(results),
        "why": [fmt.clean(text) for text in verdict.get("why") or []],
        "next": [fmt.clean(text) for text in verdict.get("next") or []],
        "flags": view.verdict_flags(results),
        "primary": fmt.metric_title(primary),
        "lower_is_better": primary in METRICS and not METRICS[primary].higher_is_better,
        "adaptation": trusted(adapt.adaptation_section(results)),
        "shots": _shots(results),
        "columns": [column for column in columns if column[0] != "share"],
        "rows": rows,
        "notices": view.notices(results),
        "forest": trusted(
            plots.forest(view.scored_rows(results, primary), primary, best=verdict.get("best"))
        ),
        "pairs": view.pair_rows(results),
        "unit": ", in percentage points" if primary in METRICS and METRICS[primary].percent else "",
        "curves": _curves(results),
        "best": _best(results),
        "metrics": _metrics(results),
        "groups": _groups(results),
        "data": _data(data),
        "audit": [
            (f"{kind.capitalize()}s", lines)
            for kind, lines in view.audit_lines(results.get("audit") or {})
        ],
        "backbone": _backbone(results.get("backbone") or {}),
        "settings": _settings(results),
        "machine": machine_facts(results.get("machine") or {}),
        "command": view.command(results),
        "glossary": _glossary(results),
    }


def _verb(results: Json) -> str:
    words = view.command(results).split()
    return words[1] if len(words) > 1 and words[0] == "warmstart" else "compare"


def _summary(results: Json) -> str:
    data = results.get("data") or {}
    parts = []
    if data.get("rows") is not None:
        parts.append(f"{data['rows']:,} rows of {data.get('modality') or 'data'}")
    if data.get("label_names"):
        parts.append(f"{len(data['label_names'])} classes")
    if (results.get("backbone") or {}).get("name"):
        parts.append(fmt.clean(results["backbone"]["name"]))
    seeds = (results.get("settings") or {}).get("seeds")
    if seeds:
        ran = max((int(arm.get("seeds") or 0) for arm in results.get("arms") or ()), default=0)
        of = f"{ran} of " if 0 < ran < seeds else ""  # the budget may leave no time for more
        parts.append(f"{of}{seeds} seed" + ("s" if seeds != 1 else ""))
    draws = (results.get("shots") or {}).get("draws")
    if draws:
        parts.append(f"{draws} draw" + ("s" if draws != 1 else ""))
    return " · ".join(parts)


def _shots(results: Json) -> dict[str, Any] | None:
    """The k-shot table and its curve; None where there is none."""
    table = shots.shot_rows(results)
    if table is None:
        return None
    primary = view.primary_of(results)
    found = results["shots"]
    svg = plots.shot_curve(found.get("arms") or [], primary, found.get("k") or [])
    return {**table, "curve": trusted(svg)}


def _curves(results: Json) -> list[dict[str, Any]]:
    found = []
    for number, arm in enumerate(view.arms_in_order(results)):
        svg = plots.learning_curves(arm, name=f"curves{number}", color=number)
        if svg is not None:
            label = fmt.clean(arm.get("label") or arm.get("name"))
            seeds = len([run for run in arm["history"] if run])
            words = f"{seeds} seeds, one line each" if seeds > 1 else "one seed"
            found.append({"label": label, "words": words, "svg": trusted(svg)})
        points = (arm.get("chosen") or {}).get(WISE_CURVE) or []
        path = curves.interpolation_curve(points, name=f"wise{number}")
        if path is not None:
            label = fmt.clean(arm.get("label") or arm.get("name"))
            words = "from the untouched to the tuned weights"
            found.append({"label": label, "words": words, "svg": trusted(path)})
    return found


def _best(results: Json) -> dict[str, Any] | None:
    arm = view.best_arm(results)
    if arm is None:
        return None
    scores = arm["scores"]
    seeds = int(scores.get("seeds") or 1)
    classes = view.class_rows(scores)
    return {
        "label": fmt.clean(arm.get("label") or arm.get("name")),
        "seeds": seeds,
        "invalid": int(scores.get("invalid") or 0),
        "confusion": view.confusion(scores),
        "confused": view.confused_pairs(scores) if len(classes) > view.CONFUSION_CLASSES else [],
        "classes": classes,
        "many": len(classes) > view.CONFUSION_CLASSES,
        "reliability": trusted(plots.reliability(scores.get("reliability") or [])),
    }


def _metrics(results: Json) -> dict[str, Any]:
    arms = [arm for arm in view.arms_in_order(results) if arm.get("scores")]
    names: list[str] = []
    for arm in arms:
        names += [name for name in arm["scores"].get("metrics") or {} if name not in names]
    rows = [
        {
            "label": fmt.clean(arm.get("label") or arm.get("name")),
            "cells": [
                _cell(name, (arm["scores"].get("metrics") or {}).get(name)) for name in names
            ],
        }
        for arm in arms
    ]
    heads = []
    for name in names:
        lower = name in METRICS and not METRICS[name].higher_is_better
        heads.append(fmt.metric_title(name) + (" (lower is better)" if lower else ""))
    return {"heads": heads, "rows": rows}


def _cell(name: str, score: Json | None) -> dict[str, str]:
    if not score or score.get("value") is None:
        return {"value": fmt.MISSING, "interval": ""}
    return {
        "value": fmt.metric_value(name, score["value"]),
        "interval": fmt.interval(name, score.get("low"), score.get("high")),
    }


def _groups(results: Json) -> dict[str, Any] | None:
    arms = [
        arm
        for arm in view.arms_in_order(results)
        if arm.get("scores") and arm["scores"].get("by_group")
    ]
    if not arms:
        return None
    names = sorted({name for arm in arms for name in arm["scores"]["by_group"]})
    sizes = {
        name: next(
            (
                arm["scores"]["by_group"][name].get("n")
                for arm in arms
                if name in arm["scores"]["by_group"]
            ),
            None,
        )
        for name in names
    }
    return {
        "heads": [fmt.clean(arm.get("label") or arm.get("name")) for arm in arms],
        "rows": [
            {
                "label": fmt.clean(name),
                "n": sizes[name],
                "cells": [_cell("accuracy", arm["scores"]["by_group"].get(name)) for arm in arms],
            }
            for name in names
        ],
    }


def _data(data: Json) -> dict[str, Any]:
    split = data.get("split") or {}
    counts = data.get("class_counts") or {}
    whole = sum(counts.values()) or 1
    most = max(counts.values(), default=1) or 1
    facts = [
        ("Source", fmt.clean(data.get("source") or fmt.MISSING)),
        ("Rows", f"{data['rows']:,}" if data.get("rows") is not None else fmt.MISSING),
        ("Kind", fmt.clean(data.get("modality") or fmt.MISSING)),
        ("Classes", str(len(counts) or len(data.get("label_names") or []))),
    ]
    facts += [
        (f"{name.capitalize()} rows", f"{split[name]:,}")
        for name in ("train", "validation", "test")
        if isinstance(split.get(name), int)
    ]
    for key, title, holder in (
        ("skipped", "Rows skipped", data),
        ("dropped", "Rows dropped", split),
    ):
        if holder.get(key):
            facts.append((title, f"{holder[key]:,}"))
    if data.get("fingerprint"):
        facts.append(("Fingerprint", fmt.clean(data["fingerprint"])))
    return {
        "facts": facts,
        "notes": [fmt.clean(note) for note in split.get("notes") or []],
        "classes": [
            {
                "label": fmt.clean(name),
                "n": n,
                "share": fmt.share(n, whole),
                "percent": round(100 * n / most, 1),
            }
            for name, n in counts.items()
        ],
    }


def _backbone(card: Json) -> list[tuple[str, str]]:
    shown = {
        "parameters": lambda value: f"{fmt.count(value)} ({value:,})",
        "size_bytes": fmt.memory,
    }
    titles = {"size_bytes": "Size", "license": "Licence", "pretraining_data": "Pretraining data"}
    return [
        (titles.get(key, key.replace("_", " ").capitalize()), shown.get(key, view.plain)(value))
        for key, value in card.items()
        if value is not None and not isinstance(value, dict | list)
    ]


def _settings(results: Json) -> list[dict[str, Any]]:
    found = []
    for arm in view.arms_in_order(results):
        rates = [
            {
                "group": fmt.clean(one.get("group")),
                "parameters": fmt.count(one.get("parameters")),
                "rate": "frozen" if one.get("frozen") else fmt.rate(one.get("rate")),
            }
            for one in arm.get("rates") or []
        ]
        pairs = [(fmt.clean(k), view.plain(v)) for k, v in (arm.get("settings") or {}).items()]
        if arm.get("seeds"):
            pairs.append(("seeds run", str(arm["seeds"])))
        chosen = arm.get("chosen") or {}
        pairs += [
            (f"chosen {fmt.clean(k)}", view.plain(v))
            for k, v in chosen.items()
            if k != WISE_CURVE  # a plot tells it
        ]
        if arm.get("epochs"):
            pairs.append(("epochs run", f"{arm['epochs']:g}"))
        if arm.get("seconds_estimated") is not None:
            pairs.append(("time estimated", fmt.seconds(arm["seconds_estimated"])))
        if pairs or rates:
            label = fmt.clean(arm.get("label") or arm.get("name"))
            found.append({"label": label, "pairs": pairs, "rates": rates})
    return found


def _shot_glossary(results: Json) -> list[tuple[str, str]]:
    primary = view.primary_of(results)
    words = [(METRICS[primary].title, METRICS[primary].meaning)] if primary in METRICS else []
    return [
        *words,
        (
            "Rows a class",
            "Labelled training rows of each class in one draw; the rows of a smaller number are "
            "among those of a larger one. None: the arm reads the class names alone.",
        ),
        (
            "95 % interval",
            "From a bootstrap: the draws and the held-out rows are drawn again with replacement; "
            "the middle 95 % of the results is shown. A few draws tell little of how draws vary.",
        ),
        (
            "Difference",
            "Two arms on the same draws and rows, resampled together. It is called clear when its "
            "interval leaves 0 out. Where many pairs are compared, one in twenty is called clear "
            "by chance.",
        ),
    ]


def _glossary(results: Json) -> list[tuple[str, str]]:
    if results.get("shots"):
        return _shot_glossary(results)
    used = {
        name
        for arm in results.get("arms") or []
        for name in (arm.get("scores") or {}).get("metrics") or {}
    }
    words = [(one.title, one.meaning) for name, one in METRICS.items() if name in used]
    return [
        *words,
        (
            "95 % interval",
            "From a bootstrap: the held-out rows, and the training seeds where there are several, "
            "are drawn again with replacement; the middle 95 % of the results is shown.",
        ),
        (
            "Difference",
            "Two arms on the same rows, resampled together. It is called clear when its interval "
            "leaves 0 out. Overlapping intervals of single arms do not answer that question.",
        ),
        (
            "Best",
            "The arm that did best on the validation rows. What it is worth is told by the "
            "held-out test rows, on which nothing was chosen.",
        ),
        (
            "Negative transfer",
            "An arm that learns and is significantly worse than the same network from scratch: "
            "pretraining did harm.",
        ),
        (
            "Trainable",
            "Parameters that training changes, and their share of all parameters of the model.",
        ),
        (
            "Time",
            "Wall-clock time of one training seed (the mean of them), on the machine named above, "
            "with the embedding of the rows where the arm stands on it.",
        ),
        ("Latency a row", "Time to predict one row, from raw input to probabilities."),
        (
            "Peak memory",
            "On a GPU what the allocator gave out at most; on a CPU the most that the whole "
            "process held, libraries and what earlier arms left included.",
        ),
    ]
