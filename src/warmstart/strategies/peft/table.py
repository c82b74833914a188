"""What works on which family: one table, and a refusal that names what does.

Every pair was tried on a tiny model of its family with PEFT 0.21 and transformers 5.23, and the
tests try all of them again: those that are listed learn, save, load and answer the same for a text
alone and in a padded batch; those that are not fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warmstart.backbones import Backbone, Encoder
from warmstart.backbones.families import FAMILIES
from warmstart.core import NotApplicable

__all__ = ["PLACES", "Adaptation", "Places", "family_in", "family_of", "require", "works_on"]

Adaptation = Literal["lora", "qlora", "ia3", "prefix", "prompt", "ptuning", "adapter"]
_ORDER: tuple[Adaptation, ...] = (
    "lora", "qlora", "ia3", "prefix", "prompt", "ptuning", "adapter",
)  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where adapters go in the blocks of a family.

    Patterns are shell patterns on a layer's path within its block.

    Attributes:
        attend: LoRA's layers for `targets=auto`: query and value, or what makes them in one; the
            dense convolutions where there is no attention.
        scale: Layers whose outputs IA3 scales (key and value).
        feed: Layers whose inputs IA3 scales (the second of the feed-forward).
        behind: Layers that bottlenecks follow (ends of attention and feed-forward); none puts one
            behind each block.
        prefix: Whether keys and values of learned tokens can be given to the attention.
        prompt: Whether learned tokens can be put before the text's own.
        four_bit: Whether there are linear layers to bring to four bits.
        wraps: Whether the network works with its layers inside PEFT's.
    """

    attend: tuple[str, ...]
    scale: tuple[str, ...]
    feed: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    prefix: bool = False
    prompt: bool = False
    four_bit: bool = True
    wraps: bool = True

    def works(self) -> tuple[Adaptation, ...]:
        """The strategies that work."""
        refused: set[str] = set()
        if not self.prefix:
            refused.add("prefix")
        if not self.prompt:
            refused |= {"prompt", "ptuning"}
        if not self.wraps:
            refused |= {"lora", "qlora", "ia3"}
        if not self.four_bit:
            refused.add("qlora")
        return tuple(name for name in _ORDER if name not in refused)


def _bert() -> Places:
    return Places(
        ("attention.self.query", "attention.self.value"),
        ("attention.self.key", "attention.self.value"),
        ("output.dense",),
        ("attention.output.dense", "output.dense"),
        prefix=True, prompt=True,
    )  # fmt: skip


def _decoder() -> Places:
    return Places(
        ("self_attn.q_proj", "self_attn.v_proj"),
        ("self_attn.k_proj", "self_attn.v_proj"),
        ("mlp.down_proj",),
        ("self_attn.o_proj", "mlp.down_proj"),
        prefix=True, prompt=True,
    )  # fmt: skip


def _vit(within: str = "") -> Places:
    return Places(
        (f"{within}attention.q_proj", f"{within}attention.v_proj"),
        (f"{within}attention.k_proj", f"{within}attention.v_proj"),
        (f"{within}mlp.fc2",),
        (f"{within}attention.o_proj", f"{within}mlp.fc2"),
    )


def _clip() -> Places:
    return Places(
        ("self_attn.q_proj", "self_attn.v_proj"),
        ("self_attn.k_proj", "self_attn.v_proj"),
        ("mlp.fc2",),
        ("self_attn.out_proj", "mlp.fc2"),
    )


_CONVNEXT = Places(
    ("layers.*.pwconv1", "layers.*.pwconv2"), ("layers.*.dwconv",), ("layers.*.pwconv2",)
)

PLACES: dict[str, Places] = {
    "albert": Places(
        ("albert_layers.*.attention.query", "albert_layers.*.attention.value"),
        ("albert_layers.*.attention.key", "albert_layers.*.attention.value"),
        ("albert_layers.*.ffn_output",),
        ("albert_layers.*.attention.dense", "albert_layers.*.ffn_output"),
        prompt=True,
    ),
    "bert": _bert(),
    "camembert": _bert(),
    "clip": _clip(),
    "clip_text_model": _clip(),
    "clip_vision_model": _clip(),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "deberta-v2": Places(
        ("attention.self.query_proj", "attention.self.value_proj"),
        ("attention.self.key_proj", "attention.self.value_proj"),
        ("output.dense",),
        ("attention.output.dense", "output.dense"),
        prompt=True,
    ),
    "deit": _vit(),
    "dinov2": _vit(),
    "distilbert": Places(
        ("attention.q_lin", "attention.v_lin"),
        ("attention.k_lin", "attention.v_lin"),
        ("ffn.lin2",),
        ("attention.out_lin", "ffn.lin2"),
        prompt=True,
    ),
    "efficientnet": Places(
        ("expansion.expand_conv", "projection.project_conv"),
        ("depthwise_conv.depthwise_conv", "projection.project_conv"),
        four_bit=False,
    ),
    "electra": _bert(),
    "gpt2": Places(
        ("attn.c_attn",), ("attn.c_attn",), ("mlp.c_proj",), ("attn.c_proj", "mlp.c_proj"),
        prefix=True, prompt=True, four_bit=False,
    ),
    "llama": _decoder(),
    "mistral": _decoder(),
    "mobilenet_v1": Places(("convolution",), ("convolution",), four_bit=False, wraps=False),
    "mobilenet_v2": Places(
        ("expand_1x1.convolution", "reduce_1x1.convolution"),
        ("conv_3x3.convolution", "reduce_1x1.convolution"),
        four_bit=False, wraps=False,
    ),
    "modernbert": Places(
        ("attn.Wqkv",), ("attn.Wqkv",), ("mlp.Wo",), ("attn.Wo", "mlp.Wo"), prompt=True
    ),
    "mpnet": Places(
        ("attention.attn.q", "attention.attn.v"),
        ("attention.attn.k", "attention.attn.v"),
        ("output.dense",),
        ("attention.attn.o", "output.dense"),
        prompt=True,
    ),
    "qwen2": _decoder(),
    "qwen3": _decoder(),
    "resnet": Places(
        ("layers.*.layer.*.convolution",), ("layers.*.layer.*.convolution",), four_bit=False
    ),
    "roberta": _bert(),
    "swin": _vit("blocks.*."),
    "vit": _vit(),
    "xlm-roberta": _bert(),
}  # fmt: skip

_SHAPES = "its padding reads sizes from convolutions, which PEFT's layers around them do not have"
_WHY: dict[Adaptation, str] = {
    "lora": _SHAPES,
    "ia3": _SHAPES,
    "prefix": "its attention takes no keys and values from outside",
    "prompt": "it takes no embeddings in place of its input",
    "ptuning": "it takes no embeddings in place of its input",
    "qlora": "its blocks have no linear layers that can be brought to 4 bits",
}
_LABELS = {family.label: key for key, family in FAMILIES.items()}


def family_of(backbone: Backbone) -> str | None:
    """The backbone's row of the table, without loading it; None for a network of one's own."""
    return _LABELS.get(backbone.card.family)


def works_on(family: str) -> tuple[Adaptation, ...]:
    """The strategies of this package that work on a family."""
    return PLACES[family].works()


def family_in(encoder: Encoder) -> str | None:
    """The row of the table that a loaded network belongs to, if any."""
    config = getattr(encoder.module, "config", None)
    kind = str(getattr(config, "model_type", ""))
    return kind if kind in PLACES else None


def require(
    family: str | None, method: Adaptation, *, name: str = "this network", explicit: bool = False
) -> None:
    """Refuse a pair that does not work.

    Args:
        family: A row of the table; None for a network that the table does not know.
        method: The strategy's name.
        name: Of the backbone.
        explicit: Whether the layers are named by the user, so that no table is needed.

    Raises:
        NotApplicable: When the pair does not work, naming what does.
    """
    if family is None:
        if explicit:
            return
        raise NotApplicable(
            f"{name} is of no family that {method} is known to work on; lora works on any "
            "network with linear or convolution layers when it is told which: "
            'targets=["query", "value"]'
        )
    places = PLACES[family]
    if method not in places.works():
        label = FAMILIES[family].label
        raise NotApplicable(
            f"{method} does not work on {label}: {_WHY[method]}. What works: "
            f"{', '.join(places.works())}"
        )
