"""The one way to publish: written beside, flushed, checksummed last, renamed whole.

A reader finds the old state or the new one, never a part. `manifest.json` holds the SHA-256 of
every other file and of its own contents and is written last, so a folder without it was never
finished.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RunError
from .fingerprint import hash_file

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "finish_folder",
    "publishing",
    "read_json",
    "sweep",
    "verify_manifest",
    "write_atomic",
    "write_json",
    "write_manifest",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MANY = 100  # files


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace one file whole: temporary file beside it, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    raw = data.encode("utf-8") if isinstance(data, str) else data
    try:
        with temporary.open("wb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # the user knows this name, not the temporary one
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write JSON (UTF-8, indented); NumPy scalars, arrays and paths are converted.

    Raises:
        ValueError: For NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_atomic(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: When the file is missing or is not JSON, naming it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}. Restore it or make it again.") from None


def write_manifest(folder: Path, **facts: object) -> None:
    """Write manifest.json: a SHA-256 for every file below `folder`, the given facts, a checksum."""
    files = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": files}
    write_json(folder / MANIFEST, {**manifest, "checksum": _checksum(manifest)})


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file of a published folder against its manifest.

    Returns:
        The manifest.

    Raises:
        RunError: Naming the file that is missing or damaged, or the unknown version. Files that
            the manifest does not list are passed over.
    """
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} has no {MANIFEST}: it is no finished warmstart folder.")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise RunError(f"{folder / MANIFEST} is damaged: it lists no files.")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise RunError(
            f"{folder} has format version {version!r}; this warmstart reads {FORMAT_VERSION}."
        )
    listed = {key: value for key, value in manifest.items() if key != "checksum"}
    if manifest.get("checksum") != _checksum(listed):
        raise RunError(
            f"{folder / MANIFEST} is damaged: its contents do not match its own checksum. Make the "
            "folder again."
        )
    for name, expected in manifest["files"].items():
        path = folder / name
        if not _is_inside(path, folder):
            raise RunError(f"{folder / MANIFEST} names {name!r}, which lies outside the folder.")
        if not path.is_file():
            raise RunError(f"{path} is missing though the manifest lists it. Make it again.")
        if hash_file(path) != expected:
            raise RunError(f"{path} is damaged: its SHA-256 is not the manifest's. Make it again.")
    return manifest


@contextmanager
def publishing(final: Path, *, replace: bool = False, **facts: object) -> Iterator[Path]:
    """Yield an empty folder beside `final` that becomes `final` when the context ends well.

    Args:
        final: The folder to publish.
        replace: Whether an existing `final` may be replaced.
        **facts: Written to the manifest.

    Raises:
        RunError: When `final` exists and `replace` is false.
    """
    sweep(final)
    if final.exists() and not replace:
        raise RunError(f"{final} exists already. Name another folder or ask for its replacement.")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        finish_folder(temporary, final, replace=replace, **facts)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def finish_folder(folder: Path, final: Path, *, replace: bool = False, **facts: object) -> None:
    """Flush `folder`, write its manifest and rename it to `final`.

    When the last rename fails, what was at `final` is put back.

    Raises:
        RunError: When `final` exists and `replace` is false.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    torn = {path for path in files if _is_torn(path)}  # what a killed `write_atomic` left
    for path in torn:
        path.unlink()
    _flush([path for path in files if path not in torn])
    write_manifest(folder, **facts)
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
    if final.exists():
        if not replace:
            raise RunError(f"{final} exists already. Name another folder.")
        aside = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.old")
        final.rename(aside)
        try:
            folder.rename(final)
        except BaseException:
            aside.rename(final)
            raise
    else:
        folder.rename(final)
    _sync_folder(final.parent)
    for old in _left(final, "old"):
        shutil.rmtree(old, ignore_errors=True)


def sweep(final: Path) -> None:
    """Clear what killed publications of `final` left; a set-aside old state comes back.

    Between the two renames of a replacement `final` is missing for an instant; a process killed
    there leaves the old state under its `.old` name, which is put back here.
    """
    for old in _left(final, "old"):
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
    for temporary in _left(final, "tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def _left(final: Path, ending: str) -> list[Path]:
    """Folders beside `final` that an earlier publication of it made."""
    found = final.parent.glob(f".{glob.escape(final.name)}.????????.{ending}")
    return sorted(path for path in found if path.is_dir())


def _is_torn(path: Path) -> bool:
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a loop of links, a NUL in the name
        return False


def _checksum(value: object) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    plain = json.loads(json.dumps(value, default=_plain))
    text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _flush(files: list[Path]) -> None:
    """Bring files to the disk: many side by side, as one after another costs some 3 ms each."""

    def flush(path: Path) -> None:
        with path.open("rb") as handle:
            os.fsync(handle.fileno())

    with ThreadPoolExecutor(8 if len(files) > _MANY else 1) as pool:
        list(pool.map(flush, files))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
