"""`index` and `refresh`: from a retrieval run to what is served.

Indexes of a run lie together in a folder beside it, numbered, each with the items it knows; a
pointer file names the one that is served. A refresh adds one and moves the pointer: a server that
runs takes it up whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from warmstart.backbones import Backbone
from warmstart.core import (
    DataError,
    RunError,
    UsageError,
    progress,
    publishing,
    verify_manifest,
    write_json,
)
from warmstart.data import read_items
from warmstart.evaluation import Queries
from warmstart.reporting import write_index_report
from warmstart.retrieval import ProfileCode, TwoTowerModel, item_titles
from warmstart.retrieval.index import FaissIndex, ItemId, Target, build_index
from warmstart.serving import ItemCard, point, pointed

from .content import image_vectors
from .recommending import RetrievalRun, open_retrieval
from .run_encoders import run_encoder
from .runs import FinishedRun

__all__ = [
    "POINTER",
    "IndexReport",
    "RunService",
    "build_run_index",
    "current_index",
    "index_home",
    "refresh",
    "run_service",
]

POINTER = "current"
_VECTORS, _ITEMS, _FACTS, _REPORT = "vectors", "items.parquet", "index.json", "report.html"
_QUERIES = 1000


@dataclass(frozen=True)
class IndexReport:
    """What was built.

    Attributes:
        folder: The index with the items that it knows.
        items: How many.
        engine: Kind of the engine.
        settings: Its settings.
        choice: What was tried, where the engine was chosen by measurement; None otherwise.
    """

    folder: Path
    items: int
    engine: str
    settings: Mapping[str, Any]
    choice: Mapping[str, Any] | None

    @property
    def report(self) -> Path:
        """The page with the trade-off."""
        return self.folder / _REPORT

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "folder": str(self.folder), "items": self.items, "engine": self.engine,
            "settings": dict(self.settings), "choice": self.choice,
        }  # fmt: skip


def build_run_index(
    run: FinishedRun | str | Path,
    *,
    recall: float = 0.95,
    p99_ms: float = 5.0,
    engine: str = "auto",
    device: str = "auto",
    thorough: bool = True,
    backbone: Backbone | str | Path | None = None,
    allow_bin: bool = False,
) -> IndexReport:
    """Index the item vectors of a run, and let the pointer name that index.

    Its `report.html` draws recall against latency for all that was measured.

    Args:
        run: A retrieval run or its folder.
        recall: Share of the exact 100 nearest items that a search must find.
        p99_ms: Time that 99 of 100 searches may take, in milliseconds on one thread.
        engine: `auto` for what measurement finds, or flat, hnsw, ivf-flat, ivf-pq.
        device: Where the towers are put.
        thorough: Whether `auto` measures every engine at every effort, so that the report shows
            the whole trade-off; else it stops at the first that suffices.
        backbone: See `open_retrieval`.
        allow_bin: See `open_retrieval`.

    Raises:
        RunError: When the run kept no towers.
    """
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    towers, items = opened.towers, opened.items
    current = current_index(opened)
    if current is not None:  # with the items that were added since
        service = run_service(opened, current)
        towers, items = service.towers, service.items
    return _publish(opened, towers, items, recall, p99_ms, engine, thorough=thorough)


def refresh(
    run: FinishedRun | str | Path,
    items: str | Path,
    *,
    recall: float = 0.95,
    p99_ms: float = 5.0,
    engine: str = "auto",
    backbone: Backbone | str | Path | None = None,
    image_backbone: Backbone | str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    allow_bin: bool = False,
) -> IndexReport:
    """Add items that the run has not seen, by texts and pictures; a running server takes them up.

    Texts are read by the encoder as it was tuned, where it was.

    Args:
        run: A retrieval run or its folder.
        items: A table of items, as `read_interactions` reads one. Items that are there already
            keep their vectors; they are counted.
        recall: See `build_run_index`.
        p99_ms: See `build_run_index`.
        engine: See `build_run_index`.
        backbone: The text encoder of the run, where its own name no longer finds it.
        image_backbone: Its image encoder, alike.
        device: Where towers and encoders are put.
        skip_bad: Leave bad rows of the table out, counted.
        allow_bin: Whether the encoder may have pickled weights.

    Raises:
        RunError: When the encoder is not the one that the run was made with.
        DataError: When the table cannot be read or holds nothing new.
    """
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    allow_bin = opened.allow_bin
    known, towers = opened.items, opened.towers
    current = current_index(opened)
    if current is not None:
        service = run_service(opened, current)
        known, towers = service.items, service.towers
    found = read_items(items, skip_bad=skip_bad)
    fresh = found.filter(~pl.col("item_id").is_in(known["item_id"].to_list()))
    if found.height > fresh.height:
        same = found.height - fresh.height
        many = "items are known and keep their vectors"
        words = "item is known and keeps its vector" if same == 1 else many
        progress.note(f"{same:,} {words}.")
    if not fresh.height:
        raise DataError(f"{items} holds no item that {opened.folder} does not know.")
    if not towers.text and not towers.image:
        raise UsageError(
            f"{opened.folder} knows items by their ids alone, so a new item has no vector. Fit a "
            "track that reads texts: two-tower or user-tower."
        )
    every = pl.concat([known, fresh.select(_shared(known, fresh))], how="diagonal_relaxed")
    added = every.slice(known.height)
    vectors_NT = vectors_NG = None
    if towers.text:
        encoder = run_encoder(
            opened.results, opened.folder, "backbone", backbone, device, allow_bin
        )
        vectors_NT = towers.encode_texts(encoder, added["text"].fill_null("").to_list())
    if towers.image:
        vectors_NG = np.zeros((added.height, towers.image), dtype=np.float32)
        paths = added["image"].to_list()
        if any(paths):
            encoder = run_encoder(
                opened.results, opened.folder, "image_backbone", image_backbone, device, allow_bin
            )
            found_NG = image_vectors(paths, Path(items).expanduser().parent, encoder)
            vectors_NG = vectors_NG if found_NG is None else found_NG
    grown = towers.with_items(added["item_id"].to_list(), vectors_NT, vectors_NG)
    return _publish(opened, grown, every, recall, p99_ms, engine)


@dataclass(frozen=True)
class RunService:
    """A retrieval run as `serving.RecommendService` wants one.

    Attributes:
        run: The run.
        towers: Its towers, with the items that were added since.
        index: What is searched.
        items: The catalogue of the index.
    """

    run: RetrievalRun
    towers: TwoTowerModel
    index: FaissIndex
    items: pl.DataFrame

    @property
    def model(self) -> str:
        """The run's name."""
        return self.run.folder.name

    @cached_property
    def tower(self) -> str:
        """Fingerprint of the item tower."""
        return self.towers.fingerprint

    @cached_property
    def cards(self) -> Mapping[Any, ItemCard]:
        """What people see of the items."""
        columns = ("item_id", "title", "tags", "description", "image")
        rows = self.items.select(columns).iter_rows()
        return {
            name: ItemCard(title or name, tuple(tags or ()), description or "", image)
            for name, title, tags, description, image in rows
        }

    @cached_property
    def histories(self) -> Mapping[Any, Sequence[ItemId]]:
        """Items of each user, oldest first."""
        names = self.run.items["item_id"].to_list()
        grouped = self.run.events.group_by("user", maintain_order=True).agg(pl.col("item"))
        users = {code: name for name, code in self.run.user_codes.items()}
        return {users[user]: [names[code] for code in codes] for user, codes in grouped.iter_rows()}

    @property
    def images(self) -> Path | None:
        """Where pictures lie; None where the run names no folder."""
        named = (self.run.results.get("data") or {}).get("images")
        return None if named is None else Path(named)

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.towers.item_ids)}

    @property
    def profiles(self) -> ProfileCode | None:
        """The attributes of users that the towers read."""
        return self.towers.profiles

    def user_vector(
        self,
        history: Sequence[ItemId],
        user: ItemId | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """The query (D,) of a user; see `serving.RecommendService`."""
        codes = [self._codes[str(item)] for item in history if str(item) in self._codes]
        known = -1 if user is None else self.run.user_codes.get(str(user), -1)
        found: np.ndarray = self.towers.user_vectors(
            Queries.of([codes], users=[known]), attributes
        )[0]
        return found


def run_service(run: RetrievalRun, folder: Path) -> RunService:
    """What the index in `folder` needs to be served.

    Raises:
        RunError: When it belongs to another item tower, or is damaged.
    """
    towers = run.towers
    verify_manifest(folder)
    items = pl.read_parquet(folder / _ITEMS)
    index = FaissIndex.load(folder / _VECTORS, tower=towers.fingerprint)
    names = items["item_id"].to_list()
    if list(index.ids) != names:
        raise RunError(f"{folder} is damaged: its index and its items differ. Build it again.")
    added = names[len(towers.item_ids) :]
    if added:
        towers = towers.with_vectors(names, index.vectors(added)).with_titles(item_titles(items))
    return RunService(run, towers, index, items)


def index_home(run: RetrievalRun) -> Path:
    """Where the indexes of a run lie."""
    named = run.folder.resolve()
    return named.parent / f"{named.name}.index"


def current_index(run: RetrievalRun) -> Path | None:
    """The index that is served; None before there is one, or when it is of another item tower."""
    pointer = index_home(run) / POINTER
    if not pointer.exists():
        return None
    folder = pointed(pointer)
    if verify_manifest(folder).get("tower") != run.towers.fingerprint:
        progress.note(f"{folder} is of another model than {run.folder}: it is left aside.")
        return None
    return folder


def _shared(known: pl.DataFrame, fresh: pl.DataFrame) -> list[str]:
    return [name for name in known.columns if name in fresh.columns]


def _publish(
    run: RetrievalRun, towers: TwoTowerModel, items: pl.DataFrame, recall: float, p99_ms: float,
    engine: str, *, thorough: bool = False,
) -> IndexReport:  # fmt: skip
    """A numbered folder with the index and its items; the pointer names it at the end."""
    home = index_home(run)
    home.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in home.iterdir() if re.fullmatch(r"\d{4,}", path.name)]
    folder = home / f"{max(numbers, default=0) + 1:04d}"
    vectors_ID = towers.item_vectors()
    names = list(towers.item_ids)

    def blocks(start: int) -> Iterator[tuple[Sequence[ItemId], np.ndarray]]:
        for first in range(start, len(names), 65_536):
            yield names[first : first + 65_536], vectors_ID[first : first + 65_536]

    queries_QD = _real_queries(run, towers)
    target = Target.parse({"recall": recall, "p99_ms": p99_ms}, "index")
    tower = towers.fingerprint
    with publishing(folder, task_type="retrieve", run=run.folder.name, tower=tower) as part:
        index = build_index(
            part / _VECTORS, blocks, tower=tower, engine=engine, target=target,
            queries_QD=queries_QD, total=len(names), thorough=thorough,
        )  # fmt: skip
        items.write_parquet(part / _ITEMS)
        report = IndexReport(
            folder, len(names), index.engine.kind, index.engine.model_dump(), index.choice
        )
        write_json(part / _FACTS, report.to_json())
        write_index_report(report.to_json(), part / _REPORT)
    point(home / POINTER, folder)
    return report


def _real_queries(run: RetrievalRun, towers: TwoTowerModel) -> np.ndarray | None:
    """Vectors of users as they are now: what searches will be asked with."""
    grouped = run.events.group_by("user", maintain_order=True).agg(pl.col("item"))
    rows = list(grouped.head(_QUERIES).iter_rows())
    if not rows:
        return None
    queries = Queries.of([codes for _, codes in rows], users=[user for user, _ in rows])
    return towers.user_vectors(queries)
