"""Features: vectors that know which space they live in, so that two spaces never meet unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from warmstart.core import Config, UsageError, fingerprint, nearest
from warmstart.data import Modality

__all__ = ["Features", "Space"]


class Space(Config):
    """What vectors depend on beside the row.

    Attributes:
        backbone: Fingerprint of weights and preprocessing.
        modality: Which tower made them.
        depth: Finished blocks, None for the last output.
        pooling: How tokens became one vector.
        normalize: Whether vectors were scaled to unit length.
        dtype: Number format of the stored vectors.
        max_length: Tokens at most; None for images.
        image_size: Pixels on a side where it was set; None for the backbone's own.
    """

    backbone: str
    modality: Modality
    depth: int | None = None
    pooling: str
    normalize: bool = False
    dtype: str = "float32"
    max_length: int | None = None
    image_size: int | None = None

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters, equal for equal spaces."""
        return fingerprint("space", self.model_dump())

    def differences(self, other: Space) -> str:
        """What differs, as `depth 2 against 4`; empty for equal spaces."""
        mine, theirs = self.model_dump(), other.model_dump()
        return ", ".join(
            f"{key} {mine[key]} against {theirs[key]}" for key in mine if mine[key] != theirs[key]
        )


@dataclass(frozen=True)
class Features:
    """Vectors of rows.

    Attributes:
        vectors_ND: (N, D) float32, finite.
        ids: Ids of the N rows.
        space: Where the vectors live.
    """

    vectors_ND: np.ndarray
    ids: tuple[str, ...]
    space: Space

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            UsageError: When vectors and ids do not match.
        """
        if self.vectors_ND.ndim != 2 or len(self.vectors_ND) != len(self.ids):
            raise UsageError(
                f"features need one vector an id: got {self.vectors_ND.shape} vectors for "
                f"{len(self.ids)} ids."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.vectors_ND.shape[1])

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self.ids)}

    def rows(self, ids: Sequence[str]) -> Features:
        """The features of some rows, in the order given.

        Raises:
            UsageError: For an id that is not there.
        """
        try:
            chosen = [self._positions[key] for key in ids]
        except KeyError as error:
            name = str(error.args[0])
            raise UsageError(
                f"there are no features of row {name!r}.{nearest(name, self.ids[:1000])}"
            ) from None
        return Features(self.vectors_ND[chosen], tuple(ids), self.space)

    def require_same_space(self, other: Features) -> None:
        """Make sure that distances between these and `other` mean something.

        Raises:
            UsageError: Naming what differs.
        """
        if self.space != other.space:
            raise UsageError(
                "features of two spaces cannot be compared: "
                f"{self.space.differences(other.space)}. Embed both with the same backbone and "
                "settings."
            )
