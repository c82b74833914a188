"""The pretraining domain, as far as a backbone or a user can tell of it.

A network with batch normalisation carries the mean and the variance of each channel over the images
that it was trained on. The same channels' mean and variance over other images tell how far these
are from there, layer by layer, without a single image of the pretraining set. Other networks keep
no such record; a user's own vectors stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from warmstart.backbones import Encoder
from warmstart.core import Config, DataError, NotApplicable, Streams, progress

from .distance_halves import deal, halves_of, spread_interval
from .distance_inputs import Estimate, Floats, Ints, at_least

__all__ = ["BatchNormShift", "LayerShift", "batch_norm_shift", "read_reference"]

_GROUPS, _HALVES = 20, 100


class LayerShift(Config):
    """One batch normalisation.

    Attributes:
        name: Its place in the network.
        channels: How many it has.
        value: Σ_c [(m_c - M_c)² + (s_c - S_c)²] / Σ_c S_c², with the data's mean m and standard
            deviation s of channel c and the stored M and S.
    """

    name: str
    channels: int
    value: float


class BatchNormShift(Estimate):
    """Distance of data to the batch-norm statistics that a network keeps: the mean over its layers.

    In units of the stored variance: 0 where channels are distributed as in pretraining, 1 where
    they have moved by as much as they vary there. `rows` are the data's and 0.

    Attributes:
        layers: Each on its own, in the order in which the network has them.
    """

    layers: tuple[LayerShift, ...]


def batch_norm_shift(
    encoder: Encoder,
    inputs: Callable[[Sequence[int]], Sequence[Any]],
    rows: int,
    *,
    name: str = "this backbone",
    most: int = 512,
    batch_size: int = 32,
    halves: int = 20,
    seed: int = 0,
) -> BatchNormShift:
    """Compare what goes into each batch normalisation with what the network remembers.

    Limits: stored statistics are those of training, with its augmentation and image size; a data
    set read at another size differs from them for that alone.

    Args:
        encoder: The network, which is put into evaluation mode and back.
        inputs: From row numbers to inputs.
        rows: Rows that there are, at least 2.
        name: The backbone's name, for messages.
        most: Rows that are used at most, drawn by the seed.
        batch_size: Rows in a pass.
        halves: Random halvings of the data for the yardstick; 0 for none.
        seed: Of the draw and the halves.

    Raises:
        NotApplicable: For a network that keeps no such statistics.
        DataError: For fewer than 2 rows.
    """
    at_least("batch_norm_shift", "most", most, 2, "256 to 2048")
    if rows < 2:
        raise DataError(f"batch_norm_shift: at least 2 rows are needed, got {rows}.")
    layers = _layers(encoder)
    if not layers:
        raise NotApplicable(
            f"{name} has no batch normalisation, and nothing else in it tells of the data that it "
            "was pretrained on. Give a source to compare with, or vectors of your own as reference."
        )
    streams = Streams(seed).child("shift", "batch-norm")
    at_N = np.sort(streams.numpy("draw").permutation(rows)[:most])
    group_N = deal(len(at_N), min(_GROUPS, len(at_N)), streams.numpy("groups"))
    sums = _collect(encoder, layers, inputs, at_N, group_N, batch_size)
    groups = int(group_N.max()) + 1
    ones_1G = np.ones((1, groups))
    by_layer = np.stack([one.against_reference(ones_1G)[0] for one in sums])
    value = float(by_layer.mean())
    interval, method = None, "fewer than 4 rows: no interval"
    if len(at_N) >= 4:
        take_RG = halves_of(groups, _HALVES, streams.numpy("halves"))
        values_R = np.mean([one.against_reference(take_RG) for one in sums], axis=0)
        interval = spread_interval(value, values_R, groups)
        method = f"half-sampling over {groups} groups of rows"
    yardstick = None
    if halves and len(at_N) >= 4:
        take_RG = halves_of(groups, halves, streams.numpy("yardstick"))
        yardstick = float(np.mean([one.between(take_RG) for one in sums], axis=0).max())
    return BatchNormShift(
        name="batch_norm", value=value, interval=interval, method=method, rows=(len(at_N), 0),
        halves=yardstick,
        layers=tuple(
            LayerShift(name=one.name, channels=len(one.mean_C), value=float(layer))
            for one, layer in zip(sums, by_layer, strict=True)
        ),
    )  # fmt: skip


def read_reference(path: Path) -> Floats:
    """Reference vectors (N, D) from .npy, or from the column `vector` of a .parquet file.

    `warmstart embed DATA --out FILE` writes both. They must come from the same backbone, depth and
    pooling as what they are compared with; a file does not tell.

    Raises:
        DataError: For a file that is not there, or holds no such vectors.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. `warmstart embed DATA --out FILE` writes one.")
    try:
        if path.suffix.lower() == ".npy":
            return _two_dimensional(np.load(path, allow_pickle=False), path)
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            column = pq.read_table(path, columns=["vector"]).column(0)
            return _two_dimensional(np.asarray(column.to_pylist(), dtype=np.float32), path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no vectors: {error}") from error
    raise DataError(f"{path} must end in .npy or .parquet.")


def _two_dimensional(found: np.ndarray, path: Path) -> Floats:
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise DataError(
            f"{path} must hold one vector a row, got an array of shape {found.shape} of "
            f"{found.dtype}."
        )
    return found


def _layers(encoder: Encoder) -> dict[str, nn.Module]:
    """Modules that keep a running mean and variance, by name."""
    found = {}
    for name, module in encoder.module.named_modules():
        mean = getattr(module, "running_mean", None)
        variance = getattr(module, "running_var", None)
        if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
            found[name] = module
    return found


class _Sums:
    """What goes into one layer: counts, sums and sums of squares by group of rows and channel."""

    def __init__(self, name: str, module: nn.Module, groups: int) -> None:
        self.name = name
        stored = [getattr(module, key).detach().double().cpu().numpy()
                  for key in ("running_mean", "running_var")]  # fmt: skip
        self.mean_C, self.spread_C = stored[0], np.sqrt(stored[1])
        self.count_G = np.zeros(groups)
        self.sum_GC = np.zeros((groups, len(self.mean_C)))
        self.square_GC = np.zeros((groups, len(self.mean_C)))

    def add(self, found: torch.Tensor, group_B: Ints) -> None:
        """Take in a batch of (B, C, ...) activations."""
        flat = found.detach().double().flatten(2) if found.ndim > 2 else found.double()[..., None]
        np.add.at(self.sum_GC, group_B, flat.sum(dim=2).cpu().numpy())
        np.add.at(self.square_GC, group_B, (flat**2).sum(dim=2).cpu().numpy())
        np.add.at(self.count_G, group_B, float(flat.shape[2]))

    def _moments(self, take_RG: Floats) -> tuple[Floats, Floats]:
        count_R1 = (take_RG @ self.count_G)[:, None]
        mean_RC = take_RG @ self.sum_GC / count_R1
        variance_RC = take_RG @ self.square_GC / count_R1 - mean_RC**2
        return mean_RC, np.sqrt(np.maximum(variance_RC, 0.0))

    def _unit(self) -> float:
        return max(float((self.spread_C**2).sum()), 1e-300)

    def against_reference(self, take_RG: Floats) -> Floats:
        """Distance of unions of groups to what is stored (R,)."""
        mean_RC, spread_RC = self._moments(take_RG)
        square_RC = (mean_RC - self.mean_C) ** 2 + (spread_RC - self.spread_C) ** 2
        found: Floats = square_RC.sum(axis=1) / self._unit()
        return found

    def between(self, take_RG: Floats) -> Floats:
        """Distance of unions of groups to the rest (R,), in the same unit."""
        ours, theirs = self._moments(take_RG), self._moments(1 - take_RG)
        square_RC = (ours[0] - theirs[0]) ** 2 + (ours[1] - theirs[1]) ** 2
        found: Floats = square_RC.sum(axis=1) / self._unit()
        return found


def _collect(
    encoder: Encoder,
    layers: dict[str, nn.Module],
    inputs: Callable[[Sequence[int]], Sequence[Any]],
    at_N: Ints,
    group_N: Ints,
    batch_size: int,
) -> list[_Sums]:
    """One pass over the rows, with an ear at the entrance of every layer."""
    groups = int(group_N.max()) + 1
    sums = {name: _Sums(name, module, groups) for name, module in layers.items()}
    now = group_N[:0]

    def listen(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: sums[name].add(args[0], now)

    handles = [module.register_forward_pre_hook(listen(name)) for name, module in layers.items()]
    training = encoder.training
    encoder.eval()
    try:
        with (
            torch.inference_mode(),
            progress.task("Reading batch statistics", total=len(at_N)) as bar,
        ):
            for start in range(0, len(at_N), batch_size):
                chosen = at_N[start : start + batch_size]
                now = group_N[start : start + batch_size]
                batch = encoder.preprocess(list(inputs(chosen.tolist())))
                encoder({key: value.to(encoder.device) for key, value in batch.items()})
                bar.advance(len(chosen))
    finally:
        encoder.train(training)
        for handle in handles:
            handle.remove()
    return list(sums.values())
