"""What an item index is, whatever engine or server answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .ids import ItemId

__all__ = ["ItemIndex", "Selection"]


class Selection(Protocol):
    """Items that a search is restricted to, looked up once and used often."""

    def __len__(self) -> int: ...


class ItemIndex(Protocol):
    """Item vectors by id, and the nearest of them to a query by inner product.

    Always true: no deleted item and no item twice in an answer; k results where k items are
    eligible; a query of another tower or dimension is refused. A search sees one state of the
    index, whole, whatever other threads change meanwhile.
    """

    @property
    def name(self) -> str:
        """Which published index this is: folder and checksum; `unsaved` after changes."""

    @property
    def tower(self) -> str:
        """Fingerprint of the item tower that made the vectors."""

    @property
    def dimension(self) -> int:
        """D."""

    @property
    def ids(self) -> Sequence[ItemId]:
        """Ids of all items."""

    def __len__(self) -> int: ...

    def __contains__(self, item: object) -> bool: ...

    def search(
        self,
        queries_QD: np.ndarray,
        k: int,
        *,
        exclude: Iterable[ItemId] = (),
        allow: Iterable[ItemId] | Selection | None = None,
        tower: str | None = None,
    ) -> tuple[np.ndarray, list[list[ItemId]]]:
        """The k nearest items of each query.

        Args:
            queries_QD: Queries (Q, D).
            k: How many items a query; fewer come where fewer are eligible.
            exclude: Items that are not answered; unknown ids are passed over.
            allow: The only items that are answered; unknown ids are passed over.
            tower: Fingerprint of the item tower that the queries belong to, to be checked.

        Returns:
            Scores (Q, K), best first, and the ids of each query.
        """

    def similar(
        self,
        item: ItemId,
        k: int,
        *,
        exclude: Iterable[ItemId] = (),
        allow: Iterable[ItemId] | Selection | None = None,
    ) -> tuple[np.ndarray, list[ItemId]]:
        """The k items nearest to an item, without itself.

        Args:
            item: That is asked for. DataError where the index lacks it.
            k: How many items; fewer come where fewer are eligible.
            exclude: Items that are not answered; unknown ids are passed over.
            allow: The only items that are answered; unknown ids are passed over.

        Returns:
            Scores (K), best first, and ids.
        """

    def select(self, ids: Iterable[ItemId]) -> Selection:
        """Items for `allow`, looked up once; unknown ids are passed over."""

    def vectors(self, ids: Sequence[ItemId]) -> np.ndarray:
        """The vectors (N, D) of items. DataError for an unknown id."""

    def add(self, ids: Sequence[ItemId], vectors_ND: Any) -> None:
        """Add new items, all or none. DataError for an id that is there already."""

    def update(self, ids: Sequence[ItemId], vectors_ND: Any) -> None:
        """Give items new vectors, all or none. DataError for an unknown id."""

    def delete(self, ids: Sequence[ItemId]) -> None:
        """Remove items, all or none. DataError for an unknown id."""

    def save(self, folder: Path, *, replace: bool = False) -> None:
        """Publish the index as a folder."""
