"""Texts to vectors by a frozen encoder, with the newest texts kept at hand."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from warmstart.backbones import Backbone, Encoder, embed_inputs
from warmstart.data import from_inputs

__all__ = ["READ_AT_ONCE", "CachedTexts", "FreshTexts", "TextReader"]

READ_AT_ONCE = 1024


class TextReader(Protocol):
    """Texts to vectors."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, E), float32, of texts that are not blank."""


class _KeepsNewest(ABC):
    """Reads what is not at hand, and keeps the texts that were asked for last.

    Several threads may ask at once: none waits while another one's texts are read.
    """

    def __init__(self, most: int) -> None:
        """Take the number of texts that are kept at most."""
        self._most = most
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @abstractmethod
    def _read(self, texts: list[str]) -> np.ndarray:
        """Vectors (N, E) of texts that are not at hand, `READ_AT_ONCE` at most."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, E)."""
        parts = [
            self._part(texts[start : start + READ_AT_ONCE])
            for start in range(0, len(texts), READ_AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _part(self, texts: Sequence[str]) -> np.ndarray:
        wanted = list(dict.fromkeys(texts))
        with self._lock:
            found = {text: self._kept[text] for text in wanted if text in self._kept}
        lacking = [text for text in wanted if text not in found]
        if lacking:
            for text, vector_E in zip(lacking, self._read(lacking), strict=True):
                found[text] = vector_E.copy()  # a row alone, that lets go of the others
        with self._lock:
            for text in wanted:
                self._kept[text] = found[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return np.stack([found[text] for text in texts])


class CachedTexts(_KeepsNewest):
    """Reads through the feature cache: for texts of a fit, which come again."""

    def __init__(self, backbone: Backbone, most: int = 32_768) -> None:
        """Take the encoder.

        Args:
            backbone: Of texts, or CLIP.
            most: Texts that are kept at hand.
        """
        super().__init__(most)
        self._backbone = backbone

    def _read(self, texts: list[str]) -> np.ndarray:
        return self._backbone.features(from_inputs(texts, "text")).vectors_ND


class FreshTexts(_KeepsNewest):
    """Reads what is asked by a loaded encoder: nothing of the askers is written to disk."""

    def __init__(self, encoder: Encoder, most: int = 4096) -> None:
        """Take the encoder.

        Args:
            encoder: Of texts.
            most: Texts that are kept at hand.
        """
        super().__init__(most)
        self._encoder = encoder.eval()
        encoder.prepare(["one"])  # a tokenizer's first call sets it, which no other may meet

    def _read(self, texts: list[str]) -> np.ndarray:
        return embed_inputs(self._encoder, texts)
