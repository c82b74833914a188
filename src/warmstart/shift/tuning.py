"""Which part of the encoder an adaptation trains beside the bottleneck and head.

`features` trains none of it. The others start from the untouched encoder, so that the first step
sees the vectors that `features` sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from warmstart.backbones import Backbone, Encoder, freeze
from warmstart.core import Config, RunError, Streams, UsageError, nearest
from warmstart.data import View
from warmstart.models import AdaptedEncoder, AdaptedModel, EncoderModel, Head
from warmstart.strategies import Lora
from warmstart.strategies.supervised import groups_of
from warmstart.training import discriminative_rates

__all__ = [
    "FEATURES",
    "SNAPSHOTS",
    "Tuning",
    "learned_tensors",
    "parse_trainable",
    "put_learned",
    "save_learned",
]

FEATURES = "features"
SNAPSHOTS = "snapshots"
_HEAD_TIMES = 3.0
_FACTOR = 2.6


class Tuning(Config):
    """A part of the encoder that learns.

    Bottleneck and head learn at the method's `rate`. The encoder's last layer group learns at a
    third of it and each earlier one 2.6 times more slowly, as in fine-tuning; LoRA's matrices learn
    at the rate itself, whatever their depth.

    Attributes:
        part: `lora` (query and value, rank 8), `last` layer groups, or `all` of them.
        last: How many, where the part is `last`.
    """

    part: Literal["lora", "last", "all"]
    last: NonNegativeInt = 0

    def __str__(self) -> str:
        """As `--trainable` takes it."""
        return f"last:{self.last}" if self.part == "last" else self.part

    @property
    def title(self) -> str:
        """How sentences call it."""
        if self.part == "last":
            return (
                "the last layer group" if self.last == 1 else f"the last {self.last} layer groups"
            )
        return "LoRA on the encoder" if self.part == "lora" else "the whole encoder"

    def check(self, backbone: Backbone, view: View) -> None:
        """Refuse what this backbone does not have.

        Raises:
            UsageError: For more layer groups than there are to choose from.
            NotApplicable: Where LoRA does not work on the family.
        """
        if self.part == "lora":
            Lora().check(backbone, view)
        count = len(backbone.group_names)
        if self.part == "last" and count == 1:
            raise UsageError(
                f"trainable {self} needs a backbone of two layer groups or more, and "
                f"{backbone.name} has one. Use all, which trains it, or lora."
            )
        if self.part == "last" and not 1 <= self.last < count:
            raise UsageError(
                f"trainable last:N needs N between 1 and {count - 1} for {backbone.name}, which "
                f"has {count} layer groups, got {self.last}. To train all of them use all."
            )

    def open(self, backbone: Backbone, streams: Streams) -> Encoder:
        """A fresh encoder with the adapter put in, or with what does not learn frozen.

        Args:
            backbone: The untouched one.
            streams: A new adapter starts as a function of them; at first it changes nothing.
        """
        encoder = backbone.load()
        if self.part == "lora":
            return Lora().attach(encoder, streams)
        freeze(encoder, self.frozen(encoder))
        return encoder

    def frozen(self, encoder: Encoder) -> tuple[str, ...]:
        """Layer groups that do not learn; LoRA's base is no group of its own."""
        if self.part != "last":
            return ()
        names = encoder.groups.names
        return names[: len(names) - self.last]

    def learning(
        self, encoder: Encoder, head: nn.Module, rate: float
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Ordered parameter groups of encoder and head, and how fast each learns; 0 is frozen."""
        if isinstance(encoder, AdaptedEncoder):
            return Lora(rate=rate, head_multiplier=1.0).learning(encoder, head)
        groups = groups_of(encoder, head)
        rates = discriminative_rates(groups, rate / _HEAD_TIMES, _FACTOR, _HEAD_TIMES)
        return groups, rates | dict.fromkeys(self.frozen(encoder), 0.0)

    def restore(self, backbone: Backbone, weights: Path) -> Encoder:
        """The encoder with what it had learned, in evaluation mode.

        Args:
            backbone: The untouched one.
            weights: A file that `save_learned` wrote.

        Raises:
            RunError: When the file is of another backbone or part.
        """
        encoder = self.open(backbone, Streams(0))
        put_learned(encoder, load_file(weights), weights)
        return encoder.eval()

    def model(
        self, backbone: Backbone, weights: Path, head: Head, label_names: tuple[str, ...]
    ) -> EncoderModel:
        """A model of the encoder with what it had learned and a head that reads its vectors."""
        encoder = self.restore(backbone, weights)
        if isinstance(encoder, AdaptedEncoder):
            return AdaptedModel(backbone, head, label_names, encoder=encoder)
        return EncoderModel(backbone, head, label_names, encoder=encoder)


def parse_trainable(given: str | Tuning) -> Tuning | None:
    """Read `features` (None), `lora`, `last:N` or `all`.

    Raises:
        UsageError: For anything else.
    """
    if isinstance(given, Tuning):
        return given
    if not isinstance(given, str):
        raise UsageError(
            f"trainable must be features, lora, last:N or all as text, or a Tuning, got {given!r} "
            f"({type(given).__name__}). For the last N layer groups write 'last:N'."
        )
    name, colon, count = given.strip().partition(":")
    if name == FEATURES and not colon:
        return None
    if name == "last" and count.isdecimal() and int(count) >= 1:
        return Tuning(part="last", last=int(count))
    if name in ("lora", "all") and not colon:
        return Tuning(part="lora" if name == "lora" else "all")
    raise UsageError(
        f"trainable must be features, lora, last:N (the last N layer groups, N at least 1) or all, "
        f"got {given!r}.{nearest(given, ('features', 'lora', 'last:1', 'all'))}"
    )


def learned_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """What may differ from the untouched encoder: learned weights, and buffers such as statistics.

    By their names in the network, as they stand there.
    """
    network = encoder.module
    found = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return {**found, **dict(network.named_buffers())}


def save_learned(encoder: Encoder, path: Path) -> None:
    """Write what the encoder has learned."""
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in learned_tensors(encoder).items()
    }
    save_file(tensors, path)


@torch.no_grad()
def put_learned(encoder: Encoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put back what `save_learned` wrote.

    Raises:
        RunError: When names or shapes differ.
    """
    own = learned_tensors(encoder)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise RunError(f"{path} holds weights of another encoder, or of another part of it.")
    for name, value in own.items():
        value.copy_(tensors[name])
