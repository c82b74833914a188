"""Studies over data sets: discriminative rates against one rate, and whether fit is never worse."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import Run, Streams
from warmstart.data import Dataset, Split, View, read, split
from warmstart.evaluation import compare_arms, measure
from warmstart.strategies import Finetune
from warmstart.workflow import fit

__all__ = ["never_worse", "rates_study"]

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


def rates_study(
    recipe: Backbone, paths: Sequence[Path], *, rows: int, test_rows: int, seeds: int
) -> list[dict[str, Any]]:
    """Discriminative rates against one flat rate, each with the same grid of base rates.

    The base rate is chosen on the mean validation loss over the seeds, for each side on its own;
    the test rows are scored with that rate alone, intervals resample rows and seeds.
    """
    found = []
    for path in paths:
        view, test = few_rows(path, rows, test_rows, seed=0)
        proba: dict[str, np.ndarray] = {}
        row: dict[str, Any] = {"data": path.stem if path.is_file() else path.name, "rows": rows}
        for side, factor in FACTORS.items():
            best: tuple[float, float, np.ndarray] | None = None
            for rate in RATES:
                fits = []
                for seed in range(seeds):
                    with tempfile.TemporaryDirectory(prefix="warmstart-rates-") as folder:
                        run = Run(folder, seed=seed, device="cpu")
                        fits.append(Finetune(rate=rate, factor=factor).fit(recipe, view, run))
                losses = [min(r["validation_loss"] for r in one.history) for one in fits]
                loss = float(np.mean(losses))
                if best is None or loss < best[0]:
                    tests = np.stack([one.model.proba(test.without_labels()) for one in fits])
                    best = (loss, rate, tests)
            assert best is not None
            proba[side] = best[2]
            row[side] = {
                "rate": best[1],
                "accuracy": float(
                    np.mean([measure(p, test.labels_N, ["accuracy"])["accuracy"] for p in best[2]])
                ),
            }
        pair = compare_arms(proba["discriminative"], proba["flat"], test.labels_N)
        row["difference"] = pair.model_dump(mode="json")
        found.append(row)
    return found


def never_worse(
    recipe: Backbone, paths: Sequence[Path], *, labels: Sequence[int], test_rows: int
) -> dict[str, Any]:
    """The kept model against the best of untouched, probe and adapted, on test rows.

    Regret is how far the kept model is below the best of them on test, which no choice made
    without test rows can bring to nought.
    """
    runs: list[dict[str, Any]] = []
    for path in paths:
        for count in labels:
            view, test = few_rows(path, count, test_rows, seed=1)
            rows = _joined(view, test)
            with tempfile.TemporaryDirectory(prefix="warmstart-never-") as folder:
                run = fit(rows, backbone=recipe, strategy="finetune", device="cpu",
                          out=Path(folder) / "run")  # fmt: skip
                values = {
                    arm["name"]: arm["scores"]["metrics"]["accuracy"]["value"]
                    for arm in run.results["arms"]
                    if "scores" in arm
                }
                runs.append(
                    {"data": path.stem if path.is_file() else path.name, "labels": count,
                     "kept": run.best, "accuracy": values,
                     "regret": max(values[n] for n in values if n != "tfidf") - values[run.best]}
                )  # fmt: skip
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
