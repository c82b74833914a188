"""What each model family looks like inside: where stem, blocks and tail are, and how it pools.

One table. A path that a particular model lacks is passed over (a checkpoint may come without its
pooler); `LayerGroups.check` proves that what remains covers every parameter exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FAMILIES", "Family", "Shape"]

Shape = Literal["tokens", "map"]


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are divided and pooled.

    Attributes:
        label: The family's name for people.
        modality: What it reads; `image-text` has two towers.
        stem: Paths of the modules that run before the first block.
        blocks: Candidate paths of the list of blocks; the first that exists counts.
        tail: Paths that run after the last block (final norm, pooler, projection). They belong to
            the last block's group, so that the last block has the base learning rate.
        first: Paths that belong to the first block's group.
        pooling: Default pooling of the last output.
        inner_pooling: Default pooling at inner depths.
        prefix_tokens: Tokens before the patches (class, distillation, register).
        objective: Pretraining objective, where the family alone tells.
        shared: Whether one block is called several times in a pass.
    """

    label: str
    modality: Literal["text", "image", "image-text"]
    stem: tuple[str, ...]
    blocks: tuple[str, ...]
    tail: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    pooling: str = "mean"
    inner_pooling: str = "mean"
    prefix_tokens: int = 0
    objective: str | None = None
    shared: bool = False


def _bert(label: str, *, stem: tuple[str, ...] = (), blocks: str = "encoder.layer") -> Family:
    return Family(label, "text", ("embeddings", *stem), (blocks,), ("pooler", "pooler_activation"))


def _decoder(label: str) -> Family:
    return Family(
        label, "text", ("embed_tokens", "rotary_emb"), ("layers",), ("norm",), pooling="last",
        inner_pooling="last", objective="causal language modelling",
    )  # fmt: skip


def _vit(label: str, prefix_tokens: int = 1, objective: str | None = None) -> Family:
    return Family(
        label, "image", ("embeddings",), ("layers", "encoder.layer"), ("layernorm", "pooler"),
        pooling="cls", inner_pooling="cls", prefix_tokens=prefix_tokens, objective=objective,
    )  # fmt: skip


def _staged(label: str, stem: str, blocks: str, *tail: str) -> Family:
    return Family(label, "image", (stem,), (blocks,), tail, pooling="model")


_CLIP = "contrastive image-text pairs"
_DINO = "self-distillation without labels (DINOv2)"


def _clip_vision(label: str) -> Family:
    return Family(
        label, "image",
        ("vision_model.embeddings", "vision_model.pre_layrnorm", "embeddings", "pre_layrnorm"),
        ("vision_model.encoder.layers", "encoder.layers"),
        ("vision_model.post_layernorm", "post_layernorm", "visual_projection"),
        pooling="model", inner_pooling="cls", prefix_tokens=1, objective=_CLIP,
    )  # fmt: skip


def _clip_text(label: str) -> Family:
    return Family(
        label, "text", ("text_model.embeddings", "embeddings"),
        ("text_model.encoder.layers", "encoder.layers"),
        ("text_model.final_layer_norm", "final_layer_norm", "text_projection"),
        pooling="model", inner_pooling="last", objective=_CLIP,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    "albert": Family(
        "ALBERT", "text", ("embeddings", "encoder.embedding_hidden_mapping_in"),
        ("encoder.albert_layer_groups",), ("pooler", "pooler_activation"), shared=True,
    ),
    "bert": _bert("BERT"),
    "camembert": _bert("CamemBERT"),
    "clip": _clip_vision("CLIP"),
    "clip_text_model": _clip_text("CLIP text tower"),
    "clip_vision_model": _clip_vision("CLIP vision tower"),
    "convnext": _staged("ConvNeXt", "embeddings", "encoder.stages", "layernorm"),
    "convnextv2": _staged("ConvNeXt V2", "embeddings", "encoder.stages", "layernorm"),
    "deberta-v2": Family(
        "DeBERTa-v2", "text", ("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm"),
        ("encoder.layer",), first=("encoder.conv",),
    ),
    "deit": _vit("DeiT", prefix_tokens=2),
    "dinov2": _vit("DINOv2", objective=_DINO),
    "distilbert": _bert("DistilBERT", blocks="transformer.layer"),
    "efficientnet": _staged(
        "EfficientNet", "embeddings", "encoder.blocks",
        "encoder.top_conv", "encoder.top_bn", "encoder.top_activation", "pooler",
    ),
    "electra": _bert("ELECTRA", stem=("embeddings_project",)),
    "gpt2": Family(
        "GPT-2", "text", ("wte", "wpe", "drop"), ("h",), ("ln_f",), pooling="last",
        inner_pooling="last", objective="causal language modelling",
    ),
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "mobilenet_v1": _staged("MobileNetV1", "conv_stem", "layer", "pooler"),
    "mobilenet_v2": _staged("MobileNetV2", "conv_stem", "layer", "conv_1x1", "pooler"),
    "modernbert": Family(
        "ModernBERT", "text", ("embeddings", "rotary_emb"), ("layers",), ("final_norm",),
    ),
    "mpnet": _bert("MPNet", stem=("encoder.relative_attention_bias",)),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "resnet": _staged("ResNet", "embedder", "encoder.stages", "pooler"),
    "roberta": _bert("RoBERTa"),
    "swin": _staged("Swin", "embeddings", "encoder.layers", "layernorm", "pooler"),
    "vit": _vit("ViT"),
    "xlm-roberta": _bert("XLM-R"),
}  # fmt: skip
