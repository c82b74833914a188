"""From the JSON of a comparison to the rows and words that the report shows.

The input is results.json as a plain dict. Parts that are missing (an older file, an arm that was
cut) leave their place in the report empty; they never stop it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.evaluation import METRICS

from . import format as fmt

__all__ = [
    "CONFUSION_CLASSES",
    "Json",
    "arm_rows",
    "arms_in_order",
    "audit_lines",
    "best_arm",
    "class_rows",
    "command",
    "confused_pairs",
    "confusion",
    "label_of",
    "message",
    "notices",
    "pair_rows",
    "plain",
    "primary_of",
    "remarks",
    "scored_rows",
    "status_words",
    "verdict_flags",
]

Json = Mapping[str, Any]
CONFUSION_CLASSES = 20


def arms_in_order(results: Json) -> list[Json]:
    """The arms as they were run, adapted models first and controls after them."""
    arms = list(results.get("arms") or [])
    return [arm for arm in arms if arm.get("role") != "control"] + [
        arm for arm in arms if arm.get("role") == "control"
    ]


def primary_of(results: Json) -> str:
    """The metric that decides."""
    named = (results.get("settings") or {}).get("primary")
    if named:
        return str(named)
    for arm in results.get("arms") or []:
        if arm.get("scores"):
            return str(arm["scores"]["primary"])
    return "accuracy"


def label_of(results: Json, name: str | None) -> str:
    """An arm's label for people."""
    for arm in results.get("arms") or []:
        if arm.get("name") == name:
            return fmt.clean(arm.get("label") or name)
    return fmt.clean(name)


def best_arm(results: Json) -> Json | None:
    """The arm that the verdict names, if it has scores."""
    best = (results.get("verdict") or {}).get("best")
    for arm in results.get("arms") or []:
        if arm.get("name") == best and arm.get("scores"):
            found: Json = arm
            return found
    return None


def status_words(arm: Json, *, best: str | None = None, role: bool = True) -> list[str]:
    """What a reader must know of the arm before its numbers: control, best, cut by the budget."""
    words = []
    if best is not None and arm.get("name") == best:
        words.append("best")
    if role and arm.get("role") == "control":
        words.append("control")
    status = arm.get("status") or "done"
    if status != "done":
        words.append({"cut": "cut by the budget"}.get(status, str(status)))
    return words


def _flags_of(results: Json, name: object) -> list[str]:
    """Negative transfer or a lost comparison with a control, as words for the arm's row."""
    verdict = results.get("verdict") or {}
    words = ["negative transfer"] if name in (verdict.get("negative_transfer") or []) else []
    words += [
        f"below {label_of(results, item.get('control'))}"
        for item in verdict.get("below_control") or []
        if item.get("arm") == name
    ]
    return words


def notices(results: Json) -> list[str]:
    """A sentence for each arm that did not run to its end, and each arm's own notes."""
    found = []
    for arm in arms_in_order(results):
        label = fmt.clean(arm.get("label") or arm.get("name"))
        status = arm.get("status") or "done"
        if status != "done":
            words = status_words(arm, role=False)[-1]
            reason = arm.get("reason")
            estimate = arm.get("seconds_full") or arm.get("seconds_estimated")
            tail = f": {fmt.clean(reason)}" if reason else ""
            if estimate and (status == "cut" or (status == "shortened" and not reason)):
                tail += f" (its full run was estimated at {fmt.seconds(estimate)})"
            found.append(f"{label}: {words}{tail}.".replace("..", "."))
        found.extend(f"{label}: {fmt.clean(note)}" for note in arm.get("notes") or [])
    return found


def arm_rows(results: Json, dash: str = "–") -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """The comparison table: (key, title) of its columns, and a dict of texts for each arm.

    Money and CO₂ have columns only where some arm has them.
    """
    primary = primary_of(results)
    arms = arms_in_order(results)
    columns = [
        ("score", fmt.metric_title(primary)),
        ("trainable", "Trainable"),
        ("share", "Share"),
        ("seconds", "Time"),
        ("memory", "Peak memory"),
        ("size", "Size"),
        ("latency", "Latency a row"),
    ]
    costs = [arm.get("cost") or {} for arm in arms]
    if any(cost.get("money") is not None for cost in costs):
        columns.append(("money", "Cost"))
    if any(cost.get("co2_grams") is not None for cost in costs):
        columns.append(("co2", "CO₂"))
    best = (results.get("verdict") or {}).get("best")
    rows = []
    for arm in arms:
        score = ((arm.get("scores") or {}).get("metrics") or {}).get(primary)
        trainable, total = arm.get("trainable_parameters"), arm.get("total_parameters")
        flags = _flags_of(results, arm.get("name"))
        rows.append(
            {
                "name": arm.get("name"),
                "label": fmt.clean(arm.get("label") or arm.get("name")),
                "role": arm.get("role") or "arm",
                "best": arm.get("name") == best,
                "status": arm.get("status") or "done",
                "words": status_words(arm, best=best) + flags,
                "flagged": bool(flags),
                "value": fmt.metric_value(primary, (score or {}).get("value")),
                "interval": fmt.interval(primary, score.get("low"), score.get("high"), dash)
                if score
                else "",
                "score": fmt.with_interval(primary, score, dash),
                "trainable": fmt.count(trainable),
                "share": fmt.share(trainable, total),
                "seconds": fmt.seconds(arm.get("seconds")),
                "short_seconds": fmt.seconds(arm.get("seconds"), short=True),
                "memory": fmt.memory(arm.get("peak_memory_bytes")),
                "size": fmt.memory(arm.get("size_bytes")),
                "latency": fmt.milliseconds(arm.get("latency_ms")),
                "money": fmt.money(arm.get("cost")),
                "co2": fmt.grams(arm.get("cost")),
            }
        )
    return columns, rows


def scored_rows(results: Json, metric: str) -> list[dict[str, Any]]:
    """Arms with a score, best first: label, name, role, value, low, high."""
    found = []
    for arm in arms_in_order(results):
        score = ((arm.get("scores") or {}).get("metrics") or {}).get(metric)
        if score and score.get("value") is not None:
            found.append(
                {
                    "label": fmt.clean(arm.get("label") or arm.get("name")),
                    "name": str(arm.get("name")),
                    "role": arm.get("role") or "arm",
                    "value": score["value"],
                    "low": score.get("low"),
                    "high": score.get("high"),
                }
            )
    higher = metric not in METRICS or METRICS[metric].higher_is_better
    return sorted(found, key=lambda row: -row["value"] if higher else row["value"])


def pair_rows(results: Json) -> list[dict[str, Any]]:
    """The paired differences in words: who against whom, by how much, and what follows.

    Pairs of the best arm come first and are turned so that it is the first of the two. A pair with
    an arm that the budget cut is shown and not judged.
    """
    primary = primary_of(results)
    higher = primary not in METRICS or METRICS[primary].higher_is_better
    best = (results.get("verdict") or {}).get("best")
    status = {arm.get("name"): arm.get("status") for arm in results.get("arms") or []}
    rows = []
    for given in results.get("pairs") or []:
        pair = _turned(given) if best is not None and given.get("b") == best else given
        a, b = label_of(results, pair.get("a")), label_of(results, pair.get("b"))
        cut = [one for one in (pair.get("a"), pair.get("b")) if status.get(one) == "cut"]
        significant = bool(pair.get("significant")) and not cut
        winner = a if ((pair.get("difference") or 0) > 0) == higher else b
        words = f"{winner} is better" if significant else "no clear difference"
        if cut:
            words = f"not judged: {label_of(results, cut[0])} was cut"
        rows.append(
            {
                "a": a,
                "b": b,
                "difference": fmt.difference(primary, pair.get("difference")),
                "interval": f"{fmt.difference(primary, pair.get('low'))} to "
                f"{fmt.difference(primary, pair.get('high'))}",
                "significant": significant,
                "with_best": best is not None and pair.get("a") == best,
                "judged": not cut,
                "words": words,
            }
        )
    return sorted(rows, key=lambda row: (not row["with_best"], not row["judged"]))


def _turned(pair: Json) -> Json:
    """The same pair, the other way round."""
    turned = {**pair, "a": pair.get("b"), "b": pair.get("a")}
    for key, other in (("difference", "difference"), ("low", "high"), ("high", "low")):
        value = pair.get(other)
        turned[key] = None if value is None else -value
    return turned


def verdict_flags(results: Json) -> list[tuple[str, str]]:
    """(kind, sentence) for what must not be overlooked and the verdict's sentences do not say."""
    verdict = results.get("verdict") or {}
    told = " ".join(str(text).casefold() for text in verdict.get("sentences") or [])
    found = []
    for name in verdict.get("negative_transfer") or []:
        label = label_of(results, name)
        if not ("negative transfer" in told and label.casefold() in told):
            sentence = f"{label} is significantly below the same network trained from scratch."
            found.append(("negative transfer", sentence))
    for item in verdict.get("below_control") or []:
        arm, control = label_of(results, item.get("arm")), label_of(results, item.get("control"))
        if not ("below" in told and arm.casefold() in told):
            found.append(("below control", f"{arm} is significantly below {control}."))
    return found


def remarks(results: Json) -> list[str]:
    """Sentences beside the verdict: the plan that was followed, the cost, what was forgotten."""
    parts = (results.get(name) or {} for name in ("plan", "cost_check", "forgetting"))
    return [fmt.clean(part["sentence"]) for part in parts if part.get("sentence")]


def class_rows(scores: Json) -> list[dict[str, str]]:
    """Precision, recall, F1 and rows of every class, weakest F1 first beyond twenty classes."""
    items = list((scores.get("per_class") or {}).items())
    if len(items) > CONFUSION_CLASSES:
        items.sort(key=lambda item: (item[1].get("f1") is None, item[1].get("f1") or 0.0))
    rows = []
    for name, one in items:
        row = {"label": fmt.clean(name), "n": str(one.get("n", fmt.MISSING))}
        for key in ("precision", "recall", "f1"):
            value = one.get(key)
            row[key] = fmt.MISSING if value is None else f"{value * 100:.1f} %"
        rows.append(row)
    return rows


def confusion(scores: Json) -> dict[str, Any] | None:
    """The confusion matrix as rows of cells with their share of the true class.

    Returns:
        None beyond twenty classes (see `confused_pairs`) or without a matrix.
    """
    names = [fmt.clean(name) for name in scores.get("per_class") or {}]
    matrix = scores.get("confusion") or []
    if not matrix or len(names) != len(matrix) or len(names) > CONFUSION_CLASSES:
        return None
    rows = []
    for number, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        whole = sum(counts) or 1
        cells = [
            {"n": n, "percent": round(100 * n / whole), "diagonal": place == number}
            for place, n in enumerate(counts)
        ]
        rows.append({"label": name, "cells": cells})
    return {"names": names, "rows": rows}


def confused_pairs(scores: Json, most: int = 15) -> list[dict[str, Any]]:
    """The classes most often taken for another: truth, prediction, count, share of the truth."""
    names = [fmt.clean(name) for name in scores.get("per_class") or {}]
    matrix: Sequence[Sequence[int]] = scores.get("confusion") or []
    if len(names) != len(matrix):
        return []
    found = [
        (n, sum(counts), names[row], names[column])
        for row, counts in enumerate(matrix)
        for column, n in enumerate(counts)
        if row != column and n
    ]
    found.sort(key=lambda item: (-item[0], -item[0] / item[1], item[2], item[3]))
    return [
        {"truth": truth, "predicted": predicted, "n": n, "share": fmt.share(n, whole)}
        for n, whole, truth, predicted in found[:most]
    ]


def command(results: Json) -> str:
    """The command line that made the results, as recorded, else as the settings tell it."""
    recorded = results.get("command")
    if isinstance(recorded, str) and recorded:
        return fmt.clean(recorded)
    if isinstance(recorded, Sequence) and recorded:
        return fmt.clean(shlex.join(str(part) for part in recorded))
    settings = results.get("settings") or {}
    parts = ["warmstart", "compare", str((results.get("data") or {}).get("source", "DATA"))]
    backbone = str((results.get("backbone") or {}).get("source") or "")
    if backbone and not backbone.startswith(("package:", "module:")):
        parts += ["--backbone", backbone.removeprefix("hub:")]
    for flag, key in (
        ("--seeds", "seeds"),
        ("--limit", "limit"),
        ("--image-size", "image_size"),
        ("--max-length", "max_length"),
    ):
        if settings.get(key) is not None:
            parts += [flag, str(settings[key])]
    budget = settings.get("budget_seconds")
    if budget:
        parts += ["--budget", f"{round(budget)}s"]
    return fmt.clean(shlex.join(parts))


def plain(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, str):
        return fmt.clean(value)
    if isinstance(value, float):
        return f"{value:g}"
    return fmt.clean(json.dumps(value, ensure_ascii=False, default=str))


def audit_lines(audit: Json) -> list[tuple[str, list[str]]]:
    """("problem" | "warning" | "fact", sentences), the gravest first, empty kinds left out.

    Args:
        audit: `findings`, each with severity and message; or problems, warnings and facts, each
            a list of texts or of dicts with a message.
    """
    found: dict[str, list[str]] = {"problem": [], "warning": [], "fact": []}
    for kind, lines in found.items():
        lines += [message(item) for item in audit.get(f"{kind}s") or []]
        lines += [
            message(item) for item in audit.get("findings") or [] if item.get("severity") == kind
        ]
    return [(kind, lines) for kind, lines in found.items() if lines]


def message(item: object) -> str:
    """A line of the audit, which may be a text or a dict with a `message`."""
    if isinstance(item, Mapping):
        for key in ("message", "text", "sentence"):
            if item.get(key):
                return fmt.clean(item[key])
        return fmt.clean(", ".join(f"{key}: {value}" for key, value in item.items()))
    return fmt.clean(item)
