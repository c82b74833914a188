"""What a folder holds: class folders of images, the same by parts, or one table a part."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from warmstart.core.errors import DataError
from warmstart.core.progress import note
from warmstart.core.publish import MANIFEST
from warmstart.data.images import EXTENSIONS
from warmstart.data.labels import natural_key
from warmstart.data.meaning import part_name
from warmstart.data.rejects import Rejects
from warmstart.data.tables import Table, is_table, read_table

__all__ = ["read_folder"]

IMAGE_COLUMN = "image"
LABEL_COLUMN = "label"
PART_COLUMN = "split"

_SHARD = re.compile(r"(.+?)[-_.]\d+[-_.]of[-_.]\d+$")


def read_folder(folder: Path, rejects: Rejects, *, need_label: bool = True) -> list[Table]:
    """The tables of a folder; images become a table of paths and class names.

    Raises DataError that says what was found where neither layout fits.
    """
    entries = _visible(folder)
    files = [entry for entry in entries if entry.is_file()]
    folders = [entry for entry in entries if entry.is_dir()]
    parts = _part_tables(folder, files)
    if parts:
        return [read_table(path, rejects, part=part) for part, path in parts]
    by_part = {part_name(entry.name): entry for entry in folders if part_name(entry.name)}
    if "train" in by_part:
        return [_parted_images(folder, folders, files)]
    if any(_has_images(entry) for entry in folders):
        _refuse_collection(folder, folders)
        table = _new_table(folder)
        _add_classes(table, folders, None)
        _note_strays(folder, files)
        return [table]
    tables = [entry for entry in files if is_table(entry)]
    if len(tables) == 1:
        return [read_table(tables[0], rejects)]
    images = [entry for entry in files if _is_image(entry)]
    if images and not need_label:
        table = _new_table(folder)
        del table.columns[LABEL_COLUMN]
        for path in images:
            _add(table, path, None, None)
        return [table]
    raise DataError(_not_understood(folder, tables, images, folders))


def _visible(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error
    return [e for e in entries if not e.name.startswith((".", "__"))]


def _part_tables(folder: Path, files: Iterable[Path]) -> list[tuple[str, Path]]:
    """(part, file) of train.csv, test.csv and their like; several shards a part are allowed."""
    found: list[tuple[str, Path]] = []
    whole: dict[str, Path] = {}
    for path in files:
        if not is_table(path):
            continue
        shard = _SHARD.match(path.stem)
        part = part_name(shard.group(1) if shard else path.stem)
        if part is None:
            continue
        if not shard:
            if part in whole:
                raise DataError(
                    f"{folder} has both {whole[part].name} and {path.name} for the part {part}. "
                    "Keep one of them."
                )
            whole[part] = path
        found.append((part, path))
    if found and "train" not in {part for part, _ in found}:
        names = ", ".join(path.name for _, path in found)
        raise DataError(f"{folder} has {names} but no train file. Name one file to read it alone.")
    return sorted(found, key=lambda pair: ("train", "validation", "test").index(pair[0]))


# --- images --------------------------------------------------------------------------------------


def _new_table(folder: Path) -> Table:
    return Table("", "row", {IMAGE_COLUMN: [], LABEL_COLUMN: []}, [], folder)


def _add(table: Table, path: Path, label: str | None, part: str | None) -> None:
    table.columns[IMAGE_COLUMN].append(str(path.absolute()))
    if part is not None:
        table.columns.setdefault(PART_COLUMN, []).append(part)
    if LABEL_COLUMN in table.columns:
        table.columns[LABEL_COLUMN].append(label)
    table.at.append(len(table.at) + 1)


def _parted_images(folder: Path, folders: list[Path], files: list[Path]) -> Table:
    table = _new_table(folder)
    seen: dict[str, Path] = {}
    others = []
    for entry in folders:
        part = part_name(entry.name)
        if part is None:
            others.append(entry.name)
            continue
        if part in seen:
            raise DataError(
                f"{folder} has both {seen[part].name} and {entry.name} for the part {part}. "
                "Keep one of them."
            )
        seen[part] = entry
        inner = _visible(entry)
        _add_classes(table, [e for e in inner if e.is_dir()], part)
        _note_strays(entry, [e for e in inner if e.is_file()])
    if others:
        note(f"{folder}: left out beside the parts: {', '.join(others)}.")
    _note_strays(folder, files)
    if "train" not in table.columns.get(PART_COLUMN, ()):
        raise DataError(f"{seen['train']} has no class folders with images in them.")
    if len(set(table.columns[PART_COLUMN])) == 1:  # train alone is no split
        del table.columns[PART_COLUMN]
    return table


def _add_classes(table: Table, classes: list[Path], part: str | None) -> None:
    for entry in classes:
        images, strays = _images_below(entry)
        if strays:
            _note_strays(entry, strays)
        if not images:
            note(f"{entry} holds no images and is left out.")
        for path in images:
            _add(table, path, entry.name, part)


def _images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images, other files) in a folder and the folders in it; links to folders not followed."""
    images: list[Path] = []
    strays: list[Path] = []
    for where, inner, names in os.walk(folder):
        inner[:] = sorted((n for n in inner if not n.startswith((".", "__"))), key=natural_key)
        for name in sorted(names, key=natural_key):
            if not name.startswith("."):
                path = Path(where) / name
                (images if _is_image(path) else strays).append(path)
    return images, strays


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _has_images(folder: Path) -> bool:
    return any(
        _is_image(Path(name))
        for _, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )


def _refuse_collection(folder: Path, folders: list[Path]) -> None:
    """A folder of several data sets must not be read as one, each set taken for a class."""
    sets = [
        entry.name
        for entry in folders
        if any(part_name(e.name) == "train" for e in _visible(entry) if e.is_dir())
    ]
    if sets:
        raise DataError(
            f"{folder} holds several data sets ({', '.join(sets)}). Name one: {folder / sets[0]}."
        )


def _note_strays(folder: Path, files: Iterable[Path]) -> None:
    own = {MANIFEST, "README.txt"} if (folder / MANIFEST).is_file() else set()  # of `sample`
    names = [path.name for path in files if path.name not in own]
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        what = "file that is" if len(names) == 1 else "files that are"
        note(f"{folder}: {len(names):,} {what} no image of a class, ignored: {shown}.")


def _not_understood(
    folder: Path, tables: list[Path], images: list[Path], folders: list[Path]
) -> str:
    wanted = (
        "A folder must hold class folders of images (DIR/<class>/*.jpg), the same below train and "
        "test, or train.csv and test.csv."
    )
    if tables:
        names = ", ".join(path.name for path in tables)
        return f"{folder} holds {len(tables)} tables ({names}). Name one: {tables[0]}."
    if images:
        return f"{folder} holds {len(images)} images but no class folders. {wanted}"
    if folders:
        names = ", ".join(entry.name for entry in folders[:5])
        return f"{folder}: no images in its folders ({names}). {wanted}"
    return f"{folder} is empty. {wanted}"
