"""What the benchmarks measure us against: transformers' Trainer on a frozen encoder, set up well.

The peer reads the same files by transformers alone. Its learning rate is tuned before the clock
starts, its texts are tokenised and its weights loaded before too, and its frozen encoder stays in
evaluation mode, so that no dropout disturbs its features.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.backbones import Backbone
from warmstart.backbones.sources import resolve
from warmstart.core import Streams
from warmstart.data import Dataset, View

__all__ = ["BATCH", "EPOCHS", "Ratio", "Task", "fit_trainer", "model_folder", "tune_rate"]

EPOCHS = 10
BATCH = 32
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


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


def model_folder() -> Path:
    """Where the default text backbone's files lie, for the peers to read them."""
    return resolve(None, modality="text").folder


def new_peer(
    folder: Path, recipe: Backbone, classes: int, seed: int
) -> tuple[FrozenClassifier, Any]:
    """The peer's model and tokenizer, read from the same files by transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(seed)
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
    recipe: Backbone, task: Task, rate: float, strategy: str, seed: int, scratch: Path
) -> tuple[float, FrozenClassifier]:
    """Seconds of `Trainer.train()` alone, and the model."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    model, tokenizer = new_peer(model_folder(), recipe, task.classes, seed)
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
            seed=seed,
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
