"""An adaptation as people see it: terminal, report and card, with labels and without."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import pytest
from rich.console import Console

from warmstart.core import UsageError
from warmstart.reporting import (
    adaptation_card,
    adaptation_section,
    adaptation_view,
    comparison_view,
    render_report,
)
from warmstart.shift import parse_trainable

DECISION: dict[str, Any] = {
    "kept": "mmd", "adapting": True, "proposed": "mmd", "against": [],
    "sentences": ["MMD (DAN) is kept, chosen without target labels."],
    "excluded": ["dann"], "mean_ranks": {"source-only": 1.7, "mmd": 1.3},
    "preferred_by": {"mmd": ["weighted", "neighbours"], "dann": ["neighbours"]},
    "concordance": 0.5,
}  # fmt: skip


def score(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 300}


def arm(name: str, label: str, value: float) -> dict[str, Any]:
    return {
        "name": name, "label": label, "role": "control" if name == "source-only" else "arm",
        "status": "done", "seeds": 2, "seconds": 3.0, "notes": [], "settings": {},
        "trainable_parameters": 1000, "total_parameters": 10_000, "history": [],
        "scores": {
            "primary": "accuracy", "higher_is_better": True, "n": 300, "seeds": 2,
            "metrics": {"accuracy": score(value)}, "per_class": {}, "confusion": [],
        },
        "adaptation": {
            "aligns": name in ("mmd", "dann"), "epochs": [4, 8], "source": score(0.9),
            "judged": {"weighted": 0.31, "embedded": 0.42, "neighbours": 5.6, "accuracy": 0.91},
        },
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    """Source-only 70 %, MMD 75 %, DANN 77 % but left out of the choice."""
    return {
        "format_version": 1, "task_type": "classify", "warmstart": "0.1",
        "command": "warmstart adapt --source films.csv --target gadgets.csv",
        "data": {"source": "films.csv", "rows": 500, "modality": "text",
                 "label_names": ["bad", "<b>good</b>"], "class_counts": {"bad": 250, "good": 250},
                 "split": {"train": 350, "validation": 75, "test": 75, "notes": []}},
        "backbone": {"name": "mini", "source": "package:mini", "license": "Apache-2.0"},
        "settings": {"primary": "accuracy", "seeds": 2},
        "arms": [arm("source-only", "Source only", 0.70), arm("mmd", "MMD (DAN)", 0.75),
                 arm("dann", "DANN", 0.77)],
        "pairs": [
            {"a": "mmd", "b": "source-only", "difference": 0.05, "low": 0.01, "high": 0.09,
             "significant": True},
            {"a": "dann", "b": "source-only", "difference": 0.07, "low": 0.02, "high": 0.12,
             "significant": True},
        ],
        "verdict": {"best": "mmd", "sentences": DECISION["sentences"], "next": [],
                    "below_control": [], "negative_transfer": [], "why": []},
        "adaptation": {
            "target": {"source": "gadgets.csv", "rows": 1000, "adapted_to": 700, "test": 300,
                       "labelled": 1000},
            "gap": {"a_distance": 1.21, "low": 1.1, "high": 1.3, "error": 0.1975, "rows": 1050,
                    "tiny": False},
            "shares": {"source": {"bad": 0.5, "<b>good</b>": 0.5},
                       "em": {"bad": 0.7, "<b>good</b>": 0.3},
                       "bbse": {"bad": 0.68, "<b>good</b>": 0.32},
                       "true": {"bad": 0.71, "<b>good</b>": 0.29}},
            "conflict": {"em": 0.2, "bbse": 0.18, "apart": 0.02, "found": True},
            "decision": DECISION,
            "kept": {"seed": 1, "epoch": 8},
        },
    }  # fmt: skip


def without_labels(results: dict[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy(results)
    for one in bare["arms"]:
        del one["scores"]
    bare["pairs"] = []
    bare["adaptation"]["target"] |= {"test": 0, "labelled": 0, "adapted_to": 1000}
    bare["adaptation"]["shares"]["true"] = None
    return bare


def shown(renderable: Any, width: int = 80) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width, highlight=False).print(renderable)
    return buffer.getvalue()


def test_the_table_at_eighty_columns(results: dict[str, Any]) -> None:
    text = shown(adaptation_view(results))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for word in ("MMD (DAN)", "[kept]", "[left out of", "75.0 %", "73.0-77.0", "+5.0",
                 "+1.0 to +9.0", "2 of 3", "1.3", "A-distance 1.21", "taken for a difference",
                 "MMD (DAN) is kept, chosen without target labels."):  # fmt: skip
        assert word in words, word
    assert shown(comparison_view(results)) == text, "info shows the same"


def test_without_labels_no_accuracy_is_shown(results: dict[str, Any]) -> None:
    text = shown(adaptation_view(without_labels(results)))
    assert "Target" not in text
    assert "75.0 %" not in text
    assert "2 of 3" in text


def test_the_reports_section(results: dict[str, Any]) -> None:
    section = adaptation_section(results) or ""
    page = render_report(results)
    assert "Chosen without target labels" in page
    assert "<b>good</b>" not in section.replace("<b>0.31</b>", ""), "class names are escaped"
    assert "&lt;b&gt;good&lt;/b&gt;" in section
    for word in ("0.31", "0.42", "5.6", "Target, by its labels", "71.0 %", "held-out rows were"):
        assert word in section, word
    assert "<b>0.31</b>" in section, "what is better than source-only is bold"
    assert "<b>0.42</b>" not in section.split("MMD (DAN)")[1].split("DANN")[0]
    assert not re.search(r'(src|href)="http', page)
    bare = adaptation_section(without_labels(results)) or ""
    assert "no labels that could be reported on" in bare
    assert "Target, by its labels" not in bare
    assert render_report(without_labels(results))


def test_results_of_another_kind_have_no_section(results: dict[str, Any]) -> None:
    del results["adaptation"]
    assert adaptation_section(results) is None
    assert "From the source to the target" not in render_report(results)


def test_the_card_is_of_the_kept_method(results: dict[str, Any]) -> None:
    card = adaptation_card(results, name="adapted")
    assert card.startswith("---\n")
    assert "MMD (DAN) on **mini**" in card
    assert "## From the source to the target" in card
    assert "| MMD (DAN) (kept) | 1.3 | 2 of 3 | 75.0 % 73.0–77.0 | +5.0 (+1.0 to +9.0) |" in card
    assert "DANN (left out of the choice)" in card
    bare = adaptation_card(without_labels(results), name="adapted")
    assert "MMD (DAN) on **mini**" in bare
    assert "was not evaluated on held-out rows" in bare
    assert bare.endswith("\n")


@pytest.mark.parametrize("part", ["lora", "all", "last:1", "last:12"])
def test_the_part_that_learned_has_one_title(results: dict[str, Any], part: str) -> None:
    results["adaptation"]["trainable"] = part
    tuning = parse_trainable(part)
    assert tuning is not None
    assert f"Beside bottleneck and head, {tuning.title} learned." in adaptation_card(
        results, name="adapted"
    )
    results["adaptation"]["trainable"] = "everything"
    with pytest.raises(UsageError, match="trainable must be"):
        adaptation_card(results, name="adapted")
