"""Which target rows are sure enough to be learned from, class by class."""

from __future__ import annotations

import numpy as np

from warmstart.core import UsageError

__all__ = ["pick_pseudo_labels"]


def pick_pseudo_labels(
    proba_UC: np.ndarray, *, threshold: float, share: float, balance: float
) -> np.ndarray:
    """The predicted class of the rows that are sure enough, -1 for the others.

    Of the rows predicted as class c, the surest `share` are taken (rounded up), so that an easy
    class does not crowd out a hard one; of these, those whose probability is at least `threshold`;
    and of these at most `balance` times as many as the class that is left with the fewest.

    Args:
        proba_UC: Class probabilities of target rows.
        threshold: Least probability, in [0, 1].
        share: Of each class's rows, in (0, 1].
        balance: At least 1; infinity for no limit.

    Returns:
        Classes (U,), -1 where a row is not taken. Equally sure rows are taken in their order.

    Raises:
        UsageError: For a value outside its range.

    Source: Zou et al. 2018, Unsupervised Domain Adaptation for Semantic Segmentation via
    Class-Balanced Self-Training, section 4.2 (the share by class).
    """
    if not 0 <= threshold <= 1 or not 0 < share <= 1 or not balance >= 1:
        raise UsageError(
            "self-training: threshold must be in [0, 1], share in (0, 1] and balance at least 1, "
            f"got {threshold}, {share} and {balance}. Usual: 0.8, 0.5 and 3."
        )
    predicted_U = proba_UC.argmax(axis=1)
    sure_U = proba_UC.max(axis=1)
    taken: dict[int, np.ndarray] = {}
    for label in np.unique(predicted_U):
        rows = np.flatnonzero(predicted_U == label)
        rows = rows[np.argsort(-sure_U[rows], kind="stable")]
        rows = rows[: int(np.ceil(share * len(rows)))]
        rows = rows[sure_U[rows] >= threshold]
        if len(rows):
            taken[int(label)] = rows
    found_U = np.full(len(proba_UC), -1, dtype=np.int64)
    if not taken:
        return found_U
    fewest = min(len(rows) for rows in taken.values())
    for label, rows in taken.items():
        most = len(rows) if np.isinf(balance) else max(1, int(balance * fewest))
        found_U[rows[:most]] = label
    return found_U
