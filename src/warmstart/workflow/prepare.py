"""Read, split, choose the input size, embed once, audit: what comes before every arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone, FeatureCache
from warmstart.backbones import backbone as open_backbone
from warmstart.core import DataError, progress, read_json, write_json
from warmstart.data import Audit, Dataset, Modality, Split, audit, read, split
from warmstart.planning import fit_input_size

__all__ = ["Prepared", "Source", "as_backbone", "prepare", "settle_size"]

_SIZE_FILE = "input_size.json"

Source = Any  # a path, a hub id, a Dataset or a Hugging Face datasets object


@dataclass(frozen=True)
class Prepared:
    """Data and backbone, ready for arms.

    Attributes:
        dataset: All rows.
        split: Their parts.
        backbone: With its input size settled and its cache in place.
        notes: Choices that were made for the user.
    """

    dataset: Dataset
    split: Split
    backbone: Backbone
    notes: tuple[str, ...] = field(default=())

    def embed(self) -> np.ndarray:
        """Vectors of all rows of the split, through the cache."""
        ids = [*self.split.train, *self.split.validation, *self.split.test]
        rows = self.dataset.take_ids(ids).without_labels()
        return self.backbone.features(rows).vectors_ND

    def audit(self, vectors_ND: np.ndarray | None = None) -> Audit:
        """The audit of all rows; near duplicates where vectors are given."""
        ids = [*self.split.train, *self.split.validation, *self.split.test]
        rows = self.dataset.take_ids(ids)
        return audit(rows, self.split, group=self.split.group, vectors_ND=vectors_ND)


def as_backbone(
    source: Backbone | str | Path | None,
    modality: Modality,
    settings: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone with the feature cache in place, from whatever names one."""
    found = (
        source
        if isinstance(source, Backbone)
        else open_backbone(None if source is None else str(source), modality=modality)
    )
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    if found.cache is None:
        given["cache"] = FeatureCache()
    return found.with_settings(**given) if given else found


def prepare(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    group: str | None = None,
    shots: int | None = None,
    split_seed: int = 0,
    **reading: Any,
) -> Prepared:
    """Read the data and open the backbone; settle the split.

    Args:
        data: Anything that `read` takes, or a Dataset.
        backbone: A backbone or what names one; the default for the data's modality otherwise.
        image_size: Pixels on a side; the backbone's own otherwise.
        max_length: Tokens; the backbone's own otherwise.
        device: Where to compute.
        group: Column that must not be divided between parts.
        shots: Training rows a class, for few-shot work.
        split_seed: Seed of the split, which training seeds do not change.
        **reading: Passed to `data.read`.

    Raises:
        DataError: When the rows cannot be read, or only one class is there.
    """
    dataset = data if isinstance(data, Dataset) else read(data, group=group, **reading)
    if len(dataset.label_names) < 2:
        raise DataError(f"{dataset.source} has one class only; there is nothing to tell apart.")
    parts = split(dataset, group=group, shots=shots, seed=split_seed)
    wanted = {"image_size": image_size, "max_length": max_length, "device": device}
    found = as_backbone(backbone, dataset.modality, wanted)
    progress.note(
        f"{len(parts.train)} training, {len(parts.validation)} validation and {len(parts.test)} "
        f"test rows in {len(dataset.label_names)} classes; backbone {found.name}."
    )
    return Prepared(dataset, parts, found, parts.notes)


def settle_size(prepared: Prepared, folder: Path, budget: float) -> Prepared:
    """Choose the input size by the budget, once: a resumed run reads what was chosen before.

    Args:
        prepared: With a backbone whose size the user left open.
        folder: The run's folder, where the choice is kept.
        budget: Seconds for the whole work.
    """
    if budget == float("inf"):
        return prepared
    path = folder / _SIZE_FILE
    if path.is_file():
        known = read_json(path)
        chosen = prepared.backbone.with_settings(**known["size"])
        message = known["message"]
    else:
        chosen, message = fit_input_size(prepared.backbone, prepared.dataset, budget)
        text = prepared.dataset.modality == "text"
        size = {"max_length": chosen.max_length} if text else {"image_size": chosen.image_size}
        write_json(path, {"size": size, "message": message})
    notes = (*prepared.notes, message) if message else prepared.notes
    return replace(prepared, backbone=chosen, notes=notes)
