"""Users as texts: what a user tower that reads texts is told, and its vectors by a frozen encoder.

A user's text is what is known of the user, then the last titles, newest first: `age 24, job clerk.
Casablanca; The Third Man`. An encoder reads as much of it as it can, so that the newest stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from warmstart.backbones import Backbone, Space
from warmstart.core import NotApplicable, Run, RunError, fingerprint, progress

from .item_texts import load_text_encoder
from .profiles import value_name
from .sequences import QueryRows, Sequences, WindowBatch, query_batch
from .text_readers import READ_AT_ONCE, FreshTexts, TextReader

__all__ = [
    "PastTexts",
    "UserTexts",
    "about_text",
    "asked_windows",
    "item_titles",
    "past_texts",
    "user_text",
]

_LONGEST = 100  # characters of a text that stands for a missing title


def user_text(titles: Sequence[str], about: str = "") -> str:
    """What the tower reads of a user.

    Args:
        titles: Of the last items, newest first; blank ones are left out.
        about: What is known of the user beside.
    """
    told = "; ".join(title for title in titles if title)
    return f"{about}. {told}" if about and told else about or told


def about_text(attributes: Mapping[str, Any], names: Sequence[str]) -> str:
    """Attributes in words, such as `age 24, job clerk`; what is missing is left out.

    Args:
        attributes: By name.
        names: Those that are told, in this order.
    """
    words = [(name, " ".join((value_name(attributes.get(name)) or "").split())) for name in names]
    return ", ".join(f"{name} {word}" for name, word in words if word)


def item_titles(items: pl.DataFrame) -> list[str]:
    """The title of each item, else the beginning of its text; blank where it has neither.

    Args:
        items: Rows in the order of item codes, with `title` and perhaps `text`.
    """
    titles = items["title"].to_list()
    texts = items["text"].to_list() if "text" in items.columns else [None] * items.height
    return [
        " ".join((title or "").split()) or " ".join((text or "").split())[:_LONGEST]
        for title, text in zip(titles, texts, strict=True)
    ]


@dataclass(frozen=True)
class UserTexts:
    """What is needed to tell the tower of any user.

    Attributes:
        titles: Of the items, by code; an item beyond them has none.
        about: Attributes of the users in words, by code; blank where nothing is known.
        names: Attributes that are told, in order.
        last: Titles at most.
        width: Length E of the vectors.
        space: What the vectors depend on: the encoder's files, its length limit, its pooling.
        read: From texts to vectors; None until an encoder is given.
    """

    titles: tuple[str, ...]
    about: tuple[str, ...]
    names: tuple[str, ...]
    last: int
    width: int
    space: Space
    read: TextReader | None = None

    @property
    def fingerprint(self) -> str:
        """Of all that decides a vector."""
        return fingerprint(
            "user texts", list(self.titles), list(self.about), self.last, self.space.fingerprint
        )

    def to_json(self) -> dict[str, Any]:
        """All but the reader."""
        return {
            "titles": list(self.titles), "about": list(self.about), "names": list(self.names),
            "last": self.last, "width": self.width,
            "space": self.space.model_dump(mode="json"),
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> UserTexts:
        """As `to_json` wrote it; an encoder is given later, by `reading`.

        Raises:
            RunError: When it does not say in which space the vectors lie.
        """
        if "space" not in told:
            raise RunError(
                "this user tower does not say how its encoder was set: an earlier version wrote "
                "it. Fit it again."
            )
        return cls(
            tuple(told["titles"]), tuple(told["about"]), tuple(told["names"]),
            told["last"], told["width"], Space.parse(told["space"], "space"),
        )  # fmt: skip

    def reading(self, backbone: Backbone) -> UserTexts:
        """The same with an encoder to ask, set as it was for training.

        Args:
            backbone: The files of the encoder; length limit and pooling are set anew.

        Raises:
            RunError: When it is another one than the tower was trained on.
            BackboneError: When it cannot be set as it was.
        """
        if backbone.fingerprint != self.space.backbone:
            raise RunError(
                f"{backbone.name} is not the encoder that this user tower was trained on: its "
                "files differ. Name that one with --backbone."
            )
        set_so = backbone.in_space(self.space)
        return replace(self, read=FreshTexts(load_text_encoder(set_so)))

    def texts(
        self, queries: QueryRows, start: int, stop: int, about: str | None = None
    ) -> list[str]:
        """The texts of queries `start` to `stop`.

        Args:
            queries: Users and their histories.
            start: First query.
            stop: The one after the last.
            about: What is known of all of them, in place of what is known of their users.
        """
        offsets = np.asarray(queries.offsets_Q1)[start : stop + 1].tolist()
        users = np.asarray(queries.user_Q)[start:stop].tolist()
        found = []
        for place, user in enumerate(users):
            first = max(offsets[place], offsets[place + 1] - self.last)
            items = np.asarray(queries.items_H)[first : offsets[place + 1]].tolist()
            known = self.known(user) if about is None else about
            found.append(self.text(items, known))
        return found

    def text(self, items: Sequence[int], about: str) -> str:
        """The text of somebody with this history, oldest first."""
        newest = list(items)[: -self.last - 1 : -1]
        titles = [self.titles[code] if code < len(self.titles) else "" for code in newest]
        return user_text(titles, about)

    def read_ahead(self, queries: QueryRows, run: Run) -> None:
        """Read the texts of all these queries, so that they are kept.

        Args:
            queries: Users and their histories.
            run: How long it may take.

        Raises:
            NotApplicable: When the time is up before all are read.
        """
        texts = list(dict.fromkeys(self.texts(queries, 0, len(queries))))
        for _ in _in_time(self, texts, run):
            pass

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, E), float32; zeros for a blank text.

        Raises:
            RunError: When no encoder was given.
        """
        if self.read is None:
            raise RunError(
                "this user tower reads texts, and its encoder is not there. Give it: "
                "model.reading(backbone)."
            )
        found_NE = np.zeros((len(texts), self.width), dtype=np.float32)
        told = [place for place, text in enumerate(texts) if text.strip()]
        if told:
            found_NE[told] = self.read([texts[place] for place in told])
        return found_NE

    def known(self, user: int) -> str:
        """What is known of a user, in words; blank for one that is not among them."""
        return self.about[user] if 0 <= user < len(self.about) else ""


def asked_windows(
    queries: QueryRows,
    start: int,
    stop: int,
    history: int,
    texts: UserTexts | None,
    about: str | None = None,
) -> WindowBatch:
    """Queries `start` to `stop` as windows, with vectors of texts for a tower that reads them.

    Args:
        queries: Users and their histories.
        start: First query.
        stop: The one after the last.
        history: See `query_batch`.
        texts: None for a tower that reads item vectors.
        about: See `UserTexts.texts`.
    """
    windows = query_batch(queries, start, stop, history)
    if texts is None:
        return windows
    told_NE = texts.vectors(texts.texts(queries, start, stop, about))
    return replace(windows, told_NE=torch.from_numpy(told_NE))


@dataclass(frozen=True)
class PastTexts:
    """Vectors of what users were at some of their events.

    Attributes:
        row_P: Row of the newest text that was made at or before each event, for events as
            `Sequences` has them.
        vectors_SE: The vectors.
    """

    row_P: np.ndarray
    vectors_SE: np.ndarray

    def of(self, events_N: np.ndarray) -> Tensor:
        """Vectors (N, E) of some events."""
        return torch.from_numpy(self.vectors_SE[self.row_P[events_N]])


def past_texts(
    sequences: Sequences, teller: UserTexts, *, places: int, without: float, run: Run
) -> PastTexts:
    """Users as they were before some of their events, spread evenly over each sequence.

    A text is made before each event whose number is a multiple of a power of two, the least with
    which a user has at most `places` texts: so most of them are those of a shorter sequence, and
    are in the cache. It stands for the events up to the next one.

    Args:
        sequences: Users' events.
        teller: Makes texts and vectors.
        places: Texts of a user at most.
        without: Share of the texts that go without attributes: always the same ones.
        run: How long it may take.

    Raises:
        NotApplicable: When the time is up before all are read, or every text is blank.
    """
    offsets = sequences.offsets_U1.tolist()
    row_P = np.zeros(len(sequences), dtype=np.int64)
    texts: list[str] = []
    for user in range(len(offsets) - 1):
        first, count = offsets[user], offsets[user + 1] - offsets[user]
        step = 1 << max(0, math.ceil(math.log2(max(1, count) / places)))
        for place in range(0, count, step):
            row_P[first + place : first + min(place + step, count)] = len(texts)
            items = sequences.items_P[max(first, first + place - teller.last) : first + place]
            silent = _goes_without(user, place, without)
            texts.append(teller.text(items.tolist(), "" if silent else teller.known(user)))
    told = sum(1 for text in texts if text.strip())
    if not told:
        raise NotApplicable("history as text needs titles of the items or a users table")
    progress.note(f"{told:,} texts of users are read once and kept.")
    vectors_SE = np.concatenate(list(_in_time(teller, texts, run, ", or fewer places")))
    return PastTexts(row_P, vectors_SE)


def _in_time(
    teller: UserTexts, texts: Sequence[str], run: Run, or_else: str = ""
) -> Iterator[np.ndarray]:
    """Vectors of the texts, piece by piece while there is time.

    Raises:
        NotApplicable: When the time is up before all are read.
    """
    for start in range(0, len(texts), READ_AT_ONCE):
        if run.out_of_time():
            raise NotApplicable(
                f"the budget ended after {start:,} of {len(texts):,} texts of users were read. "
                f"They are kept: give it more time{or_else}."
            )
        yield teller.vectors(texts[start : start + READ_AT_ONCE])


def _goes_without(user: int, place: int, share: float) -> bool:
    """Whether this text goes without attributes: as if at random, but the same in every fit."""
    mixed = (user * 2_654_435_761 + place * 2_246_822_519 + 374_761_393) % 2**32
    mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) % 2**32
    return (mixed ^ (mixed >> 13)) % 2**32 < share * 2**32
