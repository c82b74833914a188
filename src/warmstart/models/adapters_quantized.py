"""Four bits a weight for the frozen base of QLoRA, by bitsandbytes on CUDA.

Linear layers of the blocks become `bitsandbytes.nn.Linear4bit` (NF4, double quantisation, products
in bfloat16 where the device has it); stem, norms and everything else stay as they are.

Source: Dettmers et al. 2023, QLoRA, sections 3.
"""

from __future__ import annotations

from importlib import util
from typing import Any

import torch
from torch import nn

from warmstart.backbones import Encoder
from warmstart.core import NotApplicable

__all__ = ["missing_for_4bit", "quantize"]

PACKAGE = "bitsandbytes"


def missing_for_4bit(device: torch.device | None = None) -> str | None:
    """What this machine lacks for a 4-bit base, as a sentence part; None when nothing.

    Args:
        device: Where training shall run; None for whatever there is.
    """
    lacks = []
    if not torch.cuda.is_available():
        lacks.append("a CUDA device (torch sees none)")
    elif device is not None and device.type != "cuda":
        lacks.append(f"to run on CUDA (the device is {device})")
    if util.find_spec(PACKAGE) is None:
        lacks.append(f"the package {PACKAGE} (pip install {PACKAGE})")
    return " and ".join(lacks) or None


def quantize(encoder: Encoder, device: torch.device) -> list[str]:
    """Bring the linear layers of the blocks to 4 bits on a CUDA device, in place.

    Returns:
        Paths of the layers that were quantised.

    Raises:
        NotApplicable: Where device or package are missing, or no block has a linear layer.
    """
    lacks = missing_for_4bit(device)
    if lacks is not None:
        raise NotApplicable(f"a 4-bit base needs {lacks}; lora trains the same adapter without it")
    import bitsandbytes as bnb

    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    compute = torch.bfloat16 if bf16 else torch.float16
    done: list[str] = []
    for path in encoder.groups.block_paths:
        block = encoder.module.get_submodule(path)
        for name, layer in list(block.named_modules()):
            if type(layer) is nn.Linear:
                full = f"{path}.{name}" if name else path
                _replace(encoder.module, full, _linear_4bit(bnb, layer, compute))
                done.append(full)
    if not done:
        raise NotApplicable(
            f"{type(encoder.module).__name__} has no linear layer in its blocks to bring to 4 "
            "bits; lora works on it"
        )
    # PEFT asks the model itself whether its layers are 4-bit ones
    encoder.module.is_loaded_in_4bit = True  # type: ignore[assignment]
    encoder.to(device)  # the weights are packed when they arrive there
    return done


def _linear_4bit(bnb: Any, layer: nn.Linear, compute: torch.dtype) -> nn.Module:
    made: nn.Module = bnb.nn.Linear4bit(
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
        made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return made.train(layer.training)


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
