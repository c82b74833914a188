"""The built engine as a file beside the vectors: a cache, opened only when its manifest proves it.

It lies in `engine/` of the index folder, with a manifest of its own that names the checksum of the
vectors' manifest. Whatever is wrong with it, the engine is built again.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss

from warmstart.core import RunError, publishing, verify_manifest
from warmstart.core.progress import note

from .engines import Flat
from .state import State

__all__ = ["engine_beside", "keep_engine", "publish_engine", "read_engine", "written_engine"]

FILE = "engine.faiss"
_limits = threading.Lock()


@contextmanager
def engine_beside(folder: Path) -> Iterator[Path]:
    """A place beside `folder` for the file; the next save sweeps what a kill left there."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def written_engine(state: State, beside: Path) -> faiss.Index:
    """The engine written and read back; a flat one, which is the vectors, as it is.

    Raises:
        RunError: When it cannot be written, or what was written cannot be read.
    """
    if isinstance(state.engine, Flat):
        return state.searcher
    beside.mkdir()
    _write(state.searcher, beside / FILE)
    searcher = _opened(beside / FILE, state)
    if searcher is None:
        raise RunError(f"The engine was written to {beside} and cannot be read back.")
    return searcher


def publish_engine(folder: Path, beside: Path, truth: str) -> None:
    """Move the file that `written_engine` wrote to its place."""
    if not (beside / FILE).is_file():
        return
    with publishing(folder / "engine", replace=True, kind="item-engine", truth=truth) as part:
        (beside / FILE).replace(part / FILE)


def read_engine(folder: Path, state: State, truth: str) -> faiss.Index | None:
    """The engine from its file, or None, with a note, when it has to be built again.

    Args:
        folder: The index folder, whose vectors are verified.
        state: What it has to fit.
        truth: Checksum of the vectors' manifest.
    """
    if isinstance(state.engine, Flat):
        return None
    try:
        manifest = verify_manifest(folder / "engine")
    except (RunError, OSError) as reason:  # also where another process moves it meanwhile
        note(f"The engine is built again from the vectors: {reason}")
        return None
    if manifest.get("truth") != truth or FILE not in manifest["files"]:
        note(f"{folder / 'engine'} belongs to other vectors; the engine is built again.")
        return None
    return _opened(folder / "engine" / FILE, state)


def keep_engine(folder: Path, state: State, truth: str) -> None:
    """Write an engine that was built again to its place, where that is allowed."""
    if isinstance(state.engine, Flat):
        return
    try:
        with publishing(folder / "engine", replace=True, kind="item-engine", truth=truth) as part:
            _write(state.searcher, part / FILE)
    except (OSError, RunError) as error:
        note(f"The engine was built again but could not be kept in {folder}: {error}")


def _write(searcher: faiss.Index, path: Path) -> None:
    try:
        faiss.write_index(searcher, str(path))
    except RuntimeError as error:  # FAISS has no other kind, also for a full disk
        raise RunError(f"{path} could not be written: {error}") from None


def _opened(path: Path, state: State) -> faiss.Index | None:
    """A FAISS index from a checked file; None, with a note, when it is not what the settings build.

    FAISS's limit on a vector's bytes is one for the process, so it is set for the time of reading.
    """
    with _limits:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            note(f"{path} cannot be read by FAISS {faiss.__version__}: {error}")
            return None
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
    right = index.d == state.vectors.dimension and index.ntotal == len(state.ids)
    if not right or index.metric_type != faiss.METRIC_INNER_PRODUCT or not state.engine.fits(index):
        note(f"{path} is not the engine that index.json describes; it is built again.")
        return None
    return index
