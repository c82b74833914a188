"""Small pictures of items: made from the catalogue's own files, never from a path that came in."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from warmstart.data.images import UnreadableImageError, open_rgb

from .errors import ServingError
from .snapshot import Snapshot

__all__ = ["Thumbnails"]

QUALITY = 82


class Thumbnails:
    """Makes pictures and keeps the latest.

    Args:
        size: Longer side, pixels.
        max_pixels: Larger images are refused before they are decoded.
        cache_bytes: Memory for made pictures.
    """

    def __init__(self, size: int, max_pixels: int, cache_bytes: int) -> None:
        self._size = size
        self._max_pixels = max_pixels
        self._room = cache_bytes
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def jpeg(self, snapshot: Snapshot, code: str) -> bytes:
        """The picture of that code, as JPEG.

        Raises:
            ServingError: 404 when the catalogue has no such picture, when it lies outside the
                pictures' folder, or cannot be decoded.
        """
        path = snapshot.pictures.get(code)
        if path is None:
            raise _missing()
        with self._lock:
            if code in self._made:
                self._made.move_to_end(code)
                return self._made[code]
        made = self._make(_inside(snapshot.service.images, path))
        self._keep(code, made)
        return made

    def _make(self, path: Path) -> bytes:
        try:
            image = open_rgb(path, self._max_pixels)
        except UnreadableImageError:
            raise _missing() from None
        image.thumbnail((self._size, self._size))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    def _keep(self, code: str, made: bytes) -> None:
        with self._lock:
            if code in self._made or len(made) > self._room:
                return
            self._made[code] = made
            self._bytes += len(made)
            while self._bytes > self._room:
                _, old = self._made.popitem(last=False)
                self._bytes -= len(old)


def _inside(folders: Sequence[Path], path: str) -> Path:
    """The file, when it lies inside one of the folders after all links are followed."""
    try:
        found = (folders[0] / path).resolve(strict=True)
        inside = any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):
        raise _missing() from None
    if not inside or not found.is_file():
        raise _missing()
    return found


def _missing() -> ServingError:
    return ServingError(404, "no_picture", "There is no such picture.")
