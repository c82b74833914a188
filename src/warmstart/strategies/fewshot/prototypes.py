"""Nearest class mean: the simplest use of labels, and the stand-in where names say nothing."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Run
from warmstart.data import View
from warmstart.models import EncoderModel, Head

from ..base import Fitted, Strategy
from ..registry import register

__all__ = ["Prototypes"]

_SCALES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@register
class Prototypes(Strategy):
    """Cosine similarity to the mean unit-length vector of each class (Snell et al., 2017).

    The softmax scale is the one with the lowest validation log loss, which changes the confidence
    and never the answer.

    Needs: one row of each class. Pick when: a handful of labels, or to see what the features hold.
    """

    name: ClassVar[str] = "prototypes"
    title: ClassVar[str] = "Nearest class prototype"
    seeded: ClassVar[bool] = False
    uses_features: ClassVar[bool] = True

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Average the classes' vectors."""
        unit_ND = _unit(backbone.features(view.train).vectors_ND.astype(np.float64))
        labels_N = view.train.labels_N
        means_CD = np.stack(
            [
                unit_ND[labels_N == c].mean(axis=0) if (labels_N == c).any() else unit_ND[0] * 0.0
                for c in range(len(view.label_names))
            ]
        )
        anchors_CD = _unit(means_CD)
        scale = _SCALES[3]
        if len(view.validation):
            held_MD = _unit(backbone.features(view.validation).vectors_ND.astype(np.float64))
            scale = _best_scale(held_MD @ anchors_CD.T, view.validation.labels_N)
        head = Head.linear(anchors_CD * scale, np.zeros(len(anchors_CD)), normalize=True)
        model = EncoderModel(backbone, head, view.label_names)
        return Fitted(model, int(anchors_CD.size), values={"scale": scale})


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = vectors_ND / np.maximum(norms_N1, 1e-12)
    return unit_ND


def _best_scale(cosine_MC: np.ndarray, labels_M: np.ndarray) -> float:
    from scipy.special import log_softmax

    def loss(scale: float) -> float:
        logp_MC = log_softmax(scale * cosine_MC, axis=1)
        return -float(logp_MC[np.arange(len(labels_M)), labels_M].mean())

    return min(_SCALES, key=loss)
