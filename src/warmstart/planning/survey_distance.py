"""How far the rows lie from what the backbone knows, and how well its vectors suit the labels."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable
from warmstart.data import Dataset
from warmstart.evaluation import h_score, log_me
from warmstart.shift import batch_norm_shift, proxy_a_distance, read_reference

from .evidence import Measured

__all__ = ["FAR", "measured_distance", "transferability"]

FAR = {"batch_norm": 1.0, "proxy_a_distance": 1.0}
"""From where a domain counts as far. Batch-norm statistics: moved by as much as they vary in
pretraining. Proxy A-distance: a classifier errs on a quarter of the rows, half of chance."""


def measured_distance(
    backbone: Backbone, rows: Dataset, reference: Path | None, *, seed: int = 0, most: int = 256
) -> tuple[Measured, float]:
    """The distance of the rows to a reference, or to the statistics that the network keeps.

    Args:
        backbone: The untouched backbone.
        rows: Training rows.
        reference: Vectors to compare with, see `shift.read_reference`.
        seed: Of draws and folds.
        most: Rows for batch-norm statistics.

    Returns:
        The evidence, and -1 for a near domain, 1 for a far one.

    Raises:
        NotApplicable: Where there is nothing to measure against.
    """
    began = time.perf_counter()
    if reference is not None:
        vectors_ND = backbone.features(rows).vectors_ND
        found = proxy_a_distance(read_reference(reference), vectors_ND, halves=0, seed=seed)
        title, value, interval, name = (
            f"Proxy A-distance to {reference.name}", found.value, found.interval, found.name,
        )  # fmt: skip
    elif rows.modality == "image":
        shift = batch_norm_shift(
            backbone.load(), rows.inputs, len(rows), name=backbone.name, most=most, halves=0,
            seed=seed,
        )  # fmt: skip
        title, value, interval, name = (
            "Batch-norm statistics from those of pretraining", shift.value, shift.interval,
            shift.name,
        )  # fmt: skip
    else:
        raise NotApplicable(
            f"{backbone.name} keeps no statistics of the texts that it was pretrained on: the "
            "domain distance is not measured. Give vectors of your own with --reference, or say "
            "--distance near or far"
        )
    side = 1.0 if value >= FAR[name] else -1.0
    bounds = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    item = Measured(
        name="distance", value=value, interval=interval, seconds=time.perf_counter() - began,
        text=f"{title}: {value:.2f}{bounds}; {FAR[name]:g} or more counts as far, so the domain is "
        f"{'far' if side > 0 else 'near'}.",
        details={"kind": name, "far_from": FAR[name], "side": side},
    )  # fmt: skip
    return item, side


_TRANSFER = {
    "log_me": (log_me, "LogME, the evidence for a linear model of the labels: {value:.3f}."),
    "h_score": (h_score, "H-score, the vectors' variance between the classes: {value:.3f}."),
}


def transferability(vectors_ND: np.ndarray, labels_N: np.ndarray) -> tuple[Measured, ...]:
    """LogME and the H-score of the training rows.

    They compare backbones with one another; no number of theirs speaks for a strategy, so the
    decision does not rest on them.
    """
    found = []
    for name, (score, words) in _TRANSFER.items():
        began = time.perf_counter()
        value = float(score(vectors_ND, labels_N))
        found.append(
            Measured(
                name=name, value=value, seconds=time.perf_counter() - began,
                text=words.format(value=value),
            )
        )  # fmt: skip
    return tuple(found)
