"""Heads: what turns a backbone's vector into class logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from warmstart.core import Config, Streams

__all__ = ["Head", "HeadShape", "StandardizedHead"]


class HeadShape(Config):
    """What is needed to build a head before its weights are read.

    Attributes:
        dimension: Length D of the vectors that come in.
        classes: Number of classes C.
        hidden: Width of the hidden layer, or None for a linear head.
        normalize: Whether vectors are brought to unit length first (cosine heads).
        dropout: Dropout probability before each linear layer while training.
    """

    dimension: PositiveInt
    classes: PositiveInt
    hidden: PositiveInt | None = None
    normalize: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def kind(self) -> Literal["linear", "mlp"]:
        """The head's name as users set it."""
        return "linear" if self.hidden is None else "mlp"


class Head(nn.Module):
    """A linear layer, or one hidden layer with GELU, on a vector.

    The output's weights start at N(0, 0.02²), a hidden layer's at N(0, 1/D), biases at 0, all from
    the named random stream: the first logits are close to uniform, the start is a function of the
    seed, and torch's global generator is left as it was.
    """

    def __init__(self, shape: HeadShape, streams: Streams | None = None) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.hidden or shape.dimension
        self.hidden = None if shape.hidden is None else _linear(shape.dimension, shape.hidden)
        self.output = _linear(inner, shape.classes)
        self.dropout = nn.Dropout(shape.dropout)
        generator = (streams or Streams(0)).torch("head")
        with torch.no_grad():
            for layer in (self.hidden, self.output):
                if layer is not None:
                    scale = 0.02 if layer is self.output else layer.in_features**-0.5
                    layer.weight.normal_(0.0, scale, generator=generator)
                    layer.bias.zero_()

    @classmethod
    def linear(cls, weight_CD: np.ndarray, bias_C: np.ndarray, *, normalize: bool = False) -> Head:
        """A linear head with the given weights."""
        classes, dimension = weight_CD.shape
        head = cls(HeadShape(dimension=dimension, classes=classes, normalize=normalize))
        with torch.no_grad():
            head.output.weight.copy_(torch.from_numpy(weight_CD))
            head.output.bias.copy_(torch.from_numpy(bias_C))
        return head.eval()

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Logits of shape (B, C)."""
        if self.shape.normalize:
            vectors_BD = nn.functional.normalize(vectors_BD, dim=-1)
        if self.hidden is not None:
            vectors_BD = nn.functional.gelu(self.hidden(self.dropout(vectors_BD)))
        logits_BC: Tensor = self.output(self.dropout(vectors_BD))
        return logits_BC

    @torch.inference_mode()
    def proba(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Class probabilities (N, C) in float64 for vectors (N, D)."""
        was_training = self.training
        self.eval()
        device = self.output.weight.device
        logits = self(torch.as_tensor(np.array(vectors_ND, dtype=np.float32), device=device))
        self.train(was_training)
        proba_NC: np.ndarray = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return proba_NC


class StandardizedHead(nn.Module):
    """A head while it is trained on standardised vectors; `folded` then reads raw ones.

    Args:
        head: With a hidden layer.
        mean_D: Mean of the training vectors.
        scale_D: Their spread, above 0.
    """

    def __init__(self, head: Head, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.head = head
        self.mean_D: Tensor
        self.scale_D: Tensor
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    def standardized(self, vectors_BD: Tensor) -> Tensor:
        """The vectors, less the mean, in units of the spread."""
        return (vectors_BD - self.mean_D) / self.scale_D

    @torch.no_grad()
    def folded(self, state: Mapping[str, Tensor] | None = None) -> Head:
        """A head that reads raw vectors: W' = W / scale, b' = b - W' · mean.

        Args:
            state: Weights of the head to take instead of the present ones.
        """
        head = Head(self.head.shape).to(self.mean_D.dtype)
        head.load_state_dict(dict(state or self.head.state_dict()))
        assert head.hidden is not None
        head.hidden.weight.div_(self.scale_D.cpu())
        head.hidden.bias.sub_(head.hidden.weight @ self.mean_D.cpu())
        return head.eval()


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer whose weights are still to be drawn: torch's global generator is not used."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
