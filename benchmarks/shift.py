"""Distances beside scikit-learn, SciPy and plain references; speed; whether they predict losses.

    python benchmarks/shift.py [agreement speed a-distance memory domains] [--ready DIR]

`agreement`: each distance against a reference on the same rows. `speed`: seconds of each on 10,000
x 384 against 10,000 x 384. `a-distance`: the proxy A-distance with its interval from 20 resamples
against one value of five-fold LogisticRegression, shuffled folds on both sides, taken in turn.
`memory`: what the exact MMD holds beside the rows. `domains`: over ordered pairs of domains, the
rank correlation between distance and what a probe of the source loses on the target.

Seconds are of this process's own work (CPU time), which other processes on the machine change
least.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr, wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_score

from warmstart.backbones import FeatureCache, backbone
from warmstart.core import FORMAT_VERSION, Streams, describe_machine, read_json, write_json
from warmstart.data import read
from warmstart.shift import (
    coral,
    frechet,
    mean_covariance,
    mmd,
    proxy_a_distance,
    sliced_wasserstein,
    word_divergence,
    words_of,
)
from warmstart.strategies.logistic import fit_logistic

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
PARTS = ("agreement", "speed", "a-distance", "memory", "domains")
ROWS, WIDTH = 10_000, 384
TARGETS = {"agreement": 1e-6, "difference": 0.03, "ratio": 1.0, "memory_mib": 256.0}
VECTORS: dict[str, Callable[..., Any]] = {
    "proxy_a_distance": proxy_a_distance, "mmd": mmd, "coral": coral, "frechet": frechet,
    "mean_covariance": mean_covariance, "sliced_wasserstein": sliced_wasserstein,
}  # fmt: skip
FAMILIES = {
    "sentiment": ("sentiment_domains", None),
    "amazon": ("amazon_domains", None),
    "digits": ("digits", "weights/resnet50-imagenet"),
}


def seconds_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the processor time it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def embeddings_like(rows: int, seed: int, by: float) -> np.ndarray:
    """Rows of length 1 with a spectrum that falls as an encoder's does, moved along ten axes."""
    generator = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(WIDTH) / 16)
    found = generator.standard_normal((rows, WIDTH)) * scale
    found[:, :10] += by
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def large_pair(ready: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """About 10,000 rows a side: film reviews against other domains where they are there."""
    folder = ready / "sentiment_domains"
    if not folder.is_dir():
        return embeddings_like(ROWS, 0, 0.0), embeddings_like(ROWS, 1, 0.12), "made up"
    recipe = backbone(modality="text", cache=FeatureCache())
    films = recipe.features(read(folder / "movie_reviews.csv").without_labels()).vectors_ND
    others = [
        recipe.features(read(folder / f"{name}.csv").without_labels()).vectors_ND
        for name in ("nyt_editorials", "product_reviews", "tweets")
    ]
    name = "film reviews | editorials, products, tweets"
    return np.array(films)[:ROWS], np.concatenate(others)[:ROWS], name


def agreement(_: Path) -> list[dict[str, Any]]:
    """Each distance against a reference, on rows of two sizes."""
    x, y = embeddings_like(700, 0, 0.0), embeddings_like(500, 1, 0.2)
    wide = x.astype(np.float64), y.astype(np.float64)
    found = []

    def told(name: str, ours: float, reference: float, by: str) -> None:
        found.append({"distance": name, "ours": ours, "reference": reference, "by": by,
                      "difference": abs(ours - reference)})  # fmt: skip

    one = mmd(x, y, permutations=0)
    for each in one.by_bandwidth:
        gamma = 1 / (2 * each.bandwidth**2)
        xx, yy, xy = (rbf_kernel(wide[i], wide[j], gamma) for i, j in ((0, 0), (1, 1), (0, 1)))
        n, m = len(x), len(y)
        plain = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean()
        told(
            f"mmd at {each.bandwidth:.3f}", each.value, float(plain), "sklearn rbf_kernel, float64"
        )
    a, b = (np.cov(side, rowvar=False) for side in wide)
    means = float(((wide[0].mean(axis=0) - wide[1].mean(axis=0)) ** 2).sum())
    square = float(((a - b) ** 2).sum())
    told("coral", coral(x, y).value, square / (4 * WIDTH**2), "numpy cov")
    told("mean_covariance", mean_covariance(x, y).value, means + square, "numpy cov")
    root = float(np.real(np.trace(sqrtm(a @ b))))
    told("frechet", frechet(x, y).value, means + float(np.trace(a + b)) - 2 * root, "scipy sqrtm")
    streams = Streams(0).child("shift", "sliced").numpy("directions")
    axes = streams.standard_normal((WIDTH, 50))
    axes /= np.linalg.norm(axes, axis=0)
    by_scipy = float(np.mean([wasserstein_distance(wide[0] @ v, wide[1] @ v) for v in axes.T]))
    told("sliced_wasserstein, order 1", sliced_wasserstein(x, y, order=1, directions=50).value,
         by_scipy, "scipy wasserstein_distance")  # fmt: skip
    texts = [["the car is old", "a red car and a train"] * 3, ["the soup is cold", "a day"] * 4]
    counts = [[word for text in side for word in words_of(text)] for side in texts]
    names = sorted({*counts[0], *counts[1]})
    p, q = ([side.count(name) for name in names] for side in counts)
    told("word_divergence", word_divergence(*texts).value,
         float(jensenshannon(p, q, base=2) ** 2), "scipy jensenshannon")  # fmt: skip
    return found


def speed(ready: Path) -> list[dict[str, Any]]:
    """Seconds of each distance with interval, test and yardstick on two large sets."""
    x, y, name = large_pair(ready)
    found = []
    for distance, verb in VECTORS.items():
        estimate, took = seconds_of(partial(verb, x, y, halves=20))
        found.append({"data": name, "distance": distance, "rows": [len(x), len(y)],
                      "value": estimate.value, "interval": estimate.interval,
                      "halves": estimate.halves, "seconds": took})  # fmt: skip
    features, took = seconds_of(lambda: mmd(x, y, halves=20, method="features"))
    found.append({"data": name, "distance": "mmd, random features", "rows": [len(x), len(y)],
                  "value": features.value, "interval": features.interval,
                  "halves": features.halves, "seconds": took})  # fmt: skip
    return found


def a_distance(ready: Path, pairs: int = 5) -> dict[str, Any]:
    """Ours with 20 resamples and scikit-learn's five folds, in turn."""
    x, y, name = large_pair(ready)
    rows, side = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    ours: list[float] = []
    theirs: list[float] = []
    values, references = [], []
    for seed in range(pairs):
        estimate, took = seconds_of(partial(proxy_a_distance, x, y, seed=seed))
        ours.append(took)
        values.append(estimate.value)
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        solver = LogisticRegression(class_weight="balanced")
        scored = partial(cross_val_score, solver, rows, side, cv=folds, scoring="balanced_accuracy")
        right, took = seconds_of(scored)
        theirs.append(took)
        references.append(2 * (2 * float(right.mean()) - 1))
    return {
        "data": name,
        "rows": [len(x), len(y)],
        "value": statistics.median(values),
        "interval": estimate.interval,
        "reference": statistics.median(references),
        "differences": [a - b for a, b in zip(values, references, strict=True)],
        "seconds": {"ours, value and 20 resamples": ours, "scikit-learn, one value": theirs},
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def memory(_: Path) -> list[dict[str, Any]]:
    """Most memory that numpy holds beside the rows, at two sizes of one block."""
    found = []
    for rows in (4000, ROWS, 2 * ROWS):
        x, y = embeddings_like(rows, 0, 0.0), embeddings_like(rows, 1, 0.1)
        tracemalloc.start()
        mmd(x, y, permutations=199, factors=(1.0,))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        copies = (x.nbytes + y.nbytes) / 2**20
        found.append({"rows": [rows, rows], "peak_mib": peak / 2**20, "rows_mib": copies,
                      "beside_mib": peak / 2**20 - copies})  # fmt: skip
    return found


def domains(ready: Path, rows: int) -> dict[str, Any]:
    """Distance and loss of every ordered pair of domains, and their rank correlation."""
    pairs: list[dict[str, Any]] = []
    for family, (folder, weights) in FAMILIES.items():
        place = ready / folder
        if not place.is_dir() or (weights and not (SHARED / weights).is_dir()):
            continue
        recipe = (
            backbone(modality="text", cache=FeatureCache())
            if weights is None
            else backbone(str(SHARED / weights), image_size=64, cache=FeatureCache())
        )
        sides = {}
        for path in sorted(place.iterdir()):
            data = read(path, limit=rows)
            vectors = np.array(recipe.features(data.without_labels()).vectors_ND)
            sides[path.stem] = (vectors, data.labels_N, data.label_names)
        pairs += _pairs(family, sides)
    return {"rows": rows, "pairs": pairs, "correlation": _correlations(pairs)} if pairs else {
        "skipped": f"no domains under {ready}"}  # fmt: skip


def _pairs(family: str, sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Each domain's probe on its own held-out rows and on the others'."""
    heads, held = {}, {}
    for name, (vectors, labels, _) in sides.items():
        order = Streams(0).numpy("domains", name).permutation(len(labels))
        cut = int(0.7 * len(order))
        heads[name] = fit_logistic(vectors[order[:cut]], labels[order[:cut]], int(labels.max()) + 1)
        held[name] = order[cut:]

    def right(probe: str, on: str) -> float:
        vectors, labels, _ = sides[on]
        at = held[on]
        said = (vectors[at] @ heads[probe].weight_CD.T + heads[probe].bias_C).argmax(axis=1)
        return float((said == labels[at]).mean())

    found = []
    for source, target in itertools.permutations(sides, 2):
        assert sides[source][2] == sides[target][2]
        x, y = sides[source][0], sides[target][0]
        row: dict[str, Any] = {
            "family": family, "source": source, "target": target,
            "target_by_target": right(target, target), "target_by_source": right(source, target),
        }  # fmt: skip
        row["loss"] = row["target_by_target"] - row["target_by_source"]
        for name, verb in VECTORS.items():
            settings: dict[str, Any] = {"permutations": 0} if name == "mmd" else {}
            settings |= {"resamples": 0} if name == "proxy_a_distance" else {}
            row[name] = verb(x, y, **settings).value
        found.append(row)
    return found


def _correlations(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of each distance with the loss, over all pairs and by family.

    Over all pairs both are ranked within their family, since units differ between backbones.
    Intervals resample the domains' pairs; these share domains, so that intervals are too short.
    """
    generator = Streams(0).numpy("domains", "bootstrap")
    families = sorted({row["family"] for row in pairs})
    found = []
    for name in VECTORS:
        ranked = []
        for family in families:
            own = [row for row in pairs if row["family"] == family]
            ranks = [np.argsort(np.argsort([row[key] for row in own])) / max(len(own) - 1, 1)
                     for key in (name, "loss")]  # fmt: skip
            ranked += list(zip(*ranks, strict=True))
        points = np.array(ranked)
        drawn = []
        for _ in range(2000):
            at = generator.integers(0, len(points), len(points))
            if len(np.unique(points[at, 0])) > 1 and len(np.unique(points[at, 1])) > 1:
                drawn.append(float(spearmanr(points[at, 0], points[at, 1]).statistic))
        found.append({
            "distance": name,
            "all": float(spearmanr(points[:, 0], points[:, 1]).statistic),
            "low": float(np.percentile(drawn, 2.5)), "high": float(np.percentile(drawn, 97.5)),
            **{family: _spearman([row for row in pairs if row["family"] == family], name)
               for family in families},
        })  # fmt: skip
    return found


def _spearman(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    if len(rows) < 4:
        return None
    return float(spearmanr([row[name] for row in rows], [row["loss"] for row in rows]).statistic)


def verdicts(results: dict[str, Any]) -> dict[str, bool]:
    """Which goals were reached, of the parts that were measured."""
    found = {}
    if "agreement" in results:
        worst = max(row["difference"] for row in results["agreement"])
        found["agreement"] = worst <= TARGETS["agreement"]
    if "a-distance" in results:
        one = results["a-distance"]
        found["difference"] = max(map(abs, one["differences"])) <= TARGETS["difference"]
        found["ratio"] = one["ratio"] < TARGETS["ratio"]
    if "memory" in results:
        most = max(row["beside_mib"] for row in results["memory"])
        found["memory_mib"] = most <= TARGETS["memory_mib"]
    return found


def show(console: Console, part: str, found: Any) -> None:
    """A part's table."""
    if isinstance(found, dict) and "skipped" in found:
        console.print(f"{part}: {found['skipped']}")
        return
    if isinstance(found, list):
        rows = found
    elif "correlation" in found:
        rows = found["correlation"]
    else:
        rows = [{"measured": key, "as": value} for key, value in found.items()]
    table = Table(title=part)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    return str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table for each part, keep the results; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--ready", type=Path, default=SHARED / "ready", help="data sets")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a domain at most")
    parser.add_argument("--pairs", type=int, default=5, help="of measurements of the A-distance")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "shift.json")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    console = Console()
    kept = read_json(options.out) if options.out.is_file() else {}
    results: dict[str, Any] = {**kept, "format_version": FORMAT_VERSION, "benchmark": "shift",
                               "machine": describe_machine(), "targets": TARGETS}  # fmt: skip
    work: dict[str, Callable[[], Any]] = {
        "agreement": lambda: agreement(options.ready),
        "speed": lambda: speed(options.ready),
        "a-distance": lambda: a_distance(options.ready, options.pairs),
        "memory": lambda: memory(options.ready),
        "domains": lambda: domains(options.ready, options.rows),
    }
    for part in options.parts:
        results[part] = work[part]()
        show(console, part, results[part])
        results["reached"] = verdicts(results)
        write_json(options.out, results)
    console.print(f"Kept in {options.out}. Goals: {results['reached']}")
    return 0 if all(results["reached"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
