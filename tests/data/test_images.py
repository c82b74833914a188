"""Images: every mode becomes the right RGB, every damage a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.core.errors import DataError
from warmstart.data import read
from warmstart.data.images import UnreadableImageError, inspect, inspect_all, open_rgb

from .helpers import notes, picture, write


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def folder(root: Path, per_class: int = 3) -> Path:
    for c, name in enumerate(("cat", "dog")):
        for i in range(per_class):
            picture(root / name / f"{i}.png", seed=10 * c + i)
    return root


def bomb(side: int) -> bytes:
    """A PNG header that promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (4, 4), 100), (100, 100, 100)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), (1, 2, 3)),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 0)), (255, 255, 255)),  # transparent: white
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (
            Image.new("RGB", (4, 4), (250, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE),
            (250, 0, 0),
        ),
        (Image.fromarray(np.full((4, 4), 257 * 40, dtype=np.uint16)), (40, 40, 40)),
    ],
)
def test_modes_become_rgb(image: Image.Image, expected: tuple[int, ...]) -> None:
    found = open_rgb(encoded(image))
    assert found.mode == "RGB"
    assert found.getpixel((1, 1)) == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats_of_the_allow_list(kind: str) -> None:
    assert open_rgb(encoded(Image.new("RGB", (8, 5), (9, 9, 9)), kind)).size == (8, 5)


def test_first_frame_of_a_moving_picture() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_rgb(data).getpixel((0, 0)) == (255, 0, 0)


def test_cmyk_jpeg() -> None:
    assert open_rgb(encoded(Image.new("CMYK", (8, 8)), "JPEG")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_the_one_of_pillow(turn: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(image, exif=exif)
    slow = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(open_rgb(data)), np.asarray(slow))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just text", "no image of a known format"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:600], "cut short"),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:900], "cut short"),
        (encoded(Image.new("RGB", (4, 4)), "ICO"), "no image of a known format"),
        (bomb(14_200), "201640000|14200 x 14200 pixels, more than the limit"),
        (encoded(Image.new("L", (4000, 2))), "strip"),
    ],
)
def test_unusable_images_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        inspect(data)


def test_limits_can_be_set_and_pillow_never_warns() -> None:
    with pytest.raises(UnreadableImageError, match="limit of 100 "):
        inspect(encoded(Image.new("L", (20, 20))), max_pixels=100)
    with pytest.raises(UnreadableImageError, match="cut short"):  # size allowed, pixels absent
        inspect(bomb(9_800))  # 96 megapixels: Pillow alone would warn


def test_threads_report_each_image_in_order(tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png")
    found = inspect_all([good, tmp_path / "none.png", good] * 20)
    assert [isinstance(f, UnreadableImageError) for f in found] == [False, True, False] * 20


def test_class_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    write(root / "README.txt", "about")
    write(root / ".hidden", "x")
    write(root / "cat" / "notes.md", "x")
    with notes() as lines:
        data = read(root)
    assert data.modality == "image"
    assert data.class_counts == {"cat": 3, "dog": 3}
    assert data.ids[0] == "cat/0.png"
    assert data.inputs([0, 4])[1].size == (8, 6)
    assert data.parts is None
    assert data.column("width") == [8] * 6
    assert sum("ignored" in line for line in lines) == 2
    write(root / "manifest.json", "{}")  # as `sample` leaves it, with its README
    with notes() as lines:
        read(root)
    assert [line for line in lines if "ignored" in line] == [
        line for line in lines if "notes.md" in line
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_folders_by_part(tmp_path: Path, name: str) -> None:
    for part in ("train", name, "test"):
        folder(tmp_path / part, per_class=2)
    data = read(tmp_path)
    assert data.parts is not None
    assert sorted(set(data.parts)) == ["test", "train", "validation"]
    assert "train/cat/0.png" in data.ids


def test_class_only_in_test_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "test")
    picture(tmp_path / "test" / "cow" / "1.png")
    with pytest.raises(DataError, match=r"cow/1\.png: the label 'cow' stands in test but in no"):
        read(tmp_path)
    assert len(read(tmp_path, skip_bad=True).skipped) == 1


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0 torn"])
def test_bad_image_in_a_folder(tmp_path: Path, content: bytes) -> None:
    root = folder(tmp_path)
    write(root / "dog" / "bad.jpg", content)
    with pytest.raises(DataError, match=r"dog/bad\.jpg: "):
        read(root)
    data = read(root, skip_bad=True)
    assert len(data) == 6
    assert data.skipped[0].file.endswith("bad.jpg")


def test_huge_image_is_refused_before_decoding(tmp_path: Path) -> None:
    root = folder(tmp_path)
    write(root / "dog" / "huge.png", bomb(14_200))
    with pytest.raises(DataError, match=r"huge\.png: the image has 14200 x 14200 pixels"):
        read(root)


def test_a_folder_of_data_sets_is_not_read_as_classes(tmp_path: Path) -> None:
    for name in ("mnist", "usps"):
        folder(tmp_path / name / "train")
        folder(tmp_path / name / "test")
    with pytest.raises(DataError, match="several data sets"):
        read(tmp_path)


@pytest.mark.parametrize("make", ["empty", "flat", "nothing"])
def test_folders_that_are_no_data_set(tmp_path: Path, make: str) -> None:
    if make == "flat":
        picture(tmp_path / "a.png")
    if make == "nothing":
        write(tmp_path / "sub" / "a.bin", "x")
    with pytest.raises(DataError, match="A folder must hold class folders"):
        read(tmp_path)


def test_image_path_column(tmp_path: Path) -> None:
    folder(tmp_path / "files")
    absolute = picture(tmp_path / "elsewhere" / "x.png", seed=99)
    body = f"files/cat/0.png,a\nfiles/dog/0.png,b\n{absolute},a\n"
    path = write(tmp_path / "list.csv", "image_path,label\n" + body)
    data = read(path)
    assert data.modality == "image"
    assert data.ids[:2] == ["files/cat/0.png", "files/dog/0.png"]
    write(path, "image_path,label\n" + body + "files/none.png,b\n")
    with pytest.raises(DataError, match=r"list\.csv, line 5: .*none\.png: the file does not exist"):
        read(path)
    write(path, "image,label\nhttps://x.org/a.png,b\n" + body)
    with pytest.raises(DataError, match=r"line 2: .*read from files only"):
        read(path, image="image")


def test_image_gone_after_reading_is_a_data_error(tmp_path: Path) -> None:
    data = read(folder(tmp_path))
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cat/0\.png"):
        data.inputs()


def test_random_damage_never_gives_a_traceback() -> None:
    """1,400 damaged images: each is decoded or has a reason; no warning leaks."""
    generator = np.random.default_rng(0)
    noise = Image.effect_noise((24, 20), 90).convert("RGB")
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        clean = np.frombuffer(encoded(noise, kind), dtype=np.uint8)
        for _ in range(200):
            data = clean.copy()
            places = generator.integers(0, min(len(data), 400), 4)
            data[places] = generator.integers(0, 256, 4)
            try:
                inspect(data[: generator.integers(1, len(data) + 1)].tobytes(), max_pixels=10**6)
            except UnreadableImageError:
                continue


def test_relative_folder_and_file_are_read_from_where_one_stands(tmp_path, monkeypatch):
    root = tmp_path / "photos"
    for name, colour in (("cat", (200, 10, 10)), ("dog", (10, 10, 200))):
        (root / name).mkdir(parents=True)
        for i in range(2):
            shade = tuple(min(255, c + i) for c in colour)
            Image.new("RGB", (9, 9), shade).save(root / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    dataset = read("photos")
    assert len(dataset) == 4
    assert dataset.inputs([0])[0].size == (9, 9)
    monkeypatch.chdir(root)
    assert dataset.inputs([0])[0].size == (9, 9)  # and stay readable from elsewhere
    assert len(read("cat/0.png", need_label=False)) == 1


def test_an_image_whose_name_is_no_text(tmp_path: Path) -> None:
    """Its path could stand in no table: an error that can be printed, or a counted skip."""
    root = folder(tmp_path / "photos")
    first = next((root / "cat").iterdir())
    first.rename(os.fsdecode(bytes(first.parent) + b"/\xff.png"))
    with pytest.raises(DataError, match=r"\\udcff\.png: its name is not UTF-8"):
        read(root)
    (left,) = read(root, skip_bad=True).skipped
    assert left.file.encode().endswith(b"\\udcff.png")
