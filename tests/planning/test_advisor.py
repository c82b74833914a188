"""The decision: evidence overrules the tree, limits rule out, each reason names its number."""

from __future__ import annotations

import re
from typing import Any

import datasets
import pytest

from warmstart.backbones import Card
from warmstart.core import UsageError
from warmstart.data import read
from warmstart.planning import (
    Gain,
    Limits,
    Measured,
    Missing,
    Plan,
    Price,
    Survey,
    advise,
    bound_by_limits,
    default_prior,
    parse_limits,
    plan_by_tree,
)

CARD = Card(name="tiny", source="x", family="BERT", modality="text", parameters=22_000_000,
            license="apache-2.0", size_bytes=90 * 2**20)  # fmt: skip
DATA = read(
    datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(300)], "label": ["a", "b"] * 150})
)
SECONDS = {"zero-shot": 2.0, "prototypes": 2.0, "probe": 3.0, "lora": 80.0, "finetune": 100.0,
           "unfreeze": 120.0, "scratch": 200.0}  # fmt: skip


def tree(labels: int = 256) -> Plan:
    return plan_by_tree(DATA, labels=labels)


def measured(gain: float, error: float = 0.02, **changes: Any) -> Survey:
    """256 labels, a probe that errs on a fifth, and a short fine-tuning with that gain."""
    item = Measured(
        name="short_finetune", value=gain, interval=(gain - 2 * error, gain + 2 * error),
        text=f"Fine-tuning of 90 steps is {100 * gain:+.1f} points from the probe.",
    )  # fmt: skip
    values: dict[str, Any] = {
        "labels": 256, "probe_error": 0.216, "probe_error_error": 0.03, "guess": 0.5,
        "gains": (Gain(strategy="finetune", value=gain, error=error, share=0.4),),
        "prices": {
            name: Price(strategy=name, seconds=s, peak_bytes=int(s) * 2**20)
            for name, s in SECONDS.items()
        },
        "items": (Measured(name="labels", value=256, text="256 labels."), item),
        "seconds": 40.0, "latency_ms": 9.0,
    }  # fmt: skip
    return Survey(**values | changes)


def advised(found: Survey, **settings: Any) -> Plan:
    return advise(tree(found.labels), found, card=CARD, modality="text", **settings)


def test_evidence_overrules_the_tree() -> None:
    plan = advised(measured(0.12))
    assert plan.tree == "probe"
    assert plan.strategy in {"finetune", "unfreeze", "lora"}
    best = plan.expected[0]
    assert best.low > 0
    assert best.low < best.gain < best.high
    assert "The number of labels alone says Linear probe" in plan.sentence
    assert plan.cost is not None
    assert plan.cost.seconds == SECONDS[plan.strategy]
    assert plan.command.split()[-1] == plan.strategy
    assert plan.runner_up in plan.alternatives


def test_without_a_gain_the_cheap_probe_stays() -> None:
    plan = advised(measured(-0.1))
    assert plan.strategy == "probe"
    assert plan.expectation("probe").gain == 0
    assert plan.expectation("finetune").gain < 0
    assert "alone says the same" in plan.sentence
    assert any(reason.name == "short_finetune" for reason in plan.reasons)


def number_told(text: str, value: float) -> bool:
    """Whether the value stands in the text: as it is, in hundredths, or rounded."""
    numbers = [float(n.replace(",", "")) for n in re.findall(r"[-+]?\d[\d,]*\.?\d*", text)]
    return any(abs(n - v) <= 0.051 + 0.02 * abs(v) for n in numbers for v in (value, 100 * value))


@pytest.mark.parametrize("gain", [0.12, 0.02, -0.05])
def test_every_reason_names_its_number(gain: float) -> None:
    extra = (
        Measured(name="probe_curve", value=0.31, text="The error falls with the power of 0.31."),
        Measured(name="distance", value=0.4, text="Proxy A-distance: 0.40."),
        Measured(name="label_noise", value=0.08, text="8.0% of the labels are likely wrong."),
    )
    found = measured(gain)
    plan = advised(found.model_copy(update={"items": (*found.items, *extra)}))
    names = [reason.name for reason in plan.reasons]
    assert names[0] == "expected_gain"
    assert {"short_finetune", "probe_curve", "distance", "label_noise", "seconds", "labels",
            "rarest_class", "runner_up_gain"} <= set(names)  # fmt: skip
    for reason in plan.reasons:
        assert number_told(reason.text, reason.value), reason
    assert any("8.0% of the labels look wrong" in warning for warning in plan.warnings)


def test_among_equals_the_cheaper_is_taken() -> None:
    generous = default_prior().model_copy(update={"tolerance": 0.5})
    plan = advised(measured(0.12), prior=generous)
    assert plan.strategy in {"zero-shot", "prototypes"}, "they take two seconds"
    assert any(reason.name == "best_expected_gain" for reason in plan.reasons)


def test_limits_rule_out() -> None:
    found = measured(0.12)
    quick = advised(found, limits=parse_limits(budget="90s"))
    assert quick.strategy == "lora"
    assert "it would take 100 s, and the budget is 90 s" in quick.expectation("finetune").out
    assert quick.warnings == tree().warnings, "all that is asked was measured"
    small = advised(found, limits=parse_limits(memory="50MB"))
    assert small.strategy in {"probe", "prototypes"}
    assert small.expectation("lora").out is not None
    for limits, words in (
        (parse_limits(max_size="1MB"), r"90.0 MiB on disk, and the model may take 1.0 MiB"),
        (parse_limits(latency="5ms"), "takes 9.0 ms for one input"),
    ):
        plan = advised(found, limits=limits)
        assert plan.strategy == "tfidf"
        assert re.search(words, plan.sentence)
        assert all(one.out for one in plan.expected)
        assert plan.command.split()[-1] == "tfidf"


def test_a_price_that_is_only_a_bound_does_not_pass_a_limit() -> None:
    found = measured(0.12)
    lora = found.prices["lora"].model_copy(update={"seconds": 100.0, "bound": True})
    found = found.model_copy(update={"prices": found.prices | {"lora": lora}})
    short = advised(found, limits=parse_limits(budget="90s"))
    assert short.strategy in {"probe", "prototypes"}
    assert "it may take up to 100 s, and the budget is 90 s: its own steps were not timed" in (
        short.expectation("lora").out
    )
    small = advised(found, limits=parse_limits(memory="50MB"))
    assert "may take up to 80 MiB, and 50 MiB are allowed" in small.expectation("lora").out
    assert advised(found, limits=parse_limits(budget="110s")).expectation("lora").out is None


def test_what_was_not_measured_against_a_limit_is_told() -> None:
    found = measured(0.12)
    fallen = advised(found, limits=parse_limits(latency="5ms", memory="1MB", max_size="200MB"))
    assert fallen.strategy == "tfidf"
    assert "TF-IDF" in fallen.warnings[-1]
    assert "is not measured against --max-size, --memory, --latency" in fallen.warnings[-1]
    blind = {n: p.model_copy(update={"peak_bytes": None}) for n, p in found.prices.items()}
    unknown = advised(
        found.model_copy(update={"prices": blind, "latency_ms": None}),
        limits=parse_limits(memory="1MB", latency="5ms", budget="1h"),
    )
    assert "is not measured against --memory, --latency:" in unknown.warnings[-1]
    alone = bound_by_limits(tree(), parse_limits(budget="1m", max_size="1GB"), CARD, "text")
    assert alone.strategy == "probe"
    assert "is not measured against --budget:" in alone.warnings[-1]


def test_licences() -> None:
    found = measured(0.12)
    assert advised(found, limits=parse_limits(licence="MIT, Apache-2.0")).strategy != "tfidf"
    foreign = advised(found, limits=parse_limits(licence="mit"))
    assert foreign.strategy == "scratch", "its architecture alone is used"
    assert "under apache-2.0, which is none of mit" in foreign.expectation("probe").out
    assert foreign.alternatives == ("tfidf",), "it takes no weights either"
    assert "hold it against training from scratch" in foreign.warnings[-1]
    at_once = bound_by_limits(tree(), parse_limits(licence="mit"), CARD, "text")
    assert (at_once.strategy, at_once.alternatives) == (foreign.strategy, foreign.alternatives)
    unclear = CARD.model_copy(update={"license": None})
    for modality, name in (("text", "tfidf"), ("image", "cnn")):
        limits = parse_limits(licence="mit")
        looked = advise(tree(), found, card=unclear, modality=modality, limits=limits)
        assert looked.strategy == name, "its architecture is of unclear origin too"
        assert bound_by_limits(tree(), limits, unclear, modality).strategy == name
    bound = bound_by_limits(tree(), parse_limits(licence="mit"), unclear, "text")
    assert bound.strategy == "tfidf"
    assert bound.tree == "probe"
    assert "states no licence" in bound.sentence
    assert number_told(bound.reasons[0].text, bound.reasons[0].value)
    assert bound_by_limits(tree(), Limits(), unclear, "text") == tree()


def test_what_cannot_be_used_is_told() -> None:
    found = measured(0.12, left_out={"lora": "no layers", "zero-shot": "the names say nothing"},
                     missing=(Missing(name="distance", text="Not measured."),))  # fmt: skip
    plan = advised(found)
    assert plan.expectation("lora").out == "no layers"
    assert [one.out is None for one in plan.expected] == sorted(
        (one.out is None for one in plan.expected), reverse=True
    ), "what is out stands last"
    assert plan.missing == found.missing
    assert plan.quadrant is not None
    assert plan.quadrant.name == "few labels, domain distance not known"
    far = advised(measured(0.12, labels=5000, distance=1.0))
    assert far.quadrant is not None
    assert far.quadrant.name == "many labels, far domain"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "lots"}, "memory must be a size such as 500KB"),
        ({"max_size": "0MB"}, "max_size must be a size"),
        ({"latency": "soon"}, "latency must be a time such as 20ms"),
        ({"licence": " , "}, "licence must name licences"),
        ({"budget": "0s"}, "budget must be a duration"),
    ],
)
def test_bounds_that_are_none(settings: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_limits(**settings)


def test_bounds_as_they_are_written() -> None:
    found = parse_limits(
        budget="2m", memory="1.5GB", latency="0.1s", max_size=2048, licence=["mit"]
    )
    assert found == Limits(seconds=120, memory_bytes=3 * 2**29, latency_ms=100, size_bytes=2048,
                           licences=("mit",))  # fmt: skip
    assert parse_limits(memory="2KiB").memory_bytes == 2048
    assert parse_limits(latency=20).latency_ms == 20
    assert found.need_measuring == ("--memory", "--latency")
