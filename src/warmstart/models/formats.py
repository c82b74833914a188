"""Writing a model so that transformers or sentence-transformers open it as well.

Where a family's own classification head is exactly our pooling and a linear layer, the folder is
that family's `AutoModelForImageClassification` / `AutoModelForSequenceClassification` checkpoint.
Otherwise a text model is a sentence-transformers folder, an image model a plain `AutoModel` folder,
and the head lies beside it in `head.safetensors`. A network of the user's own, which no library
opens, is its tensors in `module.safetensors`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from warmstart.backbones import Encoder
from warmstart.backbones.encoder import image_extra, sample_input
from warmstart.backbones.processing import CallableProcessor
from warmstart.backbones.quiet import quiet_transformers
from warmstart.core import RunError, progress

from .heads import Head, HeadShape

__all__ = ["MODULE_FILE", "native_pooling", "needs_code", "opens_with", "save_encoder"]

MODULE_FILE = "module.safetensors"
M = TypeVar("M", bound=nn.Module)

# model type -> (pooling that the family's own classifier uses, its Auto class)
_NATIVE = {
    "vit": ("cls", "AutoModelForImageClassification"),
    "deit": ("cls", "AutoModelForImageClassification"),
    "resnet": ("model", "AutoModelForImageClassification"),
    "convnext": ("model", "AutoModelForImageClassification"),
    "convnextv2": ("model", "AutoModelForImageClassification"),
    "swin": ("model", "AutoModelForImageClassification"),
    "mobilenet_v1": ("model", "AutoModelForImageClassification"),
    "mobilenet_v2": ("model", "AutoModelForImageClassification"),
    "efficientnet": ("model", "AutoModelForImageClassification"),
    "bert": ("model", "AutoModelForSequenceClassification"),
    "albert": ("model", "AutoModelForSequenceClassification"),
}
_SENTENCE_POOLING = ("mean", "cls", "last")


def _model_type(encoder: Encoder) -> str | None:
    config = getattr(encoder.module, "config", None)
    return getattr(config, "model_type", None)


def needs_code(encoder: Encoder) -> bool:
    """Whether network or processor are the user's own code, which no folder can hold."""
    own_network = not hasattr(encoder.module, "save_pretrained")
    return own_network or isinstance(encoder.processor, CallableProcessor)


def native_pooling(encoder: Encoder) -> str | None:
    """The pooling under which this family's own classifier is a linear layer, if there is one."""
    return _NATIVE.get(_model_type(encoder) or "", (None, ""))[0]


def _is_native(encoder: Encoder, shape: HeadShape, depth: int | None, pooling: str) -> bool:
    return (
        native_pooling(encoder) == pooling
        and depth is None
        and shape.hidden is None
        and not shape.normalize
        and not (encoder.normalize and pooling == encoder.pooling)
        # at another image size the classifier would need an argument of its caller
        and not image_extra(encoder.module, encoder.processor)
    )


def _is_sentence(encoder: Encoder, depth: int | None, pooling: str) -> bool:
    own = depth is None and pooling == encoder.pooling
    return encoder.modality == "text" and own and pooling in _SENTENCE_POOLING


def opens_with(
    encoder: Encoder, shape: HeadShape, *, depth: int | None, pooling: str, native: bool = True
) -> tuple[str, ...]:
    """Names of the classes that open the saved folder, the fullest first.

    Args:
        encoder: What is saved.
        shape: Of its head.
        depth: Layers that are used, None for all.
        pooling: How positions become one vector.
        native: False where the family's own classifier was tried and does not fit.
    """
    if needs_code(encoder):
        return ()
    if native and _is_native(encoder, shape, depth, pooling):
        return (f"transformers.{_NATIVE[_model_type(encoder) or ''][1]}", "transformers.AutoModel")
    if _is_sentence(encoder, depth, pooling):
        return ("sentence_transformers.SentenceTransformer", "transformers.AutoModel")
    return ("transformers.AutoModel",)


def save_encoder(
    folder: Path,
    encoder: Encoder,
    head: Head,
    label_names: Sequence[str],
    *,
    depth: int | None,
    pooling: str,
) -> tuple[str, ...]:
    """Write the encoder (and, where native, the head inside it) with its preprocessing.

    Where the family's own classifier turns out to answer otherwise, the next form is written and
    that is said.

    Returns:
        What opens the folder, as `opens_with` has it.
    """
    if needs_code(encoder):
        _save_module(folder, encoder.module)
        return ()
    native = None
    if _is_native(encoder, head.shape, depth, pooling):
        native = _checked_native(encoder, head, label_names)
    if native is not None:
        with quiet_transformers():
            native.save_pretrained(folder)
            encoder.processor.save(folder)
    elif _is_sentence(encoder, depth, pooling):
        encoder.save_sentence_transformer(folder)
    else:
        encoder.save(folder)
    return opens_with(encoder, head.shape, depth=depth, pooling=pooling, native=native is not None)


def _save_module(folder: Path, module: nn.Module) -> None:
    """Write a network's tensors, tied ones once for each name."""
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    others = sorted(set(module.state_dict()) - set(tensors))
    if others:
        raise RunError(
            f"{type(module).__name__} keeps more than tensors in its state_dict "
            f"({', '.join(others[:3])}), which has no safe form on disk. Keep that as a buffer."
        )
    save_file(tensors, folder / MODULE_FILE)


def _checked_native(encoder: Encoder, head: Head, label_names: Sequence[str]) -> Any:
    """The family's own classifier, or None where it is not the same, which is noted."""
    try:
        native = _native(encoder, head, label_names)
        _check_same(native, encoder, head)
    except RunError as error:
        progress.note(f"{error} The model is saved with its head in a file of its own.")
        return None
    return native


def _native(encoder: Encoder, head: Head, label_names: Sequence[str]) -> Any:
    """The family's own classifier around copies of encoder and head, on the CPU."""
    import transformers

    auto = getattr(transformers, _NATIVE[_model_type(encoder) or ""][1])
    own: Any = encoder.module.config
    settings = own.to_dict() | {
        "architectures": [],  # a distilled DeiT would name a classifier with two heads
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
        "problem_type": "single_label_classification",
    }
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        native = auto.from_config(type(own).from_dict(settings), dtype=torch.float32).eval()
    weights = {k: v.detach().cpu() for k, v in encoder.module.state_dict().items()}
    missing, extra = native.base_model.load_state_dict(weights, strict=False)
    extra = [key for key in extra if not key.startswith("pooler.")]
    linear = [m for m in native.classifier.modules() if isinstance(m, nn.Linear)]
    shapes_fit = len(linear) == 1 and linear[0].weight.shape == head.output.weight.shape
    if missing or extra or not shapes_fit:
        raise RunError(
            f"{type(native).__name__} does not take this encoder and head: missing {missing[:3]}, "
            f"unknown {extra[:3]}, classifier {[tuple(m.weight.shape) for m in linear]}."
        )
    with torch.no_grad():
        linear[0].weight.copy_(head.output.weight.detach().cpu())
        linear[0].bias.copy_(head.output.bias.detach().cpu())
    return native


@torch.inference_mode()
def _check_same(native: Any, encoder: Encoder, head: Head) -> None:
    """Run both on one input, on the CPU in float32: an accelerator's rounding is no difference.

    Raises:
        RunError: When their logits differ.
    """
    encoder, head = _plain(encoder).eval(), _plain(head).eval()
    batch = encoder.preprocess([sample_input(encoder.modality)])
    ours_BC = head(encoder(batch, pooling=native_pooling(encoder)))
    theirs_BC = native(**batch).logits
    if not torch.allclose(ours_BC, theirs_BC, rtol=1e-3, atol=1e-3):
        gap = float((ours_BC - theirs_BC).abs().max())
        raise RunError(
            f"{type(native).__name__} gives other logits than this encoder and head (by {gap:.2g})."
        )


def _plain(module: M) -> M:
    """The module itself where it is on the CPU in float32, else a copy that is."""
    here = {(p.device.type, p.dtype) for p in module.parameters()}
    return module if here <= {("cpu", torch.float32)} else copy.deepcopy(module).cpu().float()
