"""Tracks and tuned baselines on MovieLens, under one cut in time.

    python benchmarks/retrieval.py [ml100k latest] [--arms a,b] [--seeds N] [--work DIR] [--out DIR]

`ml100k`: MovieLens-100K, newest tenth of the events as test, next item with the running history,
seen items left out, all 1,682 ranked. `latest`: MovieLens latest-small with plot overviews, where
many test items were never seen in training; on those the tracks that read texts stand against what
ranks by content or popularity alone, with the interval of the difference. Everything is tuned on
validation; the same baselines at settings that others report stand beside them. With `--work` the
runs stay there, and the same call goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from warmstart.cli._options import parse_arms
from warmstart.core import FORMAT_VERSION, describe_machine, write_json
from warmstart.data import held_out_events, read_interactions, sample, time_split
from warmstart.evaluation import measure_ranking, next_item_task, rank_targets
from warmstart.reporting import ranking_view
from warmstart.retrieval import make_baseline
from warmstart.workflow import RETRIEVAL_ARMS, compare_interactions, open_retrieval

HERE = Path(__file__).resolve().parent
LATEST = HERE.parent.parent / "shared" / "data" / "movielens_latest_small"
SETS = ("ml100k", "latest")
DEFAULT = "two-tower"
SHOWN = ("HR@10", "HR@100", "MRR", "NDCG@10")
# Settings under which these baselines are reported, with HR@10, HR@100 and MRR as they were.
REPORTED: dict[str, tuple[str, dict[str, Any], tuple[float, float, float]]] = {
    "random": ("random", {}, (0.0065, 0.061, 0.006)),
    "popularity": ("popularity", {}, (0.070, 0.357, 0.033)),
    "newest 10,000 events": ("recent-popularity", {"events": 10_000}, (0.076, 0.348, 0.038)),
    "item-kNN, last 20, shrinkage 10": (
        "item-knn", {"last": 20, "shrinkage": 10, "neighbours": None}, (0.165, 0.557, 0.078),
    ),
    "ALS, 64 factors, 0.05, alpha 2": (
        "als", {"factors": 64, "regularization": 0.05, "alpha": 2.0}, (0.133, 0.539, 0.062),
    ),
    "EASE, last 30, 200": ("ease", {"last": 30, "l2": 200}, (0.181, 0.597, 0.081)),
    "EASE, last 30, 500": ("ease", {"last": 30, "l2": 500}, (0.188, 0.625, 0.084)),
}  # fmt: skip


@contextmanager
def workplace(named: Path | None) -> Iterator[Path]:
    """Where runs are written: a folder that stays, or one that does not."""
    if named is not None:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as place:
        yield Path(place)


def find_data(name: str, scratch: Path) -> Path | None:
    """The folder of a set; None where it is not here."""
    if name == "latest":
        return LATEST if LATEST.is_dir() else None
    films = scratch / "films"
    if not films.is_dir():
        sample("movielens-100k", films)
    return films


def reported(folder: Path) -> dict[str, Any]:
    """Baselines at settings that others report, fitted on all events before the test."""
    data = read_interactions(folder)
    split = time_split(data)
    task = next_item_task(split.fitted, held_out_events(data, split))
    found = {}
    for label, (name, settings, wanted) in REPORTED.items():
        ranks = rank_targets(
            make_baseline(name, settings).fit(split.fitted), task, task.n_items, ks=()
        )
        values = measure_ranking(ranks, task, ["HR@10", "HR@100", "MRR"])
        found[label] = {"measured": values, "reported": dict(zip(values, wanted, strict=True))}
    return found


def measure(folder: Path, arms: Sequence[str], scratch: Path, seeds: int = 1) -> dict[str, Any]:
    """All arms on one set, and where the default stands."""
    out = scratch / "run"
    if out.is_dir():
        run = open_retrieval(out)
    else:
        run = compare_interactions(
            folder, strategies=list(arms), budget="none", out=out, seeds=seeds
        )
    Console().print(ranking_view(run.results))
    found: dict[str, Any] = {"arms": {}}
    for arm in run.results["arms"]:
        found["arms"][arm["name"]] = _numbers(arm)
    found["default"] = found["arms"].get(DEFAULT)
    keep = ("data", "lifts", "cold_lifts", "fairness", "verdict", "settings")
    kept = {key: run.results[key] for key in keep}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("source", "audit", "images")}
    return found | kept


def _numbers(arm: dict[str, Any]) -> dict[str, Any]:
    """One arm's numbers: plain values, and their intervals beside them."""
    if not (arm.get("next_item") or {}).get("test"):
        return {"status": arm["status"], "reason": arm.get("reason")}
    values: dict[str, Any] = {
        "status": arm["status"], "settings": arm["settings"], "seconds": arm["seconds"],
        "seeds": arm["seeds"],
    }  # fmt: skip
    for kind in ("next_item", "all_future"):
        metrics = arm[kind]["test"]["metrics"]
        values[kind] = {
            "test": {name: score["value"] for name, score in metrics.items()},
            "interval": {name: [s["low"], s["high"]] for name, s in metrics.items()},
        }
    values["next_item"]["validation"] = arm["next_item"].get("validation")
    slices = arm["next_item"]["test"]["slices"]
    values["slices"] = {
        part: {label: {name: found[name] for name in SHOWN if name in found}
               for label, found in labels.items()}
        for part, labels in slices.items()
    }  # fmt: skip
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sets that are named (all otherwise), print tables, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="what to measure")
    parser.add_argument("--arms", default=",".join(RETRIEVAL_ARMS), help="by comma")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each track")
    parser.add_argument("--work", type=Path, help="where runs stay, to go on after a stop")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    for name in options.sets or SETS:
        with workplace(options.work) as place:
            folder = find_data(name, place / name)
            if folder is None:
                print(f"{name}: skipped, {LATEST} is not here.")
                continue
            beside = {"reported": reported(folder)} if name == "ml100k" else {}
            arms = parse_arms(options.arms)
            found = measure(folder, arms, place / name, options.seeds) | beside
        kept = {"format_version": FORMAT_VERSION, "benchmark": "retrieval", "set": name,
                "machine": describe_machine(), **found}  # fmt: skip
        path = options.out / f"retrieval-{name}.json"
        write_json(path, kept)
        print(f"Kept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
