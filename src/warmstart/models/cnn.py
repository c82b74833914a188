"""A small convolutional network, trained from nothing: the control for images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from warmstart.core import pick_device
from warmstart.data import Dataset, Modality

from .base import Model, OwnCode, fill, model_kind, read_tensors

__all__ = ["CnnModel", "SmallCnn"]

_BATCH = 64


class SmallCnn(nn.Module):
    """Four convolution blocks (3×3, batch norm, ReLU, 2×2 pooling), mean pooling, linear head.

    About 0.4 million weights. Reads RGB images of `image_size`² pixels scaled to [-1, 1]; it has
    the same interface as an encoder (`preprocess`, `forward` to (B, D)) with its head apart.
    """

    dimension = 256

    def __init__(self, image_size: int = 64) -> None:
        super().__init__()
        self.image_size = image_size
        widths = (3, 32, 64, 128, self.dimension)
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*blocks)

    def preprocess(self, inputs: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Images to a batch of pixels (B, 3, S, S) in [-1, 1]."""
        size = (self.image_size, self.image_size)
        pixels = [
            np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32)
            for image in inputs
        ]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        return {"pixel_values": batch / 127.5 - 1.0}

    def lengths(self, inputs: Sequence[Image.Image]) -> list[int]:
        """Images of one size cost the same."""
        return [1] * len(inputs)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Vectors (B, D)."""
        pooled_BD: Tensor = self.blocks(batch["pixel_values"]).mean(dim=(2, 3))
        return pooled_BD


@model_kind
class CnnModel(Model):
    """The network with its linear head."""

    kind = "cnn"
    has_vectors = True
    modality: Modality = "image"

    def __init__(self, network: SmallCnn, head: nn.Linear, label_names: tuple[str, ...]) -> None:
        self.network = network.eval()
        self.head = head.eval()
        self.label_names = label_names

    @property
    def parameters(self) -> int:
        """Weights of network and head."""
        modules = (self.network, self.head)
        return sum(p.numel() for module in modules for p in module.parameters())

    def proba(self, dataset: Dataset) -> np.ndarray:
        """Class probabilities (N, C)."""
        return self._batches(len(dataset), dataset.inputs)[0]

    def proba_and_vectors(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities (N, C), and the head's inputs (N, 256)."""
        return self._batches(len(dataset), dataset.inputs)

    def proba_of(self, inputs: Sequence[Any]) -> np.ndarray:
        """Class probabilities (N, C) for images."""
        return self._batches(len(inputs), lambda rows: [inputs[row] for row in rows])[0]

    @torch.inference_mode()
    def _batches(
        self, count: int, fetch: Callable[[range], Sequence[Any]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and vectors of `count` images, which are fetched a batch at a time."""
        device = self.head.weight.device
        proba_NC = np.zeros((count, len(self.label_names)))
        vectors_ND = np.zeros((count, self.network.dimension), dtype=np.float32)
        for start in range(0, count, _BATCH):
            rows = range(start, min(start + _BATCH, count))
            batch = {k: v.to(device) for k, v in self.network.preprocess(fetch(rows)).items()}
            vectors_BD = self.network(batch)
            vectors_ND[rows.start : rows.stop] = vectors_BD.float().cpu().numpy()
            logits_BC = self.head(vectors_BD).double()
            proba_NC[rows.start : rows.stop] = torch.softmax(logits_BC, dim=-1).cpu().numpy()
        return proba_NC, vectors_ND

    def facts(self) -> dict[str, Any]:
        """The image size."""
        return {"image_size": self.network.image_size}

    def save_weights(self, folder: Path) -> None:
        """All tensors as safetensors."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"head.{k}": v for k, v in self.head.state_dict().items()}
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            folder / "model.safetensors",
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        facts: dict[str, Any],
        device: str,
        own: OwnCode | None = None,
    ) -> CnnModel:
        """Read the network back."""
        target = pick_device(device)
        path = folder / "model.safetensors"
        tensors = read_tensors(path)
        with torch.random.fork_rng(devices=[]):
            network = SmallCnn(int(facts["image_size"]))
            head = nn.Linear(network.dimension, len(facts["label_names"]))
        fill(nn.ModuleDict({"network": network, "head": head}), tensors, path)
        return cls(network.to(target), head.to(target), tuple(facts["label_names"]))
