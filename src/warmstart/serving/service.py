"""What is served: a model, its index and the item cards, as one value that never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from warmstart.retrieval import ProfileCode
from warmstart.retrieval.index import ItemId, ItemIndex

__all__ = ["ItemCard", "RecommendService"]


@dataclass(frozen=True, slots=True)
class ItemCard:
    """What a person sees of an item.

    Attributes:
        title: Its name.
        tags: Its categories.
        description: A few sentences, or nothing.
        image: Path of a picture inside one of the service's `images` folders, absolute or below
            the first of them; None: no picture.
    """

    title: str
    tags: tuple[str, ...] = ()
    description: str = ""
    image: str | None = None


class RecommendService(Protocol):
    """Everything an answer needs. A refresh makes a new one; this one stays as it is.

    `user_vector` is called by several threads at once.
    """

    @property
    def model(self) -> str:
        """Name of the model; each answer tells it."""

    @property
    def tower(self) -> str:
        """Fingerprint of the item tower; that of the index must be equal."""

    @property
    def index(self) -> ItemIndex:
        """Item vectors; each answer tells the index's name."""

    @property
    def cards(self) -> Mapping[Any, ItemCard]:
        """The catalogue, by item id: items that a history may hold."""

    @property
    def histories(self) -> Mapping[Any, Sequence[ItemId]]:
        """Items of each known user by id, oldest first."""

    @property
    def images(self) -> tuple[Path, ...]:
        """The folders that pictures must lie in; without any no pictures are served."""

    @property
    def profiles(self) -> ProfileCode | None:
        """The attributes of users that the model reads; None where it reads none."""

    def user_vector(
        self, history: Sequence[ItemId], user: ItemId | None, attributes: Mapping[str, Any] | None
    ) -> np.ndarray:
        """The query (D,) of a user.

        Args:
            history: Items of the catalogue, oldest first; may be empty.
            user: Id of a known user, for attributes; None for a new one.
            attributes: What the request tells of the user, in place of what is known; None where
                it tells nothing. `profiles` has accepted it.

        Raises:
            NotApplicable: When the model can say nothing about this history; the message is the
                reason, and becomes the answer.
        """
