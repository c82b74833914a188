"""IA3: learned factors on keys, values and the feed-forward's inner vector."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveFloat

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Run, Streams, typical
from warmstart.data import View
from warmstart.models import AdaptedEncoder, attach_peft

from ..base import Fitted
from ..registry import register
from .base import Adapting, no_layers
from .merging import merge_fitted
from .table import PLACES, Adaptation, family_in
from .targets import spell, within_blocks

__all__ = ["Ia3"]


@register
class Ia3(Adapting):
    """A learned factor for each key, value and inner feed-forward unit; they start at 1.

    Liu et al. 2022, (IA)³. Through PEFT. Settings that are not named here are those of
    fine-tuning.

    Needs: a few dozen labels. Pick when: labels are very few, or adapters must be tiny.

    Attributes:
        rate: Rate of the factors; they need a high one.
        weight_decay: 0: decay would pull the factors from 1 to 0.
        merge: Whether the fitted model is merged: a model of its own that needs no base.
    """

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "IA3"
    rate: PositiveFloat = Field(3e-2, json_schema_extra=typical("3e-3 to 1e-1"))
    head_multiplier: float = Field(1.0, ge=1, le=10, json_schema_extra=typical("1 to 10"))
    weight_decay: float = Field(0.0, ge=0, json_schema_extra=typical("0 to 0.1"))
    merge: bool = False

    _method: ClassVar[Adaptation] = "ia3"

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        from peft import IA3Config

        places = PLACES[family_in(encoder) or ""]
        scale = within_blocks(encoder, places.scale)
        feed = within_blocks(encoder, places.feed)
        if not scale + feed:
            raise no_layers(self.name, encoder)
        paths = list(dict.fromkeys([*scale, *feed]))
        kinds = {type(encoder.module.get_submodule(path)).__name__ for path in paths}
        targets = spell(encoder.module, paths)
        inner = spell(encoder.module, feed) if feed else []
        if isinstance(targets, list) and (isinstance(inner, str) or not set(inner) <= set(targets)):
            targets = spell(encoder.module, paths, exact=True)
            inner = spell(encoder.module, feed, exact=True)
        config: Any = IA3Config(
            task_type="FEATURE_EXTRACTION" if encoder.modality == "text" else None,
            target_modules=targets,
            feedforward_modules=inner,
            fan_in_fan_out=kinds == {"Conv1D"},
        )
        return attach_peft(encoder, config, seed=streams.seed("adapter"))

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train; merge where that is asked for."""
        fitted = super().fit(backbone, view, run)
        return merge_fitted(fitted, view) if self.merge else fitted
