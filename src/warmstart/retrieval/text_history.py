"""The user as text: last titles and attributes through a frozen encoder, and a projection of them.

What the encoder makes of a text is computed once and kept; what learns is the projection beside
the item tower, by the losses and negatives of the other tracks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt, model_validator

from warmstart.core import NotApplicable, Run, fingerprint
from warmstart.evaluation import Events, RankingTask

from .item_texts import ItemTexts
from .text_readers import CachedTexts
from .two_tower import Negatives, Shares, TwoTower
from .two_tower_work import Work
from .user_texts import UserTexts, about_text, past_texts

__all__ = ["TextHistory"]


class TextHistory(TwoTower):
    """Last titles and attributes as one text through a frozen encoder; a projection is learned.

    Needs: titles of the items. Pick when: users come with words and without a history of ids: from
    another catalogue, from a search, with a profile alone.

    Attributes:
        last: Titles of a user's text, newest first; the encoder may read fewer.
        places: Texts of a user at most that training reads.
        layers: Hidden layers of the projection.
        profile_dropout: Share of these texts that go without attributes.
    """

    name: ClassVar[str] = "text-history"
    title: ClassVar[str] = "History as text"
    use_ids: bool = False
    last: PositiveInt = 12
    places: PositiveInt = 16
    layers: int = Field(1, ge=0, le=4)
    shift: bool = False
    negatives: Negatives = "mixed"
    shares: Shares = Field(default_factory=lambda: {"in-batch": 0.5, "hard": 0.5})
    draws: PositiveInt = 256

    @model_validator(mode="after")
    def _reads_texts(self) -> TextHistory:
        """Settings that go against reading texts."""
        if not self.use_text:
            raise ValueError("use_text must be true: texts are what is read")
        if self.shuffle_ties:
            raise ValueError("shuffle_ties must be false: texts are made in one order")
        return self

    def _prepare(
        self,
        train: Events,
        run: Run,
        validation: RankingTask | None,
        **given: Any,
    ) -> Work:
        """The work of any fit, with the users' texts in place of their attributes as numbers."""
        texts: ItemTexts | None = given["texts"]
        text_IE: np.ndarray | None = given["text_IE"]
        users: pl.DataFrame | None = given["users"]
        if texts is None or text_IE is None or not any(texts.titles):
            raise NotApplicable(f"{self.title} needs titles of the items, and there are none")
        work = super()._prepare(train, run, validation, **given)
        names = tuple(column.name for column in (work.profiles.columns if work.profiles else ()))
        about: tuple[str, ...] = ()
        if users is not None and names:
            about = tuple(about_text(row, names) for row in users.iter_rows(named=True))
        teller = UserTexts(
            tuple(texts.titles), about, names, self.last, text_IE.shape[1],
            texts.backbone.space(modality="text"), CachedTexts(texts.backbone),
        )  # fmt: skip
        past = past_texts(
            work.sequences, teller, places=self.places, without=self.profile_dropout, run=run
        )
        if validation is not None:
            teller.read_ahead(validation.queries, run)
        return replace(
            work,
            shape=work.shape.model_copy(
                update={"profile": 0, "profile_dropout": 0.0, "told": teller.width}
            ),
            catalogue=replace(work.catalogue, profile_UP=None),
            fingerprint=fingerprint(work.fingerprint, teller.fingerprint),
            teller=teller,
            past=past,
        )
