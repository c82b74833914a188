"""Augmentation against numpy, and what its draws hang on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from warmstart.core import UsageError
from warmstart.data import AUGMENTATIONS, Augmentation, parse_augmentation
from warmstart.data.transforms import ColourJitter, Crop, Flip, Rotation


def image(width: int = 30, height: int = 20, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_flip() -> None:
    whole = image()
    turned = Flip(chance=1.0)(whole, rng())
    assert np.array_equal(pixels(turned), pixels(whole)[:, ::-1])
    assert np.array_equal(pixels(Flip(chance=0.0)(whole, rng())), pixels(whole))
    flipped = sum(pixels(Flip()(whole, rng(s)))[0, 0, 0] != pixels(whole)[0, 0, 0]
                  for s in range(400))  # fmt: skip
    assert 160 < flipped < 240


def test_rotation() -> None:
    whole = image(21, 21)

    class Always:
        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (-90.0, 90.0)
            return high

    turned = Rotation(degrees=90)(whole, Always())
    assert np.array_equal(pixels(turned), np.rot90(pixels(whole)))
    assert np.array_equal(pixels(Rotation(degrees=0)(whole, rng())), pixels(whole))
    corner = pixels(Rotation(degrees=45)(Image.new("RGB", (40, 40)), rng(0)))
    assert set(map(tuple, corner.reshape(-1, 3))) >= {(0, 0, 0), (128, 128, 128)}


def test_crop_boxes_are_as_the_paper_draws_them() -> None:
    crop = Crop(smallest=0.2, stretch=1.5)
    width, height = 400, 400
    shares, ratios = [], []
    for seed in range(800):
        left, top, right, bottom = crop.box(width, height, rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        ratios.append((right - left) / (bottom - top))
    assert min(shares) > 0.195
    assert 0.2 <= np.quantile(shares, 0.05) < 0.3  # near uniform from the smallest share on
    assert max(shares) > 0.9
    assert 1 / 1.53 < min(ratios) < 0.75
    assert 1.3 < max(ratios) < 1.53
    assert abs(np.mean(np.log(ratios))) < 0.05


def test_crop_pixels() -> None:
    whole = image(64, 48)
    crop = Crop()
    left, top, right, bottom = crop.box(64, 48, rng(3))
    side = round(math.sqrt((right - left) * (bottom - top)))
    part = Image.fromarray(np.asarray(whole)[top:bottom, left:right])
    slow = part.resize((side, side), Image.Resampling.BICUBIC)
    found = crop(whole, rng(3))
    assert found.size == (side, side)
    assert np.array_equal(pixels(found), pixels(slow))
    assert Crop(size=7)(whole, rng()).size == (7, 7)
    square = image(20, 20)
    kept = Crop(smallest=1.0, stretch=1.0)(square, rng())
    assert np.array_equal(pixels(kept), pixels(square))


def test_crop_of_a_strip_takes_the_middle() -> None:
    assert Crop(smallest=0.9, stretch=1.1).box(100, 4, rng()) == (48, 0, 52, 4)
    assert Crop(smallest=0.9).box(1, 1, rng()) == (0, 0, 1, 1)


class Fixed:
    """Draws that are known: factors, hue and order."""

    def __init__(self, factors: list[float], order: list[int], hue: float = 0.0) -> None:
        self.factors, self.order, self.hue = factors, order, hue

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        return np.array(self.factors) if size else self.hue

    def permutation(self, count: int) -> list[int]:
        return self.order


@pytest.mark.parametrize(("place", "factor"), [(0, 0.8), (0, 1.3), (1, 0.7), (2, 1.2), (2, 0.5)])
def test_jitter_is_the_formula(place: int, factor: float) -> None:
    whole = image()
    factors = [1.0, 1.0, 1.0]
    factors[place] = factor
    found = ColourJitter()(whole, Fixed(factors, [place, 3]))
    x = pixels(whole).astype(float)
    grey = np.asarray(whole.convert("L")).astype(float)
    anchor = {0: np.zeros_like(x), 1: np.full_like(x, round(grey.mean())), 2: grey[..., None]}
    slow = np.clip(anchor[place] + factor * (x - anchor[place]), 0, 255)
    assert np.abs(pixels(found) - slow).max() <= 1.0


def test_hue_turns_the_colour_circle() -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    third = Fixed([1.0] * 3, [3], hue=1 / 3)
    green = pixels(ColourJitter(hue=0.5)(red, third))[0, 0]
    assert green.tolist() == pytest.approx([0, 255, 0], abs=4)
    grey = Image.new("RGB", (2, 2), (90, 90, 90))
    assert np.array_equal(pixels(ColourJitter(strength=0.0, hue=0.5)(grey, rng())), pixels(grey))


def test_jitter_order_and_strength_are_drawn() -> None:
    whole = image()
    seen = {ColourJitter(strength=0.3)(whole, rng(s)).tobytes() for s in range(20)}
    assert len(seen) == 20
    assert ColourJitter(strength=0.0)(whole, rng()).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_function_of_the_generator_that_leaves_its_input_alone(name: str) -> None:
    whole = image()
    before = whole.tobytes()
    change = AUGMENTATIONS[name]()
    first = change(whole, rng(5))
    assert first.tobytes() == change(whole, rng(5)).tobytes()
    assert first.mode == "RGB"
    assert len({change(whole, rng(s)).tobytes() for s in range(20)}) > 1
    first.putpixel((0, 0), (1, 2, 3))
    assert whole.tobytes() == before


def test_text_form_and_fingerprint() -> None:
    made = parse_augmentation("crop, flip,rotate=30|jitter=0.4")
    assert made.steps == (Crop(), Flip(), Rotation(degrees=30), ColourJitter(strength=0.4))
    assert made.text == "crop,flip,rotate=30,jitter=0.4"
    assert parse_augmentation(made.text) == made
    assert made.fingerprint == parse_augmentation(made.text).fingerprint
    other = Augmentation(steps=(Crop(size=64), *made.steps[1:]))
    prints = {made.fingerprint, other.fingerprint, parse_augmentation("flip,crop").fingerprint,
              parse_augmentation("crop,flip").fingerprint}  # fmt: skip
    assert len(prints) == 4


def test_steps_in_order() -> None:
    whole = image()
    made = Augmentation(steps=(Flip(chance=1.0), Crop(smallest=0.5)))
    generator = rng(2)
    slow = Crop(smallest=0.5)(Flip(chance=1.0)(whole, generator), generator)
    assert made(whole, rng(2)).tobytes() == slow.tobytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flop", 'Did you mean "flip"'),
        ("crop,,flip", "empty part"),
        ("", "empty part"),
        ("crop=0", "augment crop.smallest must be above 0"),
        ("jitter=2", "augment jitter.strength must be at least 0 and at most 1"),
        ("rotate=a", "augment rotate.degrees must be a number"),
        ("flip=-1", "augment flip.chance must be at least 0"),
    ],
)
def test_bad_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_augmentation(text)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Flip().chance = 0.1
    with pytest.raises(ValidationError, match="at least one step"):
        Augmentation(steps=())
