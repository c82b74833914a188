"""`rank`: which of several backbones suits the labels best, before any of them is trained."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart._version import __version__
from warmstart.backbones import Backbone
from warmstart.core import (
    FORMAT_VERSION,
    BackboneError,
    DataError,
    UsageError,
    describe_machine,
    pick_device,
    progress,
    write_json,
)
from warmstart.data import Dataset, is_interactions, split
from warmstart.data.limit import limit_rows
from warmstart.evaluation import primary_metric
from warmstart.evaluation.metrics import check_metrics
from warmstart.planning import (
    TRANSFER_SCORES,
    Transfer,
    TransferOrder,
    TransferRows,
    check_by,
    measure_transfer,
    order_backbones,
)
from warmstart.reporting import write_transfer_report

from .prepare import Source, as_dataset
from .rank_backbones import Candidate, Embedded, candidates, embed_candidate, reason_of
from .rank_words import rank_sentences

__all__ = ["RankedBackbones", "check_rank_path", "rank", "write_rank"]


@dataclass(frozen=True)
class RankedBackbones:
    """What was measured.

    Attributes:
        results: All of it as JSON values; table and report are drawn from this alone.
        measured: Scores, resamples and cross-validated answers by backbone, the best first.
    """

    results: dict[str, Any]
    measured: dict[str, Transfer]

    @property
    def order(self) -> tuple[str, ...]:
        """Names of the backbones, the best first."""
        return tuple(one["label"] for one in self.results["backbones"])

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it comes to, in words."""
        return tuple(self.results["sentences"])


def rank(
    data: Source,
    *,
    backbones: Backbone | str | Path | Sequence[Backbone | str | Path] | None = None,
    by: str = "probe",
    metric: str | None = None,
    limit: int | None = 1000,
    resamples: int = 20,
    group: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    allow_bin: bool = False,
    seed: int = 0,
    command: str = "",
    **reading: Any,
) -> RankedBackbones:
    """Put backbones in order by how well their untouched vectors serve the labels.

    Training rows alone are looked at; test and validation rows of the split stay unseen. A backbone
    that does not open is named with the reason, and the others go on.

    Args:
        data: Anything that `read` takes.
        backbones: One or several; a name may have settings of its own after colons, of pooling,
            depth, image_size and max_length: `minilm:pooling=cls`. The default for the data's
            modality otherwise.
        by: The score that orders: probe, knn, log_me or h_score.
        metric: Of the cross-validated probe and kNN; accuracy, or macro F1 where the rarest class
            holds under 5 % of the rows.
        limit: At most so many training rows, drawn by class; None for all.
        resamples: Random halves behind the intervals of LogME, H-score, LEEP and NCE.
        group: Column that split and folds keep whole, and the bootstrap draws whole.
        image_size: Pixels on a side, for all backbones.
        max_length: Tokens, for all backbones.
        device: Where to compute.
        allow_bin: Whether backbones that are named may have pickled weights.
        seed: Of the draw of rows, folds and resamples. The split stays that of the other verbs.
        command: How it was asked for, for the report.
        **reading: Passed to `read`.

    Raises:
        BackboneError: When no backbone opens, with each reason.
        DataError: For data that cannot be read, or too few training rows.
        UsageError: For settings out of range.
    """
    began = time.monotonic()
    by, wanted = check_by(by), candidates(backbones)
    if limit is not None and limit < 4:
        raise UsageError(
            f"rank.limit must be at least 4, got {limit}. Typical values: 500 to 5000."
        )
    settings: dict[str, Any] = {"image_size": image_size, "max_length": max_length}
    if device != "auto":
        settings["device"] = str(pick_device(device))
    if is_interactions(data):
        raise DataError(
            f"{data} holds interactions. rank is for rows with labels; `warmstart compare` tries "
            "encoders of items."
        )
    dataset = as_dataset(data, group=group, **reading)
    train = split(dataset, group=group).view(dataset).train
    rows = train if limit is None else limit_rows(train, limit, seed)
    chosen = metric or primary_metric(rows.labels_N)
    check_metrics([chosen], len(rows.label_names), "rank.metric")
    cut = TransferRows.of(
        rows.labels_N, ids=rows.ids, contents=rows.contents, classes=len(rows.label_names),
        metric=chosen, groups=None if group is None else rows.column(group), resamples=resamples,
        seed=seed,
    )  # fmt: skip
    opened, failed = _open_all(wanted, rows, settings, allow_bin)
    measured = [
        measure_transfer(one.vectors_ND, cut, source_proba_NS=one.source_proba_NS, name=one.label)
        for one in opened
    ]
    sizes = [int(one.facts["parameters"]) for one in opened]
    order = order_backbones(measured, sizes, cut, by=by)
    results: dict[str, Any] = _base(command, seed) | {
        "data": _data(dataset, train, rows, group),
        "metric": chosen,
        "by": by,
        "folds": int(cut.fold_N.max()) + 1,
        "resamples": resamples,
        "scores": {name: info.model_dump() for name, info in TRANSFER_SCORES.items()},
        "backbones": _in_order(opened, measured, order),
        "size_order": [opened[place].label for place in order.size_order],
        "agreement": [one.model_dump(mode="json") for one in order.agreement],
        "failed": failed,
    }
    results["sentences"] = rank_sentences(results)
    results["seconds"] = round(time.monotonic() - began, 2)
    return RankedBackbones(results, {opened[p].label: measured[p] for p in order.order})


def check_rank_path(path: Path) -> None:
    """Refuse an ending that `write_rank` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the endings that it knows.
    """
    if path.suffix.lower() not in {".html", ".json"}:
        raise UsageError(f"{path} must end in .html (the report) or .json.")


def write_rank(ranked: RankedBackbones, path: Path) -> None:
    """Write the report (.html) or everything measured (.json).

    Raises:
        UsageError: For another ending.
    """
    check_rank_path(path)
    if path.suffix.lower() == ".html":
        write_transfer_report(ranked.results, path)
    else:
        write_json(path, ranked.results)


def _open_all(
    wanted: Sequence[Candidate], rows: Dataset, settings: Mapping[str, Any], allow_bin: bool
) -> tuple[list[Embedded], list[dict[str, str]]]:
    """The backbones that opened, and what was asked for besides, with the reason.

    Raises:
        BackboneError: When none opened.
    """
    opened: list[Embedded] = []
    failed: list[dict[str, str]] = []
    taken: dict[str, str] = {}
    with progress.task("Opening backbones", total=len(wanted), unit="backbones") as bar:
        for one in wanted:
            try:
                space, found = embed_candidate(
                    one, rows, settings, allow_bin=allow_bin, taken=taken
                )
            except Exception as error:
                failed.append({"name": one.said, "reason": reason_of(error)})
                progress.note(f"{one.said} is left out: {failed[-1]['reason']}")
                if len(wanted) == 1:
                    raise
            else:
                taken[space] = found.label
                opened.append(found)
            bar.advance()
    if not opened:
        told = " ".join(f"{one['name']}: {one['reason']}" for one in failed)
        raise BackboneError(f"None of the {len(wanted)} backbones can be ranked. {told}")
    return opened, failed


def _base(command: str, seed: int) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "task_type": "rank",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "command": command,
        "machine": describe_machine(),
        "seed": seed,
    }


def _data(dataset: Dataset, train: Dataset, rows: Dataset, group: str | None) -> dict[str, Any]:
    return {
        "source": dataset.source,
        "modality": dataset.modality,
        "rows": len(dataset),
        "training_rows": len(train),
        "used": len(rows),
        "classes": len(rows.label_names),
        "group": group,
        "skipped": len(dataset.skipped),
        "fingerprint": dataset.fingerprint,
    }


def _in_order(
    opened: Sequence[Embedded], measured: Sequence[Transfer], order: TransferOrder
) -> list[dict[str, Any]]:
    """What is told of each backbone, the best first."""
    found = []
    for place, number in enumerate(order.order, start=1):
        one, gap = opened[number], order.gaps[number]
        found.append(
            {
                "label": one.label,
                "place": place,
                "size_place": order.size_order.index(number) + 1,
                "scores": {
                    name: score.model_dump() for name, score in measured[number].scores.items()
                },
                "gap": None if gap is None else gap.model_dump() | {"sure": gap.sure},
                "first_share": round(order.first_share[number], 4),
                **one.facts,
            }
        )
    return found
