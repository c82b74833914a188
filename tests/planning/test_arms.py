"""Arms by name, and what a seed leaves on disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from warmstart.core import UsageError
from warmstart.models import Model
from warmstart.planning import Prices, parse_arms
from warmstart.planning.arms import allow, full_seconds, kept_allowance
from warmstart.planning.meter import folder_bytes, latency_ms
from warmstart.strategies import Cost, Probe, make


def test_names_settings_and_values() -> None:
    arms = parse_arms(["probe", " finetune:epochs=3:head=mlp ", Probe(depth="auto"), "tfidf"])
    assert [arm.name for arm in arms] == [
        "probe", "finetune:epochs=3:head=mlp", "probe:depth=auto", "tfidf",
    ]  # fmt: skip
    assert arms[1].strategy.epochs == 3
    assert arms[1].strategy.head == "mlp"
    assert arms[1].folder_name == "finetune_epochs=3_head=mlp"
    assert "/" not in parse_arms(["zero-shot:nli=../a/b"])[0].folder_name


def test_titles_tell_settings_as_they_are_typed() -> None:
    plain, merged, thrice = parse_arms(
        ["finetune", "lora:merge=true:alpha=4",
         make("unfreeze", {"epochs": 3, "plan": {"0": ["*"], "1": ["stem"]}})]
    )  # fmt: skip
    assert plain.title == "Fine-tuning"
    assert merged.title == "LoRA (alpha 4.0, merge true)"
    assert thrice.title.endswith('(epochs 3, plan {"0": ["*"], "1": ["stem"]})')


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["prob"], "There is no strategy 'prob'. Did you mean \"probe\""),
        ([""], "There is no strategy ''"),
        (["probe:dept=auto"], 'probe has no setting `dept`. Did you mean "depth"'),
        (["probe:depth"], "'depth' is not a setting; write key=value"),
        (["probe:l2=-1"], "probe.l2"),
        (["finetune:epochs=none"], "finetune.epochs"),
        (["probe", "tfidf", "probe"], "named twice: probe"),
        (["probe", Probe()], "named twice: probe"),
    ],
)
def test_mistakes_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arms(texts)
    assert message in str(caught.value)


def test_no_two_arms_share_a_folder() -> None:
    arms = parse_arms(["zero-shot:nli=a/b", "zero-shot:nli=a b"])
    assert arms[0].folder_name != arms[1].folder_name
    long = parse_arms([f"zero-shot:nli={'x' * 500}"])[0].folder_name
    assert len(long) < 100


COST = Cost(seconds_per_step=1.0, steps_per_epoch=10, epochs=5, overhead=0.0)


def test_what_the_budget_grants(tmp_path: Path) -> None:
    assert not allow(None, 3.0).shortened
    assert not allow(COST, None).shortened
    assert not allow(COST, full_seconds(COST)).shortened
    half = allow(COST, full_seconds(COST) / 2)
    assert (half.max_steps, half.full_steps) == (25, 50)
    assert half.estimated == pytest.approx(25.0)
    assert allow(COST, 0.0).max_steps == 1
    assert kept_allowance(tmp_path, half) == half
    assert kept_allowance(tmp_path, allow(COST, None)) == half, "the first one is kept"


def test_prices() -> None:
    assert Prices().cost(100) is None
    # Two hours at 3 an hour; 250 W for 2 h are 0.5 kWh, at 480 g/kWh 240 g.
    found = Prices(price_per_hour=3.0, watts=250.0).cost(7200)
    assert found == pytest.approx({"money": 6.0, "co2_grams": 240.0})
    assert Prices(watts=1000.0, grams_per_kwh=50.0).cost(3600) == pytest.approx({"co2_grams": 50})
    assert Prices(price_per_hour=0.0).cost(10) == {"money": 0.0}


def test_latency_and_size(tmp_path: Path) -> None:
    class Slow:
        calls = 0

        def proba_of(self, inputs: list[str]) -> None:
            assert len(inputs) == 1
            self.calls += 1
            time.sleep(0.02 if self.calls <= 3 else 0.002)

    slow = Slow()
    found = latency_ms(slow, ["a", "b"], repeats=5)
    assert isinstance(slow, Slow)
    assert not isinstance(slow, Model)
    assert 2.0 <= found < 15
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 8
