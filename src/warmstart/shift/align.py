"""Source-only, and methods that bring the two domains' features together by a distance."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from warmstart.core import Run
from warmstart.objectives import coral_loss, mmd_loss, reversal_strength
from warmstart.training import LoopState

from .adapt_base import SOURCE_ONLY, register_method
from .adapt_objective import Objective, Seen
from .adapt_train import TrainedMethod
from .adapt_view import DomainVectors

__all__ = ["Coral", "Mmd", "SourceOnly"]


@register_method
class SourceOnly(TrainedMethod):
    """The bottleneck and head learned on the source alone: what every method must beat.

    Its epoch has the lowest loss on the source's validation rows; no target row is read.

    Needs: a labelled source. Equals: every trained method here at weight 0. Pick when: the domains
    hardly differ, or the evidence for adapting is thin.
    """

    name: ClassVar[str] = SOURCE_ONLY
    title: ClassVar[str] = "Source only"

    @property
    def _early(self) -> bool:
        return True


class _Distance(Objective):
    """The source's cross-entropy, and a weight times a distance of the two domains' features."""

    def __init__(self, weight: float) -> None:
        super().__init__(reads_target=True)
        self._weight = weight

    def distance(self, source_NH: Tensor, target_MH: Tensor) -> Tensor:
        raise NotImplementedError

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        """The weight rises by the schedule of DANN: early features say little of the domains."""
        target_MH, _ = seen.target
        strength = reversal_strength(seen.progress, highest=self._weight)
        return {
            "source": functional.cross_entropy(seen.logits_NC, seen.labels_N),
            "domain": strength * self.distance(seen.source_NH, target_MH),
        }


class _Mmd(_Distance):
    def distance(self, source_NH: Tensor, target_MH: Tensor) -> Tensor:
        return mmd_loss(source_NH, target_MH)


class _Coral(_Distance):
    def distance(self, source_NH: Tensor, target_MH: Tensor) -> Tensor:
        return coral_loss(source_NH, target_MH)


@register_method
class Mmd(TrainedMethod):
    """Kernel mean matching of features: the squared MMD of the bottleneck's output is minimised.

    Five Gaussian kernels about the mean distance of the batch's rows; no second network, no
    adversary, hence the calmest of the aligning methods.

    Needs: unlabelled target rows of the source's class shares. Equals: source-only at weight 0.
    Pick when: a covariate shift of inputs that keep their meaning.
    Source: Long et al. 2015 (DAN), with one adapted layer.

    Attributes:
        weight: Of the distance, reached by the schedule 2 / (1 + exp(-10 p)) - 1.
    """

    name: ClassVar[str] = "mmd"
    title: ClassVar[str] = "MMD (DAN)"
    aligns: ClassVar[bool] = True
    weight: NonNegativeFloat = 1.0

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        return _Mmd(self.weight)


@register_method
class Coral(TrainedMethod):
    """Second moments of the two domains' features are brought together.

    The distance is ‖C_S - C_T‖² / (4 H²), small by its denominator, hence the weight; at weights of
    hundreds it wipes out what tells the classes apart.

    Needs: unlabelled target rows of the source's class shares. Equals: source-only at weight 0.
    Pick when: few rows, where a kernel or an adversary has little to go by.
    Source: Sun and Saenko 2016 (Deep CORAL).

    Attributes:
        weight: Of the distance, reached by the schedule 2 / (1 + exp(-10 p)) - 1.
    """

    name: ClassVar[str] = "coral"
    title: ClassVar[str] = "Deep CORAL"
    aligns: ClassVar[bool] = True
    weight: NonNegativeFloat = 10.0

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        return _Coral(self.weight)
