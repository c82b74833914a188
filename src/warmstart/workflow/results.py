"""Putting a comparison on disk: results.json, predictions, the model, the report and the card."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warmstart._version import __version__
from warmstart.core import FORMAT_VERSION, describe_machine, write_json
from warmstart.data import Audit, Dataset
from warmstart.planning import ArmResult, Comparison, Task, arm_json
from warmstart.reporting import model_card, write_report

from .prepare import Prepared
from .seen import write_seen

__all__ = ["comparison_json", "write_run"]


def comparison_json(
    comparison: Comparison,
    task: Task,
    prepared: Prepared,
    audited: Audit,
    *,
    settings: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """The whole comparison as JSON values; reports and tables are drawn from this alone."""
    dataset, split = prepared.dataset, prepared.split
    return {
        "format_version": FORMAT_VERSION,
        "task_type": "classify",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "command": command,
        "machine": describe_machine(),
        "data": {
            "source": dataset.source,
            "rows": len(dataset),
            "skipped": len(dataset.skipped),
            "modality": dataset.modality,
            "label_names": list(dataset.label_names),
            "class_counts": dataset.class_counts,
            "split": split.sizes | {"dropped": split.dropped, "notes": list(prepared.notes)},
            "fingerprint": dataset.fingerprint,
            "split_fingerprint": split.fingerprint,
        },
        "backbone": prepared.backbone.card.model_dump(mode="json")
        | {
            "fingerprint": prepared.backbone.fingerprint,
            "image_size": prepared.backbone.image_size,
            "max_length": prepared.backbone.max_length,
            "pooling": prepared.backbone.pooling,
        },
        "audit": audited.to_dict(),
        "settings": dict(settings) | {"primary": task.primary},
        "embedding": task.embedding.model_dump(mode="json"),
        "arms": [arm_json(result, task) for result in comparison.arms],
        "pairs": [pair.model_dump(mode="json") for pair in comparison.pairs],
        "verdict": comparison.verdict.model_dump(mode="json"),
    }


def write_run(
    folder: Path,
    results: Mapping[str, Any],
    comparison: Comparison,
    prepared: Prepared,
    *,
    name: str,
    keep_models: bool,
) -> None:
    """Write everything that a finished run folder holds.

    The kept model moves to `model/`; the other arms' models are removed unless asked for.
    """
    _write_predictions(folder / "predictions.parquet", comparison, prepared)
    _merge_logs(folder, comparison.arms)
    prepared.split.save(folder / "split.json")
    write_seen(folder, prepared)
    write_json(folder / "results.json", results)
    write_report(results, folder / "report.html")
    card = model_card(results, name=name, folder=str(name))
    (folder / "README.md").write_text(card, encoding="utf-8")
    _settle_models(folder, comparison, keep_models=keep_models)


def _settle_models(folder: Path, comparison: Comparison, *, keep_models: bool) -> None:
    """Move the kept model to `model/`; last of all, since a run may be resumed until then."""
    best = comparison.verdict.best
    for result in comparison.arms:
        own = folder / "arms" / result.arm.folder_name / "model"
        if result.name == best and own.is_dir():
            target = folder / "model"
            if target.is_dir():
                shutil.rmtree(target)
            shutil.copytree(own, target) if keep_models else own.rename(target)
        elif own.is_dir() and not keep_models:
            shutil.rmtree(own)


def _write_predictions(path: Path, comparison: Comparison, prepared: Prepared) -> None:
    """Every held-out row of every arm and seed: id, truth, prediction, scores."""
    split, dataset = prepared.split, prepared.dataset
    tables = []
    for part, ids in (("validation", split.validation), ("test", split.test)):
        rows = dataset.take_ids(ids)
        for result in comparison.arms:
            for position, seed in enumerate(result.seeds):
                proba_NC = (result.validation if part == "validation" else result.test)[position]
                tables.append(_prediction_table(rows, proba_NC, part, result.name, seed.seed))
    if tables:
        pq.write_table(pa.concat_tables(tables), path)


def _prediction_table(
    rows: Dataset, proba_NC: np.ndarray, part: str, arm: str, seed: int
) -> pa.Table:
    names = np.asarray(rows.label_names, dtype=object)
    count = len(rows)
    return pa.table(
        {
            "id": pa.array(rows.ids, pa.string()),
            "part": pa.array([part] * count, pa.string()),
            "arm": pa.array([arm] * count, pa.string()),
            "seed": pa.array([seed] * count, pa.int64()),
            "truth": pa.array(names[rows.labels_N].tolist(), pa.string()),
            "predicted": pa.array(names[proba_NC.argmax(axis=1)].tolist(), pa.string()),
            "scores": pa.array(list(proba_NC), pa.list_(pa.float64())),
        }
    )


def _merge_logs(folder: Path, arms: Sequence[ArmResult]) -> None:
    """One metrics.jsonl for the run: each line names its arm and seed."""
    import json

    lines = []
    for result in arms:
        for seed in result.seeds:
            own = folder / "arms" / result.arm.folder_name / f"seed-{seed.seed}" / "metrics.jsonl"
            if own.is_file():
                for line in own.read_text(encoding="utf-8").splitlines():
                    values = {"arm": result.name, "seed": seed.seed, **json.loads(line)}
                    lines.append(json.dumps(values, ensure_ascii=False))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
