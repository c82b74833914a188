"""The linear probe and the embedding, measured beside their peers in one run.

(a) time to a fitted probe, embedding included, against transformers' Trainer with a frozen
backbone; (b) accuracy against scikit-learn's logistic regression on the same features;
(c) embedding throughput against SentenceTransformer.encode.

What could favour us is given to the peer instead: our time holds reading the weights, tokenising,
embedding, choosing l2 and solving; the Trainer's holds its ten epochs alone (see peers.py).

    python benchmarks/probe.py [--pairs 5] [--rows 2000] [--test-rows 4000] [--data FILE]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

from peers import BATCH, EPOCHS, Ratio, Task, fit_trainer, model_folder, tune_rate
from warmstart.backbones import Backbone, FeatureCache, backbone
from warmstart.core import FORMAT_VERSION, Run, Streams, describe_machine, write_json
from warmstart.data import View, read, sample
from warmstart.evaluation import compare_arms
from warmstart.strategies import Probe
from warmstart.strategies.logistic import L2_GRID

VALIDATION_ROWS = 500
TARGETS = {"shuffled": 15.0, "grouped": 8.0, "throughput": 1.0, "accuracy_points": 0.2}
HERE = Path(__file__).resolve().parent


# --- data ----------------------------------------------------------------------------------------


def find_data(given: str | None, scratch: Path) -> Path:
    """The file to measure on: the given one, film reviews where they lie, else the sample."""
    beside = HERE.parent.parent / "shared" / "ready" / "movie_reviews.csv"
    if given:
        return Path(given)
    if beside.is_file():
        return beside
    sample("sentiment", scratch / "sentiment")
    return scratch / "sentiment" / "movie_reviews.csv"


def make_task(path: Path, rows: int, test_rows: int) -> Task:
    """Training rows, 500 for validation, and test rows; of equal texts one is used."""
    data = read(path)
    first = list({content: i for i, content in reversed(list(enumerate(data.contents)))}.values())
    order = Streams(0).numpy("benchmark").permutation(np.sort(first))
    if len(order) < rows + 2 * VALIDATION_ROWS:
        raise SystemExit(f"{path.name} has {len(order)} different rows, too few for {rows}.")
    held = rows + VALIDATION_ROWS
    view = View(data.select(order[:rows]), data.select(order[rows:held]))
    return Task(path.stem, view, data.select(order[held : held + test_rows]))


# --- the two sides -------------------------------------------------------------------------------


def fit_ours(recipe: Backbone, task: Task, scratch: Path) -> tuple[float, Any]:
    """Seconds for a probe from texts to weights with a cold cache, and the model."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        cold = recipe.with_settings(cache=FeatureCache(Path(folder) / "cache"))
        gc.collect()
        start = time.perf_counter()
        fitted = Probe().fit(cold, task.view, Run(Path(folder) / "run"))
        return time.perf_counter() - start, fitted


# --- measurements --------------------------------------------------------------------------------


def probabilities(layer: nn.Linear, x_ND: np.ndarray) -> np.ndarray:
    """Class probabilities (N, C) of a linear layer on kept features."""
    with torch.no_grad():
        logits_NC = layer(torch.from_numpy(x_ND)).double()
        proba_NC: np.ndarray = torch.softmax(logits_NC, dim=-1).numpy()
    return proba_NC


def measure_fits(
    recipe: Backbone, task: Task, vectors: Mapping[str, np.ndarray], pairs: int, scratch: Path
) -> dict[str, Any]:
    """(a): fits of all sides in turn, in the reverse order every other time.

    The Trainer's seed changes from pair to pair, so its accuracy is a mean over seeds.
    """
    x_MD, y_M = vectors["test"], task.test.labels_N
    train = (torch.from_numpy(vectors["train"]), torch.tensor(task.view.train.labels_N))
    held = (torch.from_numpy(vectors["validation"]), torch.tensor(task.view.validation.labels_N))
    rate = tune_rate(train, held, task.classes)
    seconds: dict[str, list[float]] = {"ours": [], "shuffled": [], "grouped": []}
    chosen: list[float] = []
    proba: dict[str, list[np.ndarray]] = {"ours": [], "shuffled": [], "grouped": []}

    def ours() -> None:
        taken, fitted = fit_ours(recipe, task, scratch)
        seconds["ours"].append(taken)
        proba["ours"].append(probabilities(fitted.model.head.output, x_MD))
        chosen.append(float(fitted.values["l2"]))

    def peer(name: str, strategy: str) -> None:
        seed = len(seconds[name])
        taken, model = fit_trainer(recipe, task, rate, strategy, seed, scratch)
        seconds[name].append(taken)
        proba[name].append(probabilities(model.head, x_MD))

    turns: list[Callable[[], None]] = [
        ours,
        lambda: peer("shuffled", "random"),
        lambda: peer("grouped", "group_by_length"),
    ]
    # Both sides once on a few rows, untimed: imports, allocations and thread pools are there then.
    few = Task(
        task.name,
        View(task.view.train.select(range(64)), task.view.validation.select(range(64))),
        task.test,
    )
    fit_ours(recipe, few, scratch)
    fit_trainer(recipe, few, rate, "random", 0, scratch)
    for pair in range(pairs):
        for turn in turns if pair % 2 == 0 else turns[::-1]:
            turn()
        last = ", ".join(f"{name} {taken[-1]:.1f} s" for name, taken in seconds.items())
        print(f"pair {pair + 1} of {pairs}: {last}", flush=True)
    ratios = {
        name: Ratio(tuple(t / o for t, o in zip(seconds[name], seconds["ours"], strict=True)))
        for name in ("shuffled", "grouped")
    }
    ours_MC = proba["ours"][0]
    paired = {name: compare_arms(ours_MC, np.stack(proba[name]), y_M) for name in ratios}
    return {
        "learning_rate": rate,
        "seconds": seconds,
        "accuracy": {
            name: float(np.mean([(p.argmax(axis=1) == y_M).mean() for p in runs]))
            for name, runs in proba.items()
        },
        "l2": chosen[0],
        "deterministic": all(np.array_equal(ours_MC, again) for again in proba["ours"]),
        "paired": {name: pair.model_dump(mode="json") for name, pair in paired.items()},
        "ratio": {name: ratio.to_json() for name, ratio in ratios.items()},
    }


def measure_accuracy(
    task: Task, vectors: Mapping[str, np.ndarray], ours: float, l2: float
) -> dict[str, float | int]:
    """(b): scikit-learn on the same features.

    `same_l2` solves the problem that the probe solved, which tests the solution. `own_choice` has
    its C chosen by scikit-learn's cross-validation from the same grid, which also tests the choice;
    other folds may choose its neighbour.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x_ND, y_N = vectors["train"].astype(np.float64), task.view.train.labels_N
    x_MD, y_M = vectors["test"].astype(np.float64), task.test.labels_N

    def strength(penalty: float) -> float:
        # The probe divides standardised features by the root of D and penalises per row.
        return float(1.0 / (penalty * len(y_N) * x_ND.shape[1]))

    def solver(c: float = 1.0) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-6, max_iter=5000))

    def right(fitted: Any) -> float:
        return float((fitted.predict(x_MD) == y_M).mean())

    grid = {"logisticregression__C": [strength(penalty) for penalty in L2_GRID]}
    search = GridSearchCV(solver(), grid, scoring="neg_log_loss", cv=5).fit(x_ND, y_N)
    same = right(solver(strength(l2)).fit(x_ND, y_N))
    own = right(search)
    return {
        "ours": ours,
        "l2": l2,
        "same_l2": same,
        "own_choice": own,
        "own_choice_c": float(search.best_params_["logisticregression__C"]),
        "untuned": right(LogisticRegression(max_iter=5000).fit(x_ND, y_N)),
        "same_l2_points": 100 * (ours - same),
        "own_choice_points": 100 * (ours - own),
        "test_rows": len(y_M),
    }


def measure_throughput(recipe: Backbone, task: Task, repeats: int, scratch: Path) -> dict[str, Any]:
    """(c): texts a second, ours and sentence-transformers in turn, each with its weights loaded."""
    from sentence_transformers import SentenceTransformer

    data = task.view.train
    texts = data.inputs()
    theirs = SentenceTransformer(str(model_folder()), device="cpu")
    recipe.features(data.select(range(8)))
    theirs.encode(texts[:8], batch_size=BATCH, show_progress_bar=False)
    rates: dict[str, list[float]] = {"ours": [], "sentence_transformers": []}
    vectors: dict[str, np.ndarray] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            cold = recipe.with_settings(cache=FeatureCache(Path(folder)))
            start = time.perf_counter()
            vectors["ours"] = np.array(cold.features(data, batch_size=BATCH).vectors_ND)
            rates["ours"].append(len(texts) / (time.perf_counter() - start))

    def peer() -> None:
        start = time.perf_counter()
        found = theirs.encode(texts, batch_size=BATCH, show_progress_bar=False)
        rates["sentence_transformers"].append(len(texts) / (time.perf_counter() - start))
        vectors["theirs"] = np.asarray(found)

    for repeat in range(repeats):
        for turn in (ours, peer) if repeat % 2 == 0 else (peer, ours):
            turn()
    values = [o / t for o, t in zip(rates["ours"], rates["sentence_transformers"], strict=True)]
    apart = float(np.abs(vectors["ours"] - vectors["theirs"]).max())
    return {
        "texts_per_second": rates,
        "ratio": Ratio(tuple(values)).to_json(),
        "largest_difference": apart,
    }


# --- reporting -----------------------------------------------------------------------------------


def verdicts(results: Mapping[str, Any]) -> dict[str, bool]:
    """Each goal and whether it was reached."""
    fits, features = results["fits"], results["throughput"]
    points = abs(results["accuracy"]["same_l2_points"])
    return {
        "shuffled": fits["ratio"]["shuffled"]["median"] >= TARGETS["shuffled"],
        "grouped": fits["ratio"]["grouped"]["median"] >= TARGETS["grouped"],
        "accuracy_shuffled": fits["paired"]["shuffled"]["high"] >= 0,
        "accuracy_grouped": fits["paired"]["grouped"]["high"] >= 0,
        "accuracy_sklearn": points <= TARGETS["accuracy_points"],
        "throughput": features["ratio"]["median"] >= TARGETS["throughput"],
    }


def show(console: Console, results: Mapping[str, Any], reached: Mapping[str, bool]) -> None:
    """One table, a line a goal."""
    table = Table(title=f"The probe beside its peers ({results['data']['name']})")
    for heading in ("measured", "ours", "peer", "ratio or difference", "goal", "reached"):
        table.add_column(heading)
    fits, parts, features = results["fits"], results["accuracy"], results["throughput"]

    def mark(name: str) -> str:
        return "[green]yes" if reached[name] else "[red]no"

    def with_interval(ratio: Mapping[str, float]) -> str:
        return f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"

    ours = statistics.median(fits["seconds"]["ours"])
    for name in ("shuffled", "grouped"):
        table.add_row(
            f"fit, Trainer {name}",
            f"{ours:.2f} s",
            f"{statistics.median(fits['seconds'][name]):.2f} s",
            with_interval(fits["ratio"][name]),
            f"at least {TARGETS[name]:g}x",
            mark(name),
        )
    right = fits["accuracy"]
    for name in ("shuffled", "grouped"):
        pair = {key: 100 * fits["paired"][name][key] for key in ("difference", "low", "high")}
        table.add_row(
            f"accuracy, Trainer {name}",
            f"{100 * right['ours']:.2f} %",
            f"{100 * right[name]:.2f} %",
            f"{pair['difference']:+.2f} ({pair['low']:+.2f} to {pair['high']:+.2f}) points",
            "not significantly lower",
            mark(f"accuracy_{name}"),
        )
    goals = {
        "same_l2": (f"within {TARGETS['accuracy_points']:g} points", mark("accuracy_sklearn")),
        "own_choice": ("shown beside", ""),
    }
    for name, (goal, reached_text) in goals.items():
        table.add_row(
            f"accuracy, scikit-learn {name.replace('_', ' ')}",
            f"{100 * parts['ours']:.2f} %",
            f"{100 * parts[name]:.2f} %",
            f"{parts[f'{name}_points']:+.2f} points",
            goal,
            reached_text,
        )
    rates = features["texts_per_second"]
    table.add_row(
        "embedding, SentenceTransformer",
        f"{statistics.median(rates['ours']):.0f} texts/s",
        f"{statistics.median(rates['sentence_transformers']):.0f} texts/s",
        with_interval(features["ratio"]),
        "at least 1x",
        mark("throughput"),
    )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table, keep the results; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs of fits")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=4000, help="test rows at most")
    parser.add_argument("--data", help="a table with text and label columns")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "probe.json")
    options = parser.parse_args(arguments)
    console = Console()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        scratch = Path(name)
        task = make_task(find_data(options.data, scratch), options.rows, options.test_rows)
        recipe = backbone(modality="text", cache=FeatureCache(scratch / "features"))
        parts = {
            "train": task.view.train,
            "validation": task.view.validation,
            "test": task.test,
        }
        vectors = {part: np.array(recipe.features(rows).vectors_ND) for part, rows in parts.items()}
        fits = measure_fits(recipe, task, vectors, options.pairs, scratch)
        results: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "benchmark": "probe",
            "data": {
                "name": task.name,
                "rows": {part: len(rows) for part, rows in parts.items()},
                "classes": task.classes,
                "fingerprint": task.view.train.fingerprint,
            },
            "settings": {"epochs": EPOCHS, "batch": BATCH, "pairs": options.pairs},
            "backbone": recipe.name,
            "machine": describe_machine(),
            "targets": TARGETS,
            "fits": fits,
            "accuracy": measure_accuracy(task, vectors, fits["accuracy"]["ours"], fits["l2"]),
            "throughput": measure_throughput(recipe, task, max(5, options.pairs), scratch),
        }
    reached = verdicts(results)
    results["reached"] = reached
    show(console, results, reached)
    write_json(options.out, results)
    console.print(f"Kept in {options.out}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
