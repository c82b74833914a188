"""Images under names that tell nothing: the folder that an image lies in may be its class."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from warmstart.core import DataError, UsageError
from warmstart.data import Dataset
from warmstart.data.dataset import image_source

__all__ = ["TARGET_IMAGES", "nameless_images"]

TARGET_IMAGES = "target-images"


def nameless_images(rows: Dataset, folder: Path) -> list[str]:
    """Link or copy each row's image into a folder, one after the other, named by its content hash.

    What lies there already is left as it is, so that a run can go on.

    Args:
        rows: With images as paths or as bytes.
        folder: Made where it is not there.

    Returns:
        The path of each row's image; rows of equal content share one.

    Raises:
        DataError: When an image cannot be read any more.
        UsageError: When the folder cannot be written.
    """
    cells = rows.rows.select_columns(["image"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.absolute()
        paths = [place / content for content in rows.contents]
        for row, path in enumerate(paths):
            if not path.is_file():
                _put(image_source(cells[row]["image"]), path, rows.source)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot hold the target's images ({error.strerror or error}). Free some "
            "space or name another --out."
        ) from error
    return [str(path) for path in paths]


def _put(source: Path | bytes, path: Path, name: str) -> None:
    """One image, there whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    if isinstance(source, bytes):
        part.write_bytes(source)
    else:
        if not os.access(source, os.R_OK):
            raise DataError(
                f"{name}: the image {source} was there when the rows were read and cannot be read "
                "now. Put it back, or read the rows again."
            )
        try:
            os.link(os.path.realpath(source), part)  # of a link: what it names
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, part)
    part.replace(path)
