"""`shift`: how far a target lies from a source, or from what a backbone was pretrained on."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from warmstart._version import __version__
from warmstart.backbones import Backbone
from warmstart.core import (
    FORMAT_VERSION,
    DataError,
    NotApplicable,
    UsageError,
    describe_machine,
    pick_device,
    progress,
    write_json,
)
from warmstart.data import Dataset
from warmstart.reporting import write_shift_report
from warmstart.shift import (
    DISTANCES,
    MMD,
    ADistance,
    Diagnosis,
    Estimate,
    batch_norm_shift,
    diagnose,
    how_large,
    measure_distances,
    mmd,
    principal_plane,
    read_reference,
    size_words,
    word_divergence,
)

from .prepare import Source, as_backbone
from .shift_sides import Classes, check_pair, read_side, times_of

__all__ = ["Shift", "check_shift_path", "shift", "write_shift"]

_SHOWN_POINTS = 500
_MOST_CLASSES = 100
_LEAST_OF_CLASS = 10


@dataclass(frozen=True)
class Shift:
    """What was measured.

    Attributes:
        results: All of it as JSON values; table and report are drawn from this alone.
        distances: Each distance.
        diagnosis: Which shift it is; None where there is no source with rows.
    """

    results: dict[str, Any]
    distances: tuple[Estimate, ...]
    diagnosis: Diagnosis | None = field(default=None)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, in words."""
        return tuple(self.results["sentences"])


def shift(
    source: Source,
    target: Source | None = None,
    *,
    reference: str | Path | None = None,
    backbone: Backbone | str | Path | None = None,
    depth: int | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    allow_bin: bool = False,
    date: str | None = None,
    windows: int = 5,
    permutations: int = 999,
    seed: int = 0,
    limit: int | None = None,
    command: str = "",
    target_text: str | None = None,
    target_label: str | None = None,
    target_image: str | None = None,
    **reading: Any,
) -> Shift:
    """Measure how far the target lies from the source, and tell which shift it is.

    Vectors come from the untouched backbone through the feature cache. Labels are needed on neither
    side: those of the source let class shares of the target be estimated, those of a few target
    rows show whether rows mean something else there.

    Args:
        source: Anything that `read` takes.
        target: The same. Left out, the source's own rows are held against `reference`, or else
            against the batch-norm statistics that the backbone keeps of its pretraining data.
        reference: Vectors to take the source's place: .npy or .parquet of the same backbone.
        backbone: The default for the data's modality otherwise.
        depth: Layers that are used; all otherwise.
        pooling: How positions become one vector; the backbone's own otherwise.
        image_size: Pixels on a side.
        max_length: Tokens.
        device: Where to compute.
        allow_bin: Whether the backbone that is named may have pickled weights.
        date: Column of the target with times: labelled rows are cut into stretches by it. Needs
            labels on both sides.
        windows: How many stretches.
        permutations: Of the two-sample test, at least 19.
        seed: Root seed.
        limit: At most so many rows of a side, drawn by class.
        command: How it was asked for, for the report.
        target_text: Text column of the target, where it is named otherwise than the source's.
        target_label: Label column of the target.
        target_image: Image column of the target.
        **reading: Passed to `read` for both sides; of these a Dataset takes limit= alone.

    Raises:
        DataError: For data that cannot be read or compared, or two sets of the same rows.
        NotApplicable: Without target and reference, for a backbone that keeps no statistics of its
            pretraining data.
        UsageError: For settings out of range, or `date` without a target or without labels.
    """
    began = time.monotonic()
    if permutations < 19:
        raise UsageError(
            f"shift.permutations must be at least 19, got {permutations}. Fewer cannot give a "
            "p-value of 0.05."
        )
    if target is not None and reference is not None:
        raise UsageError("Give either a target or a reference: a reference takes a source's place.")
    if target is None and date is not None:
        raise UsageError(
            f"shift.date (--date) is a column of the target with times, got {date!r} and no target."
            " Name a target, or leave it out."
        )
    wanted: dict[str, Any] = {"image_size": image_size, "max_length": max_length}
    if device != "auto":
        wanted["device"] = str(pick_device(device))
    reading |= {"limit": limit, "seed": seed}
    first = read_side(source, "source", reading)
    second = None
    if target is not None:
        theirs = {"text": target_text, "label": target_label, "image": target_image}
        second = read_side(target, "target", reading, {k: v for k, v in theirs.items() if v})
        check_pair(first, second)
    times = times_of(second, date) if second is not None else None
    found = as_backbone(backbone, first.modality, wanted, allow_bin=allow_bin)
    base = {
        "format_version": FORMAT_VERSION,
        "task_type": "shift",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "command": command,
        "machine": describe_machine(),
        "backbone": found.card.model_dump(mode="json"),
        "space": found.space(depth=depth, pooling=pooling, modality=first.modality).model_dump(
            mode="json"
        ),
        "seed": seed,
    }
    if second is None and reference is None:
        measured = _against_pretraining(first, found, seed)
    else:
        vectors = _Vectors.of(found, depth, pooling, first, second, reference)
        measured = _between(vectors, first, second, times, windows, permutations, seed)
    measured.results.update(base | {"seconds": round(time.monotonic() - began, 2)})
    return measured


def check_shift_path(path: Path) -> None:
    """Refuse an ending that `write_shift` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the endings that it knows.
    """
    if path.suffix.lower() not in {".html", ".json"}:
        raise UsageError(f"{path} must end in .html (the report) or .json.")


def write_shift(measured: Shift, path: Path) -> None:
    """Write the report (.html) or everything measured (.json).

    Raises:
        UsageError: For another ending.
    """
    check_shift_path(path)
    if path.suffix.lower() == ".html":
        write_shift_report(measured.results, path)
    else:
        write_json(path, measured.results)


@dataclass(frozen=True)
class _Vectors:
    """Vectors of both sides; the first may be a reference without rows."""

    source_ND: np.ndarray
    target_MD: np.ndarray
    reference: str | None

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        depth: int | None,
        pooling: str | None,
        first: Dataset,
        second: Dataset | None,
        reference: str | Path | None,
    ) -> _Vectors:
        def embed(rows: Dataset) -> np.ndarray:
            found = backbone.features(rows.without_labels(), depth=depth, pooling=pooling)
            return found.vectors_ND

        if second is not None:
            return cls(embed(first), embed(second), None)
        kept = read_reference(Path(str(reference)))
        return cls(kept, embed(first), str(reference))


def _between(
    vectors: _Vectors,
    first: Dataset,
    second: Dataset | None,
    times: Sequence[Any] | None,
    windows: int,
    permutations: int,
    seed: int,
) -> Shift:
    """Distances, words, classes and diagnosis of two sets."""
    ours, theirs = vectors.source_ND, vectors.target_MD
    distances = list(measure_distances(ours, theirs, permutations=permutations, seed=seed))
    if second is not None and first.modality == "text":
        try:
            distances.append(word_divergence(first.inputs(), second.inputs(), halves=20, seed=seed))
        except DataError as error:
            progress.note(f"Words are not compared: {error}")
    classes = Classes() if second is None else Classes.of(first, second)
    rows_test = next(one for one in distances if isinstance(one, MMD))
    diagnosis = diagnose(
        ours, theirs, source_labels_N=classes.ours_N, target_labels_M=classes.theirs_M,
        label_names=classes.names, times_M=times, windows=windows, seed=seed,
        rows_test=rows_test,
        a_distance=next(one for one in distances if isinstance(one, ADistance)),
    )  # fmt: skip
    plane = principal_plane(ours, theirs, most=_SHOWN_POINTS, seed=seed)
    sentences = [*how_large(distances), *(one.words for one in diagnosis.findings)]
    shared = 0 if second is None else len(set(first.contents) & set(second.contents))
    results: dict[str, Any] = {
        "source": {"source": f"reference {vectors.reference}", "rows": len(ours)}
        if second is None
        else _side(first, classes.ours_N),
        "target": _side(first if second is None else second, classes.theirs_M),
        "shared": shared,
        "foreign_classes": dict(classes.foreign or {}),
        "distances": [_distance_json(one) for one in distances],
        "per_class": _per_class(ours, theirs, classes, rows_test.by_bandwidth[0].bandwidth, seed),
        "diagnosis": diagnosis.model_dump(mode="json"),
        "plane": {
            "source": np.round(plane.source_N2, 4).tolist(),
            "target": np.round(plane.target_M2, 4).tolist(),
            "shares": list(plane.shares),
        },
        "sentences": sentences + _notes(shared, classes),
    }
    return Shift(results, tuple(distances), diagnosis)


def _notes(shared: int, classes: Classes) -> list[str]:
    found = []
    if shared:
        found.append(
            f"{shared} row{'s stand' if shared != 1 else ' stands'} on both sides; they make the "
            "distances smaller."
        )
    if classes.foreign:
        names = ", ".join(f"{name} ({n})" for name, n in list(classes.foreign.items())[:5])
        found.append(
            f"The target has classes that the source lacks: {names}. Their rows count as "
            "unlabelled."
        )
    return found


def _side(rows: Dataset, labels_N: np.ndarray | None) -> dict[str, Any]:
    return {
        "source": rows.source,
        "rows": len(rows),
        "modality": rows.modality,
        "labelled": 0 if labels_N is None else int((labels_N >= 0).sum()),
        "skipped": len(rows.skipped),
        "fingerprint": rows.fingerprint,
    }


def _distance_json(one: Estimate) -> dict[str, Any]:
    info = DISTANCES.get(one.name)
    titles = {} if info is None else {"title": info.title, "meaning": info.meaning}
    return one.model_dump(mode="json") | titles | {"size": size_words(one)}


def _per_class(
    ours: np.ndarray, theirs: np.ndarray, classes: Classes, bandwidth: float, seed: int
) -> list[dict[str, Any]]:
    """MMD² between the rows of each class, at one bandwidth for all; largest first."""
    if classes.ours_N is None or classes.theirs_M is None:
        return []
    found = []
    for number, name in enumerate(classes.names):
        a, b = ours[classes.ours_N == number], theirs[classes.theirs_M == number]
        if min(len(a), len(b)) < _LEAST_OF_CLASS:
            continue
        one = mmd(a, b, bandwidths=(bandwidth,), permutations=0, halves=20, seed=seed)
        told = one.model_dump(mode="json", include={"value", "interval", "halves", "rows"})
        found.append({"label": name, **told})
    return sorted(found, key=lambda row: -float(row["value"]))


def _against_pretraining(rows: Dataset, backbone: Backbone, seed: int) -> Shift:
    """The backbone's batch-norm statistics against those of the data."""
    if rows.modality == "text" or backbone.modality == "text":
        raise NotApplicable(
            f"{backbone.name} keeps no statistics of the texts that it was pretrained on. Name a "
            "target to compare with, or vectors of your own with reference (--reference)."
        )
    encoder = backbone.load()
    one = batch_norm_shift(encoder, rows.inputs, len(rows), name=backbone.name, seed=seed)
    worst = max(one.layers, key=lambda layer: layer.value)
    low, high = one.interval or (one.value, one.value)
    sentences = [
        f"Channels lie {one.value:.2f} ({low:.2f} to {high:.2f}) from where they lay in "
        "pretraining, in units of their variance there: 0 is the same, 1 is as far as they vary.",
        f"The farthest layer is {worst.name} ({worst.value:.2f}).",
        "Stored statistics are those of training with its augmentation and image size; images read "
        "at another size differ from them for that alone.",
    ]
    if one.halves is not None:
        sentences.insert(1, f"Random halves of the data lie up to {one.halves:.3f} apart.")
    results: dict[str, Any] = {
        "source": {"source": f"pretraining of {backbone.name}", "rows": None},
        "target": _side(rows, None),
        "distances": [
            _distance_json(one)
            | {
                "title": "Batch-norm statistics",
                "meaning": "Squared differences of channel means and standard deviations to the "
                "stored ones, over the stored variance; mean over layers.",
            }
        ],
        "sentences": sentences,
    }
    return Shift(results, (one,))
