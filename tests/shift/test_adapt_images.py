"""A target's images under names that tell nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmstart.core import DataError
from warmstart.data import from_columns, read
from warmstart.shift.adapt_images import nameless_images


def test_images_are_linked_or_copied_and_bytes_are_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read(pictures)
    linked = nameless_images(rows, tmp_path / "linked")
    assert linked == [str(tmp_path / "linked" / content) for content in rows.contents]
    cells = [{"bytes": Path(one).read_bytes(), "path": f"red/{k}.png"}
             for k, one in enumerate(rows.column("image"))]  # fmt: skip
    held = from_columns(
        {"id": rows.ids, "image": cells, "label": rows.labels_N.tolist(),
         "content": rows.contents},
        label_names=rows.label_names, modality="image", source="held",
    )  # fmt: skip

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = nameless_images(rows, tmp_path / "copied")
    written = nameless_images(held, tmp_path / "written")
    for first, second, third in zip(linked, copied, written, strict=True):
        data = Path(first).read_bytes()
        assert data == Path(second).read_bytes() == Path(third).read_bytes()
    assert nameless_images(rows, tmp_path / "copied") == copied, "again, as when a run goes on"


def test_a_link_is_not_linked_and_an_image_that_is_gone_is_named(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "blue").mkdir()
    for name in ("red", "blue"):
        (tmp_path / name / "0.png").symlink_to(pictures / name / "0.png")
    rows = read(tmp_path)
    found = nameless_images(rows, tmp_path / "images")
    assert not any(Path(one).is_symlink() for one in found)
    (tmp_path / "red" / "0.png").unlink()
    with pytest.raises(DataError, match=r"red/0.png was there when the rows were read"):
        nameless_images(rows, tmp_path / "others")
