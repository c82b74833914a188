"""A backbone from its config.json alone: shapes without weights, for counting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from warmstart.core import BackboneError
from warmstart.data import Modality

from .encoder import Encoder
from .families import FAMILIES
from .files import read_config
from .groups import find_groups, groups_of_family
from .loading import empty_model
from .sources import config_folder

__all__ = ["Blueprint", "blueprint"]


@dataclass(frozen=True)
class Blueprint:
    """An architecture on torch's meta device.

    Attributes:
        name: What was asked for.
        encoder: The network in its layer groups; it cannot compute.
        config: transformers' configuration.
        dimension: D of its vectors.
    """

    name: str
    encoder: Encoder
    config: Any
    dimension: int

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.encoder.module

    def inputs(self, batch_size: int, *, length: int, image_size: int) -> dict[str, torch.Tensor]:
        """A batch without values.

        Args:
            batch_size: Rows B.
            length: Tokens of each text.
            image_size: Pixels on a side of each image.
        """
        if self.encoder.modality == "text":
            return {
                "input_ids": torch.zeros(batch_size, length, dtype=torch.long, device="meta"),
            }
        shape = (batch_size, 3, image_size, image_size)
        return {"pixel_values": torch.zeros(shape, device="meta")}


class _NoProcessor:
    """Stands where preprocessing would be: a configuration has none."""

    def __getattr__(self, name: str) -> Any:
        raise BackboneError(f"a configuration alone has no preprocessing ({name}).")


def blueprint(source: str | Path, *, allow_unknown: bool = True) -> Blueprint:
    """Read the architecture that a folder, package or hub id describes.

    Args:
        source: Where config.json is; weights and tokenizer are neither needed nor read.
        allow_unknown: Whether a family without a table may be divided by its repeated blocks.

    Raises:
        BackboneError: When there is no configuration, or no layer groups can be told.
    """
    folder = config_folder(source)
    config = read_config(folder)
    family = FAMILIES.get(str(config.model_type))
    tower: Modality = "image" if family and family.modality != "text" else "text"
    network = empty_model(config, tower)
    if family is None:
        takes = getattr(network, "main_input_name", "input_ids")
        tower = "image" if takes == "pixel_values" else "text"
        if not allow_unknown:
            raise BackboneError(f"{source}: {config.model_type} has no table of layer groups.")
    if config.model_type == "clip":
        family = FAMILIES["clip_vision_model"]
    groups = groups_of_family(network, family) if family else find_groups(network)
    encoder = Encoder(
        network,
        _NoProcessor(),
        groups,
        modality=tower,
        pooling=family.pooling if family else "mean",
        inner_pooling=family.inner_pooling if family else "mean",
        pooling_names=("mean", "cls", "last", "model", "projection"),
        prefix_tokens=family.prefix_tokens if family else 0,
        n_depths=len(groups.blocks()),
    )
    return Blueprint(str(source), encoder, config, _dimension(config, network))


def _dimension(config: Any, network: nn.Module) -> int:
    """D, from the configuration or the last parameter with an output."""
    for key in ("projection_dim", "hidden_size"):
        value = getattr(config, key, None)
        if isinstance(value, int):
            return value
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return int(sizes[-1])
    last = [p for p in network.parameters() if p.ndim >= 1]
    return int(last[-1].shape[0])
