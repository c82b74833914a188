"""One verb that reads whatever holds labelled rows, told apart by what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.core.errors import DataError, UsageError, nearest
from warmstart.data.assemble import Settings, assemble
from warmstart.data.dataset import Dataset
from warmstart.data.filenames import is_utf8, printable
from warmstart.data.folders import read_folder
from warmstart.data.hub import is_hub_id, load_hub, load_saved, tables_of
from warmstart.data.images import EXTENSIONS, MAX_PIXELS
from warmstart.data.labels import LabelNames
from warmstart.data.limit import limit_rows
from warmstart.data.meaning import find_columns
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table, is_table, read_table

if TYPE_CHECKING:
    import datasets

__all__ = ["IN_MEMORY", "read"]

IN_MEMORY = "dataset"  # what messages call rows that came as an object


def read(
    source: str | Path | datasets.Dataset | datasets.DatasetDict,
    *,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
    split_column: str | None = None,
    group: str | None = None,
    label_names: LabelNames | None = None,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    limit: int | None = None,
    seed: int = 0,
    need_label: bool = True,
    need_classes: bool = True,
) -> Dataset:
    """Read a data set for classification and check every row of it.

    Args:
        source: Image folders (DIR/<class>/* or DIR/{train,val,test}/<class>/*), a folder with
            train.csv and test.csv (any table format), a table file (CSV, TSV, JSON lines, JSON,
            Parquet), a Hugging Face `datasets` object or saved folder, or a hub id.
        text: Column of texts; by default found by its name, else the longest texts.
        label: Column of classes; by default found by its name.
        image: Column of image paths (relative to the table's folder, or absolute).
        split_column: Column that says train, validation or test; by default one named split whose
            every value is such a name.
        group: Column whose values must be present, for a split by group.
        label_names: New class names: a list in the order of the sorted values, or a mapping.
        skip_bad: Leave bad rows out, counted in `skipped` and shown, instead of raising.
        max_pixels: An image with more pixels is a bad row; checked before decoding.
        limit: At most so many rows, drawn by class and part in proportion, a function of `seed`.
        seed: Root seed of the draw.
        need_label: False to read rows for prediction: labels may then be absent (-1).
        need_classes: False to read rows for scoring a finished model: one class is enough then.

    Raises:
        DataError: Naming file and row, or what is wrong with the whole.
        UsageError: For settings that fit no data.
    """
    rejects = Rejects(skip=skip_bad)
    name, tables = _tables(source, rejects, need_label=need_label)
    tables = [table for table in tables if len(table)]
    if not tables:
        rejects.announce()
        raise DataError(f"{name} has no usable rows ({len(rejects.items)} were left out as bad).")
    for table in tables:
        for column in table.columns:
            if not column or "\0" in column:
                raise DataError(f"{table.file or name}: a column name is empty or holds NUL.")
    columns = find_columns(
        tables,
        text=text,
        label=label,
        image=image,
        split_column=split_column,
        need_label=need_label,
    )
    if group is not None:
        for table in tables:
            if group not in table.columns:
                raise DataError(
                    f"{table.file or name} has no column {group!r} (group={group!r})."
                    + nearest(group, table.columns)
                )
    settings = Settings(name, label_names, max_pixels, need_label, need_classes, group)
    dataset = assemble(tables, columns, settings, rejects)
    return dataset if limit is None else limit_rows(dataset, limit, seed)


def _tables(source: Any, rejects: Rejects, *, need_label: bool) -> tuple[str, list[Table]]:
    if not isinstance(source, str | Path):
        import datasets

        if isinstance(source, datasets.Dataset | datasets.DatasetDict):
            return IN_MEMORY, tables_of(source, IN_MEMORY)
        raise UsageError(
            "The source must be a path, a hub id, a datasets.Dataset or a datasets.DatasetDict, "
            f"got {type(source).__name__}."
        )
    if "\0" in str(source):
        raise UsageError("The source holds a NUL character.")
    if source == "":  # an unset variable of a shell; Path would take it for the folder one is in
        raise UsageError("The source is empty. Name a file, a folder (. for this one) or a hub id.")
    if not is_utf8(str(source)):
        raise DataError(f"The name {printable(str(source))} is not UTF-8: rename it.")
    path = Path(source).expanduser()
    name = str(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.") from error
    if is_folder:
        saved = load_saved(path)
        if saved is not None:
            return name, tables_of(saved, name)
        return name, read_folder(path, rejects, need_label=need_label)
    if exists:
        if path.suffix.lower() in EXTENSIONS and not need_label and not is_table(path):
            image = Table("", "row", {"image": [str(path.absolute())]}, [1], path.parent)
            return name, [image]
        return name, [read_table(path, rejects)]
    if isinstance(source, str) and is_hub_id(source):
        return name, tables_of(load_hub(source), name)
    raise DataError(f"{name} does not exist." + _neighbours(path))


def _neighbours(path: Path) -> str:
    try:
        there = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return f" Its folder {path.parent} does not exist either."
    return nearest(path.name, there)
