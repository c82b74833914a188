"""Mixup: train on blends of two rows and of their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from warmstart.core import UsageError

__all__ = ["MixPlace", "Mixture", "check_mixup", "draw_mixture", "mixes_inputs"]

MixPlace = Literal["auto", "inputs", "vectors"]
PIXELS = "pixel_values"


@dataclass(frozen=True)
class Mixture:
    """How the rows of a batch are blended: row i with row `partner_B[i]`.

    Attributes:
        share: Of the row itself (lambda), in [0, 1].
        partner_B: The other row of each pair.
    """

    share: float
    partner_B: Tensor

    def tensor(self, values_B: Tensor) -> Tensor:
        """`share · x_i + (1 - share) · x_j`, in the tensor's own precision."""
        blended: Tensor = torch.lerp(values_B[self.partner_B], values_B, self.share)
        return blended

    def inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for every floating-point input; masks and other integers stay.

        Raises:
            UsageError: When there is none, as in tokenised text.
        """
        if not any(value.is_floating_point() for value in inputs.values()):
            raise UsageError(
                "mixup of inputs needs numbers such as pixels; tokens cannot be blended. Use "
                'mix_at="vectors".'
            )
        return {
            key: self.tensor(value) if value.is_floating_point() else value
            for key, value in inputs.items()
        }

    def loss(self, loss_of: Callable[[Tensor], Tensor], labels_B: Tensor) -> Tensor:
        """Blend the losses of both labels of each pair by the same share.

        `share · loss(y_i) + (1 - share) · loss(y_j)`; for cross-entropy this is the loss
        against the blended one-hot labels.

        Args:
            loss_of: From labels (B,) to a loss.
            labels_B: Labels of the rows.
        """
        own, other = loss_of(labels_B), loss_of(labels_B[self.partner_B])
        return self.share * own + (1.0 - self.share) * other


def draw_mixture(alpha: float, rows: int, device: torch.device | str = "cpu") -> Mixture:
    """Draw lambda from Beta(alpha, alpha), once a batch, and a random order of partners.

    The draw hangs on torch's global generator, which the loop seeds for every step: a resumed fit
    blends as the uninterrupted one. One number is taken from it.

    Args:
        alpha: Above 0. Typical: 0.1 to 0.4; 1 is uniform.
        rows: B.
        device: Where the batch is.

    Source: Zhang et al. 2018, mixup, equation 1 and section 2.
    """
    seed = int(torch.randint(2**62, (1,), dtype=torch.int64).item())
    generator = np.random.default_rng(seed)
    share = float(generator.beta(alpha, alpha))
    return Mixture(share, torch.from_numpy(generator.permutation(rows)).to(device))


def mixes_inputs(place: MixPlace, inputs: Mapping[str, Tensor]) -> bool:
    """Whether the inputs themselves are blended; else the pooled vectors are.

    `auto` blends the pixels of images, and the vectors of anything else.
    """
    return place == "inputs" or (place == "auto" and PIXELS in inputs)


def check_mixup(alpha: float, place: str) -> None:
    """Refuse settings that cannot work."""
    if not 0.0 <= alpha < float("inf"):
        raise UsageError(f"mixup must be at least 0, got {alpha}. Typical: 0.1 to 0.4; 0 is off.")
    if place not in ("auto", "inputs", "vectors"):
        raise UsageError(f'mix_at must be "auto", "inputs" or "vectors", got {place!r}.')
