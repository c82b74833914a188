"""Small grey images held in memory, and how they become an image folder."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from warmstart.core import DataError, Streams, UsageError, progress

__all__ = ["Pictures", "digits", "limited", "read_idx", "stratified", "write_folder"]


@dataclass(frozen=True)
class Pictures:
    """Grey images of one split.

    Attributes:
        images_NHW: uint8, 0 is black.
        labels_N: Position in `classes`.
        classes: One name a class, usable as a folder name.
    """

    images_NHW: np.ndarray
    labels_N: np.ndarray
    classes: tuple[str, ...]

    def take(self, indices: np.ndarray) -> Pictures:
        """The images at these positions."""
        return Pictures(self.images_NHW[indices], self.labels_N[indices], self.classes)


def read_idx(raw: bytes, name: str) -> np.ndarray:
    """Decode the IDX format with unsigned bytes.

    Source: the format's description beside the original MNIST files: two zero bytes, a type byte
    (8 = unsigned byte), the number of dimensions, each size as a big-endian 32-bit integer, then
    the values in C order.

    Raises:
        DataError: When the header or the length is not of this form.
    """
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4:
        raise DataError(f"{name} is no IDX file of unsigned bytes.")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"{name} is cut short: its IDX header is not whole.")
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    expected = int(np.prod([int(size) for size in shape], dtype=object))
    if len(raw) - start != expected:
        raise DataError(f"{name} must have {expected:,} values, got {len(raw) - start:,}.")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def stratified(labels_N: np.ndarray, count: int, *, name: str) -> np.ndarray:
    """Positions of `count` rows with the class shares of the whole, the same at each call.

    Classes get the whole part of their share, the largest remainders get one more each, and every
    class gets one row at least where `count` allows it.
    """
    classes, sizes = np.unique(labels_N, return_counts=True)
    share = count * sizes / sizes.sum()
    quota = np.maximum(np.floor(share).astype(int), 1)
    order = np.argsort(-(share - np.floor(share)), kind="stable")
    for position in range(count - int(quota.sum())):
        quota[order[position % len(order)]] += 1
    while quota.sum() > max(count, len(classes)):
        quota[np.argmax(quota)] -= 1
    generator = Streams(0).numpy("sample", name)
    chosen = [
        generator.permutation(np.flatnonzero(labels_N == label))[:size]
        for label, size in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def digits() -> Pictures:
    """The 1,797 digits of 8 x 8 that scikit-learn carries, its 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_NHW = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Pictures(images_NHW, bunch.target.astype(np.int64), tuple("0123456789"))


def write_folder(pictures: Pictures, folder: Path, *, description: str) -> int:
    """Write `folder/<class>/<position>.png` and return the number of files."""
    for name in pictures.classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = list(zip(pictures.images_NHW, pictures.labels_N, strict=True))
    for position, (image, label) in enumerate(
        progress.track(rows, description, unit="images"), start=1
    ):
        path = folder / pictures.classes[int(label)] / f"{position:05d}.png"
        Image.fromarray(image).save(path, optimize=False)
    return len(rows)


def limited(pictures: Pictures, count: int, *, name: str) -> Pictures:
    """At most `count` images, stratified.

    Raises:
        UsageError: When `count` leaves a class empty.
    """
    if count >= len(pictures.labels_N):
        return pictures
    if count < len(pictures.classes):
        raise UsageError(
            f"sample.rows leaves {count} images for {name}, which has {len(pictures.classes)} "
            f"classes. Ask for more rows."
        )
    return pictures.take(stratified(pictures.labels_N, count, name=name))
