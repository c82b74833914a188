"""A run beside its index: what is served, and the catalogue that a refresh has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from warmstart.core import MANIFEST, RunError, progress, read_json, verify_manifest
from warmstart.evaluation import Queries
from warmstart.retrieval import ProfileCode, TwoTowerModel, item_titles
from warmstart.retrieval.index import FaissIndex, ItemId
from warmstart.serving import ItemCard, pointed

from .recommending import RetrievalRun, Served

__all__ = [
    "FACTS",
    "ITEMS",
    "POINTER",
    "VECTORS",
    "RunService",
    "as_served",
    "current_index",
    "index_home",
    "own_images",
    "run_service",
]

POINTER = "current"
VECTORS, ITEMS, FACTS = "vectors", "items.parquet", "index.json"


@dataclass(frozen=True)
class RunService:
    """A retrieval run as `serving.RecommendService` wants one.

    Attributes:
        run: The run.
        towers: Its towers, with the items that were added since.
        index: What is searched.
        items: All items of the towers, in their order, as they are shown.
        gone: Ids of the run's items that were removed: histories may hold them, no answer does.
        images: Folders that pictures lie in.
    """

    run: RetrievalRun
    towers: TwoTowerModel
    index: FaissIndex
    items: pl.DataFrame
    gone: tuple[str, ...]
    images: tuple[Path, ...]

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
        """Items of each user, oldest first; of users without an event too."""
        names = self.run.items["item_id"].to_list()
        grouped = self.run.events.group_by("user", maintain_order=True).agg(pl.col("item"))
        found = dict(grouped.iter_rows())
        return {
            user: [names[item] for item in found.get(code, ())]
            for user, code in self.run.user_codes.items()
        }

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
    items = pl.read_parquet(folder / ITEMS)
    index = FaissIndex.load(folder / VECTORS, tower=towers.fingerprint)
    names = items["item_id"].to_list()
    if list(index.ids) != names:
        raise RunError(f"{folder} is damaged: its index and its items differ. Build it again.")
    own = run.items["item_id"].to_list()
    added = items.filter(~pl.col("item_id").is_in(own))
    if new := added["item_id"].to_list():
        titles = item_titles(pl.concat([run.items, added], how="diagonal_relaxed"))
        towers = towers.with_vectors((*towers.item_ids, *new), index.vectors(new))
        towers = towers.with_titles(titles)
    gone = run.items.filter(~pl.col("item_id").is_in(names))
    if names != list(towers.item_ids):  # some are gone, or came back after others
        every = pl.concat([items, gone], how="diagonal_relaxed")
        place = {name: row for row, name in enumerate(every["item_id"])}
        items = every[[place[name] for name in towers.item_ids]]
    named = read_json(folder / FACTS).get("images")
    images = own_images(run) if named is None else tuple(map(Path, named))
    return RunService(run, towers, index, items, tuple(gone["item_id"]), images)


def own_images(run: RetrievalRun) -> tuple[Path, ...]:
    """The folder of the run's own pictures, if it names one."""
    named = (run.results.get("data") or {}).get("images")
    return () if named is None else (Path(named),)


def as_served(run: RetrievalRun) -> RetrievalRun:
    """The run with the catalogue that its index serves, where a refresh has changed it."""
    current = current_index(run)
    if current is None or pl.read_parquet(current / ITEMS).equals(run.items):
        return run
    service = run_service(run, current)
    return replace(run, served=Served(service.towers, service.items, service.gone))


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
    if read_json(folder / MANIFEST).get("tower") != run.towers.fingerprint:  # checked when loaded
        progress.note(f"{folder} is of another model than {run.folder}: it is left aside.")
        return None
    return folder
