"""Numbers and names as text."""

from __future__ import annotations

import pytest

from warmstart.reporting import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (770, "770"),
        (999.6, "1.0 k"),
        (4_212, "4.2 k"),
        (22_713_986, "22.7 M"),
        (999_700, "1.0 M"),
        (1.3e9, "1.3 B"),
        (340e6, "340 M"),
    ],
)
def test_count(value: float | None, text: str) -> None:
    assert fmt.count(value) == text


@pytest.mark.parametrize(
    ("value", "text", "short"),
    [
        (None, "–", "–"),
        (0.04, "0.0 s", "0.0 s"),
        (9.96, "10 s", "10 s"),
        (59.6, "1 min", "1m"),
        (200, "3 min 20 s", "3m 20s"),
        (3599.7, "1 h", "1h"),
        (7500, "2 h 5 min", "2h 5m"),
    ],
)
def test_seconds(value: float | None, text: str, short: str) -> None:
    assert fmt.seconds(value) == text
    assert fmt.seconds(value, short=True) == short


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 100, "0 %"),
        (1, 10_000, "<0.1 %"),
        (3, 100, "3.0 %"),
        (50, 100, "50 %"),
        (9_999, 10_000, ">99 %"),
        (100, 100, "100 %"),
        (None, 100, "–"),
        (1, 0, "–"),
    ],
)
def test_share_never_claims_nothing_or_everything(
    part: float | None, whole: float, text: str
) -> None:
    assert fmt.share(part, whole) == text


def test_memory_latency_cost() -> None:
    assert fmt.memory(90_868_376) == "90.9 MB"
    assert fmt.memory(999_960) == "1.0 MB"
    assert fmt.memory(12) == "12 B"
    assert fmt.milliseconds(0.08) == "0.08 ms"
    assert fmt.milliseconds(8.4) == "8.4 ms"
    assert fmt.milliseconds(140.2) == "140 ms"
    assert fmt.money({"money": 1.239}) == "1.24"
    assert fmt.money({"money": 0.00123}) == "0.0012"
    assert fmt.money(None) == fmt.grams({}) == "–"
    assert fmt.grams({"co2_grams": 12.3}) == "12 g"
    assert fmt.grams({"co2_grams": 123.4}) == "123 g"
    assert fmt.grams({"co2_grams": 2_300}) == "2.3 kg"


def test_metrics_in_their_units() -> None:
    score = {"value": 0.873, "low": 0.851, "high": 0.893}
    assert fmt.with_interval("accuracy", score) == "87.3 % (85.1–89.3)"
    assert fmt.with_interval("log_loss", score, "-") == "0.873 (0.851-0.893)"
    assert fmt.with_interval("accuracy", {"value": 1.0, "low": None, "high": None}) == "100.0 %"
    assert fmt.with_interval("accuracy", None) == "–"
    assert fmt.difference("accuracy", -0.031) == "−3.1"
    assert fmt.difference("log_loss", 0.0421) == "+0.042"
    assert fmt.metric_title("macro_f1") == "Macro F1"
    assert fmt.metric_title("somebody_elses") == "somebody elses"


def test_clean_makes_control_characters_visible() -> None:
    assert fmt.clean("a\x1b[2Jb\nc\u202ed") == "a\ufffd[2Jb c\ufffdd"
    assert fmt.clean("हिन्दी é 猫") == "हिन्दी é 猫"
