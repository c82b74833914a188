"""Losses and divergences as pure formulas: tensors in, tensors out, no model and no data."""

from .contrastive import cosine_pair_loss, supervised_contrastive

__all__ = [
    "cosine_pair_loss",
    "supervised_contrastive",
]
