"""Read, split, choose the input size, embed once, audit: what comes before every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone, FeatureCache
from warmstart.backbones import backbone as open_backbone
from warmstart.core import DataError, UsageError, pick_device, progress, read_json, write_json
from warmstart.data import Audit, Dataset, Modality, Split, audit, read, split
from warmstart.data.limit import limit_rows
from warmstart.planning import fit_input_size
from warmstart.training import check_trackers

__all__ = [
    "Prepared",
    "Source",
    "as_backbone",
    "as_dataset",
    "prepare",
    "refuse_reading",
    "settle_size",
]

_SIZE_FILE = "input_size.json"

_VERBS = ("adapt", "compare", "embed", "evaluate", "fit", "plan", "predict", "rank", "shift")

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


def as_dataset(
    data: Source,
    *,
    group: str | None = None,
    need_label: bool = True,
    need_classes: bool = True,
    **reading: Any,
) -> Dataset:
    """A Dataset from anything that `read` takes; one that is read already is only limited.

    Args:
        data: Anything that `read` takes, or a Dataset.
        group: Column whose values must be present.
        need_label: Whether rows must have labels.
        need_classes: Whether there must be two classes or more.
        **reading: Passed to `read`. A Dataset takes limit= (and the seed= of that draw) alone.

    Raises:
        DataError: When the rows cannot be read.
        UsageError: For options that a Dataset cannot take, naming them.
    """
    _refuse_unknown(reading)
    if not isinstance(data, Dataset):
        return read(data, group=group, need_label=need_label, need_classes=need_classes, **reading)
    limit, seed = reading.pop("limit", None), reading.pop("seed", 0)
    refuse_reading(reading, f"the Dataset {data.source}, which is read already")
    if group is not None:
        data.column(group)  # a column that is not there is told with the nearest name
    return data if limit is None else limit_rows(data, limit, seed)


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """Refuse an option that no verb and no reader has: it is misspelt."""
    known = set(signature(read).parameters)
    for name in options:
        if name not in known:
            verbs = import_module(__package__)
            own = (signature(getattr(verbs, verb)).parameters for verb in _VERBS)
            close = [f"{word}=" for word in get_close_matches(name, known.union(*own), n=2)]
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise UsageError(f"{name}= is no option.{hint} help() of the verb shows all.")


def refuse_reading(
    reading: Mapping[str, Any],
    what: str,
    cure: str = " Give a path instead, or pass the option to `read`.",
) -> None:
    """Refuse options of `read` where nothing is read.

    Args:
        reading: Options as they were given; None and False ask for nothing.
        what: What they cannot apply to.
        cure: A sentence that ends the message.

    Raises:
        UsageError: Naming the options.
    """
    given = [f"{name}=" for name, value in reading.items() if value not in (None, False)]
    if given:
        raise UsageError(f"{', '.join(given)} cannot apply to {what}.{cure}")


def as_backbone(
    source: Backbone | str | Path | None,
    modality: Modality,
    settings: Mapping[str, Any] | None = None,
    *,
    allow_bin: bool = False,
) -> Backbone:
    """A backbone with the feature cache in place, from whatever names one.

    Args:
        source: A backbone, what names one, or None for the modality's default.
        modality: What it must read.
        settings: For `Backbone.with_settings`; None values leave a setting as it is.
        allow_bin: Whether a backbone that is named may have pickled weights; they are read with
            weights_only.
    """
    found = (
        source
        if isinstance(source, Backbone)
        else open_backbone(
            None if source is None else str(source), modality=modality, allow_bin=allow_bin
        )
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
    allow_bin: bool = False,
    trackers: Sequence[str] = (),
    **reading: Any,
) -> Prepared:
    """Read the data and open the backbone; settle the split.

    Args:
        data: Anything that `read` takes, or a Dataset.
        backbone: A backbone or what names one; the default for the data's modality otherwise.
        image_size: Pixels on a side; the backbone's own otherwise.
        max_length: Tokens; the backbone's own otherwise.
        device: Where to compute; checked before anything is read.
        group: Column that must not be divided between parts.
        shots: Training rows a class, for few-shot work.
        split_seed: Seed of the split, which training seeds do not change.
        allow_bin: Whether the backbone that is named may have pickled weights.
        trackers: Experiment trackers that will be reported to; checked before anything is read.
        **reading: Passed to `data.read`; of these a Dataset takes limit= alone.

    Raises:
        DataError: When the rows cannot be read, or only one class is there.
        UsageError: For an unknown tracker or device, or options that a Dataset cannot take.
    """
    check_trackers(trackers)
    if device != "auto":
        pick_device(device)
    dataset = as_dataset(data, group=group, **reading)
    if len(dataset.label_names) < 2:
        raise DataError(f"{dataset.source} has one class only; there is nothing to tell apart.")
    parts = split(dataset, group=group, shots=shots, seed=split_seed)
    wanted = {"image_size": image_size, "max_length": max_length, "device": device}
    found = as_backbone(backbone, dataset.modality, wanted, allow_bin=allow_bin)
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
