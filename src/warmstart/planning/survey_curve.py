"""The probe at growing numbers of labels, on the same validation rows each time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from warmstart.core import NotApplicable, Streams
from warmstart.strategies.logistic import fit_logistic

from .curve import PowerLaw, fit_power_law
from .evidence import Measured

__all__ = ["probe_curve"]

_FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
_DRAWS, _RESAMPLES = 3, 200
_LEAST = 8


def probe_curve(
    vectors_ND: np.ndarray,
    labels_N: np.ndarray,
    ids: Sequence[str],
    held_MD: np.ndarray,
    truth_M: np.ndarray,
    *,
    classes: int,
    at_full_M: np.ndarray,
    seed: int = 0,
    until: float = float("inf"),
) -> Measured:
    """Fit probes on an eighth, a quarter, half and all of the rows, and a power law through them.

    The rows of a fraction are the first of a random order, drawn by class, so that a smaller
    fraction lies within a larger one. The value is the exponent; its interval, and that of what
    twice the labels would bring, come from resampled validation rows.

    Args:
        vectors_ND: Vectors of the training rows.
        labels_N: Their labels.
        ids: Their ids.
        held_MD: Vectors of the validation rows.
        truth_M: Their labels.
        classes: Number of classes C.
        at_full_M: What the probe on all training rows predicts for the validation rows.
        seed: Of the draws.
        until: `time.monotonic()` after which no further draw is begun.

    Raises:
        NotApplicable: For rows too few to take a part of.
    """
    began = time.perf_counter()
    counts = sorted({round(len(labels_N) * part) for part in _FRACTIONS})
    counts = [n for n in counts if n >= max(_LEAST, classes)]
    wrong: dict[int, list[np.ndarray]] = {len(labels_N): [at_full_M != truth_M]}
    streams = Streams(seed).child("plan", "curve")
    for draw in range(_DRAWS):
        if draw and time.monotonic() > until:
            break
        order_N = _by_class(labels_N, streams.numpy(draw))
        for count in counts:
            rows = order_N[:count]
            if len(np.unique(labels_N[rows])) < 2:
                continue
            solved = fit_logistic(
                vectors_ND[rows], labels_N[rows], classes, ids=[ids[i] for i in rows]
            )
            predicted_M = (held_MD @ solved.weight_CD.T + solved.bias_C).argmax(axis=1)
            wrong.setdefault(count, []).append(predicted_M != truth_M)
    if len(wrong) < 2:
        raise NotApplicable(
            f"a learning curve needs parts of {max(_LEAST, classes)} rows or more of the "
            f"{len(labels_N)} training rows"
        )
    labels = sorted(wrong)
    wrong_KM = np.stack([np.mean(wrong[n], axis=0) for n in labels])
    return _told(labels, wrong_KM, streams.numpy("rows"), time.perf_counter() - began)


def _told(
    labels: Sequence[int], wrong_KM: np.ndarray, generator: np.random.Generator, seconds: float
) -> Measured:
    """The curve, and how far resampled validation rows move it."""
    rows, full = wrong_KM.shape[1], labels[-1]
    law = _law(labels, wrong_KM.mean(axis=1), rows)
    drawn = [
        _law(labels, wrong_KM[:, generator.integers(0, rows, rows)].mean(axis=1), rows)
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile([one.exponent for one in drawn], [2.5, 97.5])
    gains = [one.error(full) - one.error(2 * full) for one in drawn]
    more = law.error(full) - law.error(2 * full)
    more_low, more_high = (float(v) for v in np.percentile(gains, [2.5, 97.5]))
    right_K = 1 - wrong_KM.mean(axis=1)
    points = {str(n): float(value) for n, value in zip(labels, right_K, strict=True)}
    path = ", ".join(f"{value:.1%} with {int(n):,}" for n, value in points.items())
    return Measured(
        name="probe_curve", value=law.exponent, interval=(float(low), float(high)),
        seconds=seconds,
        text=f"The probe's accuracy grows with its labels: {path}. Its error falls with their "
        f"power of {law.exponent:.2f} ({low:.2f} to {high:.2f}): twice the labels would bring "
        f"{100 * more:.1f} points ({100 * more_low:.1f} to {100 * more_high:.1f}).",
        details={
            "accuracy": points, "law": law.model_dump(), "doubling": more,
            "doubling_interval": [more_low, more_high],
        },
    )  # fmt: skip


def _law(labels: Sequence[int], error_K: np.ndarray, rows: int) -> PowerLaw:
    """The curve through error rates, each weighted by how certain it is."""
    smooth_K = (error_K * rows + 0.5) / (rows + 1)
    weight_K = 1 / (smooth_K * (1 - smooth_K))
    return fit_power_law(labels, error_K.tolist(), weight_K.tolist())


def _by_class(labels_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order in which every beginning holds the classes in about their shares."""
    place_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        rows = generator.permutation(np.flatnonzero(labels_N == label))
        place_N[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(place_N, kind="stable")
