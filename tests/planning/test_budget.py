"""Durations, fair shares, and inputs that fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.backbones import backbone
from warmstart.core import UsageError
from warmstart.data import read
from warmstart.planning import budget, divide, fit_input_size, parse_duration
from warmstart.planning.budget import as_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("45s", 45), ("15m", 900), ("1h", 3600), ("1h30m", 5400), ("1h30m5s", 5405),
     ("0.5h", 1800), (" 2M ", 120), (90, 90), (1.5, 1.5), ("1m30", 90)],
)  # fmt: skip
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "0", "0s", "-5m", "abc", "15 minutes", "m", "1d", "nan", "inf", "5m1h", None]
)
def test_no_durations(text: Any) -> None:
    with pytest.raises(
        UsageError, match="budget must be a duration of a second or more, such as 90s, 15m or 1h30m"
    ):
        parse_duration(text)


@pytest.mark.parametrize(
    ("wanted", "available", "shares"),
    [
        ({"a": 10, "b": 20}, 100, {"a": 10, "b": 20}),
        ({"a": 100, "b": 100}, 60, {"a": 30, "b": 30}),
        ({"a": 10, "b": 100}, 60, {"a": 10, "b": 50}),
        ({"c": 100, "a": 5, "b": 40}, 65, {"c": 30, "a": 5, "b": 30}),
        ({"a": 10}, 0, {"a": 0}),
        ({"a": 10}, -3, {"a": 0}),
        ({}, 10, {}),
    ],
)
def test_max_min_fair_shares(
    wanted: dict[str, float], available: float, shares: dict[str, float]
) -> None:
    found = divide(wanted, available)
    assert found == pytest.approx(shares)
    assert list(found) == list(wanted)


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 1e4), min_size=1, max_size=8),
    st.floats(0, 3e4),
)
def test_shares_are_max_min_fair(wanted: dict[str, float], available: float) -> None:
    shares = divide(wanted, available)
    assert sum(shares.values()) <= available * (1 + 1e-9) + 1e-9
    assert all(shares[name] <= wanted[name] for name in wanted)
    hungry = {name for name in wanted if shares[name] < wanted[name] - 1e-6}
    if hungry:
        # Nothing is left over, and nobody holds more than one who wants more.
        assert sum(shares.values()) == pytest.approx(available, rel=1e-6, abs=1e-6)
        least = min(shares[name] for name in hungry)
        assert max(shares.values()) <= least + 1e-6


class Clock:
    """`time.perf_counter` that goes on by what each row costs at the size in use."""

    def __init__(self, cost: Callable[[Any], float]) -> None:
        self.now, self.cost = 0.0, cost

    def perf_counter(self) -> float:
        return self.now

    def embed(self, encoder: Any, inputs: Any) -> None:
        self.now += self.cost(encoder) * len(inputs)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], float]], None]:
    def use(cost: Callable[[Any], float]) -> None:
        clock = Clock(cost)
        monkeypatch.setattr(budget, "time", clock)
        monkeypatch.setattr(budget, "embed_inputs", clock.embed)

    return use


def pixels(encoder: Any) -> float:
    """A hundredth of a second a row at 224 pixels, by area."""
    size = encoder.processor.image_size or 224
    return 0.01 * (size / 224) ** 2


@pytest.fixture
def images(pictures: Path, monkeypatch: pytest.MonkeyPatch, tiny_resnet: Path) -> Any:
    monkeypatch.setattr(budget, "_own_size", lambda encoder, inputs, text: 224)
    return backbone(str(tiny_resnet)), read(pictures)  # 40 rows


@pytest.mark.parametrize(
    ("seconds", "size"),
    # 40 rows of 0.01 s are 0.4 s, a twelfth of 4.8 s; at 128 pixels 0.131 s, at 64 0.033 s.
    [(4.9, None), (4.7, 192), (3.0, 160), (1.6, 128), (0.45, 64), (0.01, 64)],
)
def test_images_shrink_only_as_far_as_the_budget_asks(
    images: Any, timed: Any, seconds: float, size: int | None
) -> None:
    timed(pixels)
    source, data = images
    chosen, message = fit_input_size(source, data, seconds)
    assert chosen.image_size == size
    if size is None:
        assert message is None
        assert chosen is source
    else:
        assert message is not None
        assert f"{size} pixels instead of 224" in message
        assert "--image-size" in message


def test_texts_are_cut_only_where_they_are_long(tiny_text: Path, timed: Any) -> None:
    source = backbone(str(tiny_text))
    short = read(datasets.Dataset.from_dict({"text": ["apple", "car"] * 9, "label": [0, 1] * 9}))
    timed(lambda encoder: 1.0)
    chosen, message = fit_input_size(source, short, 1.0)
    assert (chosen, message) == (source, None)


def test_a_network_of_one_size_keeps_it(images: Any, timed: Any) -> None:
    source, data = images

    def cost(encoder: Any) -> float:
        if encoder.processor.image_size is not None:
            raise RuntimeError("position embeddings of 224 pixels")
        return 1.0

    timed(cost)
    chosen, message = fit_input_size(source, data, 1.0)
    assert (chosen, message) == (source, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1m"), (61, "2m"), (600, "10m"), (601, "15m"), (3600, "1h"), (5000, "1h25m"),
     (7201, "2h5m")],
)  # fmt: skip
def test_a_budget_in_words_is_enough_and_can_be_read(seconds: float, words: str) -> None:
    assert as_budget(seconds) == words
    assert seconds <= parse_duration(words) <= seconds + 300
