"""From what a network puts out to one vector a row.

Names: `mean` (over real tokens or patches; over H and W for maps), `cls` (first token), `last`
(last real token), `model` (the network's own pooled output), `projection` (CLIP's shared space).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from warmstart.core import UsageError, nearest

__all__ = [
    "POOLINGS",
    "TOKEN_POOLINGS",
    "as_hidden",
    "choose_pooling",
    "pool_hidden",
    "pool_output",
]

POOLINGS = ("mean", "cls", "last", "model", "projection")
TOKEN_POOLINGS = ("mean", "cls", "last")
_PROJECTED = ("image_embeds", "text_embeds")


def choose_pooling(depth: int | None, wanted: str | None, *, default: str, inner: str) -> str:
    """The pooling that a depth and a wish lead to.

    At inner depths there is no pooled output of the network's own: a default that needs one gives
    way to `inner`, and for networks of maps `model` means the mean over H and W.

    Args:
        depth: Finished blocks, None for the last output.
        wanted: What was asked for, None for the backbone's own.
        default: The backbone's own at the last output.
        inner: The backbone's own at inner depths.
    """
    if depth is None:
        return wanted or default
    if wanted is None:
        return default if default in TOKEN_POOLINGS else inner
    return inner if wanted == "model" and default == "model" and inner == "mean" else wanted


def pool_output(
    output: Any, mask_BT: Tensor | None, pooling: str, prefix_tokens: int = 0
) -> Tensor:
    """Pool a network's final output into vectors (B, D).

    Args:
        output: A tensor (B, D), (B, T, D) or (B, C, H, W), or an object or dict with
            `last_hidden_state`, `pooler_output`, `image_embeds` or `text_embeds`.
        mask_BT: 1 for real tokens, 0 for padding; None when all are real.
        pooling: One of `POOLINGS`.
        prefix_tokens: Tokens before the patches, which `mean` leaves out.

    Raises:
        UsageError: When the output does not have what the pooling needs.
    """
    if isinstance(output, Tensor):
        if output.ndim == 2:
            if pooling in {"mean", "cls", "last"}:
                raise UsageError(
                    f"pooling {pooling!r} needs tokens (B, T, D); this network puts out vectors "
                    "(B, D). Use pooling 'model'."
                )
            return output
        return pool_hidden(output, mask_BT, "mean" if pooling == "model" else pooling)
    if pooling == "projection":
        for name in _PROJECTED:
            value = _field(output, name)
            if value is not None:
                return value
        raise UsageError(f"pooling 'projection' needs a CLIP tower. {_has(output)}")
    if pooling == "model":
        value = _field(output, "pooler_output")
        if value is not None:
            return value.flatten(1)
        hidden = _field(output, "last_hidden_state")
        if hidden is not None and hidden.ndim == 4:
            return pool_hidden(hidden, None, "mean")
        raise UsageError(f"pooling 'model' needs a pooler_output. {_has(output)}")
    hidden = _field(output, "last_hidden_state")
    if hidden is None:
        raise UsageError(f"pooling {pooling!r} needs a last_hidden_state. {_has(output)}")
    return pool_hidden(hidden, mask_BT, pooling, prefix_tokens)


def pool_hidden(
    hidden: Tensor, mask_BT: Tensor | None, pooling: str, prefix_tokens: int = 0
) -> Tensor:
    """Pool hidden states (B, T, D) or maps (B, C, H, W) into vectors (B, D).

    `mean` divides the sum over real tokens by their number, as sentence-transformers does. Vectors
    (B, D), which a network of one's own may pass on, are pooled already.
    """
    if hidden.ndim == 2:
        return hidden
    if hidden.ndim == 4:
        if pooling not in {"mean", "model"}:
            raise UsageError(f"pooling {pooling!r} needs tokens; a map has 'mean'.")
        return hidden.mean(dim=(2, 3))
    if pooling == "mean":
        return _mean(hidden, mask_BT, prefix_tokens)
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return _last(hidden, mask_BT)
    raise UsageError(f"pooling {pooling!r} cannot be used here.{nearest(pooling, POOLINGS[:3])}")


def _mean(hidden_BTD: Tensor, mask_BT: Tensor | None, prefix_tokens: int) -> Tensor:
    if mask_BT is None or mask_BT.shape[1] != hidden_BTD.shape[1]:
        return hidden_BTD[:, prefix_tokens:].mean(dim=1)
    weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1e-9)


def _last(hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    if mask_BT is None:
        return hidden_BTD[:, -1]
    steps_T = torch.arange(1, mask_BT.shape[1] + 1, device=hidden_BTD.device)
    last_B = (mask_BT.to(steps_T.dtype) * steps_T).argmax(dim=1)
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B]


def as_hidden(value: Any) -> Tensor:
    """The hidden state in what a block takes or returns: a tensor, or the first of a tuple."""
    while isinstance(value, tuple | list):
        value = value[0]
    if not isinstance(value, Tensor):
        value = _field(value, "last_hidden_state")
    if not isinstance(value, Tensor):
        raise UsageError("a block of this network passes on no tensor, so depth cannot be used.")
    return value


def _field(output: Any, name: str) -> Tensor | None:
    value = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
    return value if isinstance(value, Tensor) else None


def _has(output: Any) -> str:
    names = output.keys() if isinstance(output, dict) else getattr(output, "__dict__", {}).keys()
    return f"The output has: {', '.join(sorted(map(str, names))) or type(output).__name__}."
