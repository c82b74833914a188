"""One snapshot of what is served, and the place where it is swapped whole.

A request takes the snapshot once and answers from it alone, so no answer mixes two models, indexes
or catalogues. The old snapshot goes when its last request has been answered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from warmstart.core import RunError, fingerprint
from warmstart.retrieval.index import ItemId, Selection

from .finding import TagTable, TitleSearch, UserSearch
from .metrics import Metrics
from .service import ItemCard, RecommendService

__all__ = ["Live", "Snapshot"]

EAGER = 100_000
"""Items or users up to which everything is looked up before the swap."""
FILTERS = 64
"""Tag filters that are kept looked up."""


class Snapshot:
    """A service with what the routes look up in it.

    What is looked up is made before the swap; for a large catalogue when it is first asked for,
    since many services never are.

    Attributes:
        service: Model, index and cards.
        model: Name of the model.
        index: Name of the index.
    """

    def __init__(self, service: RecommendService) -> None:
        if service.index.tower != service.tower:
            raise RunError(
                f"The model has item tower {service.tower}, the index {service.index.name} was "
                f"built by {service.index.tower}. Index the items with this model."
            )
        self.service = service
        self.model = service.model
        self.index = service.index.name
        self._filters: OrderedDict[tuple[frozenset[str], bool], Selection] = OrderedDict()
        self._lock = threading.Lock()
        if max(len(service.cards), len(service.histories)) <= EAGER:
            _ = self.titles, self.users, self.tags, self.pictures

    @cached_property
    def titles(self) -> TitleSearch:
        """Search by title."""
        return TitleSearch(self.service.cards)

    @cached_property
    def users(self) -> UserSearch:
        """Search by user id."""
        return UserSearch(self.service.histories)

    @cached_property
    def tags(self) -> TagTable:
        """Items by tag."""
        return TagTable(self.service.cards)

    @cached_property
    def pictures(self) -> dict[str, str]:
        """Path of each picture by its code, which depends on the path alone: it outlives a swap."""
        if not self.service.images:
            return {}
        paths = {card.image for card in self.service.cards.values() if card.image}
        return {picture_code(path): path for path in paths}

    def known_item(self, item: ItemId) -> ItemId | None:
        """The id as the catalogue has it: `12` and `"12"` find one another; None when unknown."""
        return next((form for form in _forms(item) if form in self.service.cards), None)

    def known_user(self, user: ItemId) -> ItemId | None:
        """The id as the histories have it, or None."""
        return next((form for form in _forms(user) if form in self.service.histories), None)

    def selection(self, tags: Sequence[str], every: bool) -> Selection:
        """Items for a filter by tags; the latest filters are kept."""
        key = (frozenset(tags), every)
        with self._lock:
            kept = self._filters.get(key)
            if kept is not None:
                self._filters.move_to_end(key)
                return kept
        made = self.service.index.select(self.tags.items(*key))
        with self._lock:
            self._filters[key] = made
            while len(self._filters) > FILTERS:
                self._filters.popitem(last=False)
        return made

    def card(self, item: ItemId) -> ItemCard:
        """The card of an item; one that the catalogue lacks is called by its id."""
        return self.service.cards.get(item) or ItemCard(title=str(item))

    def picture(self, card: ItemCard) -> str | None:
        """The code of a card's picture, or None."""
        if not self.service.images or not card.image:
            return None
        return picture_code(card.image)


class Live:
    """The snapshot that is served now, and whether the server is shutting down.

    Attributes:
        draining: Whether new requests are refused.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.draining = False
        self._metrics = metrics
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    @property
    def snapshot(self) -> Snapshot | None:
        """What is served; None before the first is there."""
        return self._snapshot

    def reload(self, service: RecommendService) -> Snapshot:
        """Serve another model, index or catalogue from the next request on.

        Called by any thread. What takes time is done before the swap.

        Raises:
            RunError: When the index belongs to another item tower; the old snapshot stays.
        """
        try:
            snapshot = Snapshot(service)
        except BaseException:
            self._metrics.swap_failed()
            raise
        with self._lock:
            self._snapshot = snapshot
            items = len(service.index)
            self._metrics.swapped(snapshot.model, snapshot.index, service.tower, items)
        return snapshot


def picture_code(path: str) -> str:
    """A name for a picture that tells nothing of its path."""
    return fingerprint("picture", Path(path).as_posix())


def _forms(value: ItemId) -> tuple[ItemId, ...]:
    """The id as it came, and as the other kind where that loses nothing."""
    if isinstance(value, int):
        return (value, str(value))
    digits = value.isascii() and len(value) <= 19 and value.removeprefix("-").isdigit()
    return (value, int(value)) if digits and str(int(value)) == value else (value,)
