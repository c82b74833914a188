"""Familiarity on disk: `familiarity.safetensors`, and `familiarity.json` with its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from warmstart.core import (
    FORMAT_VERSION,
    RunError,
    hash_file,
    read_json,
    write_atomic,
    write_json,
)

from .familiarity import FAMILIARITY_METHODS, Familiarity
from .familiarity_gaussian import Gaussian

__all__ = ["FAMILIARITY_FILE", "read_familiarity", "write_familiarity"]

FAMILIARITY_FILE = "familiarity.json"
_TENSORS = "familiarity.safetensors"
_PARTS = ("means", "directions", "variances")


def write_familiarity(familiarity: Familiarity, folder: Path, **facts: Any) -> None:
    """Write both files into a folder, which its publisher seals.

    Args:
        familiarity: What to keep.
        folder: Where.
        **facts: Further JSON values, which `read_familiarity` passes over.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {"rows": familiarity.rows_MD}
    own = familiarity.reference_RD is not familiarity.rows_MD
    if own:
        tensors["reference"] = familiarity.reference_RD
    part = familiarity.classes
    found = (part.means_CD, part.directions_KD, part.variances_K)
    tensors |= dict(zip(_PARTS, found, strict=True))
    tensors |= {f"calibration.{key}": value for key, value in familiarity.calibration.items()}
    path = folder / _TENSORS
    write_atomic(path, save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    write_json(
        folder / FAMILIARITY_FILE,
        {
            "format_version": FORMAT_VERSION,
            "task_type": "classify",
            "sha256": hash_file(path),
            "dimension": familiarity.dimension,
            "neighbours": familiarity.neighbours,
            "rest": familiarity.classes.rest,
            "own_reference": own,
            "counts": dict(familiarity.counts),
            **facts,
        },
    )


def read_familiarity(folder: Path) -> Familiarity:
    """Read back what `write_familiarity` wrote, to the bit.

    Raises:
        RunError: When a file is missing, damaged or of another version, naming it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, facts_path = folder / _TENSORS, folder / FAMILIARITY_FILE
    facts = read_json(facts_path)
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(
            f"{facts_path} has format version {version!r}; this warmstart reads {FORMAT_VERSION}."
        )
    if not path.is_file():
        raise RunError(f"{path} is missing. Restore it, or make the run again.")
    if hash_file(path) != facts.get("sha256"):
        raise RunError(f"{path} is damaged: its hash is not the one in {FAMILIARITY_FILE}.")
    try:
        tensors = load_file(path)
        made = Familiarity(
            classes=Gaussian(
                tensors["means"], tensors["directions"], tensors["variances"], float(facts["rest"])
            ),
            rows_MD=tensors["rows"],
            reference_RD=tensors["reference" if facts["own_reference"] else "rows"],
            neighbours=int(facts["neighbours"]),
            calibration={name: tensors[f"calibration.{name}"] for name in FAMILIARITY_METHODS},
            counts={str(name): int(n) for name, n in facts["counts"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error!r} while reading it.") from error
    _check(made, path)
    return made


def _check(made: Familiarity, path: Path) -> None:
    """Refuse shapes that do not fit one another."""
    if made.rows_MD.ndim != 2:
        raise RunError(f"{path} is damaged: its rows are no vectors.")
    width = made.dimension
    fits = made.reference_RD.ndim == 2 and made.reference_RD.shape[1] == width
    part = made.classes
    fits = fits and part.means_CD.shape[1:] == (width,) and len(part.means_CD) > 0
    fits = fits and part.directions_KD.shape == (len(part.variances_K), width)
    fits = fits and bool((part.variances_K > 0).all()) and part.rest >= 0
    fits = fits and 1 <= made.neighbours <= len(made.rows_MD)
    fits = fits and all(len(scores_N) for scores_N in made.calibration.values())
    if not fits:
        raise RunError(f"{path} is damaged: its arrays do not fit one another.")
