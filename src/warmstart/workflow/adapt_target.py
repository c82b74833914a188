"""The target of an adaptation: read, checked against the source, divided without labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from warmstart.core import progress
from warmstart.data import Dataset
from warmstart.data.labels import LabelNames
from warmstart.data.limit import limit_rows, rank, rank_key
from warmstart.shift import check_classes

from .prepare import Prepared, Source, as_dataset

__all__ = ["TEST_SHARE", "Target", "drop_shared", "read_target"]

TEST_SHARE = 0.3


@dataclass(frozen=True)
class Target:
    """The target's rows.

    Attributes:
        dataset: All of them, labels counted in the source's class names.
        adapt: Ids of the rows that are adapted to, without their labels.
        test: Ids of labelled rows that only the final report reads; none where there are no labels.
        notes: Choices that were made for the user.
    """

    dataset: Dataset
    adapt: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        return int((self.dataset.labels_N >= 0).sum())

    @property
    def test_rows(self) -> Dataset:
        """Test rows with their labels. For `evaluation` alone."""
        return self.dataset.take_ids(self.test)


def read_target(
    source: Source,
    classes: tuple[str, ...],
    *,
    label: str | None = None,
    label_names: LabelNames | None = None,
    limit: int | None = None,
    seed: int = 0,
    **reading: Any,
) -> Target:
    """Read the target and divide it by contents alone.

    Where it has labels, the test part that the data gives is held out, or else 30 % of the rows by
    the rank of their content's hash; equal rows stay together. Without labels nothing is held out.

    Args:
        source: Anything that `read` takes.
        classes: The source's.
        label: Label column; by its name otherwise. Labels are not needed.
        label_names: New names of the target's classes, where it has labels.
        limit: At most so many rows, drawn without regard to labels.
        seed: Root seed of the draws.
        **reading: Passed to `read`.

    Raises:
        DataError: When it cannot be read, or has a class that the source lacks.
    """
    dataset = as_dataset(source, need_label=False, label=label, **reading)
    if label_names is not None and dataset.label_names:
        dataset = as_dataset(
            source, need_label=False, label=label, label_names=label_names, **reading
        )
    known = sorted({int(number) for number in dataset.labels_N if number >= 0})
    check_classes(classes, [dataset.label_names[number] for number in known], where=dataset.source)
    dataset = dataset.relabel(classes)
    if limit is not None and limit < len(dataset):
        dataset = dataset.take_ids(limit_rows(dataset.without_labels(), limit, seed).ids)
    if not known:
        return Target(dataset, tuple(dataset.ids), (), ())
    held, note = _held_out(dataset, seed)
    contents, labels_N = dataset.contents, dataset.labels_N
    judged = {content for content, out in zip(contents, held, strict=True) if out}
    ids = dataset.ids
    test = tuple(i for i, out, n in zip(ids, held, labels_N, strict=True) if out and n >= 0)
    adapt = tuple(i for i, content in zip(ids, contents, strict=True) if content not in judged)
    progress.note(note)
    return Target(dataset, adapt, test, (note,))


def _held_out(dataset: Dataset, seed: int) -> tuple[list[bool], str]:
    """Which rows are test rows, from given parts or contents and never from labels."""
    parts = dataset.parts
    if parts is not None and "test" in parts and len(set(parts)) > 1:
        held = [part == "test" for part in parts]
        return held, f"The target's own test part ({sum(held)} rows) is held out."
    key = rank_key(seed, "adapt", "target")
    contents = dataset.contents
    order = sorted(set(contents), key=lambda content: rank(key, content))
    out = set(order[: round(TEST_SHARE * len(order))])
    held = [content in out for content in contents]
    return held, f"{sum(held)} target rows are held out for the final report."


def drop_shared(prepared: Prepared, target: Target) -> Prepared:
    """Take source rows out of training and validation that stand among the target's test rows.

    Their labels would tell the answers.
    """
    judged = set(target.test_rows.contents)
    of = dict(zip(prepared.dataset.ids, prepared.dataset.contents, strict=True))
    parts = {
        name: tuple(i for i in getattr(prepared.split, name) if of[i] not in judged)
        for name in ("train", "validation")
    }
    gone = sum(len(getattr(prepared.split, name)) - len(rows) for name, rows in parts.items())
    if not gone:
        return prepared
    note = f"{gone} source rows dropped: equal rows stand among the target's test rows."
    progress.note(note)
    dropped = prepared.split.dropped + gone
    split = prepared.split.model_validate(
        prepared.split.model_dump() | parts | {"dropped": dropped}
    )
    return replace(prepared, split=split, notes=(*prepared.notes, note))


def shares_of(dataset: Dataset) -> dict[str, float] | None:
    """True class shares of the labelled rows by name; None without one."""
    labels_N = dataset.labels_N[dataset.labels_N >= 0]
    if not len(labels_N):
        return None
    counts_C = np.bincount(labels_N, minlength=len(dataset.label_names))
    return dict(zip(dataset.label_names, (counts_C / len(labels_N)).tolist(), strict=True))
