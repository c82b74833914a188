"""Merging: the adapter's change becomes part of the weights, and the model needs it no more.

A linear layer's weight becomes W + (alpha / r) · B · A (alpha / √r for rsLoRA; DoRA scales the sum
to its learned lengths; IA3 multiplies rows or columns). Logits before and after are compared on
real rows; what differs by more than the tolerance is refused.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.backbones import Encoder, embed_inputs
from warmstart.backbones.encoder import sample_input
from warmstart.core import NotApplicable, RunError, UsageError
from warmstart.data import View
from warmstart.models import AdaptedEncoder, AdaptedModel, EncoderModel

from ..base import Fitted

__all__ = ["TOLERANCE", "merge", "merge_fitted", "unmerge"]

TOLERANCE = 1e-4
_PROBES = 32
_MERGEABLE = ("lora", "ia3")
_Layers = dict[str, Any]  # PEFT's layers by path
_Originals = dict[str, tuple[Tensor, Tensor | None]]  # weight and bias by path


@dataclass(frozen=True)
class _Kept:
    """What unmerging needs: the layers as they were, with their weights' own bits.

    Attributes:
        layers: PEFT's layers by path, unmerged.
        originals: Weight and bias of each layer before merging.
        model: The adapted model's other parts.
    """

    layers: _Layers
    originals: _Originals
    model: AdaptedModel


_kept: weakref.WeakKeyDictionary[EncoderModel, _Kept] = weakref.WeakKeyDictionary()


def merge(
    model: AdaptedModel, inputs: Sequence[Any] | None = None, *, tolerance: float = TOLERANCE
) -> EncoderModel:
    """A model of its own with the adapter's change in its weights; the given one stays as it is.

    Args:
        model: With LoRA or IA3 on a base that is not quantised.
        inputs: Texts or RGB images on which logits are compared; a sample input when None.
        tolerance: Largest difference of a logit.

    Returns:
        A model that saves as any other and needs no base. `unmerge` takes it back while this
        process lives.

    Raises:
        NotApplicable: For an adapter that no weight can express, or a quantised base.
        RunError: When a logit changes by more than the tolerance.
    """
    encoder = model.adapted
    if encoder.method not in _MERGEABLE:
        raise NotApplicable(
            f"{encoder.method} cannot be merged: learned tokens and bottlenecks are no change of a "
            "weight. lora and ia3 can be merged; keep this model with its base"
        )
    if model.quantized:
        raise NotApplicable(
            "a 4-bit base cannot be merged exactly: the sum would have to be rounded to 4 bits "
            "again. Train with lora where a merged model is wanted"
        )
    probes = [sample_input(encoder.modality)] if inputs is None else list(inputs)
    if not probes:
        raise UsageError("merge needs at least one input to compare logits on, got none.")
    network, layers, originals = _merged_network(encoder)
    plain = _plain_encoder(encoder, network)
    before_NC, after_NC = _logits(model, encoder, probes), _logits(model, plain, probes)
    gap = float((before_NC - after_NC).abs().max())
    if not gap <= tolerance:  # a NaN is refused too
        raise RunError(
            f"merging changes logits by {gap:.2g} on {len(probes)} inputs, more than the "
            f"{tolerance:g} allowed, so it is refused. Keep the adapter with its base."
        )
    merged = EncoderModel(
        model.backbone, copy.deepcopy(model.head), model.label_names, encoder=plain,
        pooling=model.pooling,
    )  # fmt: skip
    _kept[merged] = _Kept(layers, originals, model)
    return merged


def unmerge(merged: EncoderModel) -> AdaptedModel:
    """The adapted model again, its base with the bits that it had before merging.

    W + D - D is not W in floating point, so the weights before merging were kept, and are put
    back. The merged model is used up.

    Raises:
        UsageError: For a model that was not merged in this process.
    """
    kept = _kept.pop(merged, None)
    if kept is None:
        raise UsageError(
            "this model was not merged in this process (or was unmerged already), so the weights "
            "before merging are not known. Load the adapted model's own folder."
        )
    encoder = merged.encoder
    for path, layer in kept.layers.items():
        base = layer.get_base_layer()
        weight, bias = kept.originals[path]
        base.weight.data = weight
        if bias is not None:
            base.bias.data = bias
        layer.merged_adapters.clear()
        _put(encoder.module, path, layer)
    encoder.module.peft_config = kept.model.adapted.module.peft_config
    adapted = AdaptedEncoder(encoder, kept.model.adapted.method)
    return AdaptedModel(
        merged.backbone, merged.head, merged.label_names, encoder=adapted,
        quantized=kept.model.quantized,
    )  # fmt: skip


def merge_fitted(fitted: Fitted, view: View) -> Fitted:
    """What a strategy returned, with its model merged and compared on validation rows."""
    model = fitted.model
    assert isinstance(model, AdaptedModel)
    rows = view.validation if len(view.validation) else view.train
    inputs = rows.inputs(list(range(min(_PROBES, len(rows)))))
    return replace(fitted, model=merge(model, inputs), values={**fitted.values, "merged": True})


def _merged_network(encoder: AdaptedEncoder) -> tuple[nn.Module, _Layers, _Originals]:
    """A copy of the network with its adapted layers merged; those layers and what they held."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = copy.deepcopy(encoder.module)
    layers = {
        path: layer for path, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    originals: _Originals = {}
    for path, layer in layers.items():
        base: Any = layer.get_base_layer()
        # safe merging sets new tensors and leaves these as they are
        originals[path] = (base.weight.data, None if base.bias is None else base.bias.data)
        try:
            layer.merge(safe_merge=True)
        except (NotImplementedError, ValueError, RuntimeError) as error:
            raise NotApplicable(f"PEFT cannot merge {path}: {error}") from error
        _put(network, path, base)
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network, layers, originals


def _plain_encoder(encoder: AdaptedEncoder, network: nn.Module) -> Encoder:
    """An ordinary encoder around a network that has the layout of the untouched one."""
    from warmstart.backbones import LayerGroups

    groups = encoder.groups
    own = LayerGroups(
        network, groups.prefixes, blocks=groups.block_paths, shared_note=groups.shared_note
    )
    return Encoder(network, encoder.processor, own, **encoder.settings).eval()


@torch.inference_mode()
def _logits(model: AdaptedModel, encoder: Encoder, inputs: Sequence[Any]) -> Tensor:
    vectors_ND = torch.from_numpy(embed_inputs(encoder.eval(), inputs))
    head = model.head.to(encoder.device).eval()
    logits_NC: Tensor = head(vectors_ND.to(encoder.device))
    return logits_NC.double().cpu()


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
