"""From what a user asks to adapt (`auto`, `all`, names) to the paths of layers in the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from warmstart.backbones import Encoder
from warmstart.core import UsageError, nearest

from .table import PLACES

__all__ = ["layers_of", "spell", "within_blocks"]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Heads and poolers that the same checkpoint has in another class: no short name may catch them.
_ELSEWHERE = ("pooler.dense", "classifier", "classifier.dense", "score", "head")


def layers_of(
    encoder: Encoder, targets: Literal["auto", "all"] | Sequence[str], family: str | None
) -> list[str]:
    """Paths of the layers that LoRA is put on.

    Args:
        encoder: The untouched encoder.
        targets: `auto` for the family's own, `all` for every layer of the blocks that PEFT can
            adapt and merge (linear layers and convolutions, no grouped ones), or names: a name
            matches a layer whose path is it or ends in it after a point.
        family: The row of the table; needed for `auto`.

    Raises:
        UsageError: For a name that matches no layer, with the nearest ones.
    """
    if targets == "all":
        return _fitting(encoder, within_blocks(encoder, ("*",)))
    if targets == "auto":
        return _fitting(encoder, within_blocks(encoder, PLACES[family or ""].attend))
    return _named(encoder.module, targets)


def within_blocks(encoder: Encoder, patterns: Sequence[str]) -> list[str]:
    """Paths of the layers in the blocks whose path within their block matches a pattern."""
    found: list[str] = []
    for path in encoder.groups.block_paths:
        block = encoder.module.get_submodule(path)
        for name, layer in block.named_modules():
            if any(fnmatchcase(name, pattern) for pattern in patterns) and _adaptable(layer):
                found.append(f"{path}.{name}" if name else path)
    return found


def spell(network: nn.Module, paths: Sequence[str], *, exact: bool = False) -> list[str] | str:
    """Name exactly these layers as PEFT reads names: short where that is the same, else a pattern.

    Args:
        network: Holds them.
        paths: Of the layers.
        exact: Whether only the whole paths will do. They are used in any case for CLIP, whose
            other tower has layers of the same names.
    """
    config = getattr(network, "config", None)
    exact = exact or str(getattr(config, "model_type", "")).startswith("clip")
    wanted = set(paths)
    others = [name for name, _ in network.named_modules() if name and name not in wanted]
    others += list(_ELSEWHERE)
    for parts in (1, 2, 3):
        short = sorted({".".join(path.split(".")[-parts:]) for path in paths})
        if any(any(c.isdigit() for c in name) for name in short) or exact:
            break
        if not any(_matches(name, short) for name in others):
            return short
    return "(?:" + "|".join(re.escape(path) for path in paths) + ")"


def _named(network: nn.Module, targets: Sequence[str]) -> list[str]:
    modules = {name: layer for name, layer in network.named_modules() if name}
    can = {name for name, layer in modules.items() if _adaptable(layer)}
    found: list[str] = []
    for target in targets:
        hits = [name for name in modules if _matches(name, [target])]
        good = [name for name in hits if name in can]
        if hits and not good:
            raise UsageError(
                f"lora.targets: {target!r} is a {type(modules[hits[0]]).__name__}; linear layers "
                f"and convolutions can be adapted, {_some(can)}."
            )
        if not hits:
            short = {name.rpartition(".")[2] for name in can} | can
            raise UsageError(
                f"lora.targets: {target!r} matches no layer of {type(network).__name__}."
                f"{nearest(target, sorted(short))}"
            )
        found += [name for name in good if name not in found]
    inside = [name for name in found if _in_attention(network, name)]
    if inside:
        raise UsageError(
            f"lora.targets: {inside[0]!r} lies in torch's MultiheadAttention, which never calls "
            "it, so an adapter there would change nothing. Name other layers."
        )
    return found


def _fitting(encoder: Encoder, paths: Sequence[str]) -> list[str]:
    """Without grouped convolutions, which PEFT cannot merge, and what is never called."""
    modules = dict(encoder.module.named_modules())
    return [
        path
        for path in paths
        if getattr(modules[path], "groups", 1) == 1 and not _in_attention(encoder.module, path)
    ]


def _adaptable(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, *_CONVS)) or _is_conv1d(layer) or _is_4bit(layer)


def _is_conv1d(layer: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight lies the other way round."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def _is_4bit(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Linear4bit"


def _in_attention(network: nn.Module, path: str) -> bool:
    parent = path.rpartition(".")[0]
    return isinstance(network.get_submodule(parent), nn.MultiheadAttention)


def _matches(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith("." + target) for target in targets)


def _some(names: set[str]) -> str:
    return f"such as {sorted(names)[0]!r}" if names else "and this network has none"
