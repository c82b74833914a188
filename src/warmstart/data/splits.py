"""Dividing rows into training, validation and test, as a value that refuses to overlap."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from warmstart.core.config import Config
from warmstart.core.errors import DataError, RunError, UsageError
from warmstart.core.fingerprint import fingerprint
from warmstart.core.progress import note
from warmstart.core.publish import read_json, write_json
from warmstart.data.allocate import assign_by_class, assign_groups, bundles, first_shots
from warmstart.data.dataset import RESERVED, Dataset, about_group

__all__ = ["Split", "View", "split"]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FRACTIONS = (0.70, 0.15, 0.15)


@dataclass(frozen=True, eq=False)
class View:
    """What a strategy sees: training and validation rows in storage of their own, nothing else.

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose on.
        retain: Rows of an old task whose answers must not get lost, if there is one.
    """

    train: Dataset
    validation: Dataset
    retain: View | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names, in the order of the label indices."""
        return self.train.label_names

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.train.label_names)


class Split(Config):
    """Ids of the rows of each part. No id stands twice, which is checked on construction.

    `kind` says how it was made; `dropped` counts training and validation rows that were left out
    because their content (or their group) also stands in a part that judges them; `notes` are
    sentences for the user.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    kind: Literal["stratified", "grouped", "given"] = "stratified"
    seed: int = 0
    group: str | None = None
    shots: int | None = None
    dropped: int = 0
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        for part in PARTS:
            if not getattr(self, part):
                raise ValueError(f"the {part} part is empty.")
        counts = Counter((*self.train, *self.validation, *self.test))
        twice = [row_id for row_id, n in counts.items() if n > 1]
        if twice:
            raise ValueError(f"{len(twice)} ids stand twice, the first is {twice[0]!r}.")
        return self

    @property
    def fingerprint(self) -> str:
        """Changes when a row moves from one part to another; 32 hex digits."""
        return fingerprint("split", sorted(self.train), sorted(self.validation), sorted(self.test))

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}

    def view(self, dataset: Dataset) -> View:
        """Training and validation rows, copied: test rows cannot be reached through them."""
        return View(
            train=dataset.take_ids(self.train), validation=dataset.take_ids(self.validation)
        )

    def test_rows(self, dataset: Dataset) -> Dataset:
        """Test rows with their labels. For `evaluation` and who calls it, never for a strategy."""
        return dataset.take_ids(self.test)

    def parts_of(self, dataset: Dataset) -> list[str | None]:
        """The part of every row of `dataset`, None for rows that were left out."""
        place = {row_id: part for part in PARTS for row_id in getattr(self, part)}
        return [place.get(row_id) for row_id in dataset.ids]

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises RunError when the file is damaged or overlaps."""
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:
            raise RunError(f"{path} is no valid split: {error}") from error


def split(
    dataset: Dataset,
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    group: str | None = None,
    seed: int = 0,
    shots: int | None = None,
) -> Split:
    """Divide a data set; the same rows and seed give the same parts in any row order.

    Rows of equal content always stay together. A split that the data gives is kept: its missing
    validation (or test) part is carved from the training rows by class, and training rows whose
    content stands in validation or test are dropped and counted. Classes with one or two distinct
    contents stay in training; three give two and one (test).

    Args:
        dataset: Labelled rows.
        fractions: Shares of training, validation and test rows.
        group: Column whose values must not be torn apart.
        seed: Root seed; a row's rank depends on the seed and its id alone, so that appended rows
            move few others.
        shots: At most so many training rows, and so many validation rows, of each class (distinct
            contents). The test part is the one without shots, and k shots are among k + 1.

    Raises:
        UsageError: For fractions or shots that make no sense.
        DataError: When a part would be empty, or the group column is missing.
    """
    _check_settings(dataset, fractions, group, shots)
    notes: list[str] = []
    groups = None if group is None else _group_values(dataset, group)
    parts, dropped = _given(dataset, groups, notes)
    kind: Literal["stratified", "grouped", "given"] = (
        "given" if parts is not None else "grouped" if group is not None else "stratified"
    )
    if parts is None:
        parts = [None] * len(dataset)
        missing = dict(zip(PARTS, fractions, strict=True))
        _divide(dataset, parts, range(len(dataset)), missing, groups=groups, seed=seed, notes=notes)
    else:
        _complete(dataset, parts, fractions, groups=groups, seed=seed, notes=notes)
    _explain_classes(dataset, parts, notes)
    if shots is not None:
        parts = _few(dataset, parts, shots, seed, notes)
    ids = dataset.ids
    found = {
        part: tuple(sorted(i for i, p in zip(ids, parts, strict=True) if p == part))
        for part in PARTS
    }
    for part, rows in found.items():
        if not rows:
            raise DataError(_empty_part(dataset, part, kind, groups))
    for message in notes:
        note(message)
    return Split(
        train=found["train"],
        validation=found["validation"],
        test=found["test"],
        kind=kind,
        seed=seed,
        group=group,
        shots=shots,
        dropped=dropped,
        notes=tuple(notes),
    )


def _empty_part(dataset: Dataset, part: str, kind: str, groups: list[str] | None) -> str:
    """Why a part got no row: how many there are, and what a class must have."""
    label_of = dict(zip(dataset.contents, dataset.labels_N.tolist(), strict=True))
    have = f"{len(dataset)} rows"
    if len(label_of) < len(dataset):
        have += f", {len(label_of)} of them different"
    if groups is not None:
        have += f", {len(set(groups))} groups"
    cure = f"More rows{'' if groups is None else ' or groups'} are needed"
    if kind == "stratified":
        most = max(Counter(label_of.values()).values())
        cure += f": four different ones or more of a class, where the commonest has {most}"
    return f"{dataset.source}: the {part} part would be empty ({have}). {cure}."


def _check_settings(
    dataset: Dataset, fractions: tuple[float, float, float], group: str | None, shots: int | None
) -> None:
    if len(fractions) != 3 or any(f <= 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(
            "fractions must be three numbers above 0 for training, validation and test with the "
            f"sum 1, got {fractions}. Typical: (0.7, 0.15, 0.15)."
        )
    if shots is not None and shots < 1:
        raise UsageError(f"shots must be at least 1, got {shots}. Typical values: 1 to 64.")
    if group in RESERVED:
        own = [name for name in dataset.column_names if name not in RESERVED]
        raise UsageError(about_group(group, group, own))
    if len(dataset) and (dataset.labels_N < 0).any():
        raise DataError(f"{dataset.source} has rows without a label: only labelled rows are split.")


def _group_values(dataset: Dataset, group: str) -> list[str]:
    values = dataset.column(group)
    for row_id, value in zip(dataset.ids, values, strict=True):
        if value is None or value == "":
            raise DataError(f"{dataset.source}: row {row_id!r} has no value in column {group!r}.")
    return [str(value) for value in values]


# --- a split that the data gives -----------------------------------------------------------------


def _given(
    dataset: Dataset, groups: list[str] | None, notes: list[str]
) -> tuple[list[Part | None] | None, int]:
    """The given parts without leaking training rows, or None when the data gives no split."""
    given = dataset.parts
    if given is None or len(set(given)) < 2:
        return None, 0
    parts: list[Part | None] = [next((p for p in PARTS if p == value), None) for value in given]
    dropped = _drop_equal(dataset.contents, parts, "content", notes)
    if groups is not None:
        dropped += _drop_equal(groups, parts, "group", notes)
    if "train" in given and "train" not in parts:
        what = "group or their content" if groups is not None else "content"
        raise DataError(
            f"{dataset.source}: all {list(given).count('train'):,} training rows would be dropped, "
            f"since their {what} stands in validation or test too. Leave out the group, or "
            "give other parts."
        )
    return parts, dropped


def _drop_equal(keys: Sequence[str], parts: list[Part | None], what: str, notes: list[str]) -> int:
    """Take rows out of a part when their key stands in a part that judges it."""
    dropped = 0
    for part, judges in (("train", ("validation", "test")), ("validation", ("test",))):
        held = {key for key, p in zip(keys, parts, strict=True) if p in judges}
        leaking = [
            i
            for i, (key, p) in enumerate(zip(keys, parts, strict=True))
            if p == part and key in held
        ]
        for i in leaking:
            parts[i] = None
        if leaking:
            rows = "row" if len(leaking) == 1 else "rows"
            notes.append(
                f"{len(leaking)} {part} {rows} dropped: the same {what} stands in "
                f"{' or '.join(judges)}."
            )
        dropped += len(leaking)
    return dropped


def _complete(
    dataset: Dataset,
    parts: list[Part | None],
    fractions: tuple[float, float, float],
    *,
    groups: list[str] | None,
    seed: int,
    notes: list[str],
) -> None:
    """Carve the part that the data does not give from its training rows."""
    for absent in PARTS[1:]:
        if absent in parts:
            continue
        rows = [i for i, part in enumerate(parts) if part == "train"]
        share = fractions[PARTS.index(absent)]
        wanted: dict[Part, float] = {
            "train": fractions[0] / (fractions[0] + share),
            absent: share / (fractions[0] + share),
        }
        _divide(dataset, parts, rows, wanted, groups=groups, seed=seed, notes=notes)
        count = sum(part == absent for part in parts)
        notes.append(f"The data gives no {absent} part: {count:,} training rows became it.")


# --- making parts --------------------------------------------------------------------------------


def _divide(
    dataset: Dataset,
    parts: list[Part | None],
    rows: Sequence[int],
    wanted: dict[Part, float],
    *,
    groups: list[str] | None,
    seed: int,
    notes: list[str],
) -> None:
    """Assign these rows to the wanted parts, in place."""
    ids, contents, labels = dataset.ids, dataset.contents, dataset.labels_N.tolist()
    keys = [contents] if groups is None else [contents, groups]
    units = bundles(rows, keys, ids)
    if groups is None:
        chosen = assign_by_class(
            units, labels, names=dataset.label_names, wanted=wanted, ids=ids, seed=seed
        )
    else:
        distinct = len({groups[i] for i in rows})
        if len(units) < len(wanted):
            raise DataError(
                f"{dataset.source}: {distinct} groups that share no content give {len(units)} "
                f"units, but {len(wanted)} parts need at least one each."
            )
        chosen = assign_groups(
            units, labels, n_classes=len(dataset.label_names), wanted=wanted, ids=ids, seed=seed
        )
        if len(units) < distinct:
            notes.append(
                f"Groups that share equal rows stay together: {distinct} groups in {len(units)} "
                "units."
            )
    for unit, part in zip(units, chosen, strict=True):
        for i in unit:
            parts[i] = part


def _explain_classes(dataset: Dataset, parts: Sequence[Part | None], notes: list[str]) -> None:
    """Say which classes a part lacks: what lacks training rows cannot be learnt."""
    present: dict[Part, set[int]] = defaultdict(set)
    for part, label in zip(parts, dataset.labels_N.tolist(), strict=True):
        if part is not None:
            present[part].add(label)
    everywhere = set().union(*present.values()) if present else set()
    texts: tuple[tuple[Part, str], ...] = (
        ("train", "no training row, so they cannot be learnt"),
        ("validation", "no validation row"),
        ("test", "no test row, so they are not judged"),
    )
    for part, text in texts:
        absent = sorted(everywhere - present[part])
        if absent:
            names = ", ".join(dataset.label_names[i] for i in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"Classes with {text}: {names}{more}.")


def _few(
    dataset: Dataset, parts: Sequence[Part | None], shots: int, seed: int, notes: list[str]
) -> list[Part | None]:
    """At most `shots` distinct rows of each class in training and in validation."""
    few: list[Part | None] = [part if part == "test" else None for part in parts]
    short: list[str] = []
    shot_parts: tuple[Part, ...] = ("train", "validation")
    for part in shot_parts:
        rows = [i for i, p in enumerate(parts) if p == part]
        labels = dataset.labels_N.tolist()
        chosen = first_shots(
            rows, labels, contents=dataset.contents, ids=dataset.ids, shots=shots, seed=seed
        )
        for i in chosen:
            few[i] = part
        if part == "train":
            counts = Counter(labels[i] for i in chosen)
            short = [name for c, name in enumerate(dataset.label_names) if counts.get(c, 0) < shots]
    if short:
        names = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        notes.append(f"Classes with fewer than {shots} training rows: {names}.")
    return few
