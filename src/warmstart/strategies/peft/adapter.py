"""Bottleneck adapters after Houlsby: our own, in the contract of the others."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from warmstart.backbones import Backbone, Encoder
from warmstart.backbones.encoder import sample_input
from warmstart.core import Run
from warmstart.models import AdaptedEncoder, BottleneckShape, attach_bottlenecks, output_dimensions

from ..registry import register
from .base import Adapting
from .table import Adaptation, places_of
from .targets import within_blocks

__all__ = ["Adapter"]


@register
class Adapter(Adapting):
    """x + up(f(down(x))) behind each attention and each feed-forward sublayer, before its residual.

    Houlsby et al. 2019. Convolutional families have no such sublayers: there one bottleneck of
    1 × 1 convolutions stands behind each block (a stage of a ResNet or ConvNeXt, an inverted
    residual of a MobileNet or EfficientNet). It starts as the identity. Settings that are not named
    here are those of fine-tuning.

    Needs: some hundred labels. Pick when: LoRA learns too little, and a little time at each
    prediction does not matter (it cannot be merged).

    Attributes:
        rate: Rate of the bottlenecks.
        width: Length of the inner vector.
        activation: `gelu` or `relu`.
    """

    name: ClassVar[str] = "adapter"
    title: ClassVar[str] = "Bottleneck adapters"
    rate: PositiveFloat = 1e-3
    width: PositiveInt = 48
    activation: Literal["gelu", "relu"] = "gelu"

    _method: ClassVar[Adaptation] = "adapter"

    def _attach(self, encoder: Encoder, backbone: Backbone, run: Run) -> AdaptedEncoder:
        places = places_of(backbone)
        assert places is not None
        paths = within_blocks(encoder, places.behind) or list(encoder.groups.block_paths)

        @torch.inference_mode()
        def one_pass() -> None:
            batch = encoder.preprocess([sample_input(encoder.modality)])
            encoder({key: value.to(encoder.device) for key, value in batch.items()})

        shape = BottleneckShape(
            places=output_dimensions(encoder.module, paths, one_pass),
            width=self.width, activation=self.activation, dropout=self.dropout,
        )  # fmt: skip
        return attach_bottlenecks(encoder, shape, run.streams.torch("adapter"))

    def _chosen(self, encoder: AdaptedEncoder) -> dict[str, Any]:
        assert encoder.shape is not None
        return {"width": encoder.shape.width, "adapted_layers": len(encoder.shape.places)}
