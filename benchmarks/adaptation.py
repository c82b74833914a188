"""Adaptation across domains: source-only, each method, the label-free choice, and the oracle.

    python benchmarks/adaptation.py [digits sentiment amazon] [--seeds 3] [--pairs N] [--ready DIR]

Every fit is a cell of its own under benchmarks/cells/ and is not done again: the grid takes hours
and can be interrupted at any time. Target labels are read after everything was chosen. The oracle
is what a choice by target test labels would have given: a bound, not a method.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.numpy import load_file, save_file

from adaptation_peers import MISSING, has_skada, skada_dann
from adaptation_tables import show, summary
from warmstart.backbones import Backbone, FeatureCache, backbone
from warmstart.core import FORMAT_VERSION, Run, Streams, describe_machine, read_json, write_json
from warmstart.data import Dataset, read, split
from warmstart.evaluation import compare_arms, score_metric
from warmstart.shift import (
    DomainGap,
    DomainVectors,
    MethodResult,
    MethodSeed,
    NamedMethod,
    Validators,
    choose,
    domain_view,
    fit_method,
    parse_methods,
    read_method,
    total_variation,
)
from warmstart.workflow.adapt_target import Target, read_target

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
ROWS = 2000
SETS = {
    "digits": ("digits/mnist", "digits/usps"),
    "sentiment": tuple(f"sentiment_domains/{name}.csv" for name in (
        "movie_reviews", "nyt_editorials", "product_reviews", "tweets")),
    "amazon": tuple(f"amazon_domains/{name}.csv" for name in (
        "books", "dvd", "electronics", "kitchen")),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A source and a target, embedded, with what the final scores need."""

    name: str
    rows: DomainVectors
    test_ND: np.ndarray
    truth_N: np.ndarray
    true_shift: float


@cache
def recipe(kind: str, features: Path, ready: Path) -> Backbone:
    """ResNet-50 at 64 pixels for images, MiniLM over 128 tokens for text."""
    cached = FeatureCache(features)
    if kind == "digits":
        weights = ready.parent / "weights" / "resnet50-imagenet"
        return backbone(str(weights), modality="image", image_size=64, cache=cached)
    return backbone(modality="text", max_length=128, cache=cached)


@cache
def rows_of(path: Path) -> Dataset:
    """At most 2,000 rows of a domain, by class."""
    return read(path, limit=ROWS)


def make_pair(source: Path, target: Path, encoder: Backbone) -> Pair:
    """Divide and embed the two domains; the target's test rows are held out."""
    whole = rows_of(source)
    view = split(whole).view(whole)
    goal: Target = read_target(rows_of(target), whole.label_names)
    adapted = goal.dataset.take_ids(goal.adapt)
    rows = DomainVectors.of(domain_view(view, adapted), encoder)
    test = goal.test_rows
    shares = [
        np.bincount(labels, minlength=rows.classes) / len(labels)
        for labels in (view.train.labels_N, adapted.labels_N)
    ]
    return Pair(
        name=f"{source.stem} to {target.stem}",
        rows=rows,
        test_ND=encoder.features(test.without_labels()).vectors_ND,
        truth_N=test.labels_N,
        true_shift=total_variation(*shares),
    )


def run_pair(
    pair: Pair, folder: Path, named: Sequence[NamedMethod], seeds: int
) -> tuple[list[MethodResult], DomainGap]:
    """Every cell of a pair, from disk where it is there."""
    cells = [(one, seed) for seed in range(seeds) for one in named]
    gap_file = folder / "gap.json"
    validators: Validators | None = None
    if not gap_file.is_file() or "weighed" not in read_json(gap_file):
        validators = Validators(pair.rows, Streams(0).child("validators"))
        write_json(gap_file, asdict(validators.gap))
    results = {one.name: MethodResult(one, []) for one in named}
    for one, seed in cells:
        own = folder / one.name.replace(":", "_") / f"seed-{seed}"
        found = read_method(own)
        if found is None:
            validators = validators or Validators(pair.rows, Streams(0).child("validators"))
            found = fit_method(one, pair.rows, Run(own, seed=seed, device="cpu"), validators)
            told = f"{one.name}, seed {seed}, {found.record.seconds:.0f} s"
            print(f"  {pair.name}: {told}", flush=True)
        results[one.name].seeds.append(found)
    return list(results.values()), DomainGap(**read_json(gap_file))


def proba_of(seed: MethodSeed, pair: Pair) -> np.ndarray:
    """Probabilities (K, N, C) of the test rows by every snapshot."""
    return np.stack([head.proba(pair.test_ND) for head in seed.heads])


def peer(pair: Pair, folder: Path, seeds: int) -> np.ndarray | None:
    """Probabilities (S, N, C) of skada's DANN, or None where it is not installed."""
    found = []
    for seed in range(seeds):
        path = folder / "skada-dann" / f"seed-{seed}.safetensors"
        if not path.is_file():
            if not has_skada():
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            proba_NC = skada_dann(pair.rows, pair.test_ND, seed=seed)
            save_file({"proba": proba_NC}, path)
        found.append(load_file(path)["proba"])
    return np.stack(found)


def judge_pair(
    pair: Pair, results: Sequence[MethodResult], gap: DomainGap, other: np.ndarray | None
) -> dict[str, Any]:
    """Scores of every method, of the choice, and of the oracle."""
    truth_N = pair.truth_N
    chosen: dict[str, np.ndarray] = {}
    methods: dict[str, Any] = {}
    best_snapshot = 0.0
    points: list[dict[str, float]] = []
    for result in results:
        per_seed = [proba_of(seed, pair) for seed in result.seeds]
        name = result.named.name
        both = list(zip(result.seeds, per_seed, strict=True))
        chosen[name] = np.stack([proba_KNC[seed.record.chosen] for seed, proba_KNC in both])
        by_snapshot = [(proba_KNC.argmax(axis=2) == truth_N).mean(axis=1) for proba_KNC in per_seed]
        for seed, accuracies_K in zip(result.seeds, by_snapshot, strict=True):
            judged_K = zip(seed.record.judged, accuracies_K, strict=True)
            points += [{**judged.goodness(), "accuracy": float(a)} for judged, a in judged_K]
        oracle = float(np.mean([values_K.max() for values_K in by_snapshot]))
        best_snapshot = max(best_snapshot, oracle)
        methods[name] = {
            "accuracy": score_metric(chosen[name], truth_N, "accuracy").model_dump(),
            "by_seed": [float((p.argmax(axis=1) == truth_N).mean()) for p in chosen[name]],
            "oracle_epoch": oracle,
            "judged": result.judged.model_dump(),
            "seconds": float(np.mean([seed.record.seconds for seed in result.seeds])),
        }
    reference = results[0].named.name
    for name, proba_SNC in chosen.items():
        if name != reference:
            gained = compare_arms(proba_SNC, chosen[reference], truth_N)
            methods[name]["difference"] = gained.model_dump()
    choice = choose(results, pair.rows, gap)
    believed = choose(results, pair.rows, replace(gap, overlap=None, effective=None)).decision
    values = {name: one["accuracy"]["value"] for name, one in methods.items()}
    found = {
        "pair": pair.name,
        "test_rows": len(truth_N),
        "a_distance": gap.a_distance,
        "overlap": gap.overlap,
        "effective": gap.effective,
        "methods": methods,
        "choice": {**choice.decision.model_dump(mode="json"),
                   "accuracy": values[choice.decision.kept]},
        "validators_alone": {"kept": believed.kept, "accuracy": values[believed.kept]},
        "oracle": {"method": max(values, key=lambda name: values[name]),
                   "accuracy": max(values.values()), "with_epoch": best_snapshot},
        "conflict": {"found": choice.conflict.found, "em": choice.conflict.em,
                     "bbse": choice.conflict.bbse, "true": pair.true_shift},
        "validators": points,
    }  # fmt: skip
    if other is not None:
        found["skada"] = score_metric(other, truth_N, "accuracy").model_dump()
        if "dann" in chosen:
            ahead = compare_arms(chosen["dann"], other, truth_N)
            found["dann_minus_skada"] = ahead.model_dump()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in the cells that are missing, print the tables, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="which domains")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=None, help="only the first pairs of a set")
    parser.add_argument("--methods", default=None, help="by comma; all otherwise")
    parser.add_argument("--ready", type=Path, default=SHARED / "ready")
    parser.add_argument("--cells", type=Path, default=HERE / "cells" / "adaptation")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "adaptation.json")
    options = parser.parse_args(arguments)
    console = Console()
    named = parse_methods(options.methods.split(",") if options.methods else None)
    kept: dict[str, Any] = read_json(options.out) if options.out.is_file() else {}
    if not has_skada():
        console.print(MISSING)
    for kind in options.sets or SETS:
        paths = [options.ready / name for name in SETS[kind]]
        if not all(path.exists() for path in paths):
            console.print(f"{kind}: not here ({options.ready}).")
            continue
        found = []
        encoder = recipe(kind, options.cells / "features", options.ready)
        for source, target in list(permutations(paths, 2))[: options.pairs]:
            pair = make_pair(source, target, encoder)
            folder = options.cells / kind / f"{source.stem}-{target.stem}"
            results, gap = run_pair(pair, folder, named, options.seeds)
            found.append(judge_pair(pair, results, gap, peer(pair, folder, options.seeds)))
        told = summary(found)
        show(console, kind, found, told)
        for one in found:
            one.pop("validators")
        kept |= {"format_version": FORMAT_VERSION, "benchmark": "adaptation"}
        kept[kind] = {"machine": describe_machine(), "seeds": options.seeds, "rows": ROWS,
                      "pairs": found, "summary": told}  # fmt: skip
        write_json(options.out, kept)
        console.print(f"Kept in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
