"""Use a network of your own as a backbone: its features, its layer groups, a probe on top.

    python examples/own_module.py

A small convolutional network is trained here on the digits 0 to 4 that scikit-learn carries. Its
layers then serve as a pretrained backbone for the digits 5 to 9, which it has never seen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import warmstart as ws
from warmstart.core import Run
from warmstart.data import Dataset, split
from warmstart.evaluation import score
from warmstart.strategies import Probe


class SmallNet(nn.Module):
    """Two convolution stages and a mean over the image: (B, 1, 8, 8) to (B, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors of 32 numbers."""
        features: Tensor = self.deep(self.stem(pixels)).mean(dim=(2, 3))
        return features


def to_tensors(images: list[Image.Image]) -> dict[str, Tensor]:
    """The preprocessing that belongs to the network: grey, 8 x 8, between 0 and 1."""
    grey = [np.asarray(image.convert("L").resize((8, 8)), dtype=np.float32) for image in images]
    return {"pixels": torch.from_numpy(np.stack(grey))[:, None] / 255}


def rows_of(data: Dataset, digits: str) -> Dataset:
    """The rows of some classes, their labels counted among these classes."""
    names = [data.label_names[i] for i in data.labels_N]
    rows = data.select([i for i, name in enumerate(names) if name in digits])
    return rows.relabel(list(digits))


def pretrain(network: SmallNet, images: list[Image.Image], labels_N: np.ndarray) -> None:
    """A hundred steps of ordinary training on the digits 0 to 4."""
    torch.manual_seed(0)
    head = nn.Linear(32, 5)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=5e-3)
    pixels, targets = to_tensors(images)["pixels"], torch.from_numpy(np.array(labels_N))
    for _ in range(100):
        rows = torch.randint(len(targets), (64,))
        loss = nn.functional.cross_entropy(head(network(pixels[rows])), targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ws.sample("digits", folder / "digits", rows=1000)
        data = ws.read(folder / "digits")

        torch.manual_seed(0)
        network = SmallNet()
        known = rows_of(data, "01234")
        pretrain(network, known.inputs(), known.labels_N)

        # Groups are named from the first to run to the last; every parameter is in exactly one.
        encoder = ws.backbone(
            module=network,
            processor=to_tensors,
            groups={"stem": ["stem"], "deep": ["deep"]},
            modality="image",
            name="digits-net",
        )
        print(f"{encoder.name}: {encoder.card.parameters} parameters in {encoder.group_names}")

        new = rows_of(data, "56789")
        parts = split(new, shots=20)
        fitted = Probe().fit(encoder, parts.view(new), Run(folder / "run"))
        test = parts.test_rows(new)
        found = score(fitted.model.proba(test.without_labels()), test.labels_N, new.label_names)
        print(f"20 examples of each of 5 new digits, {found.n} test rows: {found.main.value:.2f}")


if __name__ == "__main__":
    main()
