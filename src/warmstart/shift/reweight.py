"""Importance weighting: source rows that look like the target count more."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from warmstart.core import Run
from warmstart.training import LoopState

from .adapt_base import register_method
from .adapt_objective import Objective, Seen
from .adapt_train import TrainedMethod
from .adapt_view import DomainVectors
from .reweight_kernel import fit_kliep, kernel_mean_matching, median_width, principal
from .reweight_ratio import Weights, domain_ratio, settle_weights

__all__ = ["Reweight"]


class _Weighted(Objective):
    """The source's cross-entropy, each row times its weight."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._weights_N = torch.from_numpy(weights.values_N.astype(np.float32))
        self.values = {
            "effective_rows": weights.effective,
            "effective_rows_raw": weights.raw,
            "clipped_rows": weights.clipped,
            "flattened_to": weights.exponent,
        }
        self.notes = [weights.sentence()]

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        """Weights have mean 1 over the source, so the batch's mean is unbiased as it stands."""
        weights_N = self._weights_N.to(seen.rows_N.device)[seen.rows_N]
        losses_N = functional.cross_entropy(seen.logits_NC, seen.labels_N, reduction="none")
        return {"source": (weights_N * losses_N).mean()}


@register_method
class Reweight(TrainedMethod):
    """Source-only with rows weighted by the density ratio p_T(x) / p_S(x).

    Ratios are clipped, and flattened to a power below 1 where fewer than a tenth of the source rows
    would be left in effect; both are reported with the effective sample size.

    Needs: a target that lies within the source's range; where the domains hardly overlap no weight
    helps. Equals: source-only for equal weights. Pick when: the same kind of inputs in other
    proportions (a covariate shift by selection).
    Source: Shimodaira 2000; the ratio by a discriminator (Bickel et al. 2007), KLIEP (Sugiyama et
    al. 2008) or KMM (Huang et al. 2007).

    Attributes:
        ratio: `discriminator`, `kliep` or `kmm`.
        highest: A ratio beyond so many times the mean is cut.
        least_share: Share of the source rows that must be in effect.
        dimensions: Principal directions that KLIEP and KMM work in.
    """

    name: ClassVar[str] = "reweight"
    title: ClassVar[str] = "Importance weighting"
    ratio: Literal["discriminator", "kliep", "kmm"] = "discriminator"
    highest: float = Field(20.0, gt=1)
    least_share: float = Field(0.1, gt=0, le=1)
    dimensions: int = Field(20, ge=1, le=1000)

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        ratios_N = self._ratios(rows, run)
        return _Weighted(
            settle_weights(ratios_N, highest=self.highest, least_share=self.least_share)
        )

    def _ratios(self, rows: DomainVectors, run: Run) -> np.ndarray:
        streams = run.streams.child("adapt", "ratio")
        if self.ratio == "discriminator":
            return domain_ratio(rows.train_ND, rows.target_UD, streams=streams)[0]
        source_NK, target_UK = principal(rows.train_ND, rows.target_UD, self.dimensions)
        if self.ratio == "kliep":
            return fit_kliep(source_NK, target_UK, streams=streams).ratio(source_NK)
        width = median_width(np.concatenate([source_NK, target_UK]), streams=streams)
        return kernel_mean_matching(
            source_NK, target_UK, width=width, highest=self.highest, streams=streams
        )
