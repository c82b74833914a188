"""Linear probing: a head on vectors that are computed once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from warmstart.backbones import Backbone
from warmstart.core import Run, UsageError, typical
from warmstart.data import View
from warmstart.models import EncoderModel, Head

from ._heads import train_mlp_head
from .base import Fitted, Strategy
from .logistic import LogisticFit, fit_logistic
from .registry import register

__all__ = ["Probe", "convex_head"]


@register
class Probe(Strategy):
    """Convex head on a frozen backbone.

    Multinomial logistic regression solved to convergence: same data, same bits, whatever the seed.

    Needs: labels for two classes or more. Equals: Finetune with every group but the head frozen.
    Pick when: about 100 to 1,000 labels and a domain near the pretraining data.

    Attributes:
        l2: Strength of the penalty on standardised features, or `auto` by cross-validation.
        head: `linear`, or `mlp` for one hidden layer (trained by AdamW, early stop on validation).
        depth: `last`, `auto` (the layer with the lowest cross-validated loss, since data far from
            the pretraining domain is often served by earlier layers), or a number of layers, from
            0 to as many as the backbone has.
        hidden: Width of the hidden layer of an `mlp` head.
    """

    name: ClassVar[str] = "probe"
    title: ClassVar[str] = "Linear probe"
    seeded: ClassVar[bool] = False
    uses_features: ClassVar[bool] = True
    l2: Annotated[float, Field(gt=0, le=1e9)] | Literal["auto"] = Field(
        "auto", json_schema_extra=typical("1e-4 to 10")
    )
    head: Literal["linear", "mlp"] = "linear"
    depth: Literal["last", "auto"] | NonNegativeInt = "last"
    hidden: int = Field(256, ge=1, le=65_536, json_schema_extra=typical("64 to 1,024"))

    @property
    def runs_once(self) -> bool:
        """A convex head has one answer; an `mlp` head depends on its start."""
        return self.head == "linear"

    def check(self, backbone: Backbone, view: View) -> None:
        """A backbone has so many layers and no more.

        Raises:
            UsageError: When `depth` is beyond them.
        """
        layers = backbone.card.layers
        if isinstance(self.depth, int) and layers is not None and self.depth > layers:
            raise UsageError(
                f"probe.depth must be between 0 and {layers} for {backbone.name}, got "
                f"{self.depth}. Use auto to let the data choose."
            )

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Embed once and solve."""
        self.check(backbone, view)
        l2 = None if self.l2 == "auto" else float(self.l2)
        depth, fits, values = self._choose_depth(backbone, view, l2)
        if self.head == "mlp":
            return train_mlp_head(backbone, view, run, depth=depth, hidden=self.hidden)
        solved = fits.get(depth)
        if solved is None:
            vectors_ND = backbone.features(view.train, depth=depth).vectors_ND
            solved = _solve(vectors_ND, view, l2)
        head = Head.linear(solved.weight_CD, solved.bias_C)
        model = EncoderModel(backbone, head, view.label_names, depth=depth)
        values |= {"l2": solved.l2, "depth": "last" if depth is None else depth}
        values["l2_losses"] = {f"{k:g}": round(v, 5) for k, v in solved.losses.items()}
        size = sum(p.numel() for p in head.parameters())
        return Fitted(model, size, values=values)

    def _choose_depth(
        self, backbone: Backbone, view: View, l2: float | None
    ) -> tuple[int | None, dict[int | None, LogisticFit], dict[str, object]]:
        """The depth to use, the problems solved on the way, and the loss at each depth."""
        if self.depth == "last":
            return None, {}, {}
        if self.depth != "auto":
            return int(self.depth), {}, {}
        layers = backbone.card.layers or 0
        depths: list[int | None] = [None, *range(layers - 1, 0, -1)]
        made = backbone.features_at(view.train, depths)  # the inner ones in one pass
        fits = {depth: _solve(features.vectors_ND, view, l2) for depth, features in made.items()}

        def loss(depth: int | None) -> float:
            if fits[depth].losses:
                return min(fits[depth].losses.values())
            return _held_out_loss(fits[depth], backbone, view, depth)

        losses = {depth: loss(depth) for depth in depths}
        best = min(losses, key=lambda depth: losses[depth])
        shown = {"last" if d is None else str(d): round(v, 5) for d, v in losses.items()}
        return best, fits, {"depth_losses": shown}


def convex_head(backbone: Backbone, view: View, l2: float | None = None) -> Head:
    """The probe's linear head on the backbone's own vectors.

    Args:
        backbone: The untouched backbone.
        view: Its training rows are learned from.
        l2: Strength of the penalty; by held-out loss when None.
    """
    solved = _solve(backbone.features(view.train).vectors_ND, view, l2)
    return Head.linear(solved.weight_CD, solved.bias_C)


def _solve(vectors_ND: np.ndarray, view: View, l2: float | None) -> LogisticFit:
    train = view.train
    return fit_logistic(vectors_ND, train.labels_N, view.n_classes, ids=train.ids, l2=l2)


def _held_out_loss(fit: LogisticFit, backbone: Backbone, view: View, depth: int | None) -> float:
    vectors_MD = backbone.features(view.validation, depth=depth).vectors_ND
    proba_MC = Head.linear(fit.weight_CD, fit.bias_C).proba(vectors_MD)
    truth_M = view.validation.labels_N
    return -float(np.log(np.maximum(proba_MC[np.arange(len(truth_M)), truth_M], 1e-12)).mean())
