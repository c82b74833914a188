"""Random changes of training images, on Pillow: crop, flip, rotation, colour jitter.

Each is a frozen value and a function `(image, generator) -> image`; every draw comes from the
generator, so that a changed image is a function of (seed, epoch, row id) and of nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import Field, model_validator

from warmstart.core import Config, UsageError, fingerprint, nearest

__all__ = [
    "AUGMENTATIONS",
    "Augment",
    "Augmentation",
    "ColourJitter",
    "Crop",
    "Flip",
    "Rotation",
    "parse_augmentation",
]

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]
Share = Annotated[float, Field(ge=0, le=1)]
_GREY = (128, 128, 128)
_TRIES = 10


class _Change(Config, ABC):
    """One kind of random change."""

    name: ClassVar[str]
    main: ClassVar[str]
    """The setting that `name=number` sets."""

    @abstractmethod
    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """A changed copy of an RGB image."""

    @property
    def text(self) -> str:
        """The form that `parse_augmentation` reads; settings beside the main one are not in it."""
        value, default = getattr(self, self.main), type(self).model_fields[self.main].default
        return self.name if value == default else f"{self.name}={value:g}"


class Crop(_Change):
    """A random part of the image, stretched to a square (random resized crop).

    The part's area is uniform within `smallest` to 1 of the image's and its width to height is
    log-uniform within 1/`stretch` to `stretch`; where ten draws do not fit into the image, the
    middle is taken. The square has about as many pixels as the part, or `size` on a side; the
    backbone's own preprocessing brings it to the size that the network takes.

    Attributes:
        smallest: Smallest share of the image's area, in (0, 1].
        stretch: Largest ratio of width to height, at least 1.
        size: Pixels on a side; None for those that the part has.

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6 (8 % to 100 % of the
    area, 3/4 to 4/3). The default here is milder, as is usual when little data is adapted to.
    """

    name: ClassVar[str] = "crop"
    main: ClassVar[str] = "smallest"
    smallest: float = Field(0.35, gt=0, le=1)
    stretch: float = Field(4 / 3, ge=1)
    size: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Cut and stretch."""
        box = self.box(image.width, image.height, generator)
        width, height = box[2] - box[0], box[3] - box[1]
        side = self.size or max(1, round(math.sqrt(width * height)))
        return image.crop(box).resize((side, side), Image.Resampling.BICUBIC)

    def box(
        self, width: int, height: int, generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part, in pixels."""
        for _ in range(_TRIES):
            area = width * height * generator.uniform(self.smallest, 1.0)
            ratio = math.exp(generator.uniform(-math.log(self.stretch), math.log(self.stretch)))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left = int(generator.integers(0, width - wide + 1))
                top = int(generator.integers(0, height - high + 1))
                return left, top, left + wide, top + high
        wide = min(width, max(1, round(height * self.stretch)))
        high = min(height, max(1, round(width * self.stretch)))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high


class Flip(_Change):
    """Left and right change places, with a probability.

    Attributes:
        chance: Probability, in [0, 1]. 0 for writing and other things that are not symmetric.
    """

    name: ClassVar[str] = "flip"
    main: ClassVar[str] = "chance"
    chance: Share = 0.5

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Flip, or copy."""
        if generator.random() < self.chance:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.copy()


class Rotation(_Change):
    """A turn about the middle by a uniform angle; corners without a pixel become grey.

    Attributes:
        degrees: Largest angle to either side, in [0, 180].
    """

    name: ClassVar[str] = "rotate"
    main: ClassVar[str] = "degrees"
    degrees: float = Field(15.0, ge=0, le=180)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Turn."""
        angle = float(generator.uniform(-self.degrees, self.degrees))
        return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_GREY)


class ColourJitter(_Change):
    """Brightness, contrast, saturation and hue, each by a random factor, in a random order.

    A factor is uniform in [1 - s, 1 + s] for strength s; the hue is moved by a uniform share of
    the colour circle in [-hue, hue].

    Attributes:
        strength: Of brightness, contrast and saturation, in [0, 1].
        hue: Largest move of the hue, in [0, 0.5].
    """

    name: ClassVar[str] = "jitter"
    main: ClassVar[str] = "strength"
    strength: Share = 0.2
    hue: float = Field(0.0, ge=0, le=0.5)

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Change the colours."""
        factors = generator.uniform(1.0 - self.strength, 1.0 + self.strength, size=3)
        move = float(generator.uniform(-self.hue, self.hue))
        for step in generator.permutation(4):
            if step == 3:
                image = _turn_hue(image, move) if self.hue else image
            else:
                image = _ENHANCERS[int(step)](image).enhance(float(factors[step]))
        return image.copy()


_ENHANCERS: tuple[Callable[[Image.Image], Any], ...] = (
    ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color,
)  # fmt: skip
AUGMENTATIONS: dict[str, type[_Change]] = {
    kind.name: kind for kind in (Crop, Flip, Rotation, ColourJitter)
}


class Augmentation(Config):
    """Changes one after the other.

    Attributes:
        steps: At least one.
    """

    steps: tuple[Crop | Flip | Rotation | ColourJitter, ...]

    @model_validator(mode="after")
    def _some(self) -> Augmentation:
        if not self.steps:
            raise ValueError("an augmentation needs at least one step.")
        return self

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """The changed image; the one that came in stays as it is."""
        for step in self.steps:
            image = step(image, generator)
        return image

    @property
    def text(self) -> str:
        """As it is written on the command line: `crop,flip,jitter=0.4`."""
        return ",".join(step.text for step in self.steps)

    @property
    def fingerprint(self) -> str:
        """Of every setting, for caches of augmented views."""
        return fingerprint("augmentation", [[s.name, s.model_dump()] for s in self.steps])


def parse_augmentation(text: str) -> Augmentation:
    """Read `crop,flip,rotate=15,jitter=0.2`: names in order, each with its main setting or not.

    The settings: `crop=` smallest share of the area, `flip=` probability, `rotate=` degrees,
    `jitter=` strength.

    Raises:
        UsageError: For an unknown name or a number outside its range.
    """
    steps: list[Any] = []
    for part in text.replace("|", ",").split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not name:
            raise UsageError(
                f'augment "{text}" has an empty part. Write some of {", ".join(AUGMENTATIONS)}, '
                "joined by commas: crop,flip."
            )
        kind = AUGMENTATIONS.get(name)
        if kind is None:
            raise UsageError(f'augment: "{name}" is unknown.{nearest(name, AUGMENTATIONS)}')
        steps.append(kind.parse({kind.main: value} if sign else {}, f"augment {name}"))
    return Augmentation(steps=tuple(steps))


def _turn_hue(image: Image.Image, move: float) -> Image.Image:
    """Move the hue by a share of the circle, in 256 steps."""
    hue, saturation, value = image.convert("HSV").split()
    table = [(level + round(move * 256)) % 256 for level in range(256)]
    return Image.merge("HSV", (hue.point(table), saturation, value)).convert("RGB")
