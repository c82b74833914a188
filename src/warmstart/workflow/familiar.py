"""What a run keeps of its training rows, so that rows unlike them can be told later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.backbones import backbone as open_backbone
from warmstart.core import (
    BackboneError,
    Config,
    NotApplicable,
    RunError,
    Streams,
    progress,
    read_json,
)
from warmstart.data import Dataset
from warmstart.evaluation import (
    FAMILIARITY_FILE,
    Alarm,
    Familiarity,
    FamiliarityMethod,
    fit_familiarity,
    read_familiarity,
    write_familiarity,
)
from warmstart.models import MODEL_FILE, EncoderModel, Model, load_model
from warmstart.planning import Comparison

from .prepare import Prepared

__all__ = [
    "Unfamiliar",
    "flag",
    "keep_familiarity",
    "keep_target_familiarity",
    "open_familiarity",
    "reopen_backbone",
]

MOST_TRAIN = 10_000
MOST_HELD = 10_000
_HELD_SHARE = 0.3
_MOST_MOVED = 1000


class Unfamiliar(Config):
    """Which of some rows are far from those that a run was trained on.

    Attributes:
        method: How that was measured: mahalanobis or knn.
        alarm: The threshold, the stated false-alarm rate, and what is known of the true one.
        scores: How far each row lies; larger is farther.
        flags: Whether that is beyond the threshold.
    """

    method: FamiliarityMethod
    alarm: Alarm
    scores: tuple[float, ...]
    flags: tuple[bool, ...]

    @property
    def count(self) -> int:
        """Rows that are flagged."""
        return sum(self.flags)

    @property
    def sentence(self) -> str:
        """The count in words, beside what false alarms alone would give."""
        rows, alarm = len(self.flags), self.alarm
        share = f" ({self.count / rows:.1%})" if rows else ""
        return (
            f"{self.count:,} of {rows:,} rows{share} are unfamiliar; of rows like the training "
            f"rows {100 * alarm.rate:.3g}% would be flagged ({alarm.low:.1%} to {alarm.high:.1%}, "
            f"by {alarm.rows:,} validation rows)."
        ).replace("%", " %")


def flag(
    familiarity: Familiarity,
    vectors_ND: np.ndarray,
    *,
    false_alarms: float | None = None,
    method: FamiliarityMethod = "mahalanobis",
) -> Unfamiliar:
    """Score rows and flag those beyond the threshold.

    Args:
        familiarity: What the run keeps of its training rows.
        vectors_ND: The rows as the run's model embeds them.
        false_alarms: The false-alarm rate; None for 1 %, or the lowest that can be stated.
        method: How distance is measured.

    Raises:
        UsageError: For an unknown method, or a rate that the validation rows cannot state.
    """
    alarm = familiarity.alarm(false_alarms, method)
    scores_N = familiarity.scores(vectors_ND, method)
    flags = tuple(bool(one > alarm.threshold) for one in scores_N)
    return Unfamiliar(method=method, alarm=alarm, scores=tuple(map(float, scores_N)), flags=flags)


def open_familiarity(folder: Path) -> Familiarity:
    """What a run keeps of its training rows.

    Raises:
        RunError: When it keeps nothing, or files are damaged.
    """
    if not (folder / FAMILIARITY_FILE).is_file():
        raise RunError(
            f"{folder} keeps no statistics of its training rows ({FAMILIARITY_FILE} is missing). "
            "Runs of an earlier version have none: Fit it again. Runs on interactions, on very few "
            "rows, and of adapt --trainable without labelled target rows to hold out cannot keep "
            "any."
        )
    return read_familiarity(folder)


@dataclass(frozen=True)
class _Rows:
    """Rows whose vectors are kept or scored; none of them with labels but for `labels_N`."""

    train: Dataset
    labels_N: np.ndarray
    validation: Dataset
    test: Dataset | None


def keep_familiarity(
    folder: Path, comparison: Comparison, prepared: Prepared, device: str, most: int = 2000
) -> None:
    """Write statistics of the training rows' vectors under the kept model into the run's folder.

    Vectors are those that the model's head reads. Where the encoder was left as it was they lie in
    the cache; where it was trained at most some hundreds of rows are embedded. A model without
    vectors (TF-IDF, entailment) borrows those of the untouched backbone. A run whose rows are too
    few keeps nothing, with a note.

    Args:
        folder: The run's folder while it is written.
        comparison: What was tried; the best arm's model is meant.
        prepared: Rows, split and backbone.
        device: Where to compute.
        most: Rows that a trained encoder may embed anew: half of them training rows.
    """
    best = next((r for r in comparison.arms if r.name == comparison.verdict.best), None)
    if best is None:
        return
    own = folder / "arms" / best.arm.folder_name / "model"
    place = own if own.is_dir() else folder / "model"
    facts = read_json(place / MODEL_FILE)
    model = (
        None if _is_untouched(facts, prepared.backbone) else _load(place, facts, prepared, device)
    )
    moved = model is not None and model.has_vectors
    borrowed = model is not None and not model.has_vectors
    rows = _draw(prepared, most // 2 if moved else None)
    if model is not None and moved:
        vectors = _by_model(model, rows)
    else:
        settings = {} if borrowed else {key: facts[key] for key in ("depth", "pooling")}
        vectors = _by_backbone(prepared.backbone, rows, settings)
    try:
        made = fit_familiarity(
            vectors["train"], rows.labels_N, vectors["validation"],
            label_names=prepared.dataset.label_names,
            counts=prepared.dataset.take_ids(prepared.split.train).class_counts,
            reference_RD=_reference(vectors) if moved else None,
        )  # fmt: skip
    except NotApplicable as reason:
        progress.note(f"This run cannot flag unfamiliar rows: {reason}.")
        return
    write_familiarity(made, folder, vectors="backbone" if borrowed else "model", moved=moved)


def keep_target_familiarity(
    folder: Path,
    model: EncoderModel,
    adapted_to: Dataset,
    held_out: Dataset | None,
    *,
    moved: bool,
) -> None:
    """Write statistics of the target rows that a run adapted to, by its kept model's vectors.

    What the model will answer comes from the target; of the source's rows every one of these would
    be told unfamiliar. Groups are the model's own answers. Where the encoder did not learn from the
    rows, a part of them, equal ones together, sets the threshold. Where it did, it has moved all of
    them: held-out ones set it, their labels unread, and without these nothing is kept, with a note.

    Args:
        folder: The run's folder while it is written.
        model: The kept model.
        adapted_to: Target rows that were adapted to.
        held_out: Target rows that were not, where there are some.
        moved: Whether the encoder learned from the rows that were adapted to.
    """
    if not moved:
        train, held = _divide(adapted_to.without_labels())
    elif held_out is not None:
        train, held = adapted_to.without_labels(), held_out.without_labels()
    else:
        progress.note(
            "This run cannot flag unfamiliar rows: its encoder learned from all target rows. With "
            "labels in the target a part of it is held out."
        )
        return
    most = _MOST_MOVED if model.tuned else MOST_TRAIN
    proba_NC, vectors_ND = model.proba_and_vectors(_some(train, most))
    held_MD = model.proba_and_vectors(_some(held, most))[1]
    answers_N = proba_NC.argmax(axis=1)
    try:
        made = fit_familiarity(
            vectors_ND, answers_N, held_MD, label_names=model.label_names,
            reference_RD=held_MD if moved else None,
        )  # fmt: skip
    except NotApplicable as reason:
        progress.note(f"This run cannot flag unfamiliar rows: {reason}.")
        return
    write_familiarity(made, folder, vectors="model", moved=moved, rows="target")


def _divide(rows: Dataset) -> tuple[Dataset, Dataset]:
    """Rows for statistics and rows for the threshold, equal ones on one side."""
    contents = rows.contents
    several = sorted(set(contents))
    generator = Streams(0).child("familiarity", "draw").numpy("target")
    chosen = generator.permutation(len(several))[: max(1, round(_HELD_SHARE * len(several)))]
    out = {several[place] for place in chosen}
    held = [content in out for content in contents]
    at = np.arange(len(rows))
    return rows.select(at[~np.array(held)].tolist()), rows.select(at[np.array(held)].tolist())


def _some(rows: Dataset, most: int) -> Dataset:
    if len(rows) <= most:
        return rows
    generator = Streams(0).child("familiarity", "draw").numpy("some")
    return rows.select(np.sort(generator.permutation(len(rows))[:most]).tolist())


def reopen_backbone(facts: Mapping[str, Any], code: Mapping[str, Any], device: str) -> Backbone:
    """The untouched backbone of a run, from where it came.

    Args:
        facts: The run's entry `backbone` in results.json.
        code: `module`, `processor` and `groups` of a network of the user's own.
        device: Where it computes.

    Raises:
        RunError: When it cannot be opened, or is another one by now.
    """
    source, name = str(facts["source"]), str(facts["name"])
    settings = {key: facts[key] for key in ("image_size", "max_length", "pooling")}
    try:
        if source.startswith("module:"):
            found = open_backbone(modality=facts["modality"], name=name, **code, **settings)
        else:
            scheme, _, rest = source.partition(":")
            plain = rest if scheme in {"package", "hub", "entry-point"} else source
            found = open_backbone(plain, name=name, **settings)
    except BackboneError as error:
        raise RunError(
            f"This run tells unfamiliar rows by the vectors of {name} from {source}, which cannot "
            f"be opened: {error}"
        ) from error
    if found.fingerprint != facts["fingerprint"]:
        raise RunError(
            f"This run tells unfamiliar rows by the vectors of {name} from {source}, whose weights "
            "or preprocessing have changed since. Put the original back, or fit again."
        )
    return found.with_settings(device=None if device == "auto" else device)


def _is_untouched(facts: Mapping[str, Any], backbone: Backbone) -> bool:
    """Whether a saved model's vectors are the backbone's own, which the cache has."""
    origin = facts.get("backbone") or {}
    return facts.get("tuned") is False and origin.get("fingerprint") == backbone.fingerprint


def _load(place: Path, facts: Mapping[str, Any], prepared: Prepared, device: str) -> Model:
    code = prepared.backbone.code if facts.get("module") else {}
    return load_model(place, device=device, **code)


def _draw(prepared: Prepared, moved: int | None) -> _Rows:
    """Rows of each part, without their labels but for those of the training rows.

    Args:
        prepared: Rows and split.
        moved: How many training rows, and as many held-out ones, must be embedded anew; None where
            the cache has them.
    """
    split, dataset = prepared.split, prepared.dataset
    streams = Streams(0).child("familiarity", "draw")

    def some(ids: tuple[str, ...], part: str, most: int) -> Dataset:
        at = np.sort(streams.numpy(part).permutation(len(ids))[:most])
        return dataset.take_ids([ids[i] for i in at])

    train = some(split.train, "train", moved or MOST_TRAIN)
    validation = some(split.validation, "validation", moved // 2 if moved else MOST_HELD)
    # A test part that the data brought may be of another kind; one that was drawn is not.
    test = some(split.test, "test", moved // 2) if split.kind != "given" and moved else None
    return _Rows(
        train=train.without_labels(),
        labels_N=train.labels_N,
        validation=validation.without_labels(),
        test=None if test is None else test.without_labels(),
    )


def _parts(rows: _Rows) -> dict[str, Dataset]:
    found = {"train": rows.train, "validation": rows.validation}
    return found if rows.test is None else found | {"test": rows.test}


def _by_model(model: Model, rows: _Rows) -> dict[str, np.ndarray]:
    found = {}
    for name, part in _parts(rows).items():
        vectors_ND = model.proba_and_vectors(part)[1]
        assert vectors_ND is not None, "has_vectors says that there are some"
        found[name] = vectors_ND
    return found


def _by_backbone(
    backbone: Backbone, rows: _Rows, settings: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    return {
        name: backbone.features(part, **settings).vectors_ND for name, part in _parts(rows).items()
    }


def _reference(vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows that training did not move: of a trained encoder, no training row will do."""
    return np.concatenate([vectors[name] for name in ("validation", "test") if name in vectors])
