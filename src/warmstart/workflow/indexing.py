"""`index` and `refresh`: from a retrieval run to what is served.

Indexes of a run lie together in a folder beside it, numbered, each with the items it knows; a
pointer file names the one that is served. A refresh adds one and moves the pointer: a server that
runs takes it up whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from warmstart.backbones import Backbone
from warmstart.core import (
    DataError,
    RunError,
    Streams,
    UsageError,
    fingerprint,
    nearest,
    progress,
    publishing,
    write_json,
)
from warmstart.data import read_items
from warmstart.evaluation import Queries
from warmstart.reporting import write_index_report
from warmstart.retrieval import TwoTowerModel
from warmstart.retrieval.index import Engine, ItemId, Target, build_index, engine_from
from warmstart.serving import point

from .content import image_vectors
from .recommending import RetrievalRun, open_retrieval
from .run_encoders import run_encoder
from .run_index import (
    FACTS,
    ITEMS,
    POINTER,
    VECTORS,
    current_index,
    index_home,
    own_images,
    run_service,
)
from .runs import FinishedRun

__all__ = ["IndexReport", "build_run_index", "refresh"]

_REPORT, _BUILDING = "report.html", "building"
_ROWS = 65_536
_QUERIES = 1000
_SHOWN = ("title", "tags", "description", "image")


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
    wanted = _Wanted.of(engine, recall, p99_ms)
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    with _alone(opened):
        try:
            catalogue = _served(opened)
        except RunError as fault:
            progress.note(f"{fault} Built from the run alone, without what refresh changed.")
            catalogue = _own(opened)
        return _publish(opened, catalogue, wanted, thorough=thorough)


def refresh(
    run: FinishedRun | str | Path,
    items: str | Path | None = None,
    *,
    remove: Sequence[str] = (),
    item: str | None = None,
    recall: float = 0.95,
    p99_ms: float = 5.0,
    engine: str = "auto",
    backbone: Backbone | str | Path | None = None,
    image_backbone: Backbone | str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    allow_bin: bool = False,
) -> IndexReport:
    """Change the catalogue of a run's index without training; a running server takes it up whole.

    New items get a vector from their texts and pictures, read by the encoder as it was tuned,
    where it was. Items that are there already keep their vectors and are shown as the table now
    has them. Items that are removed are never answered; one of the run's own comes back with its
    vector when a later table has it.

    Args:
        run: A retrieval run or its folder.
        items: A table of items, as `read_interactions` reads one.
        remove: Ids of items to take out.
        item: The table's column of ids; by default found by its name.
        recall: See `build_run_index`.
        p99_ms: See `build_run_index`.
        engine: See `build_run_index`.
        backbone: The text encoder of the run, where its own name no longer finds it.
        image_backbone: Its image encoder, alike.
        device: Where towers and encoders are put.
        skip_bad: Leave bad rows of the table out, counted.
        allow_bin: Whether the encoder may have pickled weights.

    Raises:
        RunError: When the encoder is not the one that the run was made with, or another process
            builds an index of the run.
        DataError: When the table cannot be read or changes nothing, or an item to remove is not
            there.
        UsageError: For neither a table nor items to remove, or a run that cannot know new items.
    """
    if items is None and not remove:
        raise UsageError("refresh wants a table of items (--items) or ids to remove (--remove).")
    if isinstance(remove, str):
        raise UsageError(f"remove takes a list of ids, got {remove!r}. Write [{remove!r}].")
    wanted = _Wanted.of(engine, recall, p99_ms)
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    with _alone(opened):
        catalogue = _served(opened)
        if items is not None:
            table = read_items(
                items, item=item, usual=_reading(opened).get("item"), skip_bad=skip_bad
            )
            if both := sorted(set(remove) & set(table["item_id"])):
                raise DataError(f"{items} has the item {both[0]!r}, which is to be removed too.")
            folder = Path(items).expanduser().parent.resolve()
            read = _as_run(opened, table, folder)
            grown = _with_items(opened, catalogue, read, image_backbone)
            if grown is catalogue and not remove:
                raise DataError(
                    f"{items} holds no item that {opened.folder} does not know as it is."
                )
            if read["image"].str.starts_with("/").any():
                grown = replace(grown, images=tuple(dict.fromkeys((*grown.images, folder))))
            catalogue = grown
        return _publish(opened, _without(catalogue, remove, opened), wanted)


@dataclass(frozen=True)
class _Catalogue:
    """What is indexed.

    Attributes:
        towers: They know each item, and perhaps others.
        items: One row an item, in the order of the index.
        images: Folders that pictures lie in.
    """

    towers: TwoTowerModel
    items: pl.DataFrame
    images: tuple[Path, ...]


class _Wanted(NamedTuple):
    """What an index shall be like."""

    engine: Engine | str
    target: Target

    @classmethod
    def of(cls, engine: str, recall: float, p99_ms: float) -> _Wanted:
        target = Target.parse({"recall": recall, "p99_ms": p99_ms}, "index")
        return cls(engine if engine == "auto" else engine_from(engine), target)


@contextmanager
def _alone(run: RetrievalRun) -> Iterator[None]:
    """No other process changes the run's indexes meanwhile.

    Raises:
        RunError: When one does.
    """
    home = index_home(run)
    home.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(home / ".lock").acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"Another process is building an index of {run.folder}. Wait for it, or stop it."
        ) from None
    with lock:
        yield


def _served(run: RetrievalRun) -> _Catalogue:
    """The catalogue of the run's index, the run's own where there is none."""
    current = current_index(run)
    if current is None:
        return _own(run)
    service = run_service(run, current)
    return _Catalogue(service.towers, service.items.filter(~_among(service.gone)), service.images)


def _own(run: RetrievalRun) -> _Catalogue:
    return _Catalogue(run.towers, run.items, own_images(run))


def _reading(run: RetrievalRun) -> Mapping[str, Any]:
    """How the run's data were read."""
    return (run.results.get("data") or {}).get("reading") or {}


def _as_run(run: RetrievalRun, table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """A table's pictures and tags as the run has them.

    Paths of pictures start at the run's folder, or are whole where they lie elsewhere. A few rows
    do not show that tags are separated by spaces: they are where the run's have none and one of
    the words is such a tag.
    """
    known = {tag for tags in run.items["tags"].to_list() for tag in tags or ()}
    words = not any(" " in tag for tag in known)
    roots = [root.resolve() for root in own_images(run)]

    def picture(named: str | None) -> str | None:
        path = None if named is None else folder / named
        for root in roots:
            if path is not None and path.is_relative_to(root):
                path = path.relative_to(root)
        return None if path is None else path.as_posix()

    def apart(tags: Sequence[str]) -> list[str]:
        parts = [tag.split() if words and known & set(tag.split()) else [tag] for tag in tags]
        return list(dict.fromkeys(part for some in parts for part in some))

    return table.with_columns(
        pl.Series("image", [picture(one) for one in table["image"]], dtype=pl.String),
        pl.Series("tags", [apart(one) for one in table["tags"]], dtype=pl.List(pl.String)),
    )


def _without(found: _Catalogue, remove: Sequence[str], run: RetrievalRun) -> _Catalogue:
    if not remove:
        return found
    known = set(found.items["item_id"])
    missing = [name for name in remove if name not in known]
    if missing:
        raise DataError(
            f"The index of {run.folder} has no item {missing[0]!r} that could be removed."
            f"{nearest(missing[0], found.items['item_id'].head(1000).to_list())}"
        )
    left = found.items.filter(~_among(remove))
    if not left.height:
        raise DataError(f"All {found.items.height:,} items would be removed. Leave one at least.")
    progress.note(f"{found.items.height - left.height:,} of {found.items.height:,} items removed.")
    return replace(found, items=left)


def _with_items(
    run: RetrievalRun,
    old: _Catalogue,
    table: pl.DataFrame,
    image_backbone: Backbone | str | Path | None,
) -> _Catalogue:
    """The catalogue with the rows of a table; the same one where they change nothing."""
    known = _among(old.items["item_id"])
    again, absent = table.filter(known), table.filter(~known)
    shown, changed = _shown_as(old.items, again) if again.height else (old.items, 0)
    if again.height:
        many = "items are known and keep their vectors"
        words = "item is known and keeps its vector" if again.height == 1 else many
        progress.note(f"{again.height:,} {words}; {changed:,} shown otherwise than before.")
    if not absent.height:
        return replace(old, items=shown) if changed else old
    fresh = absent.filter(~_among(old.towers.item_ids))
    towers = _grown(run, old.towers, fresh, image_backbone) if fresh.height else old.towers
    columns = [name for name in shown.columns if name in absent.columns]
    every = pl.concat([shown, absent.select(columns)], how="diagonal_relaxed")
    return replace(old, towers=towers, items=every)


def _among(names: Iterable[str]) -> pl.Expr:
    return pl.col("item_id").is_in(list(names))


def _shown_as(items: pl.DataFrame, table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Items with what the table says people should see of them, and how many that changes."""
    told = {name: values for name, *values in table.select("item_id", *_SHOWN).iter_rows()}
    rows, changed = [], 0
    for name, *before in items.select("item_id", *_SHOWN).iter_rows():
        after = [new or old for new, old in zip(told.get(name, before), before, strict=True)]
        changed += after != before
        rows.append(after)
    types = {name: pl.List(pl.String) if name == "tags" else pl.String for name in _SHOWN}
    return items.with_columns(pl.DataFrame(rows, schema=types, orient="row")), changed


def _grown(
    run: RetrievalRun,
    towers: TwoTowerModel,
    fresh: pl.DataFrame,
    image_backbone: Backbone | str | Path | None,
) -> TwoTowerModel:
    """The towers with the vectors of items that they do not know."""
    if not towers.text and not towers.image:
        raise UsageError(
            f"{run.folder} knows items by their ids alone, so a new item has no vector. Fit a "
            "track that reads texts: two-tower or user-tower."
        )
    vectors_NT = vectors_NG = None

    def encoder(
        kind: Literal["backbone", "image_backbone"], named: Backbone | str | Path | None
    ) -> Backbone:
        return run_encoder(run.results, run.folder, kind, named, run.device, run.allow_bin)

    if towers.text:
        texts = fresh["text"].fill_null("").to_list()
        vectors_NT = towers.encode_texts(encoder("backbone", run.encoder), texts)
    if towers.image:
        vectors_NG = np.zeros((fresh.height, towers.image), dtype=np.float32)
        if any(paths := fresh["image"].to_list()):
            found_NG = image_vectors(paths, Path(), encoder("image_backbone", image_backbone))
            vectors_NG = vectors_NG if found_NG is None else found_NG
    return towers.with_items(fresh["item_id"].to_list(), vectors_NT, vectors_NG)


def _publish(
    run: RetrievalRun, catalogue: _Catalogue, wanted: _Wanted, *, thorough: bool = False
) -> IndexReport:
    """A numbered folder with the index and its items; the pointer names it at the end.

    Vectors that a stopped build has written are taken up where they are those of this one.
    """
    home = index_home(run)
    numbers = [int(path.name) for path in home.iterdir() if re.fullmatch(r"\d{4,}", path.name)]
    folder = home / f"{max(numbers, default=0) + 1:04d}"
    towers, names = catalogue.towers, catalogue.items["item_id"].to_list()
    code_of = {name: code for code, name in enumerate(towers.item_ids)}
    code_N = np.array([code_of[name] for name in names])
    vectors_ID = towers.item_vectors()

    def blocks(start: int) -> Iterator[tuple[Sequence[ItemId], np.ndarray]]:
        for first in range(start, len(names), _ROWS):
            stop = first + _ROWS
            yield names[first:stop], vectors_ID[code_N[first:stop]]

    queries_QD = _real_queries(run, towers)
    tower = towers.fingerprint
    with publishing(folder, task_type="retrieve", run=run.folder.name, tower=tower) as part:
        index = build_index(
            part / VECTORS, blocks, tower=tower, engine=wanted.engine, target=wanted.target,
            queries_QD=queries_QD, total=len(names), thorough=thorough,
            partial=home / _BUILDING, contents=fingerprint(names, vectors_ID),
        )  # fmt: skip
        catalogue.items.write_parquet(part / ITEMS)
        report = IndexReport(
            folder, len(names), index.engine.kind, index.engine.model_dump(), index.choice
        )
        write_json(part / FACTS, {**report.to_json(), "images": catalogue.images})
        write_index_report(report.to_json(), part / _REPORT)
    point(home / POINTER, folder)
    return report


def _real_queries(run: RetrievalRun, towers: TwoTowerModel) -> np.ndarray | None:
    """Vectors of some users as they are now: what searches will be asked with."""
    grouped = run.events.group_by("user", maintain_order=True).agg(pl.col("item"))
    if not grouped.height:
        return None
    drawn = Streams(0).numpy("users who ask an index").permutation(grouped.height)[:_QUERIES]
    rows = list(grouped[drawn].iter_rows())
    queries = Queries.of([codes for _, codes in rows], users=[user for user, _ in rows])
    return towers.user_vectors(queries)
