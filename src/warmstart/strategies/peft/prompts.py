"""Learned tokens: as keys and values of every layer (prefix), or before the text (prompt)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from warmstart.backbones import Backbone, Encoder
from warmstart.backbones.processing import TextProcessor
from warmstart.core import NotApplicable, Streams, typical
from warmstart.models import AdaptedEncoder, attach_peft

from ..registry import register
from .base import Adapting
from .table import Adaptation

__all__ = ["Prefix", "Prompt", "Ptuning"]

_OFFSET = {"roberta", "xlm-roberta", "camembert", "mpnet"}  # positions begin after the padding id
_SHORTEST = 8


class _Tokens(Adapting):
    """What prefix, prompt and P-tuning share.

    Attributes:
        tokens: Learned tokens. Texts are cut shorter where the model's positions would not hold
            both, and that is said.
    """

    modalities: ClassVar[tuple[str, ...]] = ("text",)
    tokens: int = Field(10, ge=1, le=4_096, json_schema_extra=typical("5 to 100"))
    weight_decay: float = Field(0.0, ge=0, json_schema_extra=typical("0 to 0.1"))

    def _with_room(self, backbone: Backbone, encoder: Encoder) -> Backbone:
        limit, length = _positions(encoder), backbone.max_length
        if limit is None or length is None or length + self.tokens <= limit:
            return backbone
        room = limit - self.tokens
        if room < _SHORTEST:
            raise NotApplicable(
                f"{self.name}.tokens={self.tokens} leaves {max(0, room)} of the {limit} positions "
                f"of {backbone.name} for the text; at least {_SHORTEST} are needed. Use at most "
                f"{limit - _SHORTEST} tokens"
            )
        assert isinstance(encoder.processor, TextProcessor)
        encoder.processor.max_length = room
        return backbone.with_settings(max_length=room)

    def _common(self, encoder: Encoder) -> dict[str, Any]:
        """PEFT's settings that it would else read from a configuration it may not know."""
        config: Any = encoder.module.config
        return {
            "task_type": "FEATURE_EXTRACTION",
            "num_virtual_tokens": self.tokens,
            "num_layers": int(config.num_hidden_layers),
            "num_attention_heads": int(config.num_attention_heads),
        }


def _positions(encoder: Encoder) -> int | None:
    """Tokens that the model has positions for, learned ones among them."""
    config: Any = encoder.module.config
    count = getattr(config, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:
        return None
    return count - (2 if config.model_type in _OFFSET else 0)


def _embedding_width(encoder: Encoder) -> int:
    network: Any = encoder.module
    return int(network.get_input_embeddings().embedding_dim)


@register
class Prefix(_Tokens):
    """Learned keys and values before those of the text, in every layer.

    Li and Liang 2021, Prefix-Tuning. Through PEFT. Settings that are not named here are those of
    fine-tuning.

    Needs: some hundred labels. Pick when: the base must not be touched and inputs are short.

    Attributes:
        rate: Rate of the prefix; it needs a high one.
        tokens: Learned tokens.
        weight_decay: 0 by default.
    """

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "Prefix tuning"
    rate: PositiveFloat = Field(3e-2, json_schema_extra=typical("3e-3 to 1e-1"))
    head_multiplier: float = Field(1.0, ge=1, le=10, json_schema_extra=typical("1 to 10"))

    _method: ClassVar[Adaptation] = "prefix"

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        from peft import PrefixTuningConfig

        network: Any = encoder.module
        config = PrefixTuningConfig(
            **self._common(encoder), token_dim=int(network.config.hidden_size)
        )
        return attach_peft(encoder, config, seed=streams.seed("adapter"))


@register
class Prompt(_Tokens):
    """Learned embeddings before those of the text; they start as embeddings of random words.

    Lester et al. 2021, prompt tuning. Through PEFT. The learned tokens are no part of what is
    pooled. Settings that are not named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: an adapter of a few thousand weights must do.

    Attributes:
        rate: Rate of the embeddings; they need a high one.
        tokens: Learned tokens.
        weight_decay: 0 by default.
    """

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "Prompt tuning"
    rate: PositiveFloat = Field(3e-2, json_schema_extra=typical("3e-3 to 1e-1"))
    head_multiplier: float = Field(1.0, ge=1, le=10, json_schema_extra=typical("1 to 10"))

    _method: ClassVar[Adaptation] = "prompt"

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        from peft import PromptTuningConfig, PromptTuningInit

        config = PromptTuningConfig(
            **self._common(encoder),
            token_dim=_embedding_width(encoder),
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
        return attach_peft(encoder, config, seed=streams.seed("adapter"))


@register
class Ptuning(_Tokens):
    """Learned embeddings before those of the text, made by a small network while training.

    Liu et al. 2021, P-tuning. Through PEFT; what is saved are the embeddings alone. Settings that
    are not named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: prompt tuning learns too slowly.

    Attributes:
        rate: Rate of the small network.
        tokens: Learned tokens.
        width: Length of its inner vectors.
        network: `mlp` or `lstm`.
        weight_decay: 0 by default.
    """

    name: ClassVar[str] = "ptuning"
    title: ClassVar[str] = "P-tuning"
    rate: PositiveFloat = Field(4e-3, json_schema_extra=typical("1e-3 to 1e-2"))
    width: int = Field(128, ge=1, le=65_536, json_schema_extra=typical("64 to 512"))
    network: Literal["mlp", "lstm"] = "mlp"

    _method: ClassVar[Adaptation] = "ptuning"

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        from peft import PromptEncoderConfig

        config = PromptEncoderConfig(
            **self._common(encoder),
            token_dim=_embedding_width(encoder),
            encoder_hidden_size=self.width,
            encoder_reparameterization_type=self.network.upper(),
            **({"encoder_dropout": 0.0, "encoder_num_layers": 1} if self.network == "lstm" else {}),
        )
        return attach_peft(encoder, config, seed=streams.seed("adapter"))
