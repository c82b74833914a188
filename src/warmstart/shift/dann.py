"""Adversarial adaptation: a discriminator learns the domain, reversed gradients unlearn it."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, Streams
from warmstart.objectives import (
    conditional_features,
    domain_loss,
    prediction_entropy,
    reversal_strength,
    reverse_gradient,
)
from warmstart.training import LoopState

from .adapt_base import register_method
from .adapt_objective import Objective, Seen
from .adapt_train import TrainedMethod
from .adapt_view import DomainVectors

__all__ = ["Cdan", "Dann", "Discriminator"]

_WIDEST = 4096  # of an outer product; beyond it, random maps
_MAPPED = 1024  # as in the paper


class Discriminator(nn.Module):
    """Two hidden layers with ReLU; one logit, above 0 for source.

    Weights start at N(0, 2 / inputs) from the named stream, the last layer's at a tenth of that.

    Args:
        inputs: Width of what comes in.
        hidden: Units of the hidden layers.
        streams: Source of the start.
    """

    def __init__(self, inputs: int, hidden: int, streams: Streams) -> None:
        super().__init__()
        sizes = [inputs, hidden, hidden, 1]
        generator = streams.torch("discriminator")
        self.layers = nn.ModuleList(
            nn.Linear(one, other, device="meta").to_empty(device="cpu")
            for one, other in pairwise(sizes)
        )
        with torch.no_grad():
            for place, layer in enumerate(self.layers):
                assert isinstance(layer, nn.Linear)
                scale = (2.0 / layer.in_features) ** 0.5 * (0.1 if place == 2 else 1.0)
                layer.weight.normal_(0.0, scale, generator=generator)
                layer.bias.zero_()

    def forward(self, features_BH: Tensor) -> Tensor:
        """Logits (B,)."""
        for layer in self.layers[:-1]:
            features_BH = functional.relu(layer(features_BH))
        logits_B: Tensor = self.layers[-1](features_BH).squeeze(1)
        return logits_B


class _Conditional(nn.Module):
    """A discriminator of features and predicted classes, with the random maps where needed."""

    def __init__(self, width: int, classes: int, hidden: int, streams: Streams) -> None:
        super().__init__()
        self.left_HW: Tensor | None
        self.right_CW: Tensor | None
        inputs, left_HW, right_CW = width * classes, None, None
        if inputs > _WIDEST:
            inputs = _MAPPED
            generator = streams.torch("maps")
            left_HW = torch.randn(width, inputs, generator=generator)
            right_CW = torch.randn(classes, inputs, generator=generator)
        self.register_buffer("left_HW", left_HW)
        self.register_buffer("right_CW", right_CW)
        self.network = Discriminator(inputs, hidden, streams)

    def forward(self, features_BH: Tensor, proba_BC: Tensor) -> Tensor:
        """Logits (B,)."""
        maps = None
        if self.left_HW is not None and self.right_CW is not None:
            maps = (self.left_HW, self.right_CW)
        logits_B: Tensor = self.network(conditional_features(features_BH, proba_BC, maps))
        return logits_B


class _Adversary(Objective):
    """Cross-entropy on the source, and the domain's under a reversed gradient.

    The reversal's strength follows the schedule; the discriminator itself always learns in full.
    """

    def __init__(self, network: nn.Module, weight: float) -> None:
        super().__init__(reads_target=True, modules={"discriminator": network})
        self._weight = weight

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        target_MH, _ = seen.target
        strength = reversal_strength(seen.progress, highest=self._weight)
        both_BH = reverse_gradient(torch.cat([seen.source_NH, target_MH]), strength)
        logits_B = state.modules["discriminator"](both_BH)
        n = len(seen.source_NH)
        return {
            "source": functional.cross_entropy(seen.logits_NC, seen.labels_N),
            "domain": domain_loss(logits_B[:n], logits_B[n:]),
        }


class _ConditionalAdversary(_Adversary):
    """The same with predicted classes beside the features, and sure rows counting more."""

    def __init__(self, network: nn.Module, weight: float, entropy: bool) -> None:
        super().__init__(network, weight)
        self._entropy = entropy

    def losses(self, seen: Seen, state: LoopState) -> dict[str, Tensor]:
        target_MH, target_MC = seen.target
        strength = reversal_strength(seen.progress, highest=self._weight)
        both_BH = reverse_gradient(torch.cat([seen.source_NH, target_MH]), strength)
        proba_BC = torch.softmax(torch.cat([seen.logits_NC, target_MC]).detach().float(), dim=1)
        logits_B = state.modules["discriminator"](both_BH, proba_BC)
        n = len(seen.source_NH)
        weights_N = weights_M = None
        if self._entropy:
            weights_B = 1.0 + torch.exp(-prediction_entropy(proba_BC))
            weights_N, weights_M = weights_B[:n], weights_B[n:]
        return {
            "source": functional.cross_entropy(seen.logits_NC, seen.labels_N),
            "domain": domain_loss(logits_B[:n], logits_B[n:], weights_N, weights_M),
        }


@register_method
class Dann(TrainedMethod):
    """A discriminator tells the domains apart, the bottleneck learns to fool it.

    The gradient is reversed between the two, at a strength that grows by the schedule
    2 / (1 + exp(-10 p)) - 1.

    Needs: unlabelled target rows of the source's class shares, some hundreds or more. Equals:
    source-only at weight 0. Pick when: the shift is large and MMD does not bridge it; mind that it
    can align the wrong classes with one another and loses as often as it wins on small data.
    Source: Ganin et al. 2016.

    Attributes:
        weight: Greatest strength of the reversed gradient.
        hidden: Units of the discriminator's two hidden layers.
    """

    name: ClassVar[str] = "dann"
    title: ClassVar[str] = "DANN"
    aligns: ClassVar[bool] = True
    weight: NonNegativeFloat = 1.0
    hidden: int = Field(256, ge=2, le=65_536)

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        network = Discriminator(self.width, self.hidden, run.streams.child("adapt"))
        return _Adversary(network, self.weight)


@register_method
class Cdan(TrainedMethod):
    """DANN whose discriminator also sees the predicted classes (CDAN, with entropy weights CDAN+E).

    It sees the outer product of features and class probabilities, or its random approximation where
    that would be wider than 4,096, so classes are aligned one by one rather than all at once.

    Needs: unlabelled target rows of the source's class shares; predictions that are better than
    chance on the target. Equals: Dann with a discriminator of joint inputs. Pick when: several
    classes and DANN mixes them up.
    Source: Long et al. 2018; the entropy weights 1 + exp(-H) are taken as constants.

    Attributes:
        weight: Greatest strength of the reversed gradient.
        hidden: Units of the discriminator's two hidden layers.
        entropy: Whether rows count by the certainty of their prediction.
    """

    name: ClassVar[str] = "cdan"
    title: ClassVar[str] = "CDAN"
    aligns: ClassVar[bool] = True
    weight: NonNegativeFloat = 1.0
    hidden: int = Field(256, ge=2, le=65_536)
    entropy: bool = True

    def _objective(self, rows: DomainVectors, run: Run) -> Objective:
        streams = run.streams.child("adapt")
        network = _Conditional(self.width, rows.classes, self.hidden, streams)
        return _ConditionalAdversary(network, self.weight, self.entropy)
