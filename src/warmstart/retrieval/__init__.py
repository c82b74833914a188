"""Retrieval: towers, negatives, baselines and the item index."""

from .index import FaissIndex, ItemIndex, build_index

__all__ = ["FaissIndex", "ItemIndex", "build_index"]
