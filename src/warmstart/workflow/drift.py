"""`drift`: what has changed between a run's rows and new ones."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from warmstart._version import __version__
from warmstart.core import FORMAT_VERSION, DataError, RunError, describe_machine, write_json
from warmstart.data import Dataset
from warmstart.evaluation import FamiliarityMethod, share_interval
from warmstart.reporting import write_drift_report
from warmstart.shift import (
    DISTANCES,
    AnswersBefore,
    Drift,
    measure_drift,
    principal_plane,
    size_words,
)

from .apply import as_run, check_modality
from .prepare import Source
from .runs import FinishedRun
from .seen import Seen, count_seen
from .shift import check_shift_path
from .shift_sides import read_side, times_of

__all__ = ["DriftReport", "drift", "write_drift"]

_SHOWN_POINTS = 500


@dataclass(frozen=True)
class DriftReport:
    """What was measured.

    Attributes:
        results: All of it as JSON values; table and report are drawn from this alone.
        measured: The tests and what they stand on.
    """

    results: dict[str, Any]
    measured: Drift

    @property
    def found(self) -> bool:
        """Whether any test sees a change at the level that was asked for."""
        return self.measured.found

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, in words."""
        return tuple(self.results["sentences"])


def drift(
    run: FinishedRun | str | Path,
    data: Source,
    *,
    false_alarms: float | None = None,
    familiarity: FamiliarityMethod = "mahalanobis",
    level: float = 0.05,
    permutations: int = 999,
    date: str | None = None,
    windows: int = 5,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    command: str = "",
    **reading: Any,
) -> DriftReport:
    """Tell whether new rows are still of the kind that a run was trained and tested on.

    Vectors are those of the run's own model. Labels are not needed; with 10 or more the accuracy is
    held against that on the test rows.

    Args:
        run: A finished run or its folder.
        data: New rows: anything that `read` takes.
        false_alarms: Share of rows like the training rows that may be called unfamiliar; None for
            1 %, or the lowest that the run's validation rows can state.
        familiarity: How their distance is measured: `mahalanobis` or `knn`.
        level: Chance of an alarm where nothing changed, over all tests.
        permutations: Of each test by permutations.
        date: Column of the data with times: unfamiliar rows, confidence and accuracy by stretch.
        windows: How many stretches, at least 2.
        seed: Root seed.
        limit: At most so many new rows.
        device: Where the model is put.
        command: How it was asked for, for the report.
        **reading: Passed to `read`; of these a Dataset takes limit= alone.

    Raises:
        DataError: For rows of another kind, or that cannot be read.
        RunError: When the run keeps no statistics of its training rows, or is damaged.
        UsageError: For settings out of range.
    """
    began = time.monotonic()
    opened = as_run(run, device)
    kept = opened.familiarity
    alarm = kept.alarm(false_alarms, familiarity)
    before = _answers_before(opened)
    rows = read_side(data, "data", reading | {"limit": limit, "seed": seed})
    check_modality(opened, rows)
    names = tuple(opened.model.label_names)
    labels_M, foreign = _labels(rows, names)
    times = times_of(rows, date)
    stretches = None if times is None else _stretches(times, windows)
    proba_MC, vectors_MD = opened.proba_and_vectors(rows.without_labels())
    scores_M = kept.scores(vectors_MD, familiarity)
    measured = measure_drift(
        kept.reference_RD, vectors_MD, scores_M=scores_M, alarm=alarm, before=before,
        proba_MC=proba_MC, label_names=names, labels_M=labels_M, level=level,
        permutations=permutations, seed=seed,
    )  # fmt: skip
    seen = count_seen(opened.folder, rows)
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "task_type": "drift",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "command": command,
        "machine": describe_machine(),
        "seed": seed,
        "familiarity": familiarity,
        "run": _run_json(opened, len(kept.reference_RD), len(before.truth_N)),
        "data": {
            "source": rows.source,
            "rows": len(rows),
            "modality": rows.modality,
            "labelled": int((labels_M >= 0).sum()),
            "skipped": len(rows.skipped),
            "fingerprint": rows.fingerprint,
        },
        "seen": None if seen is None else seen.model_dump(),
        "foreign_classes": foreign,
        **_measured_json(measured),
        "classes": _classes_json(kept.counts, before, proba_MC, names),
        "windows": [] if stretches is None else _windows_json(
            stretches, times or [], scores_M > alarm.threshold, proba_MC, labels_M
        ),
        "plane": _plane_json(kept.reference_RD, vectors_MD, seed),
        "sentences": [*measured.sentences, *_notes(seen, foreign, len(rows), before)],
        "seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip
    return DriftReport(results, measured)


def write_drift(report: DriftReport, path: Path) -> None:
    """Write the report (.html) or everything measured (.json).

    Raises:
        UsageError: For another ending.
    """
    check_shift_path(path)
    if path.suffix.lower() == ".html":
        write_drift_report(report.results, path)
    else:
        write_json(path, report.results)


def _answers_before(run: FinishedRun) -> AnswersBefore:
    """What the kept model said of the test rows; of the target's in a run of adapt.

    Where the target had no labels, these are the rows that were adapted to.

    Raises:
        RunError: When predictions.parquet does not hold it.
    """
    path = run.folder / "predictions.parquet"
    arm = run.arm()
    names = {name: i for i, name in enumerate(run.model.label_names)}
    adaptation = run.results.get("adaptation")
    part = "test" if adaptation is None else "target"
    held_out = adaptation is None or adaptation["target"]["test"] > 0 or arm["role"] == "control"
    try:
        seed = (arm if adaptation is None else adaptation)["kept"]["seed"]
        wanted = [("part", "=", part), ("arm", "=", arm["name"]), ("seed", "=", seed)]
        table = pq.read_table(path, columns=["truth", "scores"], filters=wanted)
        truth = [-1 if one is None else names[one] for one in table.column("truth").to_pylist()]
        proba_NC = np.array(table.column("scores").to_pylist(), dtype=np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} does not hold the kept model's test rows: {error!r}.") from error
    if proba_NC.ndim != 2 or proba_NC.shape[1] != len(names):
        raise RunError(f"{path} holds no test rows of the kept model.")
    return AnswersBefore(proba_NC, np.array(truth, dtype=np.int64), held_out)


def _labels(rows: Dataset, names: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Classes of the new rows counted in the model's, and rows of classes that it lacks."""
    place = {name: i for i, name in enumerate(names)}
    new = np.array([*(place.get(name, -1) for name in rows.label_names), -1], dtype=np.int64)
    counts = rows.class_counts
    return new[rows.labels_N], {n: c for n, c in counts.items() if c and n not in place}


def _stretches(times: Sequence[Any], windows: int) -> list[np.ndarray]:
    """Rows of each stretch of time, oldest first, of equally many rows; a time stays whole.

    Raises:
        DataError: With fewer different times than stretches.
    """
    at = [i for i, value in enumerate(times) if value is not None]
    distinct = sorted({times[i] for i in at})
    if windows < 2 or len(distinct) < windows:
        raise DataError(
            f"drift.windows must be at least 2 and at most the number of different times "
            f"({len(distinct)}), got {windows}."
        )
    at.sort(key=lambda i: times[i])
    place = {value: number for number, value in enumerate(distinct)}
    cut_of: dict[int, int] = {}
    for rank, i in enumerate(at):  # a time belongs where its first row falls
        cut_of.setdefault(place[times[i]], rank * windows // len(at))
    found: list[list[int]] = [[] for _ in range(windows)]
    for i in at:
        found[cut_of[place[times[i]]]].append(i)
    return [np.array(part) for part in found if part]


def _windows_json(
    stretches: Sequence[np.ndarray],
    times: Sequence[Any],
    flagged_M: np.ndarray,
    proba_MC: np.ndarray,
    labels_M: np.ndarray,
) -> list[dict[str, Any]]:
    found = []
    right_M = proba_MC.argmax(axis=1) == labels_M
    for part in stretches:
        count, known = int(flagged_M[part].sum()), part[labels_M[part] >= 0]
        low, high = share_interval(count, len(part))
        found.append({
            "first": str(times[part[0]]), "last": str(times[part[-1]]), "rows": len(part),
            "unfamiliar": count / len(part), "low": low, "high": high,
            "confidence": float(proba_MC[part].max(axis=1).mean()),
            "accuracy": float(right_M[known].mean()) if len(known) else None,
            "labelled": len(known),
        })  # fmt: skip
    return found


def _run_json(run: FinishedRun, reference: int, test: int) -> dict[str, Any]:
    results = run.results
    adaptation = results.get("adaptation") or {}
    return {
        "folder": str(run.folder),
        "created": results.get("created"),
        "source": (adaptation.get("target") or results.get("data") or {}).get("source"),
        "model": run.arm().get("label") or run.best,
        "backbone": (results.get("backbone") or {}).get("name"),
        "reference_rows": reference,
        "test_rows": test,
    }


def _measured_json(measured: Drift) -> dict[str, Any]:
    distances = []
    for one in (measured.a_distance, measured.mmd):
        info = DISTANCES[one.name]
        told = {"title": info.title, "meaning": info.meaning, "size": size_words(one)}
        distances.append(one.model_dump(mode="json") | told)
    values = measured.model_dump(
        mode="json", include={"found", "level", "tests", "unfamiliar", "shares", "confidence",
                              "accuracy"},
    )  # fmt: skip
    return values | {"distances": distances}


def _classes_json(
    counts: Any, before: AnswersBefore, proba_MC: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Each class's share of the training rows, and of the answers on test rows and new rows."""
    total = max(1, sum(counts.values()))
    ours_C, theirs_C = (
        np.bincount(proba.argmax(axis=1), minlength=len(names)) / len(proba)
        for proba in (before.proba_NC, proba_MC)
    )
    return [
        {"label": name, "train": counts.get(name, 0) / total, "before": float(ours_C[i]),
         "after": float(theirs_C[i])}
        for i, name in enumerate(names)
    ]  # fmt: skip


def _plane_json(reference_RD: np.ndarray, new_MD: np.ndarray, seed: int) -> dict[str, Any]:
    plane = principal_plane(reference_RD, new_MD, most=_SHOWN_POINTS, seed=seed)
    return {
        "source": np.round(plane.source_N2, 4).tolist(),
        "target": np.round(plane.target_M2, 4).tolist(),
        "shares": list(plane.shares),
    }


def _notes(
    seen: Seen | None, foreign: dict[str, int], rows: int, before: AnswersBefore
) -> list[str]:
    found = []
    if not before.held_out:
        found.append(
            "The run held no target row out: it may be surer of those that it adapted to, so "
            "answers and confidence are not tested."
        )
    if seen is not None and (seen.train or seen.validation):
        found.append(
            f"Of {rows} rows the run was trained on {seen.train} and chosen on {seen.validation} "
            "(rows of equal content): these hide drift."
        )
    if foreign:
        named = ", ".join(f"{name} ({n})" for name, n in list(foreign.items())[:5])
        found.append(
            f"New rows have labels that the model does not know: {named}. They count as unlabelled."
        )
    return found
