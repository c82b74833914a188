"""Which column is the text, the label, the image, the part: by flag or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from warmstart.core.errors import DataError, UsageError, nearest
from warmstart.core.progress import note
from warmstart.data.dataset import Modality
from warmstart.data.images import EXTENSIONS
from warmstart.data.tables import Table

__all__ = ["PART_NAMES", "Columns", "find_columns", "part_name"]

PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
}
"""What data sets call their parts, and what we call them."""

TEXT_NAMES = [
    "text",
    "sentence",
    "review",
    "content",
    "body",
    "comment",
    "message",
    "tweet",
    "document",
    "utterance",
    "question",
    "query",
    "title",
    "headline",
    "description",
    "abstract",
    "summary",
    "review_text",
    "sentence1",
    "input",
]
LABEL_NAMES = [
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "topic",
    "emotion",
    "class_name",
    "label_text",
    "coarse_label",
    "y",
]
IMAGE_NAMES = [
    "image",
    "image_path",
    "img",
    "img_path",
    "image_file",
    "file",
    "path",
    "filename",
    "file_name",
    "filepath",
]
SPLIT_NAMES = ("split", "part", "partition", "subset", "set")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that matter; None where there is none."""

    input: str
    modality: Modality
    label: str | None
    part: str | None
    id: str | None


def part_name(value: object) -> str | None:
    """train, validation or test for a data set's own name of the part, or None."""
    return PART_NAMES.get(str(value).strip().lower())


def find_columns(
    tables: Sequence[Table],
    *,
    text: str | None,
    label: str | None,
    image: str | None,
    split_column: str | None,
    need_label: bool,
) -> Columns:
    """Decide the columns for all tables together. DataError names the nearest column."""
    first = tables[0]
    names = list(first.columns)
    if text is not None and image is not None:
        raise UsageError(
            f"text={text!r} and image={image!r} were both given: a data set has one input column."
        )
    for flag, value in (("text", text), ("image", image), ("label", label)):
        if value is not None and value not in names:
            raise _missing(first, value, flag)
    if split_column is not None and split_column not in names:
        raise _missing(first, split_column, "split_column")
    label = label or _label_column(first, need_label=need_label, taken=(text, image))
    part = split_column or _part_column(tables, taken=(text, image, label))
    user_id = next((n for n in names if n.lower() == "id" and n not in (text, image, label)), None)
    taken = (label, part, user_id)
    modality: Modality = "text"
    if image is not None:
        column, modality = image, "image"
    elif text is not None:
        column = text
    else:
        column, modality = _input_column(first, taken)
    columns = Columns(column, modality, label, part, user_id)
    for table in tables[1:]:
        for name in (column, label, split_column):
            if (
                name is not None
                and name not in table.columns
                and not (name == label and not need_label)
            ):
                raise _missing(table, name, None)
    return columns


def _missing(table: Table, name: str, flag: str | None) -> DataError:
    said = f" ({flag}={name!r})" if flag else ", which the first part has"
    return DataError(f"{table.file} has no column {name!r}{said}." + nearest(name, table.columns))


def _by_name(table: Table, wanted: Sequence[str], taken: Sequence[str | None]) -> str | None:
    for name in wanted:
        for column in table.columns:
            if column.lower() == name and column not in taken:
                return column
    return None


def _nearest_of(names: Sequence[str], columns: Iterable[str]) -> str:
    """What `nearest` says, of whichever of the names some column is close to."""
    close = (c for c in columns if get_close_matches(c.lower(), names, n=1, cutoff=0.75))
    return nearest(next(close, names[0]), columns)


def _label_column(table: Table, *, need_label: bool, taken: tuple[str | None, ...]) -> str | None:
    found = _by_name(table, LABEL_NAMES, taken)
    if found is None and len(table.classes) == 1:
        found = next(iter(table.classes))
    if found is None and need_label:
        raise DataError(
            f"{table.file} has no label column that can be told by its name "
            f"({', '.join(LABEL_NAMES[:6])}, ...): say which with label=NAME (--label NAME)."
            + _nearest_of(LABEL_NAMES, table.columns)
        )
    return found


def _part_column(tables: Sequence[Table], taken: tuple[str | None, ...]) -> str | None:
    """A column named split (or so) whose every value names a part, when no file says the part."""
    if any(table.part for table in tables):
        return None
    found = _by_name(tables[0], SPLIT_NAMES, taken)
    if found is None or any(found not in table.columns for table in tables):
        return None
    values = {value for table in tables for value in map(str, table.columns[found])}
    if values and all(part_name(value) for value in values) and len(values) > 1:
        return found
    return None


def _input_column(table: Table, taken: tuple[str | None, ...]) -> tuple[str, Modality]:
    image = _by_name(table, IMAGE_NAMES, taken)
    if image is not None and _looks_like_images(table.columns[image]):
        return image, "image"
    text = _by_name(table, TEXT_NAMES, taken)
    if text is not None:
        return text, "text"
    widths = {
        name: _mean_length(values) for name, values in table.columns.items() if name not in taken
    }
    best = max(widths, key=lambda name: widths[name], default=None)
    if best is None or widths[best] <= 0:
        raise DataError(
            f"{table.file} has no column of text or of image paths. Columns: "
            f"{', '.join(table.columns) or 'none'}. Say which with text=NAME or image=NAME "
            "(--text NAME, --image NAME)."
        )
    if _looks_like_images(table.columns[best]):
        return best, "image"
    note(f"{table.file}: no column is named text; {best!r} is used, its texts being the longest.")
    return best, "text"


def _mean_length(values: Sequence[Any]) -> float:
    some = values[:1000]
    if any(v is not None and not isinstance(v, str) for v in some):
        return 0.0
    return sum(len(v) for v in some if v) / max(len(some), 1)


def _looks_like_images(values: Sequence[Any]) -> bool:
    for value in values[:100]:
        if value is None or value == "":
            continue
        if isinstance(value, dict):
            return "bytes" in value
        return isinstance(value, str) and PurePath(value.strip()).suffix.lower() in EXTENSIONS
    return False
