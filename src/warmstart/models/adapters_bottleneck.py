"""Bottleneck adapters: down, nonlinearity, up, residual, put behind layers of a frozen network.

They are our own (PEFT has none for these families), so they have a format of their own:
`bottleneck.json` says where they sit and how wide they are, `bottleneck.safetensors` holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn

from warmstart.core import Config, RunError, UsageError, nearest, read_json, write_json

from .base import read_tensors

__all__ = [
    "BOTTLENECK_FILE",
    "Bottleneck",
    "BottleneckShape",
    "load_bottlenecks",
    "output_dimensions",
    "put_bottlenecks",
    "save_bottlenecks",
]

BOTTLENECK_FILE = "bottleneck.json"
_TENSORS = "bottleneck.safetensors"
_CHILD = "bottleneck"
_NONLINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
}


class BottleneckShape(Config):
    """Where bottlenecks sit and how they look.

    Attributes:
        places: Path of each layer that one sits behind, and the length of that layer's output.
        width: Length of the inner vector.
        activation: The nonlinearity.
        dropout: On the inner vector, while training.
    """

    places: dict[str, PositiveInt]
    width: PositiveInt
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.0


class Bottleneck(nn.Module):
    """`x + up(f(down(x)))` on vectors (..., D), or on maps (B, D, H, W) at every pixel.

    `down` starts at N(0, 0.01²) and `up` at zero, so that the network starts unchanged.

    Source: Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, section 2.1.
    """

    def __init__(
        self,
        dimension: int,
        width: int,
        *,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(dimension, width, device="meta").to_empty(device="cpu")
        self.up = nn.Linear(width, dimension, device="meta").to_empty(device="cpu")
        self.dropout = nn.Dropout(dropout)
        self._activation = activation
        with torch.no_grad():
            self.down.weight.normal_(0.0, 0.01, generator=generator)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as `x`."""
        if x.ndim == 4:
            return x + self._change(x.movedim(1, -1)).movedim(-1, 1)  # in the memory layout of x
        return x + self._change(x)

    def _change(self, x: Tensor) -> Tensor:
        inner = _NONLINEAR[self._activation](self.down(x))
        change: Tensor = self.up(self.dropout(inner))
        return change


def put_bottlenecks(
    network: nn.Module, shape: BottleneckShape, generator: torch.Generator | None = None
) -> None:
    """Put a bottleneck behind each named layer of a network, which is changed in place.

    The layer keeps its name and weights; the bottleneck is a child of it and takes its output.

    Raises:
        UsageError: For a layer that is not there, with the nearest name.
    """
    modules = dict(network.named_modules())
    missing = [path for path in shape.places if path not in modules]
    if missing:
        raise UsageError(
            f"{type(network).__name__} has no layer {missing[0]!r}.{nearest(missing[0], modules)}"
        )
    for path, dimension in shape.places.items():
        layer = modules[path]
        made = Bottleneck(
            dimension, shape.width,
            activation=shape.activation, dropout=shape.dropout, generator=generator,
        )  # fmt: skip
        first = next(layer.parameters(), None)
        if first is not None:
            made = made.to(first.device)
        layer.add_module(_CHILD, made)
        layer.register_forward_hook(_apply)


def output_dimensions(network: nn.Module, paths: Sequence[str], run: Any) -> dict[str, int]:
    """Length of each named layer's output: last axis of tokens, second axis of maps.

    Args:
        network: Holds the layers.
        paths: Of the layers.
        run: Called without arguments; makes one pass.

    Raises:
        UsageError: For a layer that puts out no tensor, or does not run.
    """
    found: dict[str, int] = {}
    modules = dict(network.named_modules())

    def note(path: str) -> Any:
        def hook(_: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (2, 3, 4):
                found[path] = int(output.shape[1 if output.ndim == 4 else -1])

        return hook

    handles = [modules[path].register_forward_hook(note(path)) for path in paths]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for path in paths:
        if path not in found:
            raise UsageError(f"{path} puts out no tensor, so no adapter can follow it.")
    return {path: found[path] for path in paths}


def save_bottlenecks(folder: Path, network: nn.Module, shape: BottleneckShape) -> None:
    """Write shape and tensors."""
    write_json(folder / BOTTLENECK_FILE, shape.model_dump())
    tensors = {
        f"{path}.{key}": value.detach().cpu().contiguous()
        for path in shape.places
        for key, value in network.get_submodule(f"{path}.{_CHILD}").state_dict().items()
    }
    save_file(tensors, folder / _TENSORS)


def load_bottlenecks(folder: Path, network: nn.Module) -> BottleneckShape:
    """Put saved bottlenecks into a network.

    Raises:
        RunError: For files that are missing, damaged, or of another network.
    """
    path = folder / BOTTLENECK_FILE
    values = read_json(path)
    try:
        shape = BottleneckShape.parse(values if isinstance(values, Mapping) else {}, str(path))
        put_bottlenecks(network, shape)
    except UsageError as error:
        raise RunError(f"{path} does not fit its base: {error}") from error
    tensors = read_tensors(folder / _TENSORS)
    expected: set[str] = set()
    for place in shape.places:
        part = network.get_submodule(f"{place}.{_CHILD}")
        names = {f"{place}.{key}": key for key in part.state_dict()}
        expected |= set(names)
        try:
            part.load_state_dict({key: tensors[name] for name, key in names.items()})
        except KeyError as error:
            raise RunError(f"{folder / _TENSORS} is damaged: it lacks {error}.") from error
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1].strip()
            raise RunError(f"{folder / _TENSORS} does not fit {path.name}: {last}") from error
    unknown = sorted(set(tensors) - expected)
    if unknown:
        raise RunError(
            f"{folder / _TENSORS} holds {unknown[0]!r}, which {path.name} does not name."
        )
    return shape


def _apply(module: nn.Module, _: Any, output: Any) -> Any:
    """A forward hook; the bottleneck is found in the layer, so that copies have their own."""
    return module.get_submodule(_CHILD)(output)
