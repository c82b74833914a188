"""`predict` and `evaluate`: a finished run on new rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.core import Config, DataError, progress
from warmstart.data import Dataset, read
from warmstart.evaluation import Scores, primary_metric, score
from warmstart.models import Prediction

from .runs import FinishedRun, open_run

__all__ = ["Predictions", "evaluate", "predict", "write_predictions"]


class Predictions(Config):
    """Answers for the rows of a file.

    Attributes:
        ids: Row ids.
        inputs: The texts, or the paths of the images.
        answers: One for each row, in order.
    """

    ids: tuple[str, ...]
    inputs: tuple[str, ...]
    answers: tuple[Prediction, ...]


def _as_run(run: FinishedRun | str | Path) -> FinishedRun:
    return run if isinstance(run, FinishedRun) else open_run(run)


def predict(run: FinishedRun | str | Path, data: Any, **reading: Any) -> Predictions:
    """Classify the rows of a file, a folder or a list.

    Args:
        run: A finished run or its folder.
        data: A path (labels are not needed), a Dataset, or a list of texts or image paths.
        **reading: Passed to `read`: text=, image=, skip_bad=, ...

    Raises:
        DataError: When the rows are of another modality than the model's, or cannot be read.
    """
    opened = _as_run(run)
    if isinstance(data, list | tuple):
        answers = opened.predict(list(data))
        ids = tuple(str(i) for i in range(len(answers)))
        return Predictions(ids=ids, inputs=tuple(str(x) for x in data), answers=tuple(answers))
    dataset = data if isinstance(data, Dataset) else read(data, need_label=False, **reading)
    _check_modality(opened, dataset)
    dataset = dataset.without_labels()
    proba_NC = opened.model.proba(dataset)
    answers = opened.model.predictions(proba_NC)
    return Predictions(
        ids=tuple(dataset.ids), inputs=tuple(_shown(dataset)), answers=tuple(answers)
    )


def _shown(dataset: Dataset) -> list[str]:
    """Texts as they are, images by their path."""
    values = dataset.column(dataset.modality)
    return [str(v.get("path")) if isinstance(v, dict) else str(v) for v in values]


def _check_modality(run: FinishedRun, dataset: Dataset) -> None:
    if run.model.modality != dataset.modality:
        raise DataError(
            f"The model in {run.folder} reads {run.model.modality}, but {dataset.source} holds "
            f"{dataset.modality} rows."
        )


def evaluate(
    run: FinishedRun | str | Path,
    data: Any,
    *,
    metric: str | None = None,
    group: str | None = None,
    **reading: Any,
) -> Scores:
    """Score a finished run on labelled rows that it has not seen.

    Args:
        run: A finished run or its folder.
        data: A path or a Dataset with labels that the model knows.
        metric: Primary metric; chosen by the rows' balance otherwise.
        group: Column by which accuracy is shown.
        **reading: Passed to `read`.

    Raises:
        DataError: For a label that the model does not know.
    """
    opened = _as_run(run)
    dataset = data if isinstance(data, Dataset) else read(data, **reading)
    _check_modality(opened, dataset)
    dataset = dataset.relabel(opened.model.label_names)
    seen = _training_ids(opened) & set(dataset.ids)
    if seen:
        progress.note(
            f"{len(seen)} of {len(dataset)} rows are rows that the run was trained on: the scores "
            "flatter it."
        )
    proba_NC = opened.model.proba(dataset.without_labels())
    return score(
        proba_NC,
        dataset.labels_N,
        opened.model.label_names,
        primary=metric or primary_metric(dataset.labels_N),
        groups=dataset.column(group) if group else None,
    )


def _training_ids(run: FinishedRun) -> set[str]:
    from .results import split_of

    return set(split_of(run.folder).train)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write answers as CSV, JSONL or Parquet, by the file's ending.

    In CSV a text that a spreadsheet would take for a formula gets a quote before it.

    Raises:
        DataError: For another ending.
    """
    import csv
    import io
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from warmstart.core import write_atomic

    kind = path.suffix.lower()
    rows = zip(predictions.ids, predictions.inputs, predictions.answers, strict=True)
    if kind == ".csv":
        buffer = io.StringIO()
        # Texts are always quoted: a lone carriage return would start a row of its own otherwise.
        writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["id", "input", "label", "score"])
        for key, text, answer in rows:
            cells = [inert(key), inert(text), inert(answer.label), round(answer.score, 6)]
            writer.writerow(cells)
        write_atomic(path, buffer.getvalue())
    elif kind in {".jsonl", ".json"}:
        values = [
            {"id": key, "input": text, **answer.model_dump(mode="json")}
            for key, text, answer in rows
        ]
        text = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
        write_atomic(path, text if kind == ".jsonl" else json.dumps(values, ensure_ascii=False))
    elif kind == ".parquet":
        columns: dict[str, Sequence[Any]] = {
            "id": predictions.ids,
            "input": predictions.inputs,
            "label": [a.label for a in predictions.answers],
            "score": [a.score for a in predictions.answers],
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), sink)
        write_atomic(path, sink.getvalue().to_pybytes())
    else:
        raise DataError(f"{path} must end in .csv, .jsonl, .json or .parquet.")


def inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
