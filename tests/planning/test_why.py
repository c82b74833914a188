"""Sentences on why one arm beat another."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.planning import ArmFacts, Pair
from warmstart.planning.why import Evidence, explain


def arm(name: str, validation: float, *, scratch: bool = False) -> ArmFacts:
    return ArmFacts(
        name=name, title=name.capitalize(), role="control" if scratch else "arm", status="done",
        validation=validation, test=validation, low=None, high=None, seconds=1.0,
        from_scratch=scratch,
    )  # fmt: skip


def pair(a: str, b: str, difference: float, *, significant: bool) -> Pair:
    return Pair(a=a, b=b, difference=difference, low=difference - 0.01, high=difference + 0.01,
                significant=significant)  # fmt: skip


def evidence(strategy: str, **changes: Any) -> Evidence:
    return Evidence(strategy=strategy, rows=100, **{"trained": 1000, **changes})


OVERFIT = [
    {"train_loss": 0.7, "validation_loss": 0.6},
    {"train_loss": 0.3, "validation_loss": 0.5},
    {"train_loss": 0.02, "validation_loss": 0.9},
]
FALLING = [{"train_loss": 0.9, "validation_loss": 0.9}, {"train_loss": 0.8, "validation_loss": 0.8}]


def test_evidence_reads_the_losses() -> None:
    seen = Evidence.of("finetune", 10, 100, OVERFIT)
    assert (seen.train_loss, seen.best_loss, seen.last_loss) == (0.02, 0.5, 0.9)
    assert (seen.epochs, seen.best_epoch) == (3, 2)
    assert seen.overfits
    assert not seen.unfinished
    assert Evidence.of("finetune", 10, 100, FALLING, shortened=True).unfinished
    assert not Evidence.of("finetune", 10, 100, FALLING).unfinished
    assert not Evidence.of("probe", 10, 100, []).overfits


@pytest.mark.parametrize(
    ("difference", "significant", "history", "shortened", "words"),
    [
        (0.05, True, FALLING, False, "beat Probe by 5.0 points: the untouched features do not"),
        (-0.04, True, OVERFIT, False, "behind Probe by 4.0 points: it learned the training rows"),
        (0.01, False, FALLING, True, "gained nothing .* validation loss was still falling"),
        (0.01, False, FALLING, False, "gained nothing .* separate these classes as well"),
        (0.1, False, OVERFIT, False, r"is 10.0 points ahead of Probe, .* noise \(9.0 to 11.0\)"),
        (-0.1, False, OVERFIT, False, r"is 10.0 points behind Probe, .* \(-11.0 to -9.0\)\.$"),
    ],
)
def test_fine_tuning_against_the_probe(
    difference: float, significant: bool, history: Any, shortened: bool, words: str
) -> None:
    import re

    told = explain(
        [arm("probe", 0.8), arm("finetune", 0.8 + difference)],
        [pair("finetune", "probe", difference, significant=significant)],
        {
            "probe": evidence("probe"),
            "finetune": Evidence.of("finetune", 1000, 100, history, shortened=shortened),
        },
        "probe",
    )
    assert len(told) == 1
    assert re.search(words, told[0]), told[0]


def test_an_adapter_within_the_noise_of_the_whole() -> None:
    arms = [arm("finetune", 0.9), arm("lora", 0.89)]
    seen = {"finetune": evidence("finetune"), "lora": evidence("lora", trained=10)}
    told = explain(arms, [pair("finetune", "lora", 0.01, significant=False)], seen, "finetune")
    assert "learns 1.0% of the parameters of Finetune and is within its noise" in told[0]
    told = explain(arms, [pair("lora", "finetune", 0.1, significant=False)], seen, "lora")
    assert "Lora learns 1.0% of the parameters of Finetune and is within its noise" in told[0]
    told = explain(arms, [pair("lora", "finetune", -0.1, significant=False)], seen, "finetune")
    assert "Finetune is 10.0 points ahead of Lora, which so few test rows cannot tell" in told[0]
    told = explain(arms, [pair("lora", "finetune", 0.03, significant=True)], seen, "lora")
    assert "Lora beat Finetune by 3.0 points with 1.0%" in told[0]
    told = explain(arms, [pair("finetune", "lora", 0.03, significant=True)], seen, "finetune")
    assert "10 parameters leave too little room" in told[0]


def test_what_pretraining_is_worth_and_words() -> None:
    arms = [arm("probe", 0.8), arm("scratch", 0.6, scratch=True), arm("tfidf", 0.9)]
    seen = {name: evidence(name) for name in ("probe", "scratch", "tfidf")}
    pairs = [pair("scratch", "probe", -0.2, significant=True)]
    told = explain(arms, pairs, seen, "tfidf")
    assert "Pretraining is worth 20.0 points" in told[0]
    assert "pairs of words tell the classes apart" in told[1]
    short = [arms[0], arms[1].model_copy(update={"status": "shortened"}), arms[2]]
    assert "Pretraining" not in explain(short, pairs, seen, "tfidf")[0]  # time might have told
    pairs = [pair("scratch", "probe", 0.1, significant=True)]
    assert not explain(arms, pairs, seen, "probe")
