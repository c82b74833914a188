"""Tiny random models of every family, saved as transformers folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from PIL import Image

VOCABULARY = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", *"abcdefghijklmnopqrstuvwxyz"]
TEXTS = ["a b c", "d", "e f g h i j k", "a b c d e f g h i j k l m n o p", "z y"]

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_TEXT = {
    **_SIZES, "vocab_size": len(VOCABULARY), "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.1, **_IDS,
}  # fmt: skip
_LM = {k: v for k, v in _TEXT.items() if k != "hidden_dropout_prob"}
_PATCH = {**_SIZES, "image_size": 32, "patch_size": 8}
_DISTIL = {
    "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
_GPT2 = {
    "n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": len(VOCABULARY), "n_positions": 40,
    "bos_token_id": 3, "eos_token_id": 3,
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2],
    "window_size": 4,
}  # fmt: skip
_EFFICIENT = {
    "image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
}  # fmt: skip
_CLIP = {
    "text_config": {**_LM, "projection_dim": 16},
    "vision_config": {**_PATCH, "projection_dim": 16},
    "projection_dim": 16,
}


def configs() -> dict[str, Any]:
    """A configuration of each family, by model type."""
    return {
        "albert": t.AlbertConfig(embedding_size=16, **_TEXT),
        "bert": t.BertConfig(**_TEXT),
        "clip": t.CLIPConfig(**_CLIP),
        "convnext": t.ConvNextConfig(**_STAGES),
        "deberta-v2": t.DebertaV2Config(
            relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8,
            conv_kernel_size=3, conv_act="gelu", norm_rel_ebd="layer_norm", **_TEXT,
        ),
        "deit": t.DeiTConfig(**_PATCH),
        "dinov2": t.Dinov2Config(**{k: v for k, v in _PATCH.items() if k != "intermediate_size"}),
        "distilbert": t.DistilBertConfig(**_DISTIL),
        "efficientnet": t.EfficientNetConfig(**_EFFICIENT),
        "electra": t.ElectraConfig(embedding_size=16, **_TEXT),
        "gpt2": t.GPT2Config(**_GPT2),
        "llama": t.LlamaConfig(**_LM),
        "mobilenet_v1": t.MobileNetV1Config(depth_multiplier=0.25),
        "mobilenet_v2": t.MobileNetV2Config(depth_multiplier=0.25),
        "modernbert": t.ModernBertConfig(cls_token_id=2, sep_token_id=3, **_LM),
        "mpnet": t.MPNetConfig(**_TEXT),
        "qwen2": t.Qwen2Config(num_key_value_heads=2, **_LM),
        "resnet": t.ResNetConfig(embedding_size=8, **_STAGES),
        "roberta": t.RobertaConfig(**_TEXT),
        "swin": t.SwinConfig(**_SWIN),
        "vit": t.ViTConfig(**_PATCH),
        "xlm-roberta": t.XLMRobertaConfig(**_TEXT),
    }  # fmt: skip


TEXT_FAMILIES = (
    "albert", "bert", "deberta-v2", "distilbert", "electra", "gpt2", "llama", "modernbert", "mpnet",
    "qwen2", "roberta", "xlm-roberta",
)  # fmt: skip
IMAGE_FAMILIES = (
    "clip", "convnext", "deit", "dinov2", "efficientnet", "mobilenet_v1", "mobilenet_v2", "resnet",
    "swin", "vit",
)  # fmt: skip
BLOCKS = {
    "albert": 1, "convnext": 4, "efficientnet": 8, "mobilenet_v1": 26, "mobilenet_v2": 16,
    "resnet": 4,
}  # fmt: skip


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    t.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", cls_token="<cls>",
        sep_token="<sep>", mask_token="<mask>", bos_token="<cls>", eos_token="<sep>",
        model_max_length=40,
    ).save_pretrained(folder)  # fmt: skip


def save_processor(folder: Path, size: int = 32, **values: object) -> None:
    facts = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
        "do_normalize": True, "size": {"height": size, "width": size}, "resample": 2,
        "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **values,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))


def make_folder(root: Path, family: str, model: Any = None) -> Path:
    """Save a seeded random model with tokenizer and image processor."""
    folder = root / family
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = t.AutoModel.from_config(configs()[family]).eval()
            _spread(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    save_processor(folder, 64 if family == "swin" else 32)
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than a fresh model's, so that differences show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)


def pictures(count: int = 3) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 255, (20 + 9 * i, 40, 3)).astype(np.uint8))
        for i in range(count)
    ]
