"""The tracks: how much of the towers is learned, from nothing at all to all of it without text.

Each track is a value; `zero-shot` learns nothing, the others are settings of the two-tower model,
and `both-towers` (in a module of its own) tunes the text encoder as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from pydantic import Field, PositiveInt

from warmstart.core import Config, NotApplicable, UsageError, nearest
from warmstart.evaluation import Events, Queries

from .baselines import told_settings
from .both_towers import BothTowers
from .content_part import ContentCode
from .item_texts import ItemTexts
from .text_history import TextHistory
from .two_tower import Negatives, Shares, TwoTower

__all__ = ["TRACKS", "Content", "HistoryMean", "MeanRecommender", "make_track"]


@dataclass(frozen=True)
class Content:
    """What is known of items and users beside their events.

    Attributes:
        item_ids: Names of the I items.
        text_IE: Vectors of their texts; None where they have none.
        image_IE: Vectors of their images; None where they have none.
        tags: Tags of each item; None where no item has any.
        users: The users table, a row for each code; None without.
        texts: The items' texts and their encoder, for what tunes it; None without.
    """

    item_ids: Sequence[str]
    text_IE: np.ndarray | None = None
    image_IE: np.ndarray | None = None
    tags: Sequence[Sequence[str]] | None = None
    users: pl.DataFrame | None = None
    texts: ItemTexts | None = None


@dataclass(frozen=True)
class MeanRecommender:
    """Scores items by the cosine of their text with the mean text of the user's last items.

    Attributes:
        unit_IE: Unit text vectors of all items; zeros where an item has no text.
        last: Items of the history that count.
        name: What tables call it.
    """

    unit_IE: np.ndarray
    last: int
    name: str = "zero-shot"

    def user_vectors(self, queries: Queries) -> np.ndarray:
        """Mean vectors (Q, E); zeros for a user without history."""
        recent = queries.last(self.last)
        sums_QE = np.zeros((len(recent), self.unit_IE.shape[1]), dtype=np.float32)
        np.add.at(sums_QE, recent.rows_H, self.unit_IE[recent.items_H])
        lengths_Q1 = np.maximum(recent.lengths_Q, 1)[:, None].astype(np.float32)
        found: np.ndarray = sums_QE / lengths_Q1
        return found

    def scores(self, queries: Queries) -> np.ndarray:
        """Scores (Q, I); 0 for every item where the user has no history."""
        found: np.ndarray = self.user_vectors(queries) @ self.unit_IE.T
        return found


class HistoryMean(Config):
    """The mean of the history's text vectors; nothing is learned.

    Needs: texts of the items. Pick when: there are no interactions to learn from yet.

    Attributes:
        last: Items of the history that count.
        whitened: Whether text vectors are centred and partly whitened, by those of items with
            events; see `content_part`.
    """

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "Zero-shot"
    last: PositiveInt = 20
    whitened: bool = False

    @classmethod
    def grid(cls) -> tuple[HistoryMean, ...]:
        """The settings that validation chooses from."""
        lasts = (20, 3, 5, 10, 50)
        return tuple(cls(last=last, whitened=white) for white in (False, True) for last in lasts)

    def recommender(self, content: Content, past: Events) -> MeanRecommender:
        """The recommender on these texts.

        Args:
            content: Of the items.
            past: Events before the questions: whose texts tell what texts have in common.

        Raises:
            NotApplicable: When the items have no text, or too few for what they have in common.
        """
        if content.text_IE is None:
            raise NotApplicable("zero-shot needs texts of the items, and there are none")
        text_IE = np.asarray(content.text_IE, dtype=np.float32)
        norms_I1 = np.linalg.norm(text_IE, axis=1, keepdims=True)
        unit_IE = text_IE / np.maximum(norms_I1, 1e-12)
        if self.whitened:
            size = text_IE.shape[1]
            known = text_IE[np.unique(np.asarray(past.item_N))]
            code = ContentCode.learn(torch.from_numpy(known), (size,), components=size)
            if code is None:
                raise NotApplicable("whitened needs texts of three items with events")
            unit_IE = code(torch.from_numpy(text_IE)).numpy()
        return MeanRecommender(unit_IE, self.last)


class FrozenTrack(TwoTower):
    """Track A: both encoders stay as they are; projections of item and mean history are learned."""

    name: ClassVar[str] = "frozen"
    title: ClassVar[str] = "Frozen encoders"
    layers: int = Field(0, ge=0)
    use_ids: bool = False


class UserTowerTrack(TwoTower):
    """Track B: a user tower is learned over frozen text vectors, without ids.

    Half of the negatives are those of the batch, half are hard ones; earlier blocks of the user
    tower learn more slowly.
    """

    name: ClassVar[str] = "user-tower"
    title: ClassVar[str] = "Tuned user tower"
    use_ids: bool = False
    negatives: Negatives = "mixed"
    shares: Shares = Field(default_factory=lambda: {"in-batch": 0.5, "hard": 0.5})
    draws: PositiveInt = 256
    factor: float = Field(1.5, ge=1, le=100)  # nothing in it is pretrained: 2.6 held it back


class ScratchTrack(TwoTower):
    """Item ids alone: what the towers learn where nothing pretrained is used."""

    name: ClassVar[str] = "scratch"
    title: ClassVar[str] = "From scratch (ids)"
    use_text: bool = False
    use_images: bool = False
    id_dropout: float = Field(0.0, ge=0, lt=1)


TRACKS: Mapping[str, type[HistoryMean] | type[TwoTower]] = {
    "zero-shot": HistoryMean,
    "frozen": FrozenTrack,
    "user-tower": UserTowerTrack,
    "two-tower": TwoTower,
    "both-towers": BothTowers,
    "text-history": TextHistory,
    "scratch": ScratchTrack,
}


def make_track(name: str, settings: Mapping[str, Any] | None = None) -> HistoryMean | TwoTower:
    """A track by its name.

    Args:
        name: One of `TRACKS`.
        settings: Names and values; see `told_settings`.

    Raises:
        UsageError: For an unknown name or setting.
    """
    if name not in TRACKS:
        raise UsageError(f"There is no track {name!r}.{nearest(name, TRACKS)}")
    return TRACKS[name].parse(told_settings(settings), name)
