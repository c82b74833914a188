"""`predict` and `evaluate`: a finished run on new rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import Config, DataError, UsageError, pick_device, progress
from warmstart.data import Dataset, from_inputs
from warmstart.evaluation import (
    FamiliarityMethod,
    Scores,
    check_metrics,
    primary_metric,
    score,
)
from warmstart.models import Prediction

from .familiar import Unfamiliar, flag
from .later import RetrievalEvaluation, evaluate_later
from .prepare import as_dataset, refuse_reading
from .recommending import RetrievalRun, open_retrieval, open_run
from .retrieval import COLUMNS_READ
from .runs import FinishedRun
from .seen import count_seen

__all__ = [
    "Evaluation",
    "Predictions",
    "as_run",
    "check_modality",
    "check_predictions_path",
    "evaluate",
    "inert",
    "predict",
    "write_predictions",
]

_ENDINGS = (".csv", ".jsonl", ".json", ".parquet")


class Predictions(Config):
    """Answers for the rows of a file.

    Attributes:
        ids: Row ids.
        inputs: The texts, or the paths of the images.
        answers: One for each row, in order.
        unfamiliar: Which rows are far from the training rows, where that was asked.
    """

    ids: tuple[str, ...]
    inputs: tuple[str, ...]
    answers: tuple[Prediction, ...]
    unfamiliar: Unfamiliar | None = None


class Evaluation(Scores):
    """The scores of a run on other rows, and how many of those rows it had seen.

    Attributes:
        seen_in_training: Rows whose content stands among the run's training rows; None where
            the run keeps no record of them.
        seen_in_validation: Rows whose content stands among its validation rows, by which it was
            chosen; None as above.
    """

    seen_in_training: int | None = None
    seen_in_validation: int | None = None

    @property
    def caution(self) -> str | None:
        """What to keep in mind about rows that the run has seen, in a sentence."""
        if self.seen_in_training is None or self.seen_in_validation is None:
            return (
                "Warning: this run keeps no record of its training rows, so whether these rows "
                "are new to it cannot be told."
            )
        if not self.seen_in_training and not self.seen_in_validation:
            return None
        return (
            f"Warning: of {self.n} rows the run was trained on {self.seen_in_training} and chosen "
            f"on {self.seen_in_validation} (rows of equal content): the scores flatter it."
        )


def as_run(run: FinishedRun | str | Path, device: str) -> FinishedRun:
    """The run with its model where it was asked for; `auto` leaves an opened run as it is."""
    if device != "auto":
        pick_device(device)  # an unknown one is told before anything is read
    if not isinstance(run, FinishedRun):
        return open_run(run, device=device)
    return run if device in {"auto", run.device} else replace(run, device=device)


def predict(
    run: FinishedRun | str | Path,
    data: Any,
    *,
    unfamiliar: bool = False,
    false_alarms: float | None = None,
    familiarity: FamiliarityMethod = "mahalanobis",
    device: str = "auto",
    **reading: Any,
) -> Predictions:
    """Classify the rows of a file, a folder or a list.

    Args:
        run: A finished run or its folder.
        data: A path (labels are not needed), a Dataset, or a list of texts or image paths.
        unfamiliar: Whether rows far from the training rows are flagged.
        false_alarms: Share of rows like the training rows that may be flagged; None for 1 %, or
            the lowest that the run's validation rows can state.
        familiarity: How distance is measured: `mahalanobis` or `knn`.
        device: Where the model is put: `auto`, `cpu`, `cuda`, `mps`.
        **reading: Passed to `read`: text=, image=, skip_bad=, limit=, ...; of these a Dataset
            takes limit= alone, a list none.

    Raises:
        DataError: When the rows are of another modality than the model's, or cannot be read.
        RunError: When rows are to be flagged and the run keeps no statistics of its training rows.
        UsageError: For an option that cannot apply to such data, an unknown device, or a rate that
            the run's validation rows cannot state.
    """
    opened = as_run(run, device)
    if unfamiliar:
        opened.familiarity.alarm(false_alarms, familiarity)  # told before anything is read
    elif false_alarms is not None:
        raise UsageError("false_alarms goes with unfamiliar (--flag-unfamiliar), which is not on.")
    if isinstance(data, list | tuple):
        refuse_reading(reading, "a list of inputs")
        dataset = from_inputs(list(data), opened.model.modality)
        inputs = tuple(str(x) for x in data)
    else:
        dataset = as_dataset(data, need_label=False, **reading)
        check_modality(opened, dataset)
        dataset = dataset.without_labels()
        inputs = tuple(_shown(dataset))
    flags = None
    if unfamiliar:
        proba_NC, vectors_ND = opened.proba_and_vectors(dataset)
        flags = flag(opened.familiarity, vectors_ND, false_alarms=false_alarms, method=familiarity)
    else:
        proba_NC = opened.model.proba(dataset)
    return Predictions(
        ids=tuple(dataset.ids), inputs=inputs,
        answers=tuple(opened.model.predictions(proba_NC)), unfamiliar=flags,
    )  # fmt: skip


def _shown(dataset: Dataset) -> list[str]:
    """Texts as they are, images by their path."""
    values = dataset.column(dataset.modality)
    return [str(v.get("path")) if isinstance(v, dict) else str(v) for v in values]


def check_modality(run: FinishedRun, dataset: Dataset) -> None:
    """Refuse rows of another kind than the run's model reads.

    Raises:
        DataError: Naming both.
    """
    if run.model.modality != dataset.modality:
        raise DataError(
            f"The model in {run.folder} is one for {run.model.modality}s, but "
            f"{dataset.source} holds {dataset.modality}s. Name a run that was trained on "
            "such rows."
        )


def evaluate(
    run: FinishedRun | str | Path,
    data: Any,
    *,
    metric: str | None = None,
    group: str | None = None,
    device: str = "auto",
    backbone: Backbone | str | Path | None = None,
    allow_bin: bool = False,
    **reading: Any,
) -> Evaluation | RetrievalEvaluation:
    """Score a finished run on labelled rows that it has not seen.

    Args:
        run: A finished run or its folder.
        data: A path or a Dataset with labels that the model knows; for a retrieval run a folder or
            file of later interactions.
        metric: Primary metric; chosen by the rows' balance otherwise.
        group: Column by which accuracy is shown.
        device: Where the model is put: `auto`, `cpu`, `cuda`, `mps`.
        backbone: For a retrieval run; see `open_retrieval`.
        allow_bin: For a retrieval run; see `open_retrieval`.
        **reading: Passed to `read`; of these a Dataset takes limit= alone. For a retrieval run
            user=, item=, time=, event=, rating=, weight=, positive= and skip_bad=.

    Returns:
        The scores, with the counts of rows that the run was trained or chosen on: rows are the
        same when their content is, whatever their ids and files. For a retrieval run its model
        beside popularity on later events.

    Raises:
        DataError: For a label that the model does not know.
        UsageError: For an option that cannot apply to such data, or an unknown device.
    """
    opened = as_run(run, device)
    own = {name: reading.pop(name) for name in COLUMNS_READ if name in reading}
    own = {name: value for name, value in own.items() if value is not None}
    if isinstance(opened, RetrievalRun):
        own["skip_bad"] = bool(reading.pop("skip_bad", False))
        refuse_reading({**reading, "group": group}, "a run on interactions", " Leave it out.")
        opened = open_retrieval(opened, backbone=backbone, allow_bin=allow_bin)
        return evaluate_later(opened, data, metric=metric, **own)
    own |= {"backbone": backbone, "allow_bin": allow_bin}
    refuse_reading(own, "a run that classifies", " Leave it out.")
    dataset = as_dataset(data, need_classes=False, **reading)
    check_modality(opened, dataset)
    dataset = dataset.relabel(opened.model.label_names)
    if metric is not None:
        check_metrics([metric], len(opened.model.label_names), "evaluate.metric")
    proba_NC = opened.model.proba(dataset.without_labels())
    scores = score(
        proba_NC,
        dataset.labels_N,
        opened.model.label_names,
        primary=metric or primary_metric(dataset.labels_N),
        groups=dataset.column(group) if group else None,
        clusters=dataset.column(group) if group else None,
    )
    seen = count_seen(opened.folder, dataset)
    found = Evaluation(
        **dict(scores),
        seen_in_training=seen.train if seen else None,
        seen_in_validation=seen.validation if seen else None,
    )
    if found.caution:
        progress.note(found.caution)
    return found


def check_predictions_path(path: Path) -> None:
    """Refuse an ending that `write_predictions` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the endings that it knows.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{path} must end in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}.")


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write answers as CSV, JSONL or Parquet, by the file's ending.

    In CSV a text that a spreadsheet would take for a formula gets a quote before it.

    Raises:
        UsageError: For another ending.
    """
    import csv
    import io
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from warmstart.core import write_atomic

    check_predictions_path(path)
    kind = path.suffix.lower()
    rows = zip(predictions.ids, predictions.inputs, predictions.answers, strict=True)
    told = _flag_columns(predictions)
    if kind == ".csv":
        buffer = io.StringIO()
        # Texts are always quoted: a lone carriage return would start a row of its own otherwise.
        writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["id", "input", "label", "score", *told])
        for at, (key, text, answer) in enumerate(rows):
            cells = [inert(key), inert(text), inert(answer.label), round(answer.score, 6)]
            writer.writerow([*cells, *(_cell(column[at]) for column in told.values())])
        write_atomic(path, buffer.getvalue())
    elif kind in {".jsonl", ".json"}:
        values = [
            {"id": key, "input": text, **answer.model_dump(mode="json")}
            | {name: column[at] for name, column in told.items()}
            for at, (key, text, answer) in enumerate(rows)
        ]
        text = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
        write_atomic(path, text if kind == ".jsonl" else json.dumps(values, ensure_ascii=False))
    else:
        columns: dict[str, Sequence[Any]] = {
            "id": predictions.ids,
            "input": predictions.inputs,
            "label": [a.label for a in predictions.answers],
            "score": [a.score for a in predictions.answers],
            **told,
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), sink)
        write_atomic(path, sink.getvalue().to_pybytes())


def _flag_columns(predictions: Predictions) -> dict[str, Sequence[Any]]:
    """The columns of unfamiliar rows, where they were asked for."""
    found = predictions.unfamiliar
    if found is None:
        return {}
    return {"unfamiliar_score": found.scores, "unfamiliar": found.flags}


def _cell(value: float | bool) -> float | str:
    """A number for CSV, or `true` and `false`."""
    return str(value).lower() if isinstance(value, bool) else float(f"{value:.6g}")


def inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
