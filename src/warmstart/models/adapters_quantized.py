"""Four bits a weight for the frozen base of QLoRA, by bitsandbytes on CUDA or on the CPU.

Linear layers of the blocks become `bitsandbytes.nn.Linear4bit` (NF4, double quantisation); stem,
norms and everything else stay as they are, and so do layers whose inputs are no whole number of
blocks of 64: bitsandbytes 0.50 gives other values back for them on processors with AVX-512, without
a word. What is quantised is therefore read back and compared once. Products are computed in
bfloat16 on a CUDA device that has it (float16 otherwise), in float32 on the CPU.

Source: Dettmers et al. 2023, QLoRA, section 3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib import metadata, util
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.backbones import Encoder
from warmstart.core import NotApplicable, pick_device

__all__ = ["four_bit_size", "missing_for_4bit", "quantization_tensors", "quantize"]

PACKAGE = "bitsandbytes"
_BLOCK = 64  # weights that share a scale
_NESTED = 256  # scales that share a scale of their own
# How far rounding brings a weight at most: NF4's values are 0.304 of the block's largest apart or
# less, and 8 bits round that largest by less than a hundredth of the layer's.
_OF_BLOCK, _OF_LAYER = 0.16, 0.01


def missing_for_4bit(device: torch.device | None = None) -> str | None:
    """What is missing for a 4-bit base here, as the end of "needs ..."; None when nothing.

    Args:
        device: Where training shall run; None for the one that would be picked.
    """
    if not _installed():
        return f"the package {PACKAGE} (pip install 'warmstart[qlora]')"
    return _fault(device if device is not None else pick_device())


def quantize(encoder: Encoder, device: torch.device) -> list[str]:
    """Bring the linear layers of the blocks to 4 bits on a device, in place.

    Returns:
        Paths of the layers that were quantised.

    Raises:
        NotApplicable: Where package or device do not serve, or no block has a linear layer.
    """
    lacks = missing_for_4bit(device)
    if lacks is not None:
        raise NotApplicable(f"a 4-bit base needs {lacks}; lora trains the same adapter without it")
    bnb = _package()
    compute = _compute_type(device)
    done = _packable(encoder)
    for path, layer in done.items():
        _replace(encoder.module, path, _linear_4bit(bnb, layer, compute))
    if not done:
        raise NotApplicable(
            f"{type(encoder.module).__name__} has no linear layer in its blocks that can be "
            f"brought to 4 bits (their inputs must be a multiple of {_BLOCK}); lora works on it"
        )
    # PEFT asks the model itself whether its layers are 4-bit ones
    encoder.module.is_loaded_in_4bit = True  # type: ignore[assignment]
    encoder.to(device)  # the weights are packed when they arrive there
    for path, layer in done.items():
        _compare(bnb, path, encoder.module.get_submodule(path), layer.weight.detach())
    return list(done)


def four_bit_size(encoder: Encoder) -> tuple[int, int]:
    """Weights that `quantize` would bring to 4 bits, and the bytes that they then take.

    Half a byte a weight, a byte for the scale of each 64, four bytes for the scale of each 256 of
    those (Dettmers et al. 2023, section 3: 0.127 bits a weight beside the four).
    """
    sizes = [layer.weight.numel() for layer in _packable(encoder).values()]
    scales = [size // _BLOCK for size in sizes]
    nested = sum(-(-count // _NESTED) for count in scales)
    return sum(sizes), sum(sizes) // 2 + sum(scales) + 4 * nested


def quantization_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Scales and code books of the 4-bit weights: they lie beside the parameters, not among them.

    Yields:
        Names of their own, and the tensors.
    """
    for name, parameter in network.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            for key, value in state.as_dict(packed=True).items():
                yield f"{name}.{key}", value


def _installed() -> bool:
    return util.find_spec(PACKAGE) is not None


def _version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _packable(encoder: Encoder) -> dict[str, nn.Linear]:
    """Linear layers of the blocks whose rows are whole blocks of 64 weights, by path."""
    found: dict[str, nn.Linear] = {}
    for path in encoder.groups.block_paths:
        for name, layer in encoder.module.get_submodule(path).named_modules():
            if type(layer) is nn.Linear and layer.in_features % _BLOCK == 0:
                found[f"{path}.{name}" if name else path] = layer
    return found


def _package() -> Any:
    """Bitsandbytes, whose import warns of a kernel that it did not fetch and that is not used."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        import bitsandbytes
    finally:
        log.setLevel(before)
    return bitsandbytes


def _compute_type(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def _linear_4bit(bnb: Any, layer: nn.Linear, compute: torch.dtype) -> nn.Module:
    made: Any = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=compute,
        compress_statistics=True,
        quant_type="nf4",
    )
    made.weight = bnb.nn.Params4bit(
        layer.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    if layer.bias is not None:
        # in the type that it is added in: the layer would otherwise replace it at its first pass
        made.bias = nn.Parameter(layer.bias.detach().to(compute), requires_grad=False)
    # Some processors have a layout of their own, into which evaluation would rewrite the weights:
    # a frozen weight stays as it is, and training and evaluation use the same products.
    made.support_avx512bf16_for_cpu = False
    result: nn.Module = made.train(layer.training)
    return result


def _compare(bnb: Any, path: str, made: Any, weight_OI: Tensor) -> None:
    """Refuse a layer whose four bits are not near what they stand for."""
    back = bnb.functional.dequantize_4bit(made.weight.data, made.weight.quant_state)
    blocks = weight_OI.cpu().float().reshape(-1, _BLOCK)
    off = (back.cpu().float().reshape(-1, _BLOCK) - blocks).abs().amax(dim=1)
    largest = blocks.abs().amax(dim=1)
    if not bool((off <= _OF_BLOCK * largest + _OF_LAYER * largest.max()).all()):
        raise NotApplicable(
            f"{PACKAGE} {_version()} does not give the weights of {path} back from 4 bits on "
            f"{made.weight.device}: they are further off than rounding explains. lora trains the "
            "same adapter without it"
        )


@cache
def _fault(device: torch.device) -> str | None:
    """Why a 4-bit layer does not run there, found by running one; None when it does."""
    try:
        bnb = _package()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            layer = _linear_4bit(bnb, nn.Linear(_BLOCK, _BLOCK), _compute_type(device)).to(device)
            inputs_BD = torch.ones(2, _BLOCK, device=device, requires_grad=True)
            layer(inputs_BD).sum().backward()
            worked = inputs_BD.grad is not None and bool(inputs_BD.grad.isfinite().all())
        problem = None if worked else "the gradients of a trial are not finite"
    except Exception as error:  # whatever a compiled library or its absence may raise
        problem = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    if problem is None:
        return None
    return (
        f"a {PACKAGE} that computes on this device ({device.type}), and the one here "
        f"({_version()}) fails: {problem}"
    )


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
