"""Hugging Face data: `datasets` objects in memory, saved folders and ids on the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.core.errors import DataError
from warmstart.core.progress import note
from warmstart.data.meaning import part_name
from warmstart.data.tables import SUFFIXES, Table

__all__ = ["is_hub_id", "load_hub", "load_saved", "tables_of"]

CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def is_hub_id(source: str) -> bool:
    """Whether the text may be a hub id: name, owner/name, or either with :configuration."""
    return (
        _HUB_ID.fullmatch(source) is not None
        and not source.lower().endswith(SUFFIXES)
        and ".." not in source
    )


def load_hub(source: str) -> Any:
    """Load a data set from the hub. DataError with the reason where that fails."""
    import datasets
    from huggingface_hub import HfApi, constants

    name, _, configuration = source.partition(":")
    try:
        if not constants.HF_HUB_OFFLINE:  # asked first: the loader retries for half a minute
            HfApi().dataset_info(name, timeout=CONNECT_SECONDS)
        return datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the client raises its own kinds, httpx's and OSError
        _log.debug("hub", exc_info=True)
        said = str(error).strip().splitlines()
        reason = said[0][:200].rstrip(".") if said else type(error).__name__
        raise DataError(
            f"{source!r} is no file or folder here, and as a data set on the Hugging Face hub it "
            f"cannot be loaded: {reason}. Check the spelling and the connection; with "
            "HF_HUB_OFFLINE=1 a copy that was downloaded earlier is used."
        ) from error


def load_saved(folder: Path) -> Any | None:
    """A folder written by `save_to_disk`, or None where the folder is something else."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged Arrow or JSON: many kinds
        raise DataError(f"{folder} is a damaged `datasets` folder: {error}") from error


def tables_of(data: Any, name: str) -> list[Table]:
    """One Table for each part of a DatasetDict, or for a Dataset."""
    import datasets

    if isinstance(data, datasets.Dataset):
        return [_table(data, name, None)]
    if not isinstance(data, Mapping):
        raise DataError(
            f"{name}: a datasets.Dataset or DatasetDict is needed, got {type(data).__name__}."
        )
    parts = {key: part_name(key) for key in data}
    if "train" not in parts.values():
        if len(data) == 1:
            (only,) = data.values()
            return [_table(only, name, None)]
        raise DataError(f"{name} has no train part. Parts: {', '.join(map(str, data))}.")
    left_out = [str(key) for key, part in parts.items() if part is None]
    if left_out:
        note(f"{name}: parts left out: {', '.join(left_out)}.")
    order = ("train", "validation", "test")
    found = sorted(
        ((part, key) for key, part in parts.items() if part), key=lambda p: order.index(p[0])
    )
    if len({part for part, _ in found}) != len(found):
        raise DataError(f"{name} has two parts for one purpose: {', '.join(k for _, k in found)}.")
    return [_table(data[key], f"{name}[{key}]", part) for part, key in found]


def _table(rows: Any, name: str, part: str | None) -> Table:
    import datasets

    classes: dict[str, tuple[str, ...]] = {}
    for column, kind in rows.features.items():
        if isinstance(kind, datasets.ClassLabel):
            classes[column] = tuple(kind.names)
        elif isinstance(kind, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    arrow = rows.with_format("arrow")[:]
    columns = {column: arrow.column(column).to_pylist() for column in arrow.column_names}
    at = list(range(1, arrow.num_rows + 1))
    return Table(name, "row", columns, at, Path.cwd(), part=part, classes=classes)
