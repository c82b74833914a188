"""Where the events, items and users of a folder lie, told by the names of its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from warmstart.core.errors import DataError, nearest
from warmstart.data.filenames import is_utf8, printable
from warmstart.data.interaction_blocks import EventFile, column_names
from warmstart.data.interaction_columns import has_event_columns, squash
from warmstart.data.interaction_sources import (
    add_overviews,
    add_user_tags,
    read_atomic,
    read_dat,
    read_u_item,
    read_u_user,
)
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table, is_table, read_table

__all__ = ["Layout", "find_layout", "is_interactions"]

EVENT_SUFFIXES = (".csv", ".tsv", ".tab", ".parquet", ".pq")
_EVENT_STEMS = ("interactions", "events", "ratings", "rating", "transactions", "clicks", "views")
_ITEM_STEMS = ("items", "movies", "movie", "products", "books", "tracks", "songs", "articles",
               "videos", "news", "games", "artists")  # fmt: skip
_USER_STEMS = ("users", "customers", "members", "visitors")
_MOVIES_DAT = ("item_id", "title", "genres")
_USERS_DAT = ("user_id", "gender", "age", "occupation", "zip_code")
_LABELS = ("label", "labels", "sentiment", "class")
_TEXTS = ("text", "sentence", "review", "reviewtext", "content", "body", "comment", "message")

TableReader = Callable[[Rejects, list[str]], Table]
"""Reads an items or users table; sentences for the user are appended to the list."""


@dataclass(frozen=True)
class Layout:
    """The files of one source.

    Attributes:
        kind: What it is, in words.
        events: The interactions file.
        items: Reads the items table; None where there is none.
        users: Reads the users table; None where there is none.
        folder: What image paths are relative to.
    """

    kind: str
    events: EventFile
    items: TableReader | None
    users: TableReader | None
    folder: Path


def find_layout(path: Path) -> Layout:
    """How the source is laid out.

    Raises:
        DataError: When it does not exist, or nothing in it holds interactions.
    """
    if not is_utf8(str(path)):
        raise DataError(f"The name {printable(str(path))} is not UTF-8: rename it.")
    try:
        if path.is_dir():
            files = {e.name: e for e in sorted(path.iterdir()) if not e.name.startswith(".")}
            return _folder(path, files)
        if path.exists():
            return Layout("a file of interactions", _event_file(path), None, None, path.parent)
        there = [e.name for e in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    raise DataError(f"{path} does not exist." + nearest(path.name, there))


def is_interactions(
    source: object, *, user: str | None = None, item: str | None = None, time: str | None = None
) -> bool:
    """Whether a path holds interactions rather than labelled rows: a cheap look at names.

    A folder counts when it has a file of events (`interactions.csv`, RecBole's `*.inter`,
    MovieLens' own names); a file when its columns name a user, an item and a time and are not a
    text with a label. Never raises.

    Args:
        source: What the user named.
        user: Column of users, where the user says it. Such a column needs no telling name, and a
            text with a label beside it counts too; whether it is there is left to the reader.
        item: The same for items.
        time: The same for times.
    """
    if not isinstance(source, str | Path) or not str(source) or "\0" in str(source):
        return False
    path = Path(source).expanduser()
    try:
        if not path.exists():
            return False
        layout = find_layout(path)
        if path.is_dir() and _stem(layout.events.path) == "interactions":
            return True
        if layout.events.typed or layout.events.names is not None:
            return True
        names = column_names(layout.events)
    except (DataError, OSError, ValueError):
        return False
    squashed = {squash(name) for name in names}
    labelled = bool(squashed.intersection(_LABELS)) and bool(squashed.intersection(_TEXTS))
    said = {"user": user, "item": item, "time": time}
    return has_event_columns(names, said) and (path.is_dir() or any(said.values()) or not labelled)


# --- folders -------------------------------------------------------------------------------------


def _folder(folder: Path, files: dict[str, Path]) -> Layout:
    if {"u.data", "u.item"} <= set(files):
        return _movielens_100k(folder, files)
    if {"ratings.dat", "movies.dat"} <= set(files):
        return _movielens_1m(folder, files)
    atomic = [file for file in files.values() if file.suffix == ".inter"]
    if atomic:
        return _recbole(folder, files, atomic)
    events = _one_of(folder, files, _EVENT_STEMS, _is_event_table)
    if events is None:
        shown = ", ".join(list(files)[:10]) or "nothing"
        raise DataError(
            f"{folder} has no file of interactions (interactions.csv or interactions.parquet, "
            f"ratings.csv, *.inter, u.data); it holds {shown}."
        )
    items = _one_of(folder, files, _ITEM_STEMS, is_table)
    users = _one_of(folder, files, _USER_STEMS, is_table)
    used = {path.name for path in (events, items, users) if path is not None}
    others = [path for name, path in files.items() if name not in used and is_table(path)]
    movielens = _stem(events) in ("ratings", "rating") and items is not None

    def read_items(rejects: Rejects, notes: list[str]) -> Table:
        assert items is not None
        table = read_table(items, rejects)
        add_overviews(table, others, notes)
        if movielens:
            add_user_tags(table, others, notes)
        return table

    return Layout(
        "a MovieLens folder" if movielens else "a folder of interactions",
        _event_file(events),
        None if items is None else read_items,
        _reader(users, read_table),
        folder,
    )


def _reader(path: Path | None, read: Callable[[Path, Rejects], Table]) -> TableReader | None:
    return None if path is None else lambda rejects, _notes: read(path, rejects)


def _is_event_table(path: Path) -> bool:
    return path.suffix.lower() in EVENT_SUFFIXES


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(path.suffix)].lower()


def _one_of(
    folder: Path, files: dict[str, Path], stems: tuple[str, ...], fits: Callable[[Path], bool]
) -> Path | None:
    """The file with the first of these names; two files of one name are refused."""
    for stem in stems:
        found = [path for path in files.values() if fits(path) and _stem(path) == stem]
        if len(found) > 1:
            raise DataError(
                f"{folder} has both {found[0].name} and {found[1].name}. Keep one of them."
            )
        if found:
            return found[0]
    return None


def _recbole(folder: Path, files: dict[str, Path], atomic: list[Path]) -> Layout:
    if len(atomic) > 1:
        names = ", ".join(path.name for path in atomic)
        raise DataError(f"{folder} has several files of interactions: {names}. Name one of them.")
    stem = atomic[0].name.removesuffix(".inter")
    items, users = files.get(f"{stem}.item"), files.get(f"{stem}.user")
    return Layout(
        "RecBole's atomic files",
        _event_file(atomic[0]),
        _reader(items, read_atomic),
        _reader(users, read_atomic),
        folder,
    )


def _movielens_100k(folder: Path, files: dict[str, Path]) -> Layout:
    return Layout(
        "MovieLens 100K",
        _event_file(files["u.data"]),
        _reader(files["u.item"], read_u_item),
        _reader(files.get("u.user"), read_u_user),
        folder,
    )


def _movielens_1m(folder: Path, files: dict[str, Path]) -> Layout:
    return Layout(
        "MovieLens 1M",
        _event_file(files["ratings.dat"]),
        _reader(files["movies.dat"], partial(read_dat, names=_MOVIES_DAT)),
        _reader(files.get("users.dat"), partial(read_dat, names=_USERS_DAT)),
        folder,
    )


# --- one file ------------------------------------------------------------------------------------

_RATINGS = ("user_id", "item_id", "rating", "timestamp")


def _event_file(path: Path) -> EventFile:
    """How a file of events is written, by its name and the first line."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name == "u.data":
        return EventFile(path, "\t", names=_RATINGS, quoted=False)
    if name == "ratings.dat":
        return EventFile(path, "::", names=_RATINGS, quoted=False)
    if suffix == ".inter":
        return EventFile(path, "\t", quoted=False, typed=True)
    if suffix in (".parquet", ".pq"):
        return EventFile(path, "")
    if suffix in (".tsv", ".tab"):
        return EventFile(path, "\t")
    if suffix == ".csv":
        return EventFile(path, _separator(path))
    raise DataError(
        f"{path} is no file of interactions: the name must end in {', '.join(EVENT_SUFFIXES)} or "
        f".inter, got {suffix!r}."
    )


def _separator(path: Path) -> str:
    """The comma, or what the header has instead."""
    if not path.is_file():  # a pipe would be emptied by a look at it
        return ","
    with path.open("rb") as handle:
        header = handle.readline(2**20)
    counts = {mark: header.count(mark.encode()) for mark in ",;\t|"}
    if counts[","]:
        return ","
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ","
