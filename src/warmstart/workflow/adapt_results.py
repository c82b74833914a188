"""Putting an adaptation on disk: the final scores, results.json, predictions, the kept model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warmstart.core import FORMAT_VERSION, publishing, write_json
from warmstart.data import Audit, Dataset
from warmstart.evaluation import compare_arms, measure, score
from warmstart.models import EncoderModel
from warmstart.planning import Comparison, Embedding, Pair, Task
from warmstart.reporting import adaptation_card, write_report
from warmstart.shift import FEATURES, Choice, DomainGap, MethodResult, MethodSeed, Tuning

from .adapt_target import Target, shares_of
from .adapt_words import adaptation_verdict
from .familiar import keep_target_familiarity
from .prepare import Prepared
from .results import comparison_json
from .seen import CONTENTS_FILE

__all__ = ["RESULTS_FILE", "Outcome", "write_adaptation"]

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Outcome:
    """Everything that an adaptation came to, before the target's labels are looked at.

    `tuning` says which part of the encoder learned; None where it is as the backbone came.
    """

    prepared: Prepared
    target: Target
    results: Sequence[MethodResult]
    choice: Choice
    gap: DomainGap
    embedding: Embedding
    primary: str
    started: float
    seeds: int
    tuning: Tuning | None = None

    @property
    def shown(self) -> Dataset:
        """Target rows whose predictions are kept: test rows, or all where nothing is labelled."""
        if self.target.test:
            return self.target.test_rows
        return self.target.dataset

    @property
    def fitted(self) -> list[MethodResult]:
        """Methods that have seeds."""
        return [result for result in self.results if result.seeds]


def write_adaptation(
    folder: Path,
    outcome: Outcome,
    audited: Audit,
    *,
    settings: Mapping[str, Any],
    name: str,
    command: str,
) -> None:
    """Score on the target's test rows where they have labels, and write the run folder.

    This is where target labels are read, once, after everything was chosen. results.json comes
    last: where it is, nothing is left to do but to tidy up.
    """
    prepared, target = outcome.prepared, outcome.target
    source_test = prepared.split.test_rows(prepared.dataset)
    on_target, on_source = _probabilities(outcome, [outcome.shown, source_test])
    arms = _arms(outcome, on_target, on_source, source_test)
    pairs = _pairs(outcome, on_target) if target.test else []
    verdict = adaptation_verdict(
        outcome.choice.decision, outcome.target, outcome.primary, arms, pairs
    )
    task = Task(
        backbone=prepared.backbone, view=prepared.split.view(prepared.dataset), test=source_test,
        folder=folder, primary=outcome.primary, seeds=outcome.seeds, budget=float("inf"),
        started=outcome.started, embedding=outcome.embedding,
    )  # fmt: skip
    results = comparison_json(
        Comparison([], pairs, verdict), task, prepared, audited, settings=settings, command=command
    ) | {"arms": arms, "adaptation": _adaptation_json(outcome)}
    _write_predictions(folder / "predictions.parquet", outcome, on_target, on_source, source_test)
    _write_logs(folder)
    prepared.split.save(folder / "split.json")
    write_json(folder / "target_split.json", {"adapt": target.adapt, "test": target.test})
    _write_seen(folder / CONTENTS_FILE, outcome)
    model = _model(outcome, outcome.choice.kept)
    with publishing(folder / "model", replace=True, task_type="classify") as place:
        model.save(place)
    keep_target_familiarity(
        folder, model, target.dataset.take_ids(target.adapt),
        target.test_rows if target.test else None,
        moved=outcome.tuning is not None and outcome.choice.decision.adapting,
    )  # fmt: skip
    write_report(results, folder / "report.html")
    card = adaptation_card(results, name=name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / RESULTS_FILE, results)


def _model(outcome: Outcome, seed: MethodSeed) -> EncoderModel:
    """The model that a fit came to."""
    prepared = outcome.prepared
    names = prepared.dataset.label_names
    if seed.weights is None or outcome.tuning is None:
        return EncoderModel(prepared.backbone, seed.head, names)
    return outcome.tuning.model(prepared.backbone, seed.weights, seed.head, names)


def _probabilities(outcome: Outcome, rows: Sequence[Dataset]) -> list[dict[str, np.ndarray]]:
    """Each method's probabilities (S, N, C) of several data sets, which it gets without labels."""
    bare = [one.without_labels() for one in rows]
    found: list[dict[str, np.ndarray]] = [{} for _ in bare]
    for result in outcome.fitted:
        answers = [_answers(outcome, seed, bare) for seed in result.seeds]
        for made, of_seeds in zip(found, zip(*answers, strict=True), strict=True):
            made[result.named.name] = np.stack(of_seeds)
    return found


def _answers(outcome: Outcome, seed: MethodSeed, rows: Sequence[Dataset]) -> list[np.ndarray]:
    """One model's probabilities of each data set; a tuned encoder lives no longer than this."""
    model = _model(outcome, seed)
    return [model.proba(one) for one in rows]


def _arms(
    outcome: Outcome,
    on_target: Mapping[str, np.ndarray],
    on_source: Mapping[str, np.ndarray],
    source_test: Dataset,
) -> list[dict[str, Any]]:
    reference = outcome.results[0]
    names = outcome.prepared.dataset.label_names
    arms = []
    for result in outcome.results:
        arm: dict[str, Any] = {
            "name": result.named.name,
            "label": result.named.title,
            "role": "control" if result is reference else "arm",
            "status": "done" if result.seeds else "failed",
            "reason": result.reason,
            "settings": result.named.method.model_dump(mode="json"),
            "seeds": len(result.seeds),
            "notes": sorted({note for seed in result.seeds for note in seed.record.notes}),
        }
        arms.append(arm)
        if not result.seeds:
            continue
        kept = result.seeds[result.kept]
        source_scores = score(
            on_source[result.named.name], source_test.labels_N, names, primary=outcome.primary
        )
        own = sum(seed.record.seconds for seed in result.seeds) / len(result.seeds)
        arm |= {
            "trainable_parameters": kept.record.trainable_parameters,
            "total_parameters": _total(outcome, kept),
            "seconds": own + outcome.embedding.seconds,
            "history": [list(seed.record.history) for seed in result.seeds],
            "chosen": {"epoch": kept.epoch, **kept.record.values},
            "adaptation": {
                "aligns": result.named.method.aligns,
                "epochs": [seed.epoch for seed in result.seeds],
                "judged": result.judged.model_dump(),
                "source": source_scores.main.model_dump(mode="json"),
                "stopped": [seed.record.stopped for seed in result.seeds],
            },
        }
        if outcome.target.test:
            truth_N = outcome.shown.labels_N
            proba_SNC = on_target[result.named.name]
            scores = score(proba_SNC, truth_N, names, primary=outcome.primary)
            arm["scores"] = scores.model_dump(mode="json")
            arm["kept"] = {
                "seed": kept.record.seed,
                "metrics": measure(proba_SNC[result.kept], truth_N),
            }
    return arms


def _total(outcome: Outcome, seed: MethodSeed) -> int:
    """Weights of backbone, adapter and head."""
    own = seed.record.trainable_parameters
    if outcome.tuning is not None and outcome.tuning.part != "lora":
        own = sum(parameter.numel() for parameter in seed.head.parameters())
    return int(outcome.prepared.backbone.card.parameters or 0) + own


def _pairs(outcome: Outcome, on_target: Mapping[str, np.ndarray]) -> list[Pair]:
    """Every method minus source-only on the target's test rows."""
    first, *others = outcome.fitted
    truth_N = outcome.shown.labels_N
    return [
        Pair.of(
            other.named.name,
            first.named.name,
            compare_arms(
                on_target[other.named.name], on_target[first.named.name], truth_N,
                metric=outcome.primary,
            ),
        )
        for other in others
    ]  # fmt: skip


def _adaptation_json(outcome: Outcome) -> dict[str, Any]:
    target, choice = outcome.target, outcome.choice
    names = outcome.prepared.dataset.label_names
    low, high = outcome.gap.interval
    return {
        "trainable": FEATURES if outcome.tuning is None else str(outcome.tuning),
        "target": {
            "source": target.dataset.source,
            "rows": len(target.dataset),
            "adapted_to": len(target.adapt),
            "test": len(target.test),
            "labelled": target.labelled,
            "skipped": len(target.dataset.skipped),
            "fingerprint": target.dataset.fingerprint,
            "notes": list(target.notes),
        },
        "gap": {
            "a_distance": outcome.gap.a_distance,
            "low": low,
            "high": high,
            "error": outcome.gap.error,
            "rows": outcome.gap.n,
            "tiny": outcome.gap.tiny,
            "overlap": outcome.gap.overlap,
            "effective": outcome.gap.effective,
            "weighed": outcome.gap.weighed,
            "apart": outcome.gap.apart,
            "thin": outcome.gap.thin,
        },
        "shares": {
            kind: dict(zip(names, values_C.tolist(), strict=True))
            for kind, values_C in choice.shares.items()
        }
        | {"true": shares_of(target.dataset)},
        "conflict": {
            "em": choice.conflict.em,
            "bbse": choice.conflict.bbse,
            "apart": choice.conflict.apart,
            "found": choice.conflict.found,
        },
        "decision": choice.decision.model_dump(mode="json"),
        "kept": {"seed": choice.kept.record.seed, "epoch": choice.kept.epoch},
    }


def _write_predictions(
    path: Path,
    outcome: Outcome,
    on_target: Mapping[str, np.ndarray],
    on_source: Mapping[str, np.ndarray],
    source_test: Dataset,
) -> None:
    """Every held-out row of either domain, method and seed; the truth is null where unknown."""
    tables = []
    for part, rows, found in (("source", source_test, on_source),
                              ("target", outcome.shown, on_target)):  # fmt: skip
        names = np.asarray([*rows.label_names, None], dtype=object)
        truth = pa.array(names[rows.labels_N].tolist(), pa.string())
        ids = pa.array(rows.ids, pa.string())
        for result in outcome.fitted:
            for seed, proba_NC in zip(result.seeds, found[result.named.name], strict=True):
                count = len(rows)
                tables.append(
                    pa.table(
                        {
                            "id": ids,
                            "part": pa.array([part] * count, pa.string()),
                            "arm": pa.array([result.named.name] * count, pa.string()),
                            "seed": pa.array([seed.record.seed] * count, pa.int64()),
                            "truth": truth,
                            "predicted": pa.array(
                                names[proba_NC.argmax(axis=1)].tolist(), pa.string()
                            ),
                            "scores": pa.array(list(proba_NC), pa.list_(pa.float64())),
                        }
                    )
                )
    pq.write_table(pa.concat_tables(tables), path)


def _write_logs(folder: Path) -> None:
    """One metrics.jsonl for the run: each line names its arm and seed."""
    import json

    lines = []
    for log in sorted((folder / "arms").glob("*/seed-*/metrics.jsonl")):
        seed = int(log.parent.name.removeprefix("seed-"))
        for line in log.read_text(encoding="utf-8").splitlines():
            values = {"arm": log.parent.parent.name, "seed": seed, **json.loads(line)}
            lines.append(json.dumps(values, ensure_ascii=False))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_seen(path: Path, outcome: Outcome) -> None:
    """Contents that `evaluate` counts as seen: target rows that were adapted to are among them."""
    prepared, target = outcome.prepared, outcome.target
    of = dict(zip(prepared.dataset.ids, prepared.dataset.contents, strict=True))
    to = dict(zip(target.dataset.ids, target.dataset.contents, strict=True))
    write_json(
        path,
        {
            "format_version": FORMAT_VERSION,
            "task_type": "classify",
            "train": sorted({of[i] for i in prepared.split.train} | {to[i] for i in target.adapt}),
            "validation": sorted({of[i] for i in prepared.split.validation}),
        },
    )
