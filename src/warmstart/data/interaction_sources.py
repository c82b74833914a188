"""Tables of items and users in the forms of MovieLens and RecBole, and what lies beside them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from warmstart.core.errors import DataError
from warmstart.data.interaction_columns import (
    DESCRIPTION_NAMES,
    ITEM_NAMES,
    TITLE_NAMES,
    USER_NAMES,
    by_name,
    squash,
)
from warmstart.data.interaction_ids import id_text
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table, read_table

__all__ = [
    "USER_TAGS",
    "add_overviews",
    "add_user_tags",
    "read_atomic",
    "read_dat",
    "read_u_item",
    "read_u_user",
]

USER_TAGS = "user_tags"
"""Column of the tags that users gave; dated, so never part of an item's text."""

_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_U_ITEM = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *_GENRES)
_U_USER = ("user_id", "age", "gender", "occupation", "zip_code")


def read_u_item(path: Path, rejects: Rejects) -> Table:
    """MovieLens-100K's u.item: `|` between fields, Latin-1, one column a genre."""
    table = _plain(path, "|", _U_ITEM, "latin-1", rejects)
    flags = [table.columns.pop(genre) for genre in _GENRES]
    table.columns["genres"] = [
        [genre for genre, flag in zip(_GENRES, row, strict=True) if flag == "1"]
        for row in zip(*flags, strict=True)
    ]
    del table.columns["video_release_date"]
    return table


def read_u_user(path: Path, rejects: Rejects) -> Table:
    """MovieLens-100K's u.user: `|` between fields."""
    return _plain(path, "|", _U_USER, "latin-1", rejects)


def read_dat(path: Path, rejects: Rejects, names: Sequence[str]) -> Table:
    """A table of MovieLens 1M or 10M: `::` between fields, no header, UTF-8 or Latin-1."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    try:
        path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        encoding = "latin-1"
    return _plain(path, "::", names, encoding, rejects)


def read_atomic(path: Path, rejects: Rejects) -> Table:
    """One of RecBole's atomic files: tab-separated, a header of `name:type`.

    A `token_seq` other than the title becomes a list; columns of floats in sequence (vectors) are
    left out.
    """
    table = _plain(path, "\t", None, "utf-8", rejects)
    columns: dict[str, list[Any]] = {}
    for typed, values in table.columns.items():
        name, _, kind = typed.rpartition(":")
        if kind == "float_seq":
            continue
        words = kind == "token_seq" and squash(name) not in (*TITLE_NAMES, *DESCRIPTION_NAMES)
        columns[name or typed] = [v.split() for v in values] if words else values
    table.columns = columns
    return table


def _plain(
    path: Path,
    separator: str,
    names: Sequence[str] | None,
    encoding: Literal["utf-8", "latin-1"],
    rejects: Rejects,
) -> Table:
    """A table without quoting; without `names` the first line is the header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data.strip():
        raise DataError(f"{path} is empty.")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    first = 1
    if names is None:
        names = [cell.strip() for cell in lines[0].decode("utf-8", "replace").split(separator)]
        lines, first = lines[1:], 2
    columns: dict[str, list[Any]] = {name: [] for name in names}
    if len(columns) != len(names):
        raise DataError(f"{path}, line 1: the header has a column twice.")
    at: list[int] = []
    for place, raw in enumerate(lines, start=first):
        line = raw.removesuffix(b"\r")
        if not line.strip():
            continue
        try:
            cells = line.decode(encoding).split(separator)
        except UnicodeDecodeError:
            rejects.reject(str(path), place, "the row holds bytes that are not UTF-8.")
            continue
        if len(cells) != len(names):
            reason = f"the row has {len(cells)} fields, not {len(names)}."
            rejects.reject(str(path), place, reason)
            continue
        at.append(place)
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return Table(str(path), "line", columns, at, path.parent)


# --- tables beside the items ---------------------------------------------------------------------


def add_overviews(table: Table, others: Sequence[Path], notes: list[str]) -> None:
    """Take the descriptions of items from another table of the folder, where they lack one.

    A table fits when it has the items' own column of ids, each once, a description and no users.
    Its further columns come along under their own names.
    """
    key = by_name(list(table.columns), (*ITEM_NAMES, "id"))
    if key is None or by_name(list(table.columns), DESCRIPTION_NAMES) is not None:
        return
    for path in others:
        names = _names_of(path)
        same = by_name(names, (squash(key),))
        description = by_name(names, DESCRIPTION_NAMES)
        if same is None or description is None or by_name(names, USER_NAMES) is not None:
            continue
        other = read_table(path, Rejects(skip=True))
        place = {_key(value): i for i, value in enumerate(other.columns[same])}
        if len(place) < len(other):  # several rows an item: reviews or the like, no descriptions
            continue
        rows = [place.get(_key(value)) for value in table.columns[key]]
        for name, values in other.columns.items():
            if name != same and name not in table.columns:
                table.columns[name] = [None if i is None else values[i] for i in rows]
        known = sum(i is not None and bool(other.columns[description][i]) for i in rows)
        notes.append(
            f"{path.name} gives {known:,} of {len(rows):,} items a description "
            f"(column {description!r})."
        )
        return


def add_user_tags(table: Table, others: Sequence[Path], notes: list[str]) -> None:
    """Count the tags that users gave to items into a column of its own."""
    key = by_name(list(table.columns), (*ITEM_NAMES, "id"))
    path = next((path for path in others if path.stem.lower() in ("tags", "tag")), None)
    if key is None or path is None:
        return
    names = _names_of(path)
    same, said = by_name(names, (squash(key),)), by_name(names, ("tag",))
    if same is None or said is None:
        return
    other = read_table(path, Rejects(skip=True))
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item, tag in zip(other.columns[same], other.columns[said], strict=True):
        if tag is not None and str(tag).strip():
            counts[_key(item)][" ".join(str(tag).lower().split())] += 1
    table.columns[USER_TAGS] = [
        [tag for tag, _ in sorted(counts[item].items(), key=lambda pair: (-pair[1], pair[0]))]
        for item in map(_key, table.columns[key])
    ]
    notes.append(
        f"{path.name}: {len(other):,} tags by users are kept in the column {USER_TAGS!r}, apart "
        "from the items' text: they are dated, and those given after a cut would tell of the test."
    )


def _key(value: Any) -> str:
    try:
        return id_text(value) or ""
    except ValueError:
        return ""


def _names_of(path: Path) -> list[str]:
    """A table's columns, as far as a look at its beginning tells; none where it cannot be read."""
    from warmstart.data.interaction_blocks import EventFile, column_names

    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            return column_names(EventFile(path, ""))
        if suffix in (".csv", ".tsv", ".tab"):
            return column_names(EventFile(path, "," if suffix == ".csv" else "\t"))
    except DataError:
        pass
    return []
