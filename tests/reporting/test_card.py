"""The model card: a head that the hub reads, a body in which texts stay texts."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml

from warmstart.core import UsageError
from warmstart.reporting import model_card
from warmstart.reporting.card import escape

from .sample import accuracy_of, sample

HOSTILE = '<script>alert(1)</script> | `x` *y* "q": [z](http://evil) \\ #'


def head(card: str) -> Any:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n", maxsplit=1)[0].removeprefix("---\n"))


def test_head() -> None:
    results = sample()
    found = head(model_card(results, name="reviews", opens_with=["transformers.AutoModel"]))
    assert found["base_model"] == "all-MiniLM-L6-v2"
    assert found["license"] == "apache-2.0"
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-classification"
    assert found["tags"] == ["warmstart", "finetune", "transformers"]
    metrics = found["model-index"][0]["results"][0]["metrics"]
    best = results["arms"][2]["scores"]["metrics"]
    assert metrics[0] == {
        "type": "accuracy",
        "name": "Accuracy",
        "value": best["accuracy"]["value"],
    }


def test_the_hub_reads_the_head() -> None:
    from huggingface_hub import ModelCard

    results = sample()
    results["backbone"]["source"] = "hub:sentence-transformers/all-MiniLM-L6-v2"
    data = ModelCard(model_card(results, name="reviews")).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.eval_results[0].metric_type == "accuracy"
    assert data.library_name == "warmstart"


def test_body_tells_results_limits_and_loading() -> None:
    card = model_card(sample(), folder="runs/reviews")
    value, low, high = accuracy_of(sample(), "finetune")
    for words in (
        "## Intended use",
        "On 120 held-out rows, mean of 3 training seeds",
        f"| Accuracy (decides) | {value} % | {low}–{high} |",
        f"| TF-IDF + logistic regression | control | {accuracy_of(sample(), 'tfidf')[0]} %",
        f"120 held-out rows leave accuracy between {low} and {high} %",
        "Weakest class: negative",
        "Most often confused:",
        "expected calibration error",
        "Weakest group: long",
        "In the data: 7 pairs of near duplicates",
        'ws.predict("runs/reviews", ["a text"])',
        "warmstart compare reviews.csv --seeds 3 --budget 15m",
        "Licence of the backbone: apache-2.0",
        "Pretraining data: 1.17 B sentence pairs",
    ):
        assert words in card, words
    assert "No row is empty" not in card
    assert card.endswith("```\n")


def test_an_arm_below_a_control_says_so() -> None:
    results = sample()
    results["verdict"]["negative_transfer"] = ["zero-shot"]
    card = model_card(results, "zero-shot")
    assert "**Negative transfer**" in card
    assert "**Below a control**: TF-IDF + logistic regression does" in card
    assert "Negative transfer" not in model_card(results)


@pytest.mark.parametrize(
    ("opens", "code"),
    [
        (
            "transformers.AutoModelForSequenceClassification",
            'pipeline("text-classification", model="runs/r/model")("a text")',
        ),
        ("transformers.AutoModel", 'AutoModel.from_pretrained("runs/r/model")'),
        (
            "sentence_transformers.SentenceTransformer",
            'SentenceTransformer("runs/r/model").encode(["a text"])',
        ),
    ],
)
def test_loading_code_is_python_for_each_library(opens: str, code: str) -> None:
    card = model_card(sample(), folder="runs/r", opens_with=[opens])
    assert code in card
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)


def test_what_the_arm_opens_with_is_taken_from_the_results() -> None:
    results = sample()
    results["arms"][2]["opens_with"] = ["sentence_transformers.SentenceTransformer"]
    card = model_card(results)
    assert head(card)["library_name"] == "sentence-transformers"
    results["data"]["modality"] = "image"
    assert head(model_card(results))["pipeline_tag"] == "image-classification"
    assert '"picture.png"' in model_card(results)


def test_hostile_texts_stay_texts() -> None:
    results: Any = sample((HOSTILE, "ok"))
    results["data"]["source"] = "/home/somebody/" + HOSTILE.replace("/", "")
    results["data"]["split"]["notes"] = [HOSTILE]
    results["arms"][2]["label"] = HOSTILE
    results["arms"][2]["settings"] = {HOSTILE: HOSTILE}
    results["backbone"] |= {"name": HOSTILE, "license": HOSTILE}
    card = model_card(results, name=HOSTILE, folder=HOSTILE)
    assert head(card)["model-index"][0]["name"] == HOSTILE
    body = re.sub(r"```.*?```", "", card.split("\n---\n", 1)[1], flags=re.DOTALL)
    assert "<script>" not in body
    assert not re.search(r"(?<!\\)\]\(", body)
    assert "/home/somebody" not in card.split("```bash")[0]
    widths: set[int] = set()
    for line in body.splitlines():
        if line.startswith("|"):
            widths.add(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1
            widths = set()
    for block in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("# head", r"\# head"),
        ("1. item", r"1\. item"),
        ("1.17 B", "1.17 B"),
        ("a_b*c`d`", r"a\_b\*c\`d\`"),
        ("two\nlines", "two lines"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_missing_parts_never_stop_it() -> None:
    results = sample()
    for key in list(results):
        head(model_card({k: v for k, v in results.items() if k != key}))
    for key in list(results["arms"][2]):
        arms = [{k: v for k, v in arm.items() if k != key} for arm in results["arms"]]
        head(model_card({**results, "arms": arms}))
    assert "not evaluated" in model_card({})


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match='Did you mean "probe"'):
        model_card(sample(), "prob")
    with pytest.raises(UsageError, match="must name classes such as"):
        model_card(sample(), opens_with=["keras"])


def test_the_card_tells_what_was_forgotten() -> None:
    results = sample()
    assert "forg" not in model_card(results)
    results["forgetting"] = {"sentence": "The old task lost 3.0 points (1.0 to 5.0): forgotten."}
    assert "- The old task lost 3.0 points (1.0 to 5.0): forgotten." in model_card(results)
