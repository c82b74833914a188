"""Made-up interactions, small enough to check by hand, and stand-ins for what asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.core import Run
from warmstart.evaluation import Queries, RankingTask, next_item_task
from warmstart.retrieval import TwoTower, TwoTowerModel


@dataclass(frozen=True)
class ToyEvents:
    """The part of `Interactions` that recommenders read."""

    user_N: np.ndarray
    item_N: np.ndarray
    time_N: np.ndarray
    positive_N: np.ndarray
    n_users: int
    n_items: int

    def select(self, keep: np.ndarray) -> ToyEvents:
        return ToyEvents(
            self.user_N[keep], self.item_N[keep], self.time_N[keep], self.positive_N[keep],
            self.n_users, self.n_items,
        )  # fmt: skip


def events(
    rows: list[tuple[int, int]], *, n_users: int, n_items: int, views: list[int] | None = None
) -> ToyEvents:
    """Events (user, item), one a second; `views` are the places of those that are no positives."""
    user_N = np.array([user for user, _ in rows], dtype=np.int32)
    item_N = np.array([item for _, item in rows], dtype=np.int32)
    positive_N = np.ones(len(rows), dtype=bool)
    positive_N[views or []] = False
    return ToyEvents(user_N, item_N, np.arange(len(rows)), positive_N, n_users, n_items)


def chains(*, n_users: int = 24, n_items: int = 30, length: int = 12, seed: int = 0) -> ToyEvents:
    """Users who walk from item to item, mostly by 7 onwards: what comes next can be learned."""
    generator = np.random.default_rng(seed)
    rows: list[tuple[int, int]] = []
    place = generator.integers(0, n_items, n_users)
    for _ in range(length):
        for user in range(n_users):
            rows.append((user, int(place[user])))
            step = 7 if generator.random() < 0.9 else int(generator.integers(1, n_items))
            place[user] = (place[user] + step) % n_items
    return events(rows, n_users=n_users, n_items=n_items)


def texts(n_items: int = 30, width: int = 6, seed: int = 0) -> np.ndarray:
    """Unit vectors that stand for the items' texts."""
    found = np.random.default_rng(seed).normal(size=(n_items, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def halves(data: ToyEvents, share: float = 0.8) -> tuple[ToyEvents, ToyEvents]:
    """Past and future at one time."""
    cut = int(share * len(data.time_N))
    return data.select(data.time_N < cut), data.select(data.time_N >= cut)


SMALL: dict[str, Any] = {
    "width": 16, "layers": 1, "heads": 2, "history": 8, "epochs": 3, "batch_size": 8,
    "rate": 1e-2, "dropout": 0.1, "patience": None,
}  # fmt: skip


def settings(**changes: Any) -> TwoTower:
    return TwoTower.parse({**SMALL, **changes}, "two-tower")


def fit(folder: Path, data: ToyEvents, **changes: Any) -> TwoTowerModel:
    """A small model on the CPU: arguments of `fit` by their names, the rest are settings."""
    named = {
        key: changes.pop(key)
        for key in (
            "text_IE",
            "image_IE",
            "profile_UP",
            "validation",
            "item_ids",
            "tags",
            "users",
            "texts",
        )
        if key in changes
    }
    named["checkpoints"] = changes.pop("checkpoints", None)
    seed = changes.pop("seed", 0)
    return settings(**changes).fit(data, Run(folder, seed=seed, device="cpu"), **named)


__all__ = [
    "SMALL",
    "Queries",
    "RankingTask",
    "ToyEvents",
    "chains",
    "events",
    "fit",
    "halves",
    "next_item_task",
    "settings",
    "texts",
]  # fmt: skip
