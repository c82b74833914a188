"""Tiny models, data and runs for the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, Streams
from warmstart.training import (
    Checkpoints,
    EarlyStopping,
    ExampleRows,
    RowLoader,
    fit_loop,
    make_schedule,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ToyRows:
    """Rows of the modality "image": small vectors in place of pictures."""

    modality = "image"

    def __init__(self, rows: int = 40, dimension: int = 6, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.vectors_ND = generator.normal(size=(rows, dimension)).astype(np.float32)
        self.ids = [f"row-{place}" for place in range(rows)]
        self.labels_N = (self.vectors_ND[:, 0] > 0).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, indices: Any = None) -> list[np.ndarray]:
        places = range(len(self)) if indices is None else indices
        return [self.vectors_ND[place] for place in places]


class ToyText:
    """Sentences of different lengths."""

    modality = "text"

    def __init__(self, rows: int = 40) -> None:
        self.texts = [" ".join("w" * (1 + place * 7 % 11)) for place in range(rows)]
        self.ids = [f"text-{place}" for place in range(rows)]
        self.labels_N = np.arange(rows, dtype=np.int64) % 3

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, indices: Any = None) -> list[str]:
        places = range(len(self)) if indices is None else indices
        return [self.texts[place] for place in places]


def preprocess_vectors(values: Any) -> dict[str, Tensor]:
    return {"x": torch.from_numpy(np.stack(list(values)))}


def preprocess_words(texts: Any, left: bool = False) -> dict[str, Tensor]:
    """A tokenizer with [CLS] = 1, words from 5 on, and padding of 9."""
    rows = [[1, *(5 + len(word) for word in text.split())] for text in texts]
    width = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        pad = width - len(row)
        ids.append([9] * pad + row if left else row + [9] * pad)
        mask.append([0] * pad + [1] * len(row) if left else [1] * len(row) + [0] * pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def noisy(value: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (value + generator.normal(scale=0.1, size=value.shape)).astype(np.float32)


class ToyNet(nn.Module):
    """Dropout and batch norm, so that random streams and buffers matter."""

    def __init__(self, seed: int = 0, dimension: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(dimension, 8), nn.BatchNorm1d(8), nn.ReLU())
            self.drop = nn.Dropout(0.3)
            self.head = nn.Linear(8, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self.drop(self.body(inputs["x"])))
        return logits


def toy_step(batch: Any, state: Any) -> Tensor:
    return functional.cross_entropy(state.modules["model"](batch.inputs), batch.labels_B)


def run_toy(folder: Path, **changes: Any) -> SimpleNamespace:
    """A whole small fit with everything that a resume must carry; same arguments, same bits."""
    steps = changes.pop("steps_hook", None)
    workers = changes.pop("num_workers", 0)
    policy = changes.pop("checkpoints", Checkpoints(every_steps=1, every_seconds=None))
    settings = {"seed": 3, "device": "cpu"} | changes.pop("run", {})
    run = Run(folder, **settings)
    streams = Streams(3)
    source = ExampleRows(ToyRows(), preprocess_vectors, streams=streams, augment=noisy)
    loader = RowLoader(source, 4, streams=streams, num_workers=workers)
    model = ToyNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    held = preprocess_vectors(ToyRows(seed=1).inputs())
    truth = torch.from_numpy(ToyRows(seed=1).labels_N)
    seen: list[list[int]] = []

    def step(batch: Any, state: Any) -> Tensor:
        seen.append(batch.rows_B.tolist())
        if steps is not None:
            steps(state)
        return toy_step(batch, state)

    def evaluate(state: Any) -> dict[str, float]:
        with torch.no_grad():
            return {"validation_loss": float(functional.cross_entropy(model(held), truth))}

    arguments: dict[str, Any] = {
        "step": step,
        "modules": {"model": model},
        "optimizers": optimizer,
        "loaders": loader,
        "run": run,
        "epochs": 4,
        "schedules": make_schedule("cosine", 20),
        "evaluate": evaluate,
        "callbacks": [EarlyStopping(patience=3)],
        "accumulate": 2,
        "clip": 1.0,
        "checkpoints": policy,
        "log_every": 3,
    } | changes
    history = fit_loop(**arguments)
    return SimpleNamespace(
        history=history, model=model, optimizer=optimizer, run=run, seen=seen,
        tensors={key: value.clone() for key, value in model.state_dict().items()},
    )  # fmt: skip


@pytest.fixture
def toy() -> Callable[..., SimpleNamespace]:
    return run_toy


@pytest.fixture
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        ToyRows=ToyRows, ToyText=ToyText, ToyNet=ToyNet, noisy=noisy, step=toy_step,
        preprocess_vectors=preprocess_vectors, preprocess_words=preprocess_words,
    )  # fmt: skip
