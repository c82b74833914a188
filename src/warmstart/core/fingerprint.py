"""Fingerprints: short, stable names for values and files, the same on every machine."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["fingerprint", "hash_file"]


def fingerprint(*parts: object) -> str:
    """Hash values into 32 hexadecimal characters (BLAKE2b, 128 bits).

    Each value is written with its type and length, so `("ab", "c")` and `("a", "bc")`, or `1` and
    `"1"`, differ. Dictionaries do not depend on the order of their keys.

    Raises:
        TypeError: For a type that has no stable form.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _feed(digest: Any, part: object) -> None:
    if isinstance(part, dict):
        digest.update(b"d" + struct.pack("<q", len(part)))
        for key in sorted(part, key=lambda key: (str(key), type(key).__name__)):
            _feed(digest, key)
            _feed(digest, part[key])
    elif isinstance(part, list | tuple):
        digest.update(b"l" + struct.pack("<q", len(part)))
        for item in part:
            _feed(digest, item)
    else:
        tag, raw = _encode(part)
        digest.update(tag + struct.pack("<q", len(raw)))
        digest.update(raw)


def _encode(part: object) -> tuple[bytes, bytes]:  # noqa: PLR0911 - one line a type
    if part is None:
        return b"n", b""
    if isinstance(part, bool | np.bool_):
        return b"?", b"1" if part else b"0"
    if isinstance(part, int | np.integer):
        return b"i", str(int(part)).encode()
    if isinstance(part, float | np.floating):
        return b"f", struct.pack("<d", float(part))
    if isinstance(part, str):
        return b"s", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, Path):
        return b"p", part.as_posix().encode("utf-8", "surrogatepass")
    if isinstance(part, np.ndarray) and not part.dtype.hasobject:
        head = f"{part.dtype.str}{part.shape}".encode()
        return b"a", head + np.ascontiguousarray(part).tobytes()
    kind = f"{part.dtype} array" if isinstance(part, np.ndarray) else type(part).__name__
    raise TypeError(f"fingerprint has no stable form for {kind}")
