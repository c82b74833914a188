"""`--retain`: an old task's rows, watched while a new one is learned and measured afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.backbones import embed_inputs
from warmstart.core import UsageError, progress
from warmstart.data import Dataset, View, split
from warmstart.evaluation import Forgetting, check_budget, measure_forgetting
from warmstart.models import load_model
from warmstart.planning import Comparison
from warmstart.strategies import old_task

from .prepare import Prepared, Source, as_dataset

__all__ = ["OldRows", "measure_retained", "read_retained"]


@dataclass(frozen=True)
class OldRows:
    """The old task's rows.

    Attributes:
        dataset: All of them.
        view: Those that make its head and are watched.
        test: Those that the loss is measured on at the end.
        budget: Points that it may lose; None for no limit.
    """

    dataset: Dataset
    view: View
    test: Dataset
    budget: float | None


def read_retained(
    source: Source | None, prepared: Prepared, budget: float | None, **reading: Any
) -> OldRows | None:
    """Read the old task's rows and divide them.

    Args:
        source: Anything that `read` takes; None where nothing is to be retained.
        prepared: The new task, whose modality the old one must share.
        budget: Points that the old task may lose.
        **reading: Passed to `read`.

    Raises:
        UsageError: For a budget without rows or outside 0 to 100, or rows of another modality.
        DataError: When the rows cannot be read.
    """
    if source is None:
        if budget is not None:
            raise UsageError(
                "max_forgetting needs the rows that must not be forgotten: give --retain PATH."
            )
        return None
    if budget is not None:
        check_budget(budget)
    rows = as_dataset(source, **reading)
    if rows.modality != prepared.dataset.modality:
        raise UsageError(
            f"the rows to retain are {rows.modality}s, those to learn from "
            f"{prepared.dataset.modality}s: one backbone must serve both."
        )
    parts = split(rows)
    learned = set(prepared.dataset.take_ids(prepared.split.train).contents)
    held = parts.test_rows(rows)
    shared = sum(content in learned for content in held.contents)
    if shared:
        progress.note(
            f"{shared} of the {len(held)} rows on which forgetting is measured are training rows "
            "of the new task too."
        )
    return OldRows(rows, parts.view(rows), held, budget)


def measure_retained(
    folder: Path, comparison: Comparison, prepared: Prepared, old: OldRows, device: str
) -> Forgetting | None:
    """What the old task lost by the model that is kept, paired on its test rows.

    None where the kept model has no encoder that could have forgotten anything.
    """
    best = next((r for r in comparison.arms if r.name == comparison.verdict.best), None)
    if best is None:
        return None
    kept = folder / "arms" / best.arm.folder_name / "model"
    model: Any = load_model(kept if kept.is_dir() else folder / "model", device=device)
    encoder = getattr(model, "encoder", None)
    if encoder is None or best.arm.strategy.from_scratch:
        return None
    task = old_task(prepared.backbone, old.view)
    rows = old.test.without_labels()
    before = task.model().proba(rows)
    after = before
    if getattr(model, "tuned", True):
        vectors_ND = embed_inputs(encoder, rows.inputs())
        after = task.head.to(encoder.device).proba(vectors_ND)
    found = measure_forgetting(before, after, old.test.labels_N)
    progress.note(found.sentence(old.budget))
    return found
