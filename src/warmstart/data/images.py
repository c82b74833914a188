"""Opening images safely: an allow-list of formats, size checked before decoding, always RGB."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from warmstart.core.progress import task
from warmstart.data.filenames import is_utf8

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_PIXELS",
    "ImageFacts",
    "ImageSource",
    "UnreadableImageError",
    "inspect",
    "inspect_all",
    "open_rgb",
]

ImageSource = Path | bytes

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are read; all others are refused unopened."""

EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1 << 30
MAX_ASPECT = 500
"""A strip longer than this is refused: resizing its short side would need gigabytes."""


class UnreadableImageError(Exception):
    """One image cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class ImageFacts:
    """What was learnt by decoding an image once: hash of its bytes, width and height in pixels."""

    content: str
    width: int
    height: int


class _Quiet:
    """Silences Pillow's warnings while any thread is inside; restores the filters after the last.

    `warnings.catch_warnings` alone is not safe when threads enter and leave in turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0 and self._saved is not None:
                    self._saved.__exit__(None, None, None)
                    self._saved = None


_quiet = _Quiet()


def open_rgb(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to RGB, upright by its EXIF orientation.

    Transparency is laid over white; 16-bit values are scaled to 8 bits by 257; of a moving
    picture the first frame is taken. Raises UnreadableImageError.
    """
    return _decode(_bytes(source), max_pixels)


def inspect(source: ImageSource, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Decode one image fully to learn that it can be used. Raises UnreadableImageError."""
    data = _bytes(source)
    image = _decode(data, max_pixels)
    return ImageFacts(blake2b(data, digest_size=16).hexdigest(), image.width, image.height)


def inspect_all(
    sources: Sequence[ImageSource], max_pixels: int = MAX_PIXELS
) -> list[ImageFacts | UnreadableImageError]:
    """Facts, or the reason why not, for each image in order; threads, with a progress bar."""

    def one(source: ImageSource) -> ImageFacts | UnreadableImageError:
        try:
            return inspect(source, max_pixels)
        except UnreadableImageError as error:
            return error

    found: list[ImageFacts | UnreadableImageError] = []
    workers = min(8, os.cpu_count() or 1)
    with (
        _quiet(),
        task("checking images", total=len(sources), unit="images") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for result in pool.map(one, sources):
            found.append(result)
            bar.advance()
    return found


def _bytes(source: ImageSource) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            if not is_utf8(str(source)):
                raise UnreadableImageError("its name is not UTF-8; rename it.")
            if not source.is_file():
                raise UnreadableImageError("the file does not exist or is not a file.")
            if source.stat().st_size > MAX_FILE_BYTES:
                raise UnreadableImageError("the file is larger than 1 GiB.")
            data = source.read_bytes()
        except (OSError, ValueError) as error:
            raise UnreadableImageError(f"the file cannot be read ({error}).") from error
    if not data:
        raise UnreadableImageError("the file is empty.")
    return data


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    with _quiet():
        try:
            image = _open(data)
            _check_size(image.width, image.height, max_pixels)
            return _to_rgb(image)
        except UnreadableImageError:
            raise
        except Exception as error:  # decoders raise some fifteen kinds on damaged bytes
            reason = str(error).rstrip(".") or type(error).__name__
            raise UnreadableImageError(f"the image is damaged or cut short ({reason}).") from error


def _open(data: bytes) -> Image.Image:
    """Open by the registered factories, so that Pillow's own pixel limit does not cut in."""
    Image.init()
    prefix = data[:16]
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        if accept is not None:
            answer = accept(prefix)
            if not answer or isinstance(answer, str):
                continue
        return factory(io.BytesIO(data), "")
    raise UnreadableImageError(
        "the bytes are no image of a known format (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM)."
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UnreadableImageError(f"the image has no pixels ({width} x {height}).")
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"the image has {width} x {height} pixels, more than the limit of {max_pixels:,} "
            "(max_pixels)."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"the image is a strip of {width} x {height} pixels, longer than {MAX_ASPECT} : 1."
        )


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation tag (0x0112) to the turn that undoes it."""


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I"):  # 16 bits a value
        levels = (np.asarray(image).astype(np.int64) + 128) // 257
        rgb = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    elif image.mode == "F":
        shades = np.nan_to_num(np.asarray(image, dtype=np.float64))
        if shades.max(initial=0.0) <= 1.0:
            shades = shades * 255.0
        rgb = Image.fromarray(np.clip(shades, 0, 255).astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        over = image.convert("RGBA")
        ground = Image.new("RGBA", over.size, (255, 255, 255, 255))
        ground.alpha_composite(over)
        rgb = ground.convert("RGB")
    else:
        rgb = image.convert("RGB")  # a copy where the image is RGB already
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
