"""Batch-norm statistics against those of data, and vectors of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.backbones import backbone
from warmstart.core import DataError, NotApplicable
from warmstart.data import read
from warmstart.shift import batch_norm_shift, read_reference


class Net(nn.Module):
    """Pixels to four channels, twice normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.second = nn.BatchNorm2d(4)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.conv(self.first(pixel_values))).mean(dim=(2, 3))
        return found


class Bare:
    """As much of an encoder as is asked for: tensors go in as they are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.device = torch.device("cpu")
        self.training = True

    def preprocess(self, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.stack(inputs)}

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.as_tensor(self.module(**batch))

    def eval(self) -> None:
        self.module.eval()

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)


def images(count: int, seed: int = 0, by: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, 3, 8, 8, generator=generator) + by


def trained() -> Bare:
    """A network that has seen many standard normal images."""
    net = Net().train()
    with torch.no_grad():
        for seed in range(60):
            net(images(64, 100 + seed))
    return Bare(net)


def measure(encoder: Bare, pixels: torch.Tensor, **settings: Any) -> Any:
    return batch_norm_shift(
        encoder,
        lambda at: [pixels[i] for i in at],
        len(pixels),
        **settings,
    )


def test_it_equals_its_plain_twin() -> None:
    encoder, pixels = trained(), images(12, by=0.7, scale=1.5)
    before = {key: value.clone() for key, value in encoder.module.state_dict().items()}
    found = measure(encoder, pixels, batch_size=5)
    net: Any = encoder.module
    net.eval()
    with torch.no_grad():
        inner = net.conv(net.first(pixels))
    by_layer = []
    for layer, inside in ((net.first, pixels), (net.second, inner)):
        top, under = 0.0, 0.0
        for c in range(inside.shape[1]):
            channel = inside[:, c].flatten().double()
            mean, spread = float(channel.mean()), float(channel.var(correction=0)) ** 0.5
            stored = float(layer.running_mean[c]), float(layer.running_var[c]) ** 0.5
            top += (mean - stored[0]) ** 2 + (spread - stored[1]) ** 2
            under += stored[1] ** 2
        by_layer.append(top / under)
    assert [one.value for one in found.layers] == pytest.approx(by_layer, rel=1e-4)
    assert found.value == pytest.approx(np.mean(by_layer), rel=1e-4)
    assert [(one.name, one.channels) for one in found.layers] == [("first", 3), ("second", 4)]
    assert found.rows == (12, 0)
    for key, value in encoder.module.state_dict().items():
        assert torch.equal(value, before[key]), "no statistic moved"


def test_known_answers() -> None:
    """Images of the training kind are near 0; moved by one standard deviation, the first is 1."""
    encoder = trained()
    near = measure(encoder, images(400, 1))
    assert near.value < 0.02
    assert near.interval[0] < 0.005
    moved = measure(encoder, images(400, 2, by=1.0))
    assert moved.layers[0].value == pytest.approx(1.0, abs=0.05)
    assert moved.halves < 0.05 < moved.interval[0]


def test_few_rows_and_a_draw() -> None:
    encoder = trained()
    assert measure(encoder, images(3)).interval is None
    some = measure(encoder, images(60), most=20)
    assert some.rows == (20, 0)
    assert some == measure(encoder, images(60), most=20)
    with pytest.raises(DataError, match="at least 2 rows"):
        measure(encoder, images(1))


def test_a_network_without_statistics_is_told_plainly() -> None:
    with pytest.raises(NotApplicable, match="tiny has no batch normalisation, and nothing else"):
        measure(Bare(nn.Conv2d(3, 4, 3)), images(4), name="tiny")


def test_a_real_network(tiny_resnet: Path, pictures: Path) -> None:
    encoder, rows = backbone(str(tiny_resnet)).load(device="cpu"), read(pictures)
    found = batch_norm_shift(encoder, rows.inputs, len(rows))
    assert len(found.layers) > 3
    assert found.value > 0
    assert not encoder.training


def test_reference_vectors_come_back(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "v.npy", vectors)
    np.testing.assert_array_equal(read_reference(tmp_path / "v.npy"), vectors)
    table = pa.table({"id": list("abcd"), "vector": list(vectors)})
    pq.write_table(table, tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_reference(tmp_path / "v.parquet"), vectors)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, "does not exist"),
        ("v.txt", b"1 2", "must end in .npy or .parquet"),
        ("v.npy", b"no numpy", "holds no vectors"),
        ("v.parquet", b"no parquet", "holds no vectors"),
        ("flat.npy", np.ones(4), "must hold one vector a row"),
        ("object.npy", np.array([{"a": 1}], dtype=object), "holds no vectors"),
    ],
)
def test_files_that_hold_no_vectors(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=content.dtype == object)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_reference(path)
