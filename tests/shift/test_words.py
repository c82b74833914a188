"""Word distributions: SciPy's Jensen-Shannon distance, words of many scripts, what moved."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from warmstart.core import DataError
from warmstart.shift import word_divergence, words_of

SOURCE = ["The old car is fast", "a new car, a red one", "trains are slow", "my car and my train"]
TARGET = ["the soup was cold", "A good soup and a good day", "my soup is slow", "cold, cold, cold"]


def test_it_equals_scipy() -> None:
    found = word_divergence(SOURCE, TARGET)
    counts = [Counter(" ".join(texts).lower().replace(",", "").split()) for texts in
              (SOURCE, TARGET)]  # fmt: skip
    words = sorted(counts[0] | counts[1])
    p, q = ([one[word] for word in words] for one in counts)
    assert found.value == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    assert found.vocabulary == len(words)
    assert found.words == (sum(p), sum(q))
    assert sum(one.adds for one in word_divergence(SOURCE, TARGET, top=99).moved) == pytest.approx(
        found.value
    )


def test_known_answers() -> None:
    assert word_divergence(["a b", "c"], ["d", "e f"]).value == pytest.approx(1.0)
    assert word_divergence(["a b", "c"], ["C a", "b"]).value == pytest.approx(0.0)
    half = word_divergence(["a", "b"], ["a", "c"])  # two halves share half of their mass
    assert half.value == pytest.approx(0.5)


def test_words_that_moved_come_first() -> None:
    found = word_divergence(SOURCE, TARGET, top=3)
    assert [one.word for one in found.moved][:2] == ["cold", "soup"]
    assert found.moved[0].source == 0.0
    assert found.moved[0].target == pytest.approx(4 / 18)
    adds = [one.adds for one in found.moved]
    assert adds == sorted(adds, reverse=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop: 24 hours!", ["don", "t", "stop", "24", "hours"]),
        ("ÉTÉ straße", ["été", "straße"]),
        ("यह अच्छी किताब है", ["यह", "अच्छी", "किताब", "है"]),
        ("我爱 mp3 音乐", ["我", "爱", "mp3", "音", "乐"]),
        ("สวัสดี", list("สวัสดี")),
        ("snake_case", ["snake_case"]),
        ("", []),
        ("...", []),
    ],
)
def test_words_of_many_scripts(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_intervals_and_the_yardstick() -> None:
    """The plug-in value is biased upwards; the interval reaches below it and holds 0."""
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]

    def texts(count: int, tilt: float) -> list[str]:
        share = np.exp(tilt * np.linspace(0, 1, 60))
        drawn = generator.choice(words, (count, 8), p=share / share.sum())
        return [" ".join(row) for row in drawn]

    held = 0
    for i in range(30):
        same = word_divergence(texts(120, 0), texts(120, 0), seed=i)
        assert same.interval is not None
        held += same.interval[0] <= 1e-4
    assert held >= 27
    other = word_divergence(texts(200, 0), texts(200, 2.0), halves=20)
    assert other.halves is not None
    assert other.interval is not None
    assert other.halves < other.value
    assert 0 < other.interval[0] < other.value <= other.interval[1] <= 1


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (["one"], TARGET, "the source must have at least 2 texts, got 1"),
        (SOURCE, [], "the target must have at least 2 texts, got 0"),
        (SOURCE, ["...", "!"], "no text of the target holds a word"),
    ],
)
def test_texts_that_cannot_be_compared(source: list[str], target: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        word_divergence(source, target)


def test_few_texts_have_no_interval() -> None:
    assert word_divergence(SOURCE[:3], TARGET).interval is None
