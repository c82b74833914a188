"""Frozen means frozen: no gradient, no dropout, no moving statistics, and a hash to prove it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from warmstart.core import RunError

from .encoder import Encoder
from .groups import LayerGroups

__all__ = ["FrozenLedger", "freeze", "state_hash", "unfreeze"]


class FrozenLedger:
    """Hashes of the frozen groups, taken before training and compared after it.

    Attributes:
        names: The groups that must not move.
    """

    def __init__(
        self,
        encoder: Encoder,
        names: Iterable[str] | None = None,
        tensors: Iterable[tuple[str, Tensor]] = (),
    ) -> None:
        """Take the hashes.

        Args:
            encoder: Before training.
            names: Groups that must not move; those that `freeze` froze when None.
            tensors: Single weights and statistics that must not move, of groups that learn
                otherwise.

        Raises:
            BackboneError: For a group that does not exist.
        """
        self.names = tuple(encoder.frozen if names is None else names)
        self._encoder = encoder
        self._single = dict(tensors)
        self._before = self._hashes()

    def check(self) -> None:
        """Make sure that nothing moved.

        Raises:
            RunError: Naming the groups whose weights, buffers or statistics changed.
        """
        now = self._hashes()
        moved = [name for name, before in self._before.items() if now[name] != before]
        if moved:
            raise RunError(
                f"frozen parts changed while training: {', '.join(moved)}. Something wrote "
                "to their weights or buffers (a hook, an optimiser of your own, batch-norm layers "
                "put in training mode); the result is not what was asked for and is not kept."
            )

    def _hashes(self) -> dict[str, str]:
        groups = {name: state_hash(self._encoder, [name]) for name in self.names}
        return groups | {name: _hash([(name, value)]) for name, value in self._single.items()}


def freeze(encoder: Encoder, names: Iterable[str]) -> None:
    """Freeze layer groups: their weights get no gradient, and `train()` leaves them evaluating.

    Args:
        encoder: Changed in place.
        names: Groups to freeze besides those already frozen.

    Raises:
        BackboneError: For a group that does not exist.
    """
    wanted = tuple(names)
    for name in wanted:
        for _, parameter in encoder.groups.parameters(name):
            parameter.requires_grad_(False)
    encoder.frozen = _ordered(encoder.groups, {*encoder.frozen, *wanted})
    encoder.train(encoder.training)


def unfreeze(encoder: Encoder, names: Iterable[str]) -> None:
    """Let layer groups train again.

    Raises:
        BackboneError: For a group that does not exist.
    """
    wanted = tuple(names)
    for name in wanted:
        for _, parameter in encoder.groups.parameters(name):
            parameter.requires_grad_(True)
    encoder.frozen = _ordered(encoder.groups, set(encoder.frozen) - set(wanted))
    encoder.train(encoder.training)


def state_hash(module: nn.Module, names: Iterable[str] | None = None) -> str:
    """SHA-256 over the weights and buffers of a network, or of some groups of an encoder.

    Args:
        module: An encoder, or any network when `names` is None.
        names: Layer groups; None takes everything.

    Raises:
        BackboneError: For a group that does not exist.
    """
    tensors: list[tuple[str, Tensor]] = []
    if names is None:
        tensors += list(module.named_parameters())
        tensors += list(module.named_buffers())
    else:
        assert isinstance(module, Encoder), "groups belong to an encoder"
        for name in names:
            tensors += module.groups.parameters(name)
            tensors += module.groups.buffers(name)
    return _hash(tensors)


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(tensors, key=lambda item: item[0]):
        host = value.detach().cpu().contiguous()
        digest.update(f"{key}|{host.dtype}|{tuple(host.shape)}|".encode())
        digest.update(host.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _ordered(groups: LayerGroups, names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in groups.names if name in names)
