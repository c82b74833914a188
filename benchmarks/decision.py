"""Is the plan worth trusting? A grid of arms on real sets, and the advisor judged on sets unseen.

    python benchmarks/decision.py [--sets trec ...] [--labels 32 ...] [--seeds 0 ...]
                                  [--arms probe ...] [--minutes 60] [--judge] [--prior FILE]

Every cell (set, labels, seed, arm) is a small file in results/decision, kept as soon as it ends,
and so is what the advisor measured for each (set, labels, seed): a grid that is stopped goes on
where it was. `--judge` alone reads what is there. Each set is judged with a table of expectations
learned from the other sets, and from nothing else: it begins at no gain over the probe. Regret is
the best arm's test accuracy minus the chosen one's. `--prior` writes the table that the package
holds: learned from every set, drawn towards `first_prior.json`, which five early cells and guesses
made.

A seed draws training and validation rows and seeds the training; test rows stay the same.
Validation rows are a quarter of the training rows, at least 32. Costs are compared in seconds of
this process's own work (CPU time; on CUDA in wall time), which other processes change least. Arms
that stand on features are charged the embedding of their rows, estimated from a few where the
vectors lay in the cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from warmstart.backbones import Backbone, Card, FeatureCache, backbone
from warmstart.core import (
    FORMAT_VERSION,
    NotApplicable,
    Run,
    Streams,
    describe_machine,
    read_json,
    write_json,
)
from warmstart.data import Dataset, View, read, split
from warmstart.evaluation import measure
from warmstart.planning import (
    Outcome,
    Plan,
    Prior,
    Survey,
    advise,
    default_prior,
    embedding_estimate,
    learn_prior,
    plan_by_tree,
    read_prior,
    survey,
)
from warmstart.strategies import make, speaking_names

__all__ = ["SETS", "judge", "load_outcomes"]

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
CELLS = HERE / "results" / "decision"
ARMS = ("zero-shot", "probe", "lora", "finetune", "unfreeze", "scratch")
LABELS = (32, 128, 512, 2000)
SEEDS = (0, 1, 2)
SETS = {
    "trec": ("trec", "text"), "sst2": ("sst2", "text"), "banking77": ("banking77", "text"),
    "movie_reviews": ("movie_reviews.csv", "text"), "subjectivity": ("subjectivity.csv", "text"),
    "customer_reviews": ("customer_reviews.csv", "text"),
    "tweets": ("sentiment_domains/tweets.csv", "text"),
    "books": ("amazon_domains/books.csv", "text"),
    "hindi_reviews": ("hindi_reviews", "text"), "eurosat": ("eurosat", "image"),
    "fashion_products": ("fashion_products", "image"), "mnist": ("digits/mnist", "image"),
    "usps": ("digits/usps", "image"),
}  # fmt: skip
POLICIES = ("probe", "finetune", "lora", "tree", "advisor")
_NEUTRAL_SD = 0.5  # half of the probe's error either way
_MOST_TEST, _IMAGE_SIZE = 1000, 64
console = Console()


@dataclass(frozen=True)
class Cell:
    """One piece of the grid: rows, labels and seed."""

    name: str
    labels: int
    seed: int

    def path(self, arm: str) -> Path:
        return CELLS / f"{self.name}-{self.labels}-{self.seed}-{arm}.json"


class Sets:
    """Data and backbones, read once each."""

    def __init__(self, ready: Path, weights: Path) -> None:
        self._ready, self._weights = ready, weights
        self._read: dict[str, tuple[View, Dataset]] = {}
        self._backbones: dict[str, Backbone] = {}

    def rows(self, cell: Cell) -> tuple[View, Dataset] | None:
        """Training and validation rows of a cell, and the set's test rows; None for too few."""
        if cell.name not in self._read:
            data = read(self._ready / SETS[cell.name][0])
            parts = split(data, seed=0)
            test = parts.test_rows(data)
            kept = np.sort(Streams(0).numpy("test", cell.name).permutation(len(test))[:_MOST_TEST])
            self._read[cell.name] = parts.view(data), test.select(kept)
        whole, test = self._read[cell.name]
        if len(whole.train) < cell.labels:
            return None
        draw = Streams(cell.seed).child("decision", cell.name)
        chosen = draw.numpy("train").permutation(len(whole.train))[: cell.labels]
        held = draw.numpy("validation").permutation(len(whole.validation))
        view = View(
            whole.train.select(np.sort(chosen)),
            whole.validation.select(np.sort(held[: max(32, cell.labels // 4)])),
        )
        return view, test

    def backbone(self, name: str) -> Backbone:
        """MiniLM for text, the ResNet-50 for images at 64 pixels."""
        modality = SETS[name][1]
        if modality not in self._backbones:
            cache = FeatureCache()
            if modality == "text":
                self._backbones[modality] = backbone(modality="text", cache=cache)
            else:
                source = self._weights / "resnet50-imagenet"
                self._backbones[modality] = backbone(source, image_size=_IMAGE_SIZE, cache=cache)
        return self._backbones[modality]


def clock() -> float:
    """Seconds of this process's own work; of the wall where a GPU does it."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def run_arm(arm: str, recipe: Backbone, view: View, test: Dataset, seed: int) -> dict[str, Any]:
    """Accuracy on validation and test rows, and what it took."""
    strategy = make(arm)
    began, work = time.perf_counter(), clock()
    try:
        strategy.check(recipe, view)
        with tempfile.TemporaryDirectory(prefix="warmstart-decision-") as folder:
            fitted = strategy.fit(recipe, view, Run(folder, seed=seed))
            seconds, spent = time.perf_counter() - began, clock() - work
            proba = [fitted.model.proba(r.without_labels()) for r in (view.validation, test)]
    except NotApplicable as error:
        return {"status": "not applicable", "reason": str(error)}
    if strategy.uses_features:
        before = clock()
        per_row = embedding_estimate(recipe, view.train) / len(view.train)
        trial = (clock() - before) / (2 * min(16, len(view.train)))  # two passes, and the loading
        spent += min(trial, per_row) * (len(view.train) + len(view.validation))
    validation, accuracy = (
        measure(p, rows.labels_N, ["accuracy"])["accuracy"]
        for p, rows in zip(proba, (view.validation, test), strict=True)
    )
    return {
        "status": "done", "accuracy": accuracy, "validation": validation, "test_rows": len(test),
        "seconds": round(seconds, 2), "work": round(spent, 2), "epochs": fitted.epochs,
        "train_rows": len(view.train), "validation_rows": len(view.validation),
    }  # fmt: skip


def look(recipe: Backbone, view: View, seed: int, within: float) -> dict[str, Any]:
    """What the advisor measures; the words are left out, they follow from the numbers."""
    began = clock()
    with tempfile.TemporaryDirectory(prefix="warmstart-decision-") as folder:
        found = survey(
            recipe, view, metric="accuracy", folder=Path(folder), within=within, seed=seed
        )
    kept = found.model_copy(update={"items": (), "missing": ()})
    spent = clock() - began
    names = speaking_names(view.label_names)
    speak = names and (view.train.modality == "text" or recipe.modality == "image-text")
    tree = plan_by_tree(view.train, names_speak=speak)
    # what is kept does not tell where data and weights lie on this machine
    told = tree.model_copy(update={"command": f"warmstart fit DATA --strategy {tree.strategy}"})
    card = recipe.card.model_copy(update={"source": recipe.name})
    return {
        "work": round(spent, 2), "survey": kept.model_dump(mode="json"),
        "tree": told.model_dump(mode="json"),
        "card": card.model_dump(mode="json"), "modality": view.train.modality,
    }  # fmt: skip


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    for labels in arguments.labels:  # small ones first: the grid is wide before it is deep
        for seed in arguments.seeds:
            for name in arguments.sets:
                yield Cell(name, labels, seed)


def run_grid(arguments: argparse.Namespace) -> None:
    """Compute what is not there yet, until the time is up."""
    sets = Sets(arguments.ready, arguments.weights)
    end = time.monotonic() + 60 * arguments.minutes
    CELLS.mkdir(parents=True, exist_ok=True)
    for cell in cells(arguments):
        wanted = [p for p in ("evidence", *arguments.arms) if not cell.path(p).is_file()]
        if not wanted:
            continue
        if time.monotonic() > end:
            console.print("The time is up; the same command goes on from here.")
            return
        found = sets.rows(cell)
        if found is None:
            continue
        view, test = found
        recipe = sets.backbone(cell.name)
        for part in wanted:
            if time.monotonic() > end:
                break
            if part == "evidence":
                value = look(recipe, view, cell.seed, arguments.within)
            else:
                value = run_arm(part, recipe, view, test, cell.seed)
            key = {"set": cell.name, "labels": cell.labels, "seed": cell.seed, "part": part}
            facts = {"format_version": FORMAT_VERSION, "machine": describe_machine()["device"]}
            write_json(cell.path(part), key | value | facts)
            told = value.get("accuracy", value.get("status", ""))
            console.print(f"{cell.name} {cell.labels} labels, seed {cell.seed}, {part}: {told}")


@dataclass(frozen=True)
class Judged:
    """A cell of the grid with all that is needed to judge a choice."""

    outcome: Outcome
    seed: int
    accuracy: Mapping[str, float]
    seconds: Mapping[str, float]
    looking: float
    evidence: Mapping[str, Any]


def load_outcomes(folder: Path = CELLS) -> list[Judged]:
    """Every (set, labels, seed) of which the evidence and all arms are there."""
    found = []
    for path in sorted(folder.glob("*-evidence.json")):
        evidence = read_json(path)
        cell = Cell(evidence["set"], evidence["labels"], evidence["seed"])
        parts = {arm: folder / cell.path(arm).name for arm in ARMS}
        values = {arm: read_json(p) for arm, p in parts.items() if p.is_file()}
        done = {arm: v for arm, v in values.items() if v["status"] == "done"}
        if len(values) < len(ARMS) or "probe" not in done:
            continue  # an arm that is still to come may be the best
        accuracy = {arm: float(v["accuracy"]) for arm, v in done.items()}
        looked = Survey.parse(evidence["survey"], str(path))
        outcome = Outcome(
            cell.name, cell.labels, looked, 1 - accuracy["probe"],
            {arm: a - accuracy["probe"] for arm, a in accuracy.items() if arm != "probe"},
        )  # fmt: skip
        seconds = {arm: float(v["work"]) for arm, v in done.items()}
        looking = float(evidence["work"])
        found.append(Judged(outcome, cell.seed, accuracy, seconds, looking, evidence))
    return found


def neutral_prior() -> Prior:
    """A table that has seen no data: no way is ahead of the probe, and none tells of another.

    The package's own is learned from every set here, which would be no judgement.
    """
    names = default_prior().arms
    arm = {"mean": [0.0] * len(LABELS), "sd": [_NEUTRAL_SD] * len(LABELS)}
    values = {
        "origin": "No data: no gain over the probe.", "labels": LABELS,
        "arms": dict.fromkeys(names, arm), "correlation": np.eye(len(names)).tolist(),
    }  # fmt: skip
    return Prior.parse(values, "neutral table")


def choices(one: Judged, prior: Prior) -> dict[str, str]:
    """What each policy takes; what it takes and was not run becomes the probe."""
    tree = Plan.model_validate(one.evidence["tree"])
    card = Card.parse(one.evidence["card"], "card")
    run = set(one.accuracy)
    narrowed = one.outcome.survey.model_copy(
        update={"left_out": one.outcome.survey.left_out
                | {"prototypes": "not in the grid"}}
    )  # fmt: skip
    taken = {name: name for name in ("probe", "finetune", "lora")} | {"tree": tree.strategy}
    planned = advise(tree, narrowed, card=card, modality=one.evidence["modality"], prior=prior)
    taken["advisor"] = planned.strategy
    return {policy: arm if arm in run else "probe" for policy, arm in taken.items()}


def judge(grid: Sequence[Judged], *, resamples: int = 2000) -> dict[str, Any]:
    """Regret of each policy, the advisor's table learned without the set that it is judged on.

    Args:
        grid: Cells.
        resamples: Of the data sets, for the intervals.
    """
    rows: list[dict[str, Any]] = []
    names = sorted({one.outcome.name for one in grid})
    priors = {
        name: learn_prior([o.outcome for o in grid if o.outcome.name != name], neutral_prior())
        for name in names
    }
    for one in grid:
        best, worst = max(one.accuracy.values()), min(one.accuracy.values())
        taken = choices(one, priors[one.outcome.name])
        whole = sum(one.seconds.values())
        for policy, arm in taken.items():
            regret = best - one.accuracy[arm]
            spent = one.seconds[arm]
            looking = one.looking if policy == "advisor" else 0.0
            rows.append(
                {
                    "set": one.outcome.name, "labels": one.outcome.labels, "seed": one.seed,
                    "policy": policy, "arm": arm, "regret": regret,
                    "share": regret / max(best - worst, 1e-9),
                    "looking": looking / whole, "cost": (looking + spent) / whole,
                }
            )  # fmt: skip
    table: dict[str, Any] = {}
    for policy in POLICIES:
        own = [row for row in rows if row["policy"] == policy]
        table[policy] = {
            key: float(np.mean([row[key] for row in own]))
            for key in ("regret", "share", "looking", "cost")
        }
        by_set = np.array([np.mean([r["regret"] for r in own if r["set"] == n]) for n in names])
        low, high = over_sets(by_set, resamples)
        table[policy] |= {"regret_low": low, "regret_high": high}
        table[policy]["by_labels"] = {
            str(labels): float(np.mean([r["regret"] for r in own if r["labels"] == labels]))
            for labels in sorted({r["labels"] for r in own})
        }
    return {
        "cells": len(grid), "sets": names, "policies": table, "repeated": repeated(grid, rows),
        "rows": rows,
    }  # fmt: skip


def over_sets(values_S: np.ndarray, resamples: int) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean over data sets, which are drawn anew."""
    draws = np.random.default_rng(0).integers(0, len(values_S), (resamples, len(values_S)))
    low, high = np.percentile(values_S[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def repeated(
    grid: Sequence[Judged], rows: Sequence[Mapping[str, Any]], *, resamples: int = 2000
) -> dict[str, Any]:
    """Regret of the arm that was best on average on the other draws of the same set and labels.

    A reference beside the plan, no bound: who takes it has run every arm on as many rows of this
    very set, scored on the same test rows, and has not looked at this draw. Cells without other
    draws are left out, for the plan beside it too.

    Args:
        grid: Cells.
        rows: Regret of each policy in each cell.
        resamples: Of the data sets, for the interval of the difference.
    """
    planned = {
        (row["set"], row["labels"], row["seed"]): row["regret"]
        for row in rows if row["policy"] == "advisor"
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    for one in grid:
        name, labels = one.outcome.name, one.outcome.labels
        others = [
            other.accuracy for other in grid
            if (other.outcome.name, other.outcome.labels) == (name, labels)
            and other.seed != one.seed
        ]  # fmt: skip
        if not others:
            continue
        arms = [arm for arm in one.accuracy if all(arm in other for other in others)]
        known = max(arms, key=lambda arm: np.mean([other[arm] for other in others]))
        found.append(
            {"set": name, "labels": labels, "advisor": planned[name, labels, one.seed],
             "repeated": max(one.accuracy.values()) - one.accuracy[known]}
        )  # fmt: skip
    if not found:
        return {}

    def mean(chosen: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        values = {key: np.mean([one[key] for one in chosen]) for key in ("repeated", "advisor")}
        return {"cells": len(chosen), **{key: float(value) for key, value in values.items()}}

    def by(key: str) -> dict[str, dict[str, float]]:
        values = sorted({one[key] for one in found})
        return {str(v): mean([one for one in found if one[key] == v]) for v in values}

    sets = list(by("set").values())
    more_S = np.array([one["repeated"] - one["advisor"] for one in sets])
    low, high = over_sets(more_S, resamples)
    return {
        **mean(found), "difference_low": low, "difference_high": high,
        "by_labels": by("labels"), "by_set": by("set"),
    }  # fmt: skip


def show(judged: Mapping[str, Any]) -> None:
    table = Table(title=f"{judged['cells']} cells of {len(judged['sets'])} sets")
    for title in ("Policy", "Regret (points)", "95 % over sets", "Of best - worst", "Looking",
                  "Looking and training, of all arms"):  # fmt: skip
        table.add_column(title, justify="left" if title == "Policy" else "right")
    for policy, one in judged["policies"].items():
        table.add_row(
            policy, f"{100 * one['regret']:.2f}",
            f"{100 * one['regret_low']:.2f} to {100 * one['regret_high']:.2f}",
            f"{one['share']:.0%}", f"{one['looking']:.0%}", f"{one['cost']:.0%}",
        )  # fmt: skip
    console.print(table)
    if known := judged["repeated"]:
        console.print(
            f"The arm that was best on the other draws of the same set: "
            f"{100 * known['repeated']:.2f} points over {known['cells']} cells; the plan there "
            f"{100 * known['advisor']:.2f} (difference over sets "
            f"{100 * known['difference_low']:.1f} to {100 * known['difference_high']:.1f})."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--labels", nargs="+", type=int, default=list(LABELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--within", type=float, default=600.0, help="seconds of measuring a cell")
    parser.add_argument("--ready", type=Path, default=SHARED / "ready")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--judge", action="store_true", help="judge what is there, run nothing")
    parser.add_argument("--prior", type=Path, help="write the table learned from every set here")
    arguments = parser.parse_args()
    if not arguments.judge and arguments.prior is None:
        run_grid(arguments)
    grid = load_outcomes()
    if len({one.outcome.name for one in grid}) < 2:
        console.print("Judging needs cells of two sets or more with evidence and every arm.")
        return
    judged = judge(grid)
    show(judged)
    write_json(HERE / "results" / "decision.json", {"format_version": FORMAT_VERSION, **judged})
    if arguments.prior is not None:
        learned = learn_prior([one.outcome for one in grid], read_prior(HERE / "first_prior.json"))
        write_json(arguments.prior, learned.model_dump(mode="json"))
        console.print(f"Table of expectations: {arguments.prior}")


if __name__ == "__main__":
    main()
