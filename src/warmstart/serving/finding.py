"""Finding items by words of their titles, users by the beginning of their id, items by tag."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from warmstart.retrieval.index import ItemId

from .service import ItemCard

__all__ = ["TagTable", "TitleSearch", "UserSearch", "folded"]

_WORD = re.compile(r"\w+")
WORDS = 8
"""Words of a search that are looked at."""


def folded(text: str) -> str:
    """Lower case without accents: `Amélie` and `amelie` are the same."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold()


class TitleSearch:
    """Items whose title has words that begin with each word of the search."""

    def __init__(self, cards: Mapping[Any, ItemCard]) -> None:
        self._items = tuple(cards)
        self._titles = [folded(card.title) for card in cards.values()]
        found: dict[str, list[int]] = defaultdict(list)
        for row, title in enumerate(self._titles):
            for word in set(_WORD.findall(title)):
                found[word].append(row)
        self._words = sorted(found)
        self._rows = [np.array(found[word], dtype=np.int32) for word in self._words]

    def find(self, text: str, limit: int) -> list[ItemId]:
        """Items, those whose title begins with the text first, then shorter titles."""
        words = list(dict.fromkeys(_WORD.findall(folded(text))))[:WORDS]
        if not words:
            return []
        rows = self._beginning(words[0])
        for word in words[1:]:
            rows = np.intersect1d(rows, self._beginning(word), assume_unique=True)
        whole = folded(text).strip()
        titles = self._titles
        best = sorted(
            rows.tolist(),
            key=lambda row: (not titles[row].startswith(whole), len(titles[row]), row),
        )
        return [self._items[row] for row in best[:limit]]

    def _beginning(self, word: str) -> np.ndarray:
        """Rows with a word that begins so, in order."""
        at = bisect_left(self._words, word)
        lists = []
        while at < len(self._words) and self._words[at].startswith(word):
            lists.append(self._rows[at])
            at += 1
        return np.unique(np.concatenate(lists)) if lists else np.empty(0, dtype=np.int32)


class UserSearch:
    """Known users by the beginning of their id."""

    def __init__(self, users: Mapping[Any, Sequence[ItemId]]) -> None:
        self._users = sorted(users, key=lambda user: (str(user), isinstance(user, str)))
        self._names = [str(user) for user in self._users]

    def __len__(self) -> int:
        return len(self._users)

    def find(self, beginning: str, limit: int) -> list[ItemId]:
        """Users whose id begins so, in order."""
        at = bisect_left(self._names, beginning)
        found: list[ItemId] = []
        while at < len(self._names) and len(found) < limit:
            if not self._names[at].startswith(beginning):
                break
            found.append(self._users[at])
            at += 1
        return found


class TagTable:
    """Items of each tag."""

    def __init__(self, cards: Mapping[Any, ItemCard]) -> None:
        found: dict[str, list[ItemId]] = defaultdict(list)
        for item, card in cards.items():
            for tag in dict.fromkeys(card.tags):
                found[tag].append(item)
        self._items = {tag: frozenset(items) for tag, items in found.items()}

    def common(self, limit: int) -> list[tuple[str, int]]:
        """The tags with the most items, and how many."""
        counts = ((tag, len(items)) for tag, items in self._items.items())
        return sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:limit]

    def unknown(self, tags: Sequence[str]) -> list[str]:
        """Those that no item has."""
        return [tag for tag in dict.fromkeys(tags) if tag not in self._items]

    def items(self, tags: frozenset[str], every: bool) -> frozenset[ItemId]:
        """Items with one of the tags, or with all of them."""
        sets = [self._items.get(tag, frozenset()) for tag in sorted(tags)]
        if not sets:
            return frozenset()
        return frozenset.intersection(*sets) if every else frozenset.union(*sets)
