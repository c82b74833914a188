"""Bottleneck adapters after Houlsby: our own, in the contract of the others."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat

from warmstart.backbones import Encoder
from warmstart.core import Streams, typical
from warmstart.models import AdaptedEncoder, BottleneckShape, attach_bottlenecks, output_dimensions

from ..registry import register
from .base import Adapting
from .table import PLACES, Adaptation, family_in
from .targets import within_blocks

__all__ = ["Adapter"]

_SIDE = 64


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
    rate: PositiveFloat = Field(3e-3, json_schema_extra=typical("3e-4 to 1e-2"))
    width: int = Field(48, ge=1, le=65_536, json_schema_extra=typical("16 to 256"))
    activation: Literal["gelu", "relu"] = "gelu"

    _method: ClassVar[Adaptation] = "adapter"

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        places = PLACES[family_in(encoder) or ""]
        ends = within_blocks(encoder, places.behind)
        shape = BottleneckShape(
            places=_widths(encoder, ends) if ends else _channels(encoder),
            width=self.width, activation=self.activation, dropout=self.dropout,
        )  # fmt: skip
        return attach_bottlenecks(encoder, shape, streams.torch("adapter"))

    def _chosen(self, encoder: AdaptedEncoder) -> dict[str, Any]:
        assert encoder.shape is not None
        return {"width": encoder.shape.width, "adapted_layers": len(encoder.shape.places)}


def _widths(encoder: Encoder, paths: list[str]) -> dict[str, int]:
    """Length of what linear layers put out (GPT-2's keep theirs as `nf`)."""
    layers: list[Any] = [encoder.module.get_submodule(path) for path in paths]
    sizes = [int(getattr(layer, "out_features", 0) or layer.nf) for layer in layers]
    return dict(zip(paths, sizes, strict=True))


def _channels(encoder: Encoder) -> dict[str, int]:
    """Channels of what each block puts out, from one pass over an empty picture."""

    @torch.no_grad()
    def one_pass() -> None:
        encoder.module(pixel_values=torch.zeros(1, 3, _SIDE, _SIDE, device=encoder.device))

    return output_dimensions(encoder.module, encoder.groups.block_paths, one_pass)
