"""A contest of recommenders on disk: results.json, ranks, catalogue, model, report and card."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from warmstart._version import __version__
from warmstart.backbones import Backbone
from warmstart.core import FORMAT_VERSION, describe_machine, write_json
from warmstart.data import Interactions
from warmstart.evaluation import FairnessGap, RankedPair
from warmstart.planning import Contest, ContestTask, Entry, SeedFit, judge_contest
from warmstart.reporting import ranking_markdown, write_ranking_report
from warmstart.retrieval import TwoTowerModel

__all__ = ["contest_json", "pair_json", "pictures_folder", "write_contest"]


def contest_json(
    contest: Contest,
    task: ContestTask,
    data: Interactions,
    *,
    backbone: Backbone | None,
    images: Backbone | None,
    settings: Mapping[str, Any],
    reading: Mapping[str, Any],
    gaps: Sequence[tuple[str, FairnessGap]],
) -> dict[str, Any]:
    """The whole run as JSON values; reports and tables are drawn from this alone.

    Args:
        contest: The outcome.
        task: What was asked.
        data: All events.
        backbone: The text encoder; None where no arm reads texts.
        images: The image encoder; None where no pictures are read.
        settings: What decides the result.
        reading: How the events were read: names of columns and which count as positive.
        gaps: Between groups of users or items, as `group_gaps` finds them.
    """
    split = task.split
    return {
        "format_version": FORMAT_VERSION,
        "task_type": "retrieve",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "machine": describe_machine(),
        "data": {
            "source": data.source,
            "name": Path(data.source).name or data.source,
            "events": len(data),
            "users": data.n_users,
            "items": data.n_items,
            "skipped": data.n_skipped,
            "notes": [*data.notes, *split.notes],
            "split": {
                "training events": len(split.train),
                "validation events": len(split.validation),
                "test events": len(task.test),
                "test questions": len(task.next_item),
                "left out": dict(task.next_item.left_out),
                **{f"cold {what}": _cold(split.audit, what) for what in ("users", "items")},
            },
            "audit": dict(split.audit),
            "fingerprint": data.fingerprint,
            "images": pictures_folder(data),
            "reading": dict(reading),
        },
        "backbone": _card(backbone),
        "image_backbone": _card(images),
        "settings": dict(settings) | {"primary": task.primary},
        "arms": [_arm(entry) for entry in contest.entries],
        "lifts": [pair_json(*lift) for lift in contest.lifts],
        "cold_lifts": [pair_json(*lift) for lift in contest.cold_lifts],
        "fairness": [{"by": name, **gap.model_dump(mode="json")} for name, gap in gaps],
        "verdict": judge_contest(contest, task).model_dump(mode="json"),
        "kept": contest.kept.name if contest.kept else None,
    }


def pair_json(a: str, b: str, pair: RankedPair) -> dict[str, Any]:
    """Arm a minus arm b with its interval."""
    return {"a": a, "b": b, "significant": pair.significant, **pair.model_dump(mode="json")}


def pictures_folder(data: Interactions) -> str | None:
    """The folder that pictures of items lie in; None where no item has one."""
    if data.folder is None or data.items["image"].null_count() == data.n_items:
        return None
    return str(data.folder.resolve())


def _card(backbone: Backbone | None) -> dict[str, Any] | None:
    return None if backbone is None else backbone.card.model_dump(mode="json")


def _cold(audit: Mapping[str, Any], what: str) -> Any:
    return (audit.get("test") or {}).get(f"cold_{what}")


def _arm(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": entry.name,
        "label": entry.contender.title,
        "role": entry.contender.role,
        "status": entry.status,
        "reason": entry.reason,
        "settings": entry.settings,
        "tried": entry.tried,
        "seconds": entry.seconds,
        "trainable_parameters": entry.trainable,
        "history": entry.history,
        "information": _information(entry),
        "seeds": [_seed(fit) for fit in entry.fits],
        "notes": entry.notes,
    }
    for kind, scores in entry.scores.items():
        values[kind] = {"test": scores.model_dump(mode="json")}
    if entry.validation:
        values.setdefault("next_item", {})["validation"] = entry.validation
    return values


def _information(entry: Entry) -> dict[str, float] | None:
    """The bound on the mutual information after the chosen epoch, the mean over seeds, in nats.

    None for what does not train, and where no epoch was judged on a validation task.
    """
    found = [
        record
        for fit in entry.fits
        for record in fit.history
        if record["epoch"] == fit.settings.get("epochs_chosen")
        and "validation_information_most" in record
    ]
    if not found:
        return None
    return {
        "nats": fmean(record["validation_information"] for record in found),
        "most": fmean(record["validation_information_most"] for record in found),
    }


def _seed(fit: SeedFit) -> dict[str, Any]:
    """What one training seed chose and how it did on validation."""
    return {
        "seed": fit.seed,
        "status": fit.status,
        "epochs_chosen": fit.settings.get("epochs_chosen"),
        "validation": fit.validation,
        "seconds": fit.seconds,
        "kept": fit.recommender is not None,
    }


def write_contest(
    folder: Path, results: Mapping[str, Any], contest: Contest, data: Interactions, name: str
) -> None:
    """Write everything that a finished run folder holds.

    Args:
        folder: Where.
        results: What `contest_json` gave.
        contest: The outcome.
        data: All events.
        name: The run's name, for its card.
    """
    for kind in ("next_item", "all_future"):
        _write_ranks(folder / f"ranks_{kind}.parquet", contest, kind)
    data.items.write_parquet(folder / "items.parquet")
    positive_N = data.positive_N
    pl.DataFrame(
        {
            "user": data.user_N[positive_N], "item": data.item_N[positive_N],
            "time": data.time_N[positive_N],
        }
    ).write_parquet(folder / "events.parquet")  # fmt: skip
    users = data.users
    if users is None:
        users = pl.DataFrame({"user_id": list(data.user_ids)})
    users.write_parquet(folder / "users.parquet")
    kept = contest.kept and contest.kept.recommender
    if isinstance(kept, TwoTowerModel):
        kept.save(folder / "model", replace=True)
    write_json(folder / "results.json", results)
    write_ranking_report(results, folder / "report.html")
    (folder / "README.md").write_text(ranking_markdown(results, name=name), encoding="utf-8")
    for spent in (folder / "arms").rglob("checkpoints"):
        shutil.rmtree(spent, ignore_errors=True)


def _write_ranks(path: Path, contest: Contest, kind: str) -> None:
    """The rank of each target by arm and training seed."""
    tables = []
    for entry in contest.entries:
        for fit in entry.fits:
            if kind in fit.ranks:
                labels = [pl.lit(entry.name).alias("arm"), pl.lit(fit.seed).alias("seed")]
                tables.append(pl.DataFrame(fit.ranks[kind].columns()).with_columns(labels))
    if tables:
        pl.concat(tables).write_parquet(path)
