"""What a run was trained on, by content: ids differ between files, equal rows have equal hashes."""

from __future__ import annotations

from pathlib import Path

from warmstart.core import FORMAT_VERSION, Config, RunError, read_json, write_json
from warmstart.data import Dataset

from .prepare import Prepared

__all__ = ["CONTENTS_FILE", "Seen", "count_seen", "write_seen"]

CONTENTS_FILE = "contents.json"


class Seen(Config):
    """How many rows of a data set a run has seen already.

    Attributes:
        train: Rows whose content stands among the run's training rows.
        validation: Rows whose content stands among its validation rows.
    """

    train: int
    validation: int


def write_seen(folder: Path, prepared: Prepared) -> None:
    """Write the content hashes of training and validation rows to `contents.json`."""
    of = dict(zip(prepared.dataset.ids, prepared.dataset.contents, strict=True))
    parts = {"train": prepared.split.train, "validation": prepared.split.validation}
    write_json(
        folder / CONTENTS_FILE,
        {
            "format_version": FORMAT_VERSION,
            "task_type": "classify",
            **{name: sorted({of[row_id] for row_id in ids}) for name, ids in parts.items()},
        },
    )


def count_seen(folder: Path, dataset: Dataset) -> Seen | None:
    """Count the rows of `dataset` whose content the run in `folder` was trained or chosen on.

    Returns:
        The counts; None for a run that keeps no contents.

    Raises:
        RunError: When the file of contents is damaged.
    """
    path = folder / CONTENTS_FILE
    if not path.is_file():
        return None
    known = read_json(path)
    try:
        train, validation = set(known["train"]), set(known["validation"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: it lists no training and validation rows.") from error
    return Seen(
        train=sum(content in train for content in dataset.contents),
        validation=sum(content in validation for content in dataset.contents),
    )
