"""Studies over data sets: discriminative rates against one rate, and whether fit is never worse.

Every training run is a cell of its own, kept as a file as soon as it ends: a study that is stopped
goes on where it was. Cells are no results; delete their folder to measure anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Run, Streams, fingerprint, progress, read_json, write_json
from warmstart.data import Dataset, Split, View, read, split
from warmstart.evaluation import compare_arms, measure
from warmstart.strategies import Finetune
from warmstart.workflow import fit

__all__ = ["cell", "never_worse", "rates_study"]

RATES = (5e-5, 1.5e-4, 5e-4, 1.5e-3)
FACTORS = {"discriminative": 2.6, "flat": 1.0}


def few_rows(path: Path, rows: int, test_rows: int, seed: int) -> tuple[View, Dataset]:
    """So many training rows, a quarter as many for validation, and the data's test rows."""
    data = read(path)
    parts: Split = split(data, seed=0)
    whole, test = parts.view(data), parts.test_rows(data)
    generator = Streams(seed).numpy("study", path.name)
    order = generator.permutation(len(whole.train))
    held = generator.permutation(len(whole.validation))[: max(32, rows // 4)]
    picked = np.sort(generator.permutation(len(test))[:test_rows])
    return View(whole.train.select(order[:rows]), whole.validation.select(held)), test.select(
        picked
    )


def cell(folder: Path, key: Sequence[object], compute: Callable[[], Any]) -> Any:
    """What `compute` gives, from its file when the same was computed before."""
    path = folder / f"{fingerprint(*map(str, key))}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": [str(part) for part in key], "value": compute()})
        progress.note(f"done: {' '.join(map(str, key))}")
    return read_json(path)["value"]


def rates_study(
    recipe: Backbone,
    paths: Sequence[Path],
    *,
    rows: int,
    test_rows: int,
    seeds: int,
    cells: Path,
) -> list[dict[str, Any]]:
    """Discriminative rates against one flat rate, each with the same grid of base rates.

    The base rate is chosen on the mean validation loss over the seeds, for each side on its own;
    the test rows are scored with that rate alone, intervals resample rows and seeds.
    """
    found = []
    for path in paths:
        view, test = few_rows(path, rows, test_rows, seed=0)

        def fitted(
            factor: float, rate: float, seed: int, view: View = view, test: Dataset = test
        ) -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="warmstart-rates-") as folder:
                run = Run(folder, seed=seed, device="cpu")
                one = Finetune(rate=rate, factor=factor).fit(recipe, view, run)
                proba_NC = one.model.proba(test.without_labels())
            losses = [epoch["validation_loss"] for epoch in one.history]
            return {"loss": min(losses), "proba": proba_NC.round(6).tolist()}

        row: dict[str, Any] = {"data": path.stem if path.is_file() else path.name, "rows": rows}
        proba: dict[str, np.ndarray] = {}
        for side, factor in FACTORS.items():
            tried = {}
            for rate in RATES:
                key = ["rates", path.name, rows, test_rows, factor, rate]
                tried[rate] = [
                    cell(cells, [*key, seed], partial(fitted, factor, rate, seed))
                    for seed in range(seeds)
                ]
            losses = {
                rate: float(np.mean([c["loss"] for c in fits])) for rate, fits in tried.items()
            }
            accuracies = {
                rate: float(np.mean([_accuracy(c["proba"], test) for c in fits]))
                for rate, fits in tried.items()
            }
            best = min(losses, key=losses.__getitem__)
            proba[side] = np.array([c["proba"] for c in tried[best]])
            row[side] = {
                "rate": best,
                "accuracy": accuracies[best],
                "grid": [
                    {"rate": rate, "validation_loss": losses[rate], "accuracy": accuracies[rate]}
                    for rate in RATES
                ],
            }
        pair = compare_arms(proba["discriminative"], proba["flat"], test.labels_N)
        row["difference"] = pair.model_dump(mode="json")
        found.append(row)
    return found


def _accuracy(proba: Any, test: Dataset) -> float:
    return float(measure(np.array(proba), test.labels_N, ["accuracy"])["accuracy"])


def never_worse(
    recipe: Backbone,
    paths: Sequence[Path],
    *,
    labels: Sequence[int],
    test_rows: int,
    cells: Path,
) -> dict[str, Any]:
    """The kept model against the best of untouched, probe and adapted, on test rows.

    Regret is how far the kept model is below the best of them on test, which no choice made
    without test rows can bring to nought.
    """

    def judged(path: Path, count: int) -> dict[str, Any]:
        view, test = few_rows(path, count, test_rows, seed=1)
        with tempfile.TemporaryDirectory(prefix="warmstart-never-") as folder:
            run = fit(_joined(view, test), backbone=recipe, strategy="finetune", device="cpu",
                      out=Path(folder) / "run")  # fmt: skip
            values = {
                arm["name"]: arm["scores"]["metrics"]["accuracy"]["value"]
                for arm in run.results["arms"]
                if "scores" in arm
            }
            return {
                "data": path.stem if path.is_file() else path.name,
                "labels": count,
                "kept": run.best,
                "accuracy": values,
                "regret": max(values[n] for n in values if n != "tfidf") - values[run.best],
            }

    runs: list[dict[str, Any]] = [
        cell(cells, ["never", path.name, count, test_rows], partial(judged, path, count))
        for count in labels
        for path in paths
    ]
    regrets = np.array([max(0.0, run["regret"]) for run in runs])
    return {
        "runs": runs,
        "mean_regret": float(regrets.mean()),
        "worse_by_a_point": float((regrets > 0.01).mean()),
        "kept_a_control": float(np.mean([run["kept"] != "finetune" for run in runs])),
    }


def _joined(view: View, test: Dataset) -> Any:
    """One Hugging Face data set with a split column, as a user would bring it."""
    import datasets

    columns: dict[str, list[Any]] = {"text": [], "label": [], "split": []}
    for name, part in (("train", view.train), ("validation", view.validation), ("test", test)):
        columns["text"] += part.inputs()
        columns["label"] += [part.label_names[number] for number in part.labels_N]
        columns["split"] += [name] * len(part)
    return datasets.Dataset.from_dict(columns)
