"""A finished retrieval run as a value, and `recommend`: what a user or a history gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from warmstart.backbones import Backbone
from warmstart.core import Config, DataError, RunError, UsageError, nearest
from warmstart.evaluation import Queries
from warmstart.models import Model
from warmstart.retrieval import TwoTowerModel

from .run_encoders import run_encoder
from .runs import FinishedRun, check_run

__all__ = ["Recommendation", "RetrievalRun", "Served", "open_retrieval", "open_run"]

_MOST = 1000


class Recommendation(Config):
    """One item of an answer.

    Attributes:
        item: Its id.
        score: Cosine of user and item, with what content and popularity add where they count.
        title: Its title, if it has one.
        tags: Its tags.
    """

    item: str
    score: float
    title: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Served:
    """The catalogue of a run's index, where it is another than the run's own.

    Attributes:
        towers: With the items that were added.
        items: The run's and those that were added, in the order of item codes.
        gone: Ids of the run's items that were removed.
    """

    towers: TwoTowerModel
    items: pl.DataFrame
    gone: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RetrievalRun(FinishedRun):
    """A retrieval run folder that was read back: it recommends instead of predicting.

    Attributes:
        encoder: The text encoder of the run, where its own name no longer finds it.
        allow_bin: Whether that encoder may have pickled weights.
        served: The catalogue to answer from in place of the run's own.
    """

    encoder: Backbone | str | Path | None = None
    allow_bin: bool = False
    served: Served | None = None

    @cached_property
    def model(self) -> Model:
        """None of that kind.

        Raises:
            RunError: Always.
        """
        raise RunError(
            f"{self.folder} is a run on interactions, which does not classify. Ask it with "
            "recommend."
        )

    @cached_property
    def towers(self) -> TwoTowerModel:
        """The kept towers, loaded on first use; where they read texts of users, with the encoder.

        Raises:
            RunError: When no track with towers ended, or the encoder is not the run's.
        """
        if self.served is not None:
            return self.served.towers
        if not (self.folder / "model").is_dir():
            raise RunError(
                f"{self.folder} kept no model: no arm with towers ended. Fit one: warmstart fit "
                "DATA --strategy two-tower."
            )
        found = TwoTowerModel.load(self.folder / "model", device=self.device)
        if found.teller is None:
            return found
        return found.reading(
            run_encoder(
                self.results, self.folder, "backbone", self.encoder, self.device, self.allow_bin
            )
        )

    @cached_property
    def items(self) -> pl.DataFrame:
        """The catalogue, in the order of item codes."""
        if self.served is not None:
            return self.served.items
        return pl.read_parquet(self.folder / "items.parquet")

    @cached_property
    def events(self) -> pl.DataFrame:
        """Positive events as codes of user and item with their time, in time order."""
        return pl.read_parquet(self.folder / "events.parquet")

    @cached_property
    def user_codes(self) -> dict[str, int]:
        """User id to code."""
        names = pl.read_parquet(self.folder / "users.parquet")["user_id"].to_list()
        return {name: code for code, name in enumerate(names)}

    @cached_property
    def item_codes(self) -> dict[str, int]:
        """Item id to code."""
        return {name: code for code, name in enumerate(self.items["item_id"].to_list())}

    def history(self, user: str) -> list[str]:
        """A known user's items, oldest first.

        Raises:
            DataError: For a user that the data do not have, with the nearest.
        """
        code = self.user_codes.get(user)
        if code is None:
            raise DataError(
                f"{self.folder} knows no user {user!r}.{_few(user, self.user_codes)} For somebody "
                "new give history= (--history)."
            )
        codes = self.events.filter(pl.col("user") == code)["item"]
        names = self.items["item_id"]
        return [names[int(place)] for place in codes]

    def recommend(
        self,
        *,
        user: str | None = None,
        history: Sequence[str] | None = None,
        k: int = 10,
        exclude: Sequence[str] = (),
        tag: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> list[Recommendation]:
        """What a known user, or anybody with this history, should see next.

        Items of the history are left out.

        Args:
            user: A user of the data; goes with no history.
            history: Item ids, oldest first; may be empty for somebody new.
            k: How many, 1 to 1,000.
            exclude: Further items to leave out.
            tag: Only items with this tag.
            attributes: What is known of whoever asks, as the users table has it; what is not told
                counts as missing. For a user of the data in place of what the table says.

        Raises:
            UsageError: For both or neither of user and history, a k outside its range, or an
                attribute that the towers do not read.
            DataError: For an unknown user or item.
        """
        if (user is None) == (history is None):
            raise UsageError("recommend wants either a user or a history, and not both.")
        if not 1 <= k <= _MOST:
            raise UsageError(f"k must be 1 to {_MOST}, got {k}.")
        past = self.history(user) if user is not None else list(history or ())
        codes = [self._code(name) for name in past]
        known = self.user_codes[user] if user is not None else -1
        queries = Queries.of([codes], users=[known])
        scores_I = np.asarray(self.towers.scores(queries, attributes).cpu(), dtype=np.float64)[
            0
        ].copy()
        gone = () if self.served is None else self.served.gone
        scores_I[[*codes, *(self._code(name) for name in (*exclude, *gone))]] = -np.inf
        if tag is not None:
            scores_I[~self._tagged(tag)] = -np.inf
        order = np.argsort(-scores_I, kind="stable")[:k]
        return [self._answer(int(code), scores_I) for code in order if np.isfinite(scores_I[code])]

    def _answer(self, code: int, scores_I: np.ndarray) -> Recommendation:
        row = self.items.row(code, named=True)
        return Recommendation(
            item=str(row["item_id"]), score=float(scores_I[code]), title=row.get("title"),
            tags=tuple(row.get("tags") or ()),
        )  # fmt: skip

    def _code(self, item: str) -> int:
        code = self.item_codes.get(item)
        if code is None:
            raise DataError(f"{self.folder} knows no item {item!r}." + _few(item, self.item_codes))
        return code

    def _tagged(self, tag: str) -> np.ndarray:
        found: np.ndarray = self.items["tags"].list.contains(tag).fill_null(False).to_numpy()
        if not found.any():
            every = {name for row in self.items["tags"].to_list() for name in row or ()}
            raise DataError(f"No item has the tag {tag!r}." + nearest(tag, sorted(every)[:200]))
        return found

    def __repr__(self) -> str:
        return f"RetrievalRun({str(self.folder)!r}, best={self.best})"


def _few(name: str, known: dict[str, int]) -> str:
    """The nearest of a catalogue that may be too long to search."""
    return nearest(name, list(known)) if len(known) <= 200 else f" It knows {len(known):,}."


def open_retrieval(
    run: FinishedRun | str | Path,
    *,
    device: str = "auto",
    backbone: Backbone | str | Path | None = None,
    allow_bin: bool = False,
) -> RetrievalRun:
    """A retrieval run, read after checking every file against its manifest where it is not yet.

    Args:
        run: A finished run or its folder.
        device: Where the model of a folder is put on first use.
        backbone: The run's text encoder, where its own name no longer finds it; only towers that
            read texts of users need one.
        allow_bin: Whether that encoder may have pickled weights.

    Raises:
        RunError: When it is unfinished, damaged, or no retrieval run.
    """
    found = run if isinstance(run, FinishedRun) else open_run(run, device=device)
    if not isinstance(found, RetrievalRun):
        raise RunError(
            f"{found.folder} is a run that classifies. recommend, index and serve take a run that "
            "was fitted on interactions."
        )
    if backbone is not None:
        found = replace(found, encoder=backbone)
    return replace(found, allow_bin=True) if allow_bin and not found.allow_bin else found


def open_run(
    folder: str | Path, *, device: str = "auto", code: Mapping[str, Any] | None = None
) -> FinishedRun:
    """Read a run folder of either task after checking every file against its manifest.

    Args:
        folder: The run's folder.
        device: Where its model is put on first use: `auto`, `cpu`, `cuda`, `mps`.
        code: For a run on a network of your own: `module`, `processor` and `groups`, as
            `backbone(module=...)` was given them.

    Raises:
        RunError: When it is unfinished, damaged, or no run at all.
    """
    path = Path(folder)
    if check_run(path).get("task_type") == "retrieve":
        return RetrievalRun(path, device)
    return FinishedRun(path, device, dict(code or {}))
