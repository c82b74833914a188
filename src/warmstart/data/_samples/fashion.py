"""Fashion-MNIST from whichever carrier is here: Debian's package, or the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from warmstart.core import DataError, progress

from .archives import deb_data, gunzip, tar_member
from .fetch import cache_folder, fetch_apt, keep
from .pictures import Pictures, read_idx

__all__ = ["FASHION_CLASSES", "FASHION_DIGEST", "content_digest", "fashion_mnist"]

FASHION_CLASSES = (
    "T-shirt_top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle_boot",
)
FASHION_DIGEST = "5dd31a8e0317fe743fc4a65d26c16d36fc30b7ffdd6c1e8e470ec4baf4f7069d"
_HUB = "zalando-datasets/fashion_mnist"
_PACKAGE = "dataset-fashion-mnist"
_FOLDER = "usr/share/datasets/fashion-mnist"
_FOLDER_ON_DISK = Path("/") / _FOLDER
_STEMS = {"train": "train", "test": "t10k"}
_LIMIT = 64 * 2**20


def content_digest(splits: dict[str, Pictures]) -> str:
    """SHA-256 over the splits' images and labels that does not depend on their order or packing.

    The same images from another carrier (Debian's gzip files, the hub's Parquet) give the same
    digest; one changed pixel or label gives another.
    """
    total = hashlib.sha256()
    for name in sorted(splits):
        pictures = splits[name]
        rows = sorted(
            hashlib.sha256(bytes([int(label)]) + image.tobytes()).digest()
            for image, label in zip(pictures.images_NHW, pictures.labels_N, strict=True)
        )
        total.update(name.encode() + b"\x00" + b"".join(rows))
    return total.hexdigest()


def fashion_mnist() -> tuple[dict[str, Pictures], str]:
    """Fashion-MNIST, 60,000 + 10,000 images of 28 x 28, and where it came from.

    Tried in turn: the files of an installed Debian package, the package fetched with apt-get, the
    hub. Whatever the source, the content must have the pinned digest.

    Raises:
        DataError: When no source can be reached (each with its reason), or the content differs.
    """
    reasons: list[str] = []
    for source in (_from_disk, _from_cache, _from_apt, _from_hub):
        try:
            splits, origin = source()
        except _Unreached as reason:
            if str(reason):
                reasons.append(str(reason))
            continue
        came = content_digest(splits)
        if came != FASHION_DIGEST:
            raise DataError(
                f"Fashion-MNIST from {origin} is refused: the SHA-256 of its content must be "
                f"{FASHION_DIGEST}, got {came}. Remove the file or ask its keeper."
            )
        return splits, origin
    raise DataError("Fashion-MNIST cannot be had here. " + " ".join(reasons))


class _Unreached(Exception):
    """This source is not here; the message, if any, says why."""


def _from_disk() -> tuple[dict[str, Pictures], str]:
    if not _FOLDER_ON_DISK.is_dir():
        raise _Unreached
    members = {path.name: path.read_bytes() for path in _FOLDER_ON_DISK.glob("*-ubyte.gz")}
    return _from_members(members, str(_FOLDER_ON_DISK)), f"the installed Debian package {_PACKAGE}"


def _from_cache() -> tuple[dict[str, Pictures], str]:
    kept = cache_folder() / f"{_PACKAGE}.deb"
    if not kept.is_file():
        raise _Unreached
    try:
        splits = _from_deb(kept.read_bytes(), str(kept))
        if content_digest(splits) != FASHION_DIGEST:
            raise DataError(f"{kept} has other images than Fashion-MNIST.")
    except DataError as error:
        progress.note(f"{error} It is fetched again.")
        raise _Unreached from None
    return splits, f"the Debian package {_PACKAGE}"


def _from_apt() -> tuple[dict[str, Pictures], str]:
    try:
        raw = fetch_apt(_PACKAGE)
    except DataError as error:
        raise _Unreached(f"Debian: {error}") from None
    splits = _from_deb(raw, f"{_PACKAGE}.deb")
    if content_digest(splits) == FASHION_DIGEST:
        keep(cache_folder() / f"{_PACKAGE}.deb", raw)
    return splits, f"the Debian package {_PACKAGE}"


def _from_hub() -> tuple[dict[str, Pictures], str]:
    import datasets

    try:
        with progress.task(f"Downloading {_HUB} from the hub", unit="files"):
            loaded = datasets.load_dataset(_HUB)
    except Exception as error:  # the client raises many kinds; each means: not reached
        reason = str(error).strip().splitlines()
        told = reason[0][:200] if reason else type(error).__name__
        raise _Unreached(
            f"Hub: {_HUB} could not be loaded ({type(error).__name__}: {told}). Cure: "
            f"a network that reaches the hub, or `sudo apt-get install {_PACKAGE}`."
        ) from None
    splits = {}
    for split in ("train", "test"):
        rows = loaded[split]
        images_NHW = np.stack([np.asarray(image.convert("L")) for image in rows["image"]])
        labels_N = np.asarray(rows["label"], dtype=np.int64)
        splits[split] = Pictures(images_NHW, labels_N, FASHION_CLASSES)
    return splits, f"the hub ({_HUB})"


def _from_deb(raw: bytes, archive: str) -> dict[str, Pictures]:
    data = deb_data(raw, archive=archive)
    names = [
        f"{stem}-{kind}-ubyte.gz"
        for stem in _STEMS.values()
        for kind in ("images-idx3", "labels-idx1")
    ]
    members = {
        name: tar_member(data, f"{_FOLDER}/{name}", archive=archive, limit=_LIMIT) for name in names
    }
    return _from_members(members, archive)


def _from_members(members: dict[str, bytes], archive: str) -> dict[str, Pictures]:
    splits = {}
    for split, stem in _STEMS.items():
        arrays = []
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{stem}-{kind}-ubyte.gz"
            if name not in members:
                raise DataError(f"{archive} has no {name}.")
            where = f"{archive}: {name}"
            arrays.append(read_idx(gunzip(members[name], archive=where, limit=_LIMIT), where))
        images_NHW, labels_N = arrays
        if images_NHW.ndim != 3 or labels_N.ndim != 1 or len(images_NHW) != len(labels_N):
            raise DataError(f"{archive}: the images and labels of {split} do not fit together.")
        splits[split] = Pictures(images_NHW, labels_N.astype(np.int64), FASHION_CLASSES)
    return splits
