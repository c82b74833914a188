"""The linear probe and the embedding, measured beside their peers in one run.

(a) time to a fitted probe, embedding included, against transformers' Trainer with a frozen
backbone; (b) accuracy against scikit-learn's logistic regression on the same features;
(c) embedding throughput against SentenceTransformer.encode.

What could favour us is given to the peer instead: our time holds reading the weights, tokenising,
embedding, the choice of l2 and the solving; the Trainer's holds its ten epochs alone, with its
texts tokenised, its weights loaded and its learning rate tuned before the clock starts, and with
its frozen backbone in evaluation mode, so that no dropout disturbs its features.

    python benchmarks/probe.py [--pairs 5] [--rows 2000] [--data FILE] [--out FILE]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from warmstart.backbones import Backbone, FeatureCache, backbone
from warmstart.backbones.sources import resolve
from warmstart.core import FORMAT_VERSION, Run, Streams, describe_machine, write_json
from warmstart.data import Dataset, View, read, sample
from warmstart.strategies import Probe
from warmstart.strategies.logistic import L2_GRID

EPOCHS = 10
BATCH = 32
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
VALIDATION_ROWS = 500
TARGETS = {"shuffled": 15.0, "grouped": 8.0, "throughput": 1.0, "accuracy_points": 0.2}
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Ratio:
    """Peer's time over ours, one value a pair; above 1 means that ours is faster."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the pairs."""
        return statistics.median(self.values)

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the median over pairs."""
        generator = Streams(0).numpy("ratio")
        values_P = np.asarray(self.values)
        draws_RP = generator.integers(0, len(values_P), (5000, len(values_P)))
        medians_R = np.median(values_P[draws_RP], axis=1)
        low, high = np.quantile(medians_R, [0.025, 0.975])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Median, interval and every pair."""
        low, high = self.interval()
        return {"median": self.median, "low": low, "high": high, "pairs": list(self.values)}


@dataclass(frozen=True)
class Task:
    """The rows that every side gets."""

    name: str
    view: View
    test: Dataset

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.view.label_names)


class FrozenClassifier(nn.Module):
    """The peer's model: a frozen encoder, mean pooling, unit length, and a linear head."""

    def __init__(self, encoder: nn.Module, dimension: int, classes: int, normalize: bool) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.head = nn.Linear(dimension, classes)
        self.normalize = normalize

    def train(self, mode: bool = True) -> FrozenClassifier:
        """Switch the head alone: what is frozen stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the real tokens' vectors, (B, D)."""
        with torch.no_grad():
            hidden_BTD = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTD.dtype)
            vectors_BD: Tensor = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(vectors_BD, dim=-1) if self.normalize else vectors_BD

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """Loss and logits, as the Trainer wants them."""
        logits_BC = self.head(self.features(input_ids, attention_mask))
        return {"loss": nn.functional.cross_entropy(logits_BC, labels), "logits": logits_BC}


class Tokenised(torch.utils.data.Dataset[dict[str, Any]]):
    """Texts tokenised once, before the clock starts; padding is left to the collator."""

    def __init__(self, data: Dataset, tokenizer: Any, max_length: int) -> None:
        coded = tokenizer(data.inputs(), truncation=True, max_length=max_length)
        self.input_ids: list[list[int]] = coded["input_ids"]
        self.labels = [int(label) for label in data.labels_N]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.input_ids[index]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": self.labels[index]}


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


def make_task(path: Path, rows: int) -> Task:
    """`rows` training rows, 500 for validation, the rest to test; equal texts are used once."""
    data = read(path)
    first = list({content: i for i, content in reversed(list(enumerate(data.contents)))}.values())
    order = Streams(0).numpy("benchmark").permutation(np.sort(first))
    if len(order) < rows + 2 * VALIDATION_ROWS:
        raise SystemExit(f"{path.name} has {len(order)} different rows, too few for {rows}.")
    held = rows + VALIDATION_ROWS
    view = View(data.select(order[:rows]), data.select(order[rows:held]))
    return Task(path.stem, view, data.select(order[held:]))


def model_folder() -> Path:
    """Where the default text backbone's files lie, for the peers to read them."""
    return resolve(None, modality="text").folder


# --- the two sides -------------------------------------------------------------------------------


def fit_ours(recipe: Backbone, task: Task, scratch: Path) -> tuple[float, Any]:
    """Seconds for a probe from texts to weights with a cold cache, and the model."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        cold = recipe.with_settings(cache=FeatureCache(Path(folder) / "cache"))
        gc.collect()
        start = time.perf_counter()
        fitted = Probe().fit(cold, task.view, Run(Path(folder) / "run"))
        return time.perf_counter() - start, fitted


def new_peer(folder: Path, recipe: Backbone, classes: int) -> tuple[FrozenClassifier, Any]:
    """The peer's model and tokenizer, read from the same files by transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    encoder = AutoModel.from_pretrained(folder)
    normalize = recipe.space().normalize
    model = FrozenClassifier(encoder, encoder.config.hidden_size, classes, normalize)
    return model, AutoTokenizer.from_pretrained(folder)


def tune_rate(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], classes: int) -> float:
    """The head's learning rate that is best on validation after the Trainer's own schedule.

    With a frozen encoder in evaluation mode, training the head on kept features is the same
    optimisation as the Trainer's, so tuning it there is exact and cheap.
    """
    best, best_score = RATES[0], (-1.0, 0.0)
    for rate in RATES:
        torch.manual_seed(0)
        head = nn.Linear(train[0].shape[1], classes)
        optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
        steps = EPOCHS * -(-len(train[0]) // BATCH)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in range(EPOCHS):
            order = torch.randperm(len(train[0]))
            for first in range(0, len(order), BATCH):
                rows = order[first : first + BATCH]
                loss = nn.functional.cross_entropy(head(train[0][rows]), train[1][rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            logits_MC = head(held[0])
            right = float((logits_MC.argmax(dim=1) == held[1]).float().mean())
            score = (right, -float(nn.functional.cross_entropy(logits_MC, held[1])))
        if score > best_score:
            best, best_score = rate, score
    return best


def fit_trainer(
    recipe: Backbone, task: Task, rate: float, strategy: str, scratch: Path
) -> tuple[float, FrozenClassifier]:
    """Seconds of `Trainer.train()` alone, and the model."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    model, tokenizer = new_peer(model_folder(), recipe, task.classes)
    rows = Tokenised(task.view.train, tokenizer, recipe.max_length or 512)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=rate,
            train_sampling_strategy=strategy,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            seed=0,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        gc.collect()
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start, model


# --- measurements --------------------------------------------------------------------------------


def accuracy(weight_CD: np.ndarray, bias_C: np.ndarray, x_ND: np.ndarray, y_N: np.ndarray) -> float:
    return float(((x_ND @ weight_CD.T + bias_C).argmax(axis=1) == y_N).mean())


def measure_fits(
    recipe: Backbone, task: Task, vectors: Mapping[str, np.ndarray], pairs: int, scratch: Path
) -> dict[str, Any]:
    """(a): pairs of fits, ours and the Trainer's in turn, the first of a pair alternating."""
    x_MD, y_M = vectors["test"], task.test.labels_N
    train = (torch.from_numpy(vectors["train"]), torch.tensor(task.view.train.labels_N))
    held = (torch.from_numpy(vectors["validation"]), torch.tensor(task.view.validation.labels_N))
    rate = tune_rate(train, held, task.classes)
    seconds: dict[str, list[float]] = {"ours": [], "shuffled": [], "grouped": []}
    right: dict[str, float] = {}

    def ours() -> None:
        taken, fitted = fit_ours(recipe, task, scratch)
        seconds["ours"].append(taken)
        head = fitted.model.head.output
        weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
        right["ours"] = accuracy(weight, bias, x_MD, y_M)

    def peer(name: str, strategy: str) -> None:
        taken, model = fit_trainer(recipe, task, rate, strategy, scratch)
        seconds[name].append(taken)
        weight, bias = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
        right[name] = accuracy(weight, bias, x_MD, y_M)

    turns: list[Callable[[], None]] = [
        ours,
        lambda: peer("shuffled", "random"),
        lambda: peer("grouped", "group_by_length"),
    ]
    for pair in range(pairs):
        for turn in turns if pair % 2 == 0 else turns[::-1]:
            turn()
    ratios = {
        name: Ratio(tuple(t / o for t, o in zip(seconds[name], seconds["ours"], strict=True)))
        for name in ("shuffled", "grouped")
    }
    return {
        "learning_rate": rate,
        "seconds": seconds,
        "accuracy": right,
        "ratio": {name: ratio.to_json() for name, ratio in ratios.items()},
    }


def measure_accuracy(
    task: Task, vectors: Mapping[str, np.ndarray], ours: float
) -> dict[str, float | int]:
    """(b): scikit-learn on the same features, its C chosen by its own cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x_ND, y_N = vectors["train"].astype(np.float64), task.view.train.labels_N
    # The probe divides standardised features by the root of D and penalises per row.
    strengths = [1.0 / (l2 * len(y_N) * x_ND.shape[1]) for l2 in L2_GRID]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    search = GridSearchCV(
        pipeline, {"logisticregression__C": strengths}, scoring="neg_log_loss", cv=5
    ).fit(x_ND, y_N)
    plain = LogisticRegression(max_iter=5000).fit(x_ND, y_N)
    x_MD, y_M = vectors["test"].astype(np.float64), task.test.labels_N
    tuned = float((search.predict(x_MD) == y_M).mean())
    return {
        "ours": ours,
        "sklearn": tuned,
        "sklearn_c": float(search.best_params_["logisticregression__C"]),
        "sklearn_untuned_c1": float((plain.predict(x_MD) == y_M).mean()),
        "difference_points": 100 * (ours - tuned),
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
    right = fits["accuracy"]
    points = abs(results["accuracy"]["difference_points"])
    return {
        "shuffled": fits["ratio"]["shuffled"]["median"] >= TARGETS["shuffled"],
        "grouped": fits["ratio"]["grouped"]["median"] >= TARGETS["grouped"],
        "accuracy_trainer": right["ours"] >= max(right["shuffled"], right["grouped"]),
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
            f"fit, against Trainer, {name}",
            f"{ours:.2f} s",
            f"{statistics.median(fits['seconds'][name]):.2f} s",
            with_interval(fits["ratio"][name]),
            f"at least {TARGETS[name]:g}x",
            mark(name),
        )
    right = fits["accuracy"]
    best = max(right["shuffled"], right["grouped"])
    table.add_row(
        "test accuracy, against Trainer",
        f"{100 * right['ours']:.2f} %",
        f"{100 * best:.2f} %",
        f"{100 * (right['ours'] - best):+.2f} points",
        "not lower",
        mark("accuracy_trainer"),
    )
    table.add_row(
        "test accuracy, against scikit-learn",
        f"{100 * parts['ours']:.2f} %",
        f"{100 * parts['sklearn']:.2f} %",
        f"{parts['difference_points']:+.2f} points",
        f"within {TARGETS['accuracy_points']:g}",
        mark("accuracy_sklearn"),
    )
    rates = features["texts_per_second"]
    table.add_row(
        "embedding, against SentenceTransformer",
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
    parser.add_argument("--data", help="a table with text and label columns")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "probe.json")
    options = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        scratch = Path(name)
        task = make_task(find_data(options.data, scratch), options.rows)
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
            "accuracy": measure_accuracy(task, vectors, fits["accuracy"]["ours"]),
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
