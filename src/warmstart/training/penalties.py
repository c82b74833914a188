"""Penalty terms that a step adds to its loss: L2-SP and EWC against the weights at the start.

A penalty counts once an optimiser step however many batches are accumulated, since each batch's
loss counts by its share of the rows. It is computed in float32 from the master weights, also under
mixed precision. Use it with `weight_decay=0`, or both pull.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from warmstart.core import UsageError
from warmstart.objectives import PackedFisher, elastic_penalty, l2_sp_penalty

from .fisher import Fisher
from .state import LoopState

__all__ = ["Anchor", "Penalty", "elastic_weights", "l2_sp"]

Penalty = Callable[[LoopState], Tensor]


class Anchor:
    """The values that weights had at the start, by name.

    Weights that are trained are copied; those that are frozen are only referred to, which takes no
    memory. Make it before the fit, where the pretrained weights still are in place: a fit that
    resumes builds its modules the same way and so finds the same start.
    """

    def __init__(
        self, module: nn.Module, *, prefix: str = "encoder.", copy_frozen: bool = False
    ) -> None:
        """Keep the weights as they are now.

        Args:
            module: The classifier, with `requires_grad` as it will be trained.
            prefix: Parameters whose names start so are held to their start.
            copy_frozen: Copy frozen weights too: for stages that will unfreeze them.
        """
        self.prefix = prefix
        self._values: dict[str, Tensor] = {}
        self._referred: set[str] = set()
        for name, parameter in module.named_parameters():
            if not name.startswith(prefix):
                continue
            copied = parameter.requires_grad or copy_frozen
            self._values[name] = parameter.detach().clone() if copied else parameter.detach()
            if not copied:
                self._referred.add(name)
        if not self._values:
            raise UsageError(f'no parameter name starts with "{prefix}", so nothing is held.')

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have a start."""
        return tuple(self._values)

    @property
    def bytes(self) -> int:
        """Memory of the copies."""
        return sum(
            value.numel() * value.element_size()
            for name, value in self._values.items()
            if name not in self._referred
        )

    def split(
        self, module: nn.Module
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Trained weights with a start, their starts on the same device, and the other ones.

        Raises:
            UsageError: When a weight is trained now that was only referred to.
        """
        held: dict[str, Tensor] = {}
        starts: dict[str, Tensor] = {}
        others: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if name not in self._values:
                others[name] = parameter
                continue
            if name in self._referred:
                raise UsageError(
                    f'the start of "{name}" was not copied because it was frozen, and now it is '
                    "trained. Make the anchor with copy_frozen=True."
                )
            if self._values[name].device != parameter.device:
                self._values[name] = self._values[name].to(parameter.device)
            held[name], starts[name] = parameter, self._values[name]
        return held, starts, others


def l2_sp(
    anchor: Anchor, *, alpha: float = 0.1, beta: float = 0.01, module: str = "model"
) -> Penalty:
    """L2-SP for `classification_step(penalty=...)`; see `objectives.l2_sp_penalty`.

    Args:
        anchor: The pretrained weights.
        alpha: Pull of the encoder to its start, at least 0. Typical: 0.01 to 1.
        beta: Pull of the head to 0, at least 0. The paper uses 0.01.
        module: Name of the classifier in the loop's modules.
    """
    _check("alpha", alpha)
    _check("beta", beta)

    def penalty(state: LoopState) -> Tensor:
        held, starts, others = anchor.split(_plain(state, module))
        with torch.autocast(state.device.type, enabled=False):
            return l2_sp_penalty(
                list(held.values()), list(starts.values()), list(others.values()),
                alpha=alpha, beta=beta,
            )  # fmt: skip

    return penalty


def elastic_weights(
    anchor: Anchor, fisher: Fisher, *, strength: float = 1e3, module: str = "model"
) -> Penalty:
    """EWC for `classification_step(penalty=...)`; see `objectives.elastic_penalty`.

    Args:
        anchor: The weights after the old task.
        fisher: What each weight meant to the old task; see `estimate_fisher`. Trained weights
            without one are free.
        strength: Lambda, at least 0.
        module: Name of the classifier in the loop's modules.
    """
    _check("strength", strength)
    unknown = sorted(set(fisher.values) - set(anchor.names))
    if unknown:
        raise UsageError(
            f'the fisher information speaks of "{unknown[0]}", which the anchor does not hold. '
            "Estimate it on the same encoder."
        )
    packed: dict[str, PackedFisher] = dict(fisher.values)

    def penalty(state: LoopState) -> Tensor:
        held, starts, _ = anchor.split(_plain(state, module))
        names = [name for name in held if name in packed]
        for name in names:
            if packed[name].tensors[0].device != held[name].device:
                packed[name] = packed[name].to(held[name].device)
        with torch.autocast(state.device.type, enabled=False):
            return elastic_penalty(
                _at(held, names), _at(starts, names), [packed[name] for name in names],
                strength=strength,
            )  # fmt: skip

    return penalty


def _at(values: Mapping[str, Tensor], names: list[str]) -> list[Tensor]:
    return [values[name] for name in names]


def _plain(state: LoopState, module: str) -> nn.Module:
    """The unwrapped module of the same weights, whose names are those of the anchor."""
    return state.plain.get(module, state.modules[module])


def _check(name: str, value: float) -> None:
    if not value >= 0:
        raise UsageError(f"{name} must be at least 0, got {value}.")
