"""Made-up domains: clusters of classes, turned and moved in the target."""

from __future__ import annotations

import numpy as np

from warmstart.backbones import Space
from warmstart.shift import DomainVectors

SPACE = Space(backbone="made-up", modality="text", pooling="mean")


def clusters(
    count: int,
    *,
    seed: int,
    turn: float = 0.0,
    move: float = 0.0,
    shares: tuple[float, ...] = (0.5, 0.5),
    width: int = 6,
    spread: float = 0.6,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows about a mean for each class on the first two axes, turned by an angle and moved along.

    Returns:
        Vectors (count, width) and classes.
    """
    drawn = np.random.default_rng(seed)
    labels = drawn.choice(len(shares), count, p=shares)
    angles = 2 * np.pi * np.arange(len(shares)) / len(shares) + turn
    means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vectors = spread * drawn.normal(size=(count, width))
    vectors[:, :2] += means[labels]
    vectors[:, 2] += move
    return vectors.astype(np.float32), labels


def domains(
    source: int = 240,
    target: int = 200,
    *,
    seed: int = 0,
    turn: float = 0.0,
    move: float = 0.0,
    shares: tuple[float, ...] = (0.5, 0.5),
    target_shares: tuple[float, ...] | None = None,
) -> tuple[DomainVectors, np.ndarray]:
    """Source and target vectors, and the target's classes, which no method sees."""
    train, labels = clusters(source, seed=seed, shares=shares)
    held, held_labels = clusters(max(20, source // 4), seed=seed + 1, shares=shares)
    there, truth = clusters(
        target, seed=seed + 2, turn=turn, move=move, shares=target_shares or shares
    )
    rows = DomainVectors(
        train_ND=train,
        labels_N=labels,
        ids_N=tuple(f"s{i}" for i in range(source)),
        validation_MD=held,
        labels_M=held_labels,
        target_UD=there,
        target_ids_U=tuple(f"t{i}" for i in range(target)),
        label_names=tuple("abcdefgh"[: len(shares)]),
        space=SPACE,
    )
    return rows, truth
