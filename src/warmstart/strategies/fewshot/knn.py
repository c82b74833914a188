"""The nearest training rows vote: nothing is trained, each row counts once it is there."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, typical
from warmstart.data import View
from warmstart.models import KnnModel, NeighbourHead, neighbours, vote

from ..base import Fitted, Strategy
from ..registry import register

__all__ = ["Knn"]

_GRID = (1, 2, 3, 5, 8, 13, 21, 34, 55)
_ENOUGH = 20


@register
class Knn(Strategy):
    """The k training rows of highest cosine vote, the nearer with more weight (Wu et al., 2018).

    A vote weighs exp((cosine - highest cosine) / temperature). `k` is chosen on the validation rows
    when there are 20 or more; with fewer, by leaving out one training row at a time, where rows
    that are the only one of their class cannot judge. The k with the most right answers is taken,
    by the lower log loss where several are equal.

    Needs: one row of each class. Pick when: classes are no single cluster, rows come and go, or the
    reasons for an answer must be shown (`KnnModel.nearest`).

    Attributes:
        k: Neighbours that vote, at most as many as there are training rows, or `auto`.
        temperature: Of the votes' weights, 0.001 to 10; 0.07 lets a cosine that is 0.1 higher weigh
            four times as much.
    """

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "Nearest neighbours"
    seeded: ClassVar[bool] = False
    uses_features: ClassVar[bool] = True
    k: PositiveInt | Literal["auto"] = "auto"
    temperature: float = Field(0.07, ge=0.001, le=10, json_schema_extra=typical("0.03 to 0.2"))

    def check(self, backbone: Backbone, view: View) -> None:
        """There must be k rows.

        Raises:
            NotApplicable: When there are fewer.
        """
        if self.k != "auto" and self.k > len(view.train):
            raise NotApplicable(
                f"knn.k is {self.k}, but there are {len(view.train)} training rows; a k of 1 to "
                f"{len(view.train)} works, or auto"
            )

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Keep the training rows' vectors; choose k."""
        self.check(backbone, view)
        vectors_MD, labels_M = backbone.features(view.train).vectors_ND, view.train.labels_N
        values: dict[str, object]
        if self.k == "auto":
            k, values = self._choose(vectors_MD, backbone, view)
        else:
            k, values = int(self.k), {"k": self.k}
        head = NeighbourHead.of(
            vectors_MD, labels_M, view.n_classes, k=k, temperature=self.temperature
        )
        return Fitted(KnnModel(backbone, head, view.label_names), 0, values=values)

    def _choose(
        self, vectors_MD: np.ndarray, backbone: Backbone, view: View
    ) -> tuple[int, dict[str, object]]:
        """The best k of the grid, and how it was found."""
        rows_MD, labels_M = _unit(vectors_MD), torch.as_tensor(np.array(view.train.labels_N))
        if len(view.validation) >= _ENOUGH:
            judged_on = "validation"
            queries_QD = _unit(backbone.features(view.validation).vectors_ND)
            truth_Q, skip_Q = torch.as_tensor(np.array(view.validation.labels_N)), None
            most = len(rows_MD)
        else:
            judged_on = "leave-one-out"
            judges_Q = torch.nonzero(torch.bincount(labels_M)[labels_M] > 1).flatten()
            queries_QD, truth_Q, skip_Q = rows_MD[judges_Q], labels_M[judges_Q], judges_Q
            most = len(rows_MD) - 1
        grid = [k for k in _GRID if k <= most] or [1]
        if not len(queries_QD):
            return 1, {"k": 1, "chosen_on": "nothing: each class has one row"}
        cosine_QK, found_QK = neighbours(queries_QD, rows_MD, grid[-1], skip_Q=skip_Q)
        scores = {
            k: _judge(cosine_QK[:, :k], labels_M[found_QK[:, :k]], truth_Q, view.n_classes,
                      self.temperature)
            for k in grid
        }  # fmt: skip
        best = max(grid, key=lambda k: (scores[k][0], -scores[k][1], -k))
        accuracies = {str(k): round(accuracy, 4) for k, (accuracy, _) in scores.items()}
        return best, {"k": best, "chosen_on": judged_on, "accuracies": accuracies}


def _unit(vectors_ND: np.ndarray) -> Tensor:
    return functional.normalize(torch.as_tensor(np.array(vectors_ND)).float(), dim=-1)


def _judge(
    cosine_QK: Tensor, labels_QK: Tensor, truth_Q: Tensor, classes: int, temperature: float
) -> tuple[float, float]:
    """Accuracy and log loss of the votes."""
    shares_QC = vote(cosine_QK, labels_QK, classes, temperature)
    right = (shares_QC.argmax(dim=1) == truth_Q).double().mean()
    loss = -shares_QC.gather(1, truth_Q[:, None]).log().mean()
    return float(right), float(loss)
