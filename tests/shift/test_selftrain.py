"""Pseudo-labels: which rows are taken, and rounds that settle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmstart.core import Run, UsageError
from warmstart.shift import SelfTraining, SourceOnly, pick_pseudo_labels

from .domains import domains


def slow_pick(proba: np.ndarray, threshold: float, share: float, balance: float) -> list[int]:
    """Class by class, row by row."""
    found = [-1] * len(proba)
    by_class: dict[int, list[int]] = {}
    for row, values in enumerate(proba.tolist()):
        by_class.setdefault(values.index(max(values)), []).append(row)
    kept: dict[int, list[int]] = {}
    for label, rows in by_class.items():
        rows.sort(key=lambda row: (-max(proba[row]), row))
        most = -(-len(rows) * share // 1)
        chosen = [row for place, row in enumerate(rows) if place < most]
        chosen = [row for row in chosen if max(proba[row]) >= threshold]
        if chosen:
            kept[label] = chosen
    if kept:
        fewest = min(map(len, kept.values()))
        for label, rows in kept.items():
            limit = len(rows) if balance == float("inf") else max(1, int(balance * fewest))
            for row in rows[:limit]:
                found[row] = label
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("threshold", "share", "balance"),
    [(0.0, 1.0, float("inf")), (0.5, 0.5, 3.0), (0.6, 0.3, 1.0), (0.99, 1.0, 1.0)],
)
def test_picking_against_a_slow_twin(
    seed: int, threshold: float, share: float, balance: float
) -> None:
    proba = np.random.default_rng(seed).dirichlet([0.4, 0.4, 1.2], 40)
    found = pick_pseudo_labels(proba, threshold=threshold, share=share, balance=balance)
    assert found.tolist() == slow_pick(proba, threshold, share, balance)


def test_picking_known_answers() -> None:
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.55, 0.45], [0.3, 0.7]])
    half = pick_pseudo_labels(proba, threshold=0.0, share=0.5, balance=float("inf"))
    assert half.tolist() == [0, 0, -1, -1, 1], "the surest half of each class"
    sure = pick_pseudo_labels(proba, threshold=0.75, share=1.0, balance=float("inf"))
    assert sure.tolist() == [0, 0, -1, -1, -1]
    even = pick_pseudo_labels(proba, threshold=0.0, share=1.0, balance=1.0)
    assert even.tolist() == [0, -1, -1, -1, 1], "no class more often than the rarest"
    none = pick_pseudo_labels(proba, threshold=1.0, share=1.0, balance=1.0)
    assert (none == -1).all()


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"threshold": -0.1}, {"share": 0.0}, {"balance": 0.5}]
)
def test_picking_refuses(wrong: dict[str, float]) -> None:
    settings = {"threshold": 0.5, "share": 0.5, "balance": 2.0, **wrong}
    with pytest.raises(UsageError, match="self-training: threshold must be in"):
        pick_pseudo_labels(np.array([[0.5, 0.5]]), **settings)


def test_rounds_settle_and_follow_clusters_that_have_turned(tmp_path: Path) -> None:
    """Clusters turned by 50 degrees: source-only cuts through them, self-training follows."""
    rows, truth = domains(400, 400, seed=1, turn=np.pi * 50 / 180)
    settings = {"width": 32, "epochs": 40, "rate": 1e-2}
    plain = SourceOnly(**settings).fit(rows, Run(tmp_path / "a", device="cpu"))
    found = SelfTraining(**settings).fit(rows, Run(tmp_path / "b", device="cpu"))
    before = (plain.snapshots[-1].head.proba(rows.target_UD).argmax(1) == truth).mean()
    after = (found.snapshots[-1].head.proba(rows.target_UD).argmax(1) == truth).mean()
    assert after > before
    assert found.values["rounds"] >= 3
    assert found.values["settled"]
    assert found.stopped == "early"
    assert found.values["changed_share"][-1] <= 0.01
    assert 0 < found.values["labelled_rows"] <= 400


def test_without_a_sure_row_nothing_is_learned_from_the_target(tmp_path: Path) -> None:
    rows, _ = domains(100, 60, seed=2)
    found = SelfTraining(width=8, epochs=6, threshold=1.0).fit(rows, Run(tmp_path, device="cpu"))
    assert found.values["labelled_rows"] == 0
