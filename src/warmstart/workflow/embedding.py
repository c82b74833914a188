"""Embedding all rows of a run once, and what that costs also where the cache had them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from warmstart.core import read_json, write_json
from warmstart.planning import Embedding, embedding_estimate, timed

from .prepare import Prepared

__all__ = ["embed_all"]

_FILE = "embedding.json"


def embed_all(prepared: Prepared, folder: Path, device: str) -> tuple[np.ndarray, Embedding]:
    """Vectors of all rows of the split, and what it took to make them.

    A resumed run keeps the figure of its first session. Where the vectors come from the cache, the
    time is estimated from a few rows that are embedded anew, so that an arm which stands on them
    does not look cheaper than it is.

    Args:
        prepared: Data and backbone.
        folder: The run's folder, where the figure is kept.
        device: Where to compute.
    """
    vectors_ND, measured = timed(prepared.embed, device)
    path = folder / _FILE
    if path.is_file():
        return vectors_ND, Embedding.parse(read_json(path), str(path))
    expected = embedding_estimate(prepared.backbone, prepared.dataset)
    if measured.seconds < expected / 2:
        measured = Embedding(seconds=expected, peak_bytes=measured.peak_bytes, from_cache=True)
    write_json(path, measured.model_dump())
    return vectors_ND, measured
