"""The model card: the README.md of a run folder, made from the JSON of the results.

The head is YAML as the Hugging Face hub reads it; every text in it is a quoted JSON string, which
is YAML too. In the body, texts from data are escaped so that they stay text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.core import UsageError, nearest

from . import format as fmt
from . import view
from .view import Json

__all__ = ["model_card"]

_SENTENCE = "sentence_transformers.SentenceTransformer"
_PIPELINES = {"text": "text-classification", "image": "image-classification"}
_HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "balanced_accuracy": "balanced_accuracy"}
_MOST_CLASSES = 100


def model_card(
    results: Json,
    arm: str | None = None,
    *,
    name: str = "model",
    folder: str = ".",
    opens_with: Sequence[str] | None = None,
) -> str:
    """The card of one arm's model as Markdown with a YAML head.

    Args:
        results: The content of results.json, of a comparison or of a single fit.
        arm: Which arm the folder holds; by default the best one, else the first with scores.
        name: What the model is called.
        folder: The run folder as the loading example should write it.
        opens_with: Classes that open the model folder too, the fullest first, as
            `Model.opens_with` tells; by default the arm's `opens_with` in the results.

    Returns:
        The content of README.md.

    Raises:
        UsageError: For an arm that the results lack, or a class of another library.
    """
    chosen = _choose(results, arm)
    opens = tuple(chosen.get("opens_with") or () if opens_with is None else opens_with)
    for one in opens:
        if one != _SENTENCE and not re.fullmatch(r"transformers\.[A-Za-z0-9]+", one):
            raise UsageError(
                f"model_card.opens_with must name classes such as transformers.AutoModel or "
                f"{_SENTENCE}, got {one!r}."
            )
    sections = [
        _head(results, chosen, name, opens),
        f"# {escape(name)}",
        _what(results, chosen),
        _use(results),
        _data(results),
        _results(results, chosen),
        _loading(results, folder, opens),
        _limits(results, chosen),
        _origin(results, chosen),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: object) -> str:
    """A text that Markdown and HTML show as it is, on one line and inside one table cell."""
    line = fmt.clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", line)
    line = re.sub(r"^(\s*)([#+\-])", r"\1\\\2", line)
    line = re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", line)
    return line.replace("://", ":&#47;/")


def _choose(results: Json, arm: str | None) -> Json:
    arms = [one for one in results.get("arms") or [] if isinstance(one, Mapping)]
    if arm is not None:
        for one in arms:
            if one.get("name") == arm:
                return one
        known = [str(one.get("name")) for one in arms]
        raise UsageError(f'model_card.arm: the results hold no arm "{arm}".{nearest(arm, known)}')
    best = view.best_arm(results)
    if best is not None:
        return best
    return next((one for one in arms if one.get("scores")), arms[0] if arms else {})


def _label(arm: Json) -> str:
    return escape(arm.get("label") or arm.get("name") or "model")


def _head(results: Json, arm: Json, name: str, opens: Sequence[str]) -> str:
    card, data = results.get("backbone") or {}, results.get("data") or {}
    pipeline = _PIPELINES.get(str(data.get("modality")))
    lines = ["---"]
    base = _hub_id(card.get("source")) or card.get("name")
    libraries = [one.split(".")[0].replace("_", "-") for one in opens[:1]]
    if base:
        lines.append(f"base_model: {_quoted(base)}")
    lines.append(f"license: {_quoted(str(card.get('license') or 'unknown').lower())}")
    lines.append(f"library_name: {_quoted((libraries or ['warmstart'])[0])}")
    if pipeline:
        lines.append(f"pipeline_tag: {_quoted(pipeline)}")
    lines.append("tags:")
    tags = ["warmstart", str(arm.get("name") or ""), *libraries]
    lines += [f"  - {_quoted(tag)}" for tag in tags if tag]
    metrics = (arm.get("scores") or {}).get("metrics") or {}
    own = (arm.get("kept") or {}).get("metrics") or {}
    shown = [key for key in _HUB_METRICS if key in metrics]
    if shown:
        lines.append("metrics:")
        lines += [f"  - {_quoted(_HUB_METRICS[key])}" for key in shown]
        lines += [
            "model-index:",
            f"  - name: {_quoted(name)}",
            "    results:",
            "      - task:",
            f"          type: {_quoted(pipeline or 'classification')}",
            "        dataset:",
            f"          name: {_quoted(_source(data))}",
            f"          type: {_quoted(str(data.get('fingerprint') or 'local'))}",
            '          split: "test"',
            "        metrics:",
        ]
        for key in shown:
            lines += [
                f"          - type: {_quoted(_HUB_METRICS[key])}",
                f"            name: {_quoted(fmt.metric_title(key))}",
                f"            value: {float(own.get(key, metrics[key]['value']))!r}",
            ]
    return "\n".join([*lines, "---"])


def _what(results: Json, arm: Json) -> str:
    card, data = results.get("backbone") or {}, results.get("data") or {}
    kind = {"text": "texts", "image": "images"}.get(str(data.get("modality")), "rows")
    names = data.get("label_names") or []
    listed = ", ".join(escape(one) for one in names[:20]) + (", …" if len(names) > 20 else "")
    base = f" on **{escape(card['name'])}**" if card.get("name") else ""
    classes = f" into {len(names)} classes: {listed}" if names else ""
    return f"{_label(arm)}{base}. It sorts {kind}{classes}."


def _use(results: Json) -> str:
    data = results.get("data") or {}
    return (
        "## Intended use\n\n"
        f"For {escape(data.get('modality') or 'data')} like the training data below, in the same "
        "language or of the same kind, with these classes only: every input is given one of them, "
        "also one that belongs to none. The numbers below say nothing about other data."
    )


def _data(results: Json) -> str:
    data = results.get("data") or {}
    split = data.get("split") or {}
    lines = ["## Data", "", f"- Source: {escape(_source(data))}"]
    sizes = [
        f"{split[part]:,} {part}"
        for part in ("train", "validation", "test")
        if isinstance(split.get(part), int)
    ]
    if sizes:
        lines.append(f"- Rows: {', '.join(sizes)}")
    lines += [f"- {escape(note)}" for note in split.get("notes") or []]
    counts = data.get("class_counts") or {}
    if counts:
        rare, common = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        lines.append(
            f"- Rarest class: {escape(rare)} ({counts[rare]:,} rows); "
            f"most common: {escape(common)} ({counts[common]:,} rows)"
        )
    if data.get("fingerprint"):
        lines.append(f"- Fingerprint: `{fmt.clean(data['fingerprint']).replace('`', '')}`")
    return "\n".join(lines)


def _results(results: Json, arm: Json) -> str:
    scores = arm.get("scores")
    if not scores:
        return "## Results\n\nThis model was not evaluated on held-out rows."
    seeds = int(scores.get("seeds") or 1)
    over = f", mean of {seeds} training seeds" if seeds > 1 else ""
    lines = [
        "## Results",
        "",
        f"On {scores.get('n', 'the')} held-out rows{over}; 95 % bootstrap intervals.",
        "",
        "| metric | value | 95 % interval |",
        "|---|---:|---:|",
    ]
    for key, one in (scores.get("metrics") or {}).items():
        title = fmt.metric_title(key) + (" (decides)" if key == scores.get("primary") else "")
        bounds = fmt.interval(key, one.get("low"), one.get("high"))
        lines.append(f"| {escape(title)} | {fmt.metric_value(key, one.get('value'))} | {bounds} |")
    primary = view.primary_of(results)
    kept = arm.get("kept") or {}
    if seeds > 1 and primary in (kept.get("metrics") or {}):
        own = fmt.metric_value(primary, kept["metrics"][primary])
        lines += [
            "",
            f"The model here is that of seed {kept.get('seed')}, the best on validation rows: "
            f"{own} {fmt.metric_words(primary)} on its own.",
        ]
    others = [row for row in view.scored_rows(results, primary) if row["name"] != arm.get("name")]
    if others:
        lines += [
            "",
            f"Beside it, on the same rows ({escape(fmt.metric_words(primary))}):",
            "",
            "| other way | role | value |",
            "|---|---|---:|",
        ]
        lines += [
            f"| {escape(row['label'])} | {row['role']} | {fmt.with_interval(primary, row)} |"
            for row in others
        ]
    classes = view.class_rows(scores)
    if 0 < len(classes) <= _MOST_CLASSES:
        lines += ["", "| class | precision | recall | F1 | rows |", "|---|---:|---:|---:|---:|"]
        lines += [
            f"| {escape(row['label'])} | {row['precision']} | {row['recall']} | {row['f1']} | "
            f"{row['n']} |"
            for row in classes
        ]
    return "\n".join(lines)


def _loading(results: Json, folder: str, opens: Sequence[str]) -> str:
    image = (results.get("data") or {}).get("modality") == "image"
    row = '"picture.png"' if image else '"a text"'
    parts = [
        "## How to load it",
        "",
        "```python",
        "import warmstart as ws",
        "",
        f"ws.predict({_quoted(folder)}, [{row}])",
        "```",
    ]
    model = _quoted(f"{folder.rstrip('/')}/model")
    fullest = opens[0] if opens else ""
    if fullest == _SENTENCE:
        parts += [
            "",
            "Its encoder with sentence-transformers (`head.safetensors` beside it holds the head):",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f"SentenceTransformer({model}).encode([{row}])",
            "```",
        ]
    elif "Classification" in fullest:
        task = _PIPELINES["image" if image else "text"]
        parts += [
            "",
            "With transformers alone:",
            "",
            "```python",
            "from transformers import pipeline",
            "",
            f'pipeline("{task}", model={model})({row})',
            "```",
        ]
    elif fullest:
        name = fullest.split(".")[1]
        parts += [
            "",
            "Its encoder with transformers (`head.safetensors` beside it holds the head):",
            "",
            "```python",
            f"from transformers import {name}",
            "",
            f"{name}.from_pretrained({model})",
            "```",
        ]
    return "\n".join(parts)


def _limits(results: Json, arm: Json) -> str:
    scores = arm.get("scores") or {}
    metrics = scores.get("metrics") or {}
    lines = ["## Limits, as measured", ""]
    main = metrics.get(scores.get("primary"))
    if main and main.get("low") is not None and main.get("high") is not None:
        title = fmt.metric_words(scores["primary"])
        lines.append(
            f"- {main['n']} held-out rows leave {escape(title)} between "
            f"{fmt.interval(scores['primary'], main['low'], main['high'], ' and ')}"
            f"{' %' if fmt.metric_value(scores['primary'], 0.0).endswith('%') else ''}."
        )
    weak = sorted(
        (one["f1"], name)
        for name, one in (scores.get("per_class") or {}).items()
        if one.get("f1") is not None
    )
    if weak:
        lines.append(f"- Weakest class: {escape(weak[0][1])}, F1 {weak[0][0] * 100:.1f} %.")
    pairs = view.confused_pairs(scores, most=1)
    if pairs:
        lines.append(
            f"- Most often confused: {escape(pairs[0]['truth'])} taken for "
            f"{escape(pairs[0]['predicted'])}, {pairs[0]['share']} of its rows."
        )
    if metrics.get("ece"):
        lines.append(
            f"- Its stated confidence is off by {fmt.metric_value('ece', metrics['ece']['value'])} "
            "on average (expected calibration error)."
        )
    groups = scores.get("by_group") or {}
    if groups:
        low = min(groups, key=lambda name: groups[name]["value"])
        lines.append(
            f"- Weakest group: {escape(low)}, accuracy "
            f"{fmt.with_interval('accuracy', groups[low])}."
        )
    forgetting = results.get("forgetting") or {}
    if forgetting.get("sentence"):
        lines.append(f"- {escape(forgetting['sentence'])}")
    verdict = results.get("verdict") or {}
    if arm.get("name") in (verdict.get("negative_transfer") or []):
        lines.append("- **Negative transfer**: training from scratch does significantly better.")
    lines += [
        f"- **Below a control**: {escape(view.label_of(results, one.get('control')))} does "
        "significantly better."
        for one in verdict.get("below_control") or []
        if one.get("arm") == arm.get("name")
    ]
    lines += [f"- {line}" for line in _found_by_audit(results)]
    return "\n".join(lines) if len(lines) > 2 else ""


def _found_by_audit(results: Json) -> list[str]:
    return [
        f"In the data: {escape(text)}"
        for kind, texts in view.audit_lines(results.get("audit") or {})
        for text in texts
        if kind != "fact"
    ]


def _origin(results: Json, arm: Json) -> str:
    card = results.get("backbone") or {}
    facts = {
        "Backbone": card.get("name"),
        "Licence of the backbone": card.get("license") or "not told by its card",
        "Pretraining objective": card.get("objective"),
        "Pretraining data": card.get("pretraining_data"),
        "Trainable parameters": f"{fmt.count(arm.get('trainable_parameters'))} of "
        f"{fmt.count(arm.get('total_parameters'))}"
        if arm.get("trainable_parameters") is not None
        else None,
        "Fitting time": fmt.seconds(arm["seconds"]) if arm.get("seconds") is not None else None,
        "Made": results.get("created"),
        "warmstart": results.get("warmstart"),
    }
    lines = [f"- {key}: {escape(value)}" for key, value in facts.items() if value]
    settings: Mapping[str, Any] = arm.get("settings") or {}
    if settings:
        pairs = ", ".join(f"{escape(k)} = {escape(view.plain(v))}" for k, v in settings.items())
        lines.append(f"- Settings: {pairs}")
    told = [(results.get(name) or {}).get("sentence") for name in ("plan", "cost_check")]
    lines += [f"- {escape(sentence)}" for sentence in told if sentence]
    made = f"```bash\n{view.command(results).replace('```', '')}\n```"
    return "\n".join(["## Where it comes from", "", *lines, "", made])


def _source(data: Json) -> str:
    """The data's name; of a local path only its last part, so that no home folder is published."""
    source = str(data.get("source") or "unnamed data")
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if "/" in source else source


def _hub_id(source: object) -> str | None:
    """The hub's name of a backbone (`hub:NAME`); None for a folder or a package."""
    found = re.fullmatch(r"hub:(\w[\w.-]*(?:/\w[\w.-]*)?)", str(source or ""))
    return found.group(1) if found else None


def _quoted(text: object) -> str:
    return json.dumps(fmt.clean(text), ensure_ascii=False)
