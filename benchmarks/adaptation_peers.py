"""The peer of the adaptation benchmark: skada's DANN on the same vectors, set up well.

The peer gets our bottleneck's shape, vectors standardised in the same way, AdamW at our rate and as
many steps. skada 0.6's own domain classifier ends in a softmax over one unit, which is 1 whatever
it is given, so that nothing is adapted; the peer is given one that ends in a sigmoid, behind
skada's own gradient reversal.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.shift import DomainVectors

__all__ = ["MISSING", "has_skada", "skada_dann"]

MISSING = "skada is not installed here (pip install skada skorch): its DANN is left out"


def has_skada() -> bool:
    """Whether the peer can be run."""
    try:
        importlib.import_module("skada.deep")
    except ImportError:
        return False
    return True


class Network(nn.Module):
    """A bottleneck and a head, as skada wants its modules."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, width)
        self.bottleneck = nn.GELU()
        self.output = nn.Linear(width, classes)

    def forward(self, X: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits (B, C)."""
        logits_BC: Tensor = self.output(self.bottleneck(self.hidden(X)))
        return logits_BC


class DomainClassifier(nn.Module):
    """Two hidden layers behind skada's gradient reversal; a probability for each row."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Probability (B,) of being a target row."""
        from skada.deep.modules import GradientReversalLayer

        reversed_BH = GradientReversalLayer.apply(x, 1.0)
        proba_B: Tensor = self.layers(reversed_BH).squeeze(1)
        return proba_B


def skada_dann(
    rows: DomainVectors,
    test_ND: np.ndarray,
    *,
    seed: int,
    width: int = 256,
    steps: int = 800,
    batch_size: int = 64,
    rate: float = 1e-3,
) -> np.ndarray:
    """Probabilities (N, C) of skada's DANN after its last step; it has no choice of epochs."""
    from skada.deep import DANN

    mean_D, spread_D = rows.train_ND.mean(axis=0), rows.train_ND.std(axis=0)
    floor = 0.1 * float(np.sqrt((spread_D**2).mean()))

    def standard(vectors_ND: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (vectors_ND - mean_D) / np.maximum(spread_D, floor)
        return scaled.astype(np.float32)

    x_BD = np.concatenate([standard(rows.train_ND), standard(rows.target_UD)])
    y_B = np.concatenate([rows.labels_N, np.full(len(rows.target_UD), -1)]).astype(np.int64)
    domain_B = np.concatenate([np.ones(len(rows.train_ND)), np.full(len(rows.target_UD), -2)])
    longest = max(len(rows.train_ND), len(rows.target_UD))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        net: Any = DANN(
            Network(x_BD.shape[1], width, rows.classes), layer_name="bottleneck", reg=1.0,
            domain_classifier=DomainClassifier(width), batch_size=batch_size,
            max_epochs=max(1, round(steps / max(1, longest // batch_size))),
            optimizer=torch.optim.AdamW, lr=rate, train_split=None, verbose=0,
        )  # fmt: skip
        net.fit(x_BD, y_B, domain_B.astype(np.int64))
        there_N = np.full(len(test_ND), -2, dtype=np.int64)
        proba_NC: np.ndarray = net.predict_proba(standard(test_ND), there_N)
    return proba_NC.astype(np.float64)
