"""`compare --shots`: what each arm makes of 1, 2, 4, ... labelled rows a class."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warmstart.backbones import Backbone
from warmstart.core import UsageError, fingerprint, progress, write_json
from warmstart.data import Audit
from warmstart.planning import (
    Comparison,
    Embedding,
    ShotTask,
    Task,
    Verdict,
    elapsed_clock,
    parse_arms,
    parse_duration,
    parse_shots,
    run_shots,
    serve,
    shots_json,
)
from warmstart.planning.shots import Cell, draw_seed, draw_view
from warmstart.reporting import shots_markdown, write_report
from warmstart.strategies import Strategy

from .course import (
    check_before_reading,
    deciding_metric,
    refuse_problems,
    run_settings,
    with_all_named,
)
from .embedding import embed_all
from .folders import default_folder, run_folder
from .prepare import Prepared, Source, prepare, settle_size
from .recommending import open_run
from .results import comparison_json
from .runs import FinishedRun

__all__ = ["DEFAULT_SHOT_ARMS", "compare_shots"]

DEFAULT_SHOT_ARMS = {
    "text": ("zero-shot", "prototypes", "knn", "probe", "setfit"),
    "image": ("zero-shot", "prototypes", "knn", "probe"),
}


def compare_shots(
    data: Source,
    *,
    shots: str | int | Sequence[int],
    draws: int = 5,
    backbone: Backbone | str | Path | None = None,
    strategies: Sequence[str | Strategy] | None = None,
    budget: str | float = "15m",
    limit: int | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    trackers: Sequence[str] = (),
    allow_bin: bool = False,
    command: str | None = None,
    show_audit: Callable[[Audit], None] | None = None,
    **reading: Any,
) -> FinishedRun:
    """The k-shot table: every arm on the same draws of k rows a class, on the same test rows.

    Each draw takes k rows of every class from the training part, and at most as many from the
    validation part; the smaller k of a draw are among its larger ones. Values are means over draws,
    intervals resample draws and test rows. No model is kept. Interrupted, the same call goes on:
    fits that ended are not repeated.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        shots: Rows a class: `(1, 4, 16)`, or as text `1,4,16`. Those that the rarest class cannot
            give are left out, and that is said.
        draws: Draws of each number, 1 or more; with one, the interval knows test rows alone.
        backbone: What to start from; the default for the modality otherwise.
        strategies: Arms, or `all`; otherwise zero-shot, prototypes, knn, probe and, for text,
            setfit.
        budget: Time for everything; fits that would not end in time are left out and named.
        limit: See `compare`.
        image_size: See `compare`.
        max_length: See `compare`.
        metric: See `compare`.
        group: See `compare`.
        out: Folder for the run; `runs/shots-NAME` otherwise.
        replace: Whether a run of that name may be replaced.
        device: `auto`, `cpu`, `cuda`, `mps`.
        trackers: Experiment trackers to report to.
        allow_bin: Whether a backbone's pickled weights may be read (with weights_only).
        command: The command line, for the report.
        show_audit: Called with the audit before any training.
        **reading: Passed to `read`.

    Returns:
        The finished run; `run.results["shots"]` is the table.

    Raises:
        UsageError: For settings that make no sense.
        DataError: When no class can give the fewest shots.
    """
    wanted = parse_shots(shots)
    if not 1 <= draws <= 1000:
        raise UsageError(f"draws must be 1 to 1000, got {draws}. Usual: 5.")
    started = time.monotonic()
    seconds = float("inf") if str(budget) == "none" else parse_duration(budget)
    check_before_reading(metric, out, replace=replace, strategies=strategies)
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size, max_length=max_length,
        device=device, group=group, allow_bin=allow_bin, trackers=trackers, **reading,
    )  # fmt: skip
    modality = prepared.dataset.modality
    arms = parse_arms(with_all_named(strategies, modality) or DEFAULT_SHOT_ARMS[modality])
    values = run_settings(prepared, arms, seeds=1, budget=seconds, limit=limit, metric=metric)
    del values["seeds"]
    values |= {"shots": list(wanted), "draws": draws}
    settings = values | {"fingerprint": fingerprint(values)}
    final = Path(out) if out else default_folder("shots", prepared.dataset.source, settings)
    view = prepared.split.view(prepared.dataset)
    grid = ShotTask(
        backbone=prepared.backbone, view=view, test=prepared.split.test_rows(prepared.dataset),
        folder=final, shots=wanted,
        primary=deciding_metric(metric, view.train.labels_N, view.n_classes),
        draws=draws, budget=seconds, started=started, seed=prepared.split.seed, device=device,
        trackers=tuple(trackers),
    )  # fmt: skip
    served, unserved = serve(view, wanted, draws, grid.seed)
    for one in unserved:
        progress.note(f"k = {one.k} is left out: {one.reason}.")
    size = image_size if modality == "image" else max_length
    with (
        run_folder(final, settings, replace=replace) as folder,
        elapsed_clock(folder, started) as begun,
    ):
        audited = prepared.audit()
        if show_audit:
            show_audit(audited)
        refuse_problems(audited)
        grid = dataclasses.replace(grid, folder=folder, started=begun, shots=served)
        needed = _needed(prepared, grid)
        if size is None:
            needed = settle_size(needed, folder, seconds)
        prepared = dataclasses.replace(prepared, backbone=needed.backbone, notes=needed.notes)
        embedding = Embedding()
        if any(arm.strategy.uses_features for arm in arms):
            embedding = embed_all(needed, folder, device)[1]
        grid = dataclasses.replace(
            grid, backbone=needed.backbone, row_seconds=embedding.seconds / len(needed.dataset)
        )
        cells = run_shots(arms, grid)
        table, verdict = shots_json(arms, cells, unserved, grid)
        results = _results(grid, prepared, audited, embedding, settings, command, verdict)
        _write(folder, results | {"shots": table}, cells, grid, prepared, final.name)
    return open_run(final)


def _needed(prepared: Prepared, grid: ShotTask) -> Prepared:
    """The test rows and those that some draw holds: no others are embedded."""
    views = [draw_view(grid.view, max(grid.shots), draw_seed(grid.seed, d))
             for d in range(grid.draws)]  # fmt: skip
    train = sorted({row for view in views for row in view.train.ids})
    validation = sorted({row for view in views for row in view.validation.ids})
    parts = prepared.split.model_copy(
        update={"train": tuple(train), "validation": tuple(validation)}
    )
    rows = prepared.dataset.take_ids([*train, *validation, *prepared.split.test])
    return dataclasses.replace(prepared, dataset=rows, split=parts)


def _results(
    task: ShotTask,
    prepared: Prepared,
    audited: Audit,
    embedding: Embedding,
    settings: dict[str, Any],
    command: str | None,
    verdict: Verdict,
) -> dict[str, Any]:
    """What a k-shot table shares with every other comparison."""
    shared = Task(
        backbone=task.backbone, view=task.view, test=task.test, folder=task.folder,
        primary=task.primary, seeds=1, budget=task.budget, started=task.started,
        embedding=embedding,
    )  # fmt: skip
    return comparison_json(
        Comparison([], [], verdict), shared, prepared, audited, settings=settings,
        command=command or f"warmstart compare {prepared.dataset.source} --shots "
        f"{','.join(map(str, settings['shots']))} --draws {task.draws}",
    )  # fmt: skip


def _write(
    folder: Path,
    results: dict[str, Any],
    cells: Sequence[Cell],
    task: ShotTask,
    prepared: Prepared,
    name: str,
) -> None:
    """Everything that a finished folder holds; the cells go last, for they let a run resume."""
    _write_predictions(folder / "predictions.parquet", cells, task)
    prepared.split.save(folder / "split.json")
    write_json(folder / "results.json", results)
    write_report(results, folder / "report.html")
    (folder / "README.md").write_text(shots_markdown(results, name=name), encoding="utf-8")
    shutil.rmtree(folder / "cells", ignore_errors=True)


def _write_predictions(path: Path, cells: Sequence[Cell], task: ShotTask) -> None:
    """Every test row in every fit: id, arm, k, draw, truth, predicted class and its score."""
    names = np.asarray(task.test.label_names, dtype=object)
    truth = pa.array(names[task.test.labels_N].tolist(), pa.string())
    ids, count = pa.array(task.test.ids, pa.string()), len(task.test)
    schema = pa.schema(
        [
            ("id", pa.string()), ("arm", pa.string()), ("k", pa.int64()), ("draw", pa.int64()),
            ("truth", pa.string()), ("predicted", pa.string()), ("score", pa.float64()),
        ]
    )  # fmt: skip
    with pq.ParquetWriter(path, schema) as writer:
        for cell in cells:
            if not cell.counts:
                continue
            proba_NC = cell.proba(task)
            columns = [
                ids, pa.array([cell.arm.name] * count), pa.array([cell.k] * count, pa.int64()),
                pa.array([cell.draw] * count, pa.int64()), truth,
                pa.array(names[proba_NC.argmax(axis=1)].tolist(), pa.string()),
                pa.array(proba_NC.max(axis=1), pa.float64()),
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))
