"""How well a backbone's untouched vectors serve the labels: each score with its interval.

All backbones are measured on the same rows, the same folds and the same resamples, so that their
differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax

from warmstart.core import Config, DataError, Streams, UsageError, progress
from warmstart.data.allocate import bundles
from warmstart.evaluation import h_score, leep, log_me, nce
from warmstart.evaluation.metrics import outcomes, values_at
from warmstart.evaluation.resampling import (
    cluster_numbers,
    percentile_interval,
    proportion_interval,
    resampled,
)
from warmstart.models import neighbours, vote
from warmstart.shift.distance_halves import spread_interval
from warmstart.shift.distance_inputs import grouped_folds
from warmstart.strategies.logistic import few_threads, fit_logistic

__all__ = [
    "TRANSFER_SCORES",
    "Transfer",
    "TransferRows",
    "TransferScore",
    "TransferScoreInfo",
    "cross_validated_knn",
    "cross_validated_probe",
    "measure_transfer",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_FOLDS, _NEIGHBOURS, _TEMPERATURE = 5, 5, 0.07
_DRAWS = 1000
_SHARES = ("accuracy", "top3_accuracy")


class TransferScoreInfo(Config):
    """How a score is shown.

    Attributes:
        title: Its name for tables.
        meaning: What it is, in a sentence or two.
        predicts: Whether it is a metric of cross-validated answers.
    """

    title: str
    meaning: str
    predicts: bool = False


TRANSFER_SCORES: dict[str, TransferScoreInfo] = {
    "probe": TransferScoreInfo(
        title="Probe",
        meaning="A linear classifier on the untouched vectors, judged on rows that it has not "
        "seen (cross-validation; its penalty is chosen inside each fold).",
        predicts=True,
    ),
    "knn": TransferScoreInfo(
        title="kNN",
        meaning="The 5 rows of highest cosine vote on each row, in the same folds. Nothing is "
        "learned.",
        predicts=True,
    ),
    "log_me": TransferScoreInfo(
        title="LogME",
        meaning="Log evidence a row that the vectors give of the labels in Bayesian linear "
        "regression (You et al. 2021). No unit; higher is better.",
    ),
    "h_score": TransferScoreInfo(
        title="H-score",
        meaning="How much of the vectors' variance lies between classes (Bao et al. 2019), the "
        "covariance shrunk (Ibrahim et al. 2022). At most classes less one.",
    ),
    "leep": TransferScoreInfo(
        title="LEEP",
        meaning="Mean log-likelihood of the labels under what the source classes tell (Nguyen et "
        "al. 2020). At most 0.",
    ),
    "nce": TransferScoreInfo(
        title="NCE",
        meaning="Negative conditional entropy of the labels given the source class that the "
        "network names (Tran et al. 2019), in nats. At most 0.",
    ),
}
"""Every score, in the order in which they are shown."""


class TransferScore(Config):
    """One score of one backbone.

    Attributes:
        value: On all rows.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        method: How the interval came about.
    """

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class TransferRows:
    """Labelled rows, and how they are cut for every backbone alike.

    Attributes:
        ids: Of the rows.
        labels_N: Class numbers in [0, classes).
        classes: C, also those without a row.
        metric: Of the cross-validated answers.
        fold_N: Fold of each row; equal rows, and rows of a group, share one.
        half_RN: Random halves of the rows, drawn by class.
        clusters: A value for each row where groups are drawn whole.
        seed: Root seed.
    """

    ids: tuple[str, ...]
    labels_N: Ints
    classes: int
    metric: str
    fold_N: Ints
    half_RN: npt.NDArray[np.bool_]
    clusters: tuple[object, ...] | None
    seed: int

    @classmethod
    def of(
        cls,
        labels_N: npt.ArrayLike,
        *,
        ids: Sequence[str],
        contents: Sequence[str],
        classes: int,
        metric: str,
        groups: Sequence[object] | None = None,
        folds: int = _FOLDS,
        resamples: int = 20,
        seed: int = 0,
    ) -> TransferRows:
        """Cut the rows into folds and halves.

        Args:
            labels_N: Class numbers in [0, classes).
            ids: A name for each row; their order decides what the order of rows must not.
            contents: Equal for equal rows, which are never divided.
            classes: Number of classes C.
            metric: Of the cross-validated answers.
            groups: A value for each row where rows come in groups that are kept whole.
            folds: Of the cross-validation, at least 2; fewer where there are fewer rows.
            resamples: Random halves, at least 2.
            seed: Of folds, halves and bootstrap.

        Raises:
            DataError: For rows of one class, or that are all equal.
            UsageError: For settings out of range.
        """
        if resamples < 2:
            raise UsageError(
                f"rank.resamples must be at least 2, got {resamples}. Typical values: 20 to 100."
            )
        if folds < 2:
            raise UsageError(f"rank.folds must be at least 2, got {folds}. Typical values: 5, 10.")
        labels = np.asarray(labels_N, dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise DataError(
                f"rank needs a label on each row; {int((labels < 0).sum())} of {len(labels)} rows "
                "have none. Leave them out, or name the label column (--label)."
            )
        keys = [list(contents)]
        if groups is not None:
            keys.append([f"{i} alone" if v is None else f"g {v}" for i, v in enumerate(groups)])
        units = bundles(range(len(labels)), keys, list(ids))
        if len(np.unique(labels)) < 2 or len(units) < 2:
            raise DataError(_too_few(len(labels), labels, len(units)))
        unit_N = np.empty(len(labels), dtype=np.int64)
        for number, unit in enumerate(units):
            unit_N[list(unit)] = number
        streams = Streams(seed).child("rank")
        fold_N = grouped_folds(unit_N, labels, min(folds, len(units)), streams.numpy("folds"))
        halves = []
        for number in range(resamples):
            half_N = grouped_folds(unit_N, labels, 2, streams.numpy("half", number)) == number % 2
            if len(np.unique(labels[half_N])) < 2:
                half_N = ~half_N
            if len(np.unique(labels[half_N])) < 2:
                raise DataError(_too_few(len(labels), labels, len(units)))
            halves.append(half_N)
        return cls(
            tuple(ids), labels, classes, metric, fold_N, np.stack(halves),
            None if groups is None else tuple(groups), seed,
        )  # fmt: skip


def _too_few(rows: int, labels_N: Ints, units: int) -> str:
    return (
        "rank needs at least two classes in each random half of the training rows. There are "
        f"{rows} rows, {units} of which can be divided, in {len(np.unique(labels_N))} classes. "
        "Give more rows, or a larger limit (--limit)."
    )


@dataclass(frozen=True)
class Transfer:
    """What was measured of one backbone.

    Attributes:
        scores: Score by name, in the order of `TRANSFER_SCORES`; LEEP and NCE only where there are
            source classes.
        draws: The score on each resample, which are the same for every backbone.
        proba: Cross-validated class probabilities (N, C) of `probe` and `knn`.
    """

    scores: dict[str, TransferScore]
    draws: dict[str, Floats] = field(repr=False)
    proba: dict[str, Floats] = field(repr=False)


def measure_transfer(
    vectors_ND: npt.ArrayLike,
    rows: TransferRows,
    *,
    source_proba_NS: npt.ArrayLike | None = None,
    name: str = "vectors",
) -> Transfer:
    """Every score of one backbone.

    Intervals of `probe` and `knn` are bootstrap intervals over the rows that answered (groups,
    where there are some): they tell what other rows to judge by would change, and nothing of other
    rows to learn from. Those of the other scores come from random halves of the rows, drawn by
    class without replacement: to first order a score varies over halves as it varies over new
    samples of full size (half-sampling; Shao and Wu 1989), so value ± t × spread is told.

    Args:
        vectors_ND: Vectors (N, D) of the rows.
        rows: The rows and how they are cut.
        source_proba_NS: Probabilities (N, S) of the checkpoint's own classes, where it has some.
        name: Of the backbone, for the progress bar.

    Raises:
        DataError: For vectors that are not finite, or not as many as rows.
    """
    x_ND = np.asarray(vectors_ND, dtype=np.float64)
    formulas = {"log_me": log_me, "h_score": h_score}
    if x_ND.shape[:1] != rows.labels_N.shape:
        raise DataError(
            f"{name}: {len(x_ND)} vectors came for {len(rows.labels_N)} rows. Embed the rows that "
            "are ranked on."
        )
    halves = len(rows.half_RN)
    steps = 2 * int(rows.fold_N.max() + 1) + 2 * halves
    with progress.task(f"Scoring {name}", total=steps, unit="steps") as bar:
        proba = {
            "probe": cross_validated_probe(x_ND, rows, bar),
            "knn": cross_validated_knn(x_ND, rows, bar),
        }
        scores: dict[str, TransferScore] = {}
        draws: dict[str, Floats] = {}
        for key, proba_NC in proba.items():
            scores[key], draws[key] = _answered(proba_NC, rows)
        for key, formula in formulas.items():
            found = [formula(x_ND, rows.labels_N)]
            for half_N in rows.half_RN:
                found.append(formula(x_ND[half_N], rows.labels_N[half_N]))
                bar.advance()
            scores[key], draws[key] = _halved(found)
    if source_proba_NS is not None:
        theta_NS = np.asarray(source_proba_NS, dtype=np.float64)
        named_N = theta_NS.argmax(axis=1)
        scores["leep"], draws["leep"] = _halved(
            [leep(theta_NS, rows.labels_N)]
            + [leep(theta_NS[half_N], rows.labels_N[half_N]) for half_N in rows.half_RN]
        )
        scores["nce"], draws["nce"] = _halved(
            [nce(named_N, rows.labels_N)]
            + [nce(named_N[half_N], rows.labels_N[half_N]) for half_N in rows.half_RN]
        )
    return Transfer(scores, draws, proba)


def cross_validated_probe(
    x_ND: Floats, rows: TransferRows, bar: progress.Task | None = None
) -> Floats:
    """Class probabilities (N, C) of each row by a probe that has not seen it.

    The probe is that of `strategies.Probe`; its penalty is chosen by cross-validation inside the
    rows that it learns from.
    """
    proba_NC = np.zeros((len(x_ND), rows.classes))
    for fold in range(int(rows.fold_N.max()) + 1):
        held_N = rows.fold_N == fold
        learn_N = ~held_N
        kinds = np.unique(rows.labels_N[learn_N])
        if len(kinds) < 2:
            proba_NC[np.ix_(held_N, kinds)] = 1.0
        elif held_N.any():
            ids = [row_id for row_id, wanted in zip(rows.ids, learn_N, strict=True) if wanted]
            solved = fit_logistic(x_ND[learn_N], rows.labels_N[learn_N], rows.classes, ids=ids)
            logits = x_ND[held_N] @ solved.weight_CD.T + solved.bias_C
            proba_NC[held_N] = softmax(logits, axis=1)
        if bar is not None:
            bar.advance()
    return proba_NC


def cross_validated_knn(
    x_ND: Floats, rows: TransferRows, bar: progress.Task | None = None
) -> Floats:
    """Class probabilities (N, C) of each row by the vote of its 5 nearest rows of other folds.

    By cosine, with the weights of `models.vote` at temperature 0.07.
    """
    proba_NC = np.zeros((len(x_ND), rows.classes))
    lengths_N1 = np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
    unit_ND = torch.from_numpy((x_ND / lengths_N1).astype(np.float32))
    labels_N = torch.from_numpy(np.array(rows.labels_N))
    with few_threads(float(x_ND.size) * len(x_ND)):
        for fold in range(int(rows.fold_N.max()) + 1):
            held_N = torch.from_numpy(rows.fold_N == fold)
            known_M = torch.nonzero(~held_N).flatten()
            cosine_QK, found_QK = neighbours(
                unit_ND[held_N], unit_ND[known_M], min(_NEIGHBOURS, len(known_M))
            )
            share_QC = vote(cosine_QK, labels_N[known_M][found_QK], rows.classes, _TEMPERATURE)
            proba_NC[held_N.numpy()] = share_QC.numpy()
            if bar is not None:
                bar.advance()
    return proba_NC


def _answered(proba_NC: Floats, rows: TransferRows) -> tuple[TransferScore, Floats]:
    """The metric of cross-validated answers, and on bootstrap samples of the rows."""
    answers = outcomes(proba_NC, rows.labels_N)
    n = len(rows.labels_N)
    value = float(values_at(answers, np.arange(n)[None], [rows.metric])[rows.metric][0])
    clusters_N = cluster_numbers(rows.clusters, n, "rank")
    drawn = resampled(
        [[answers]], [rows.metric], seed=rows.seed, resamples=_DRAWS, stream=["rank"],
        clusters_N=clusters_N,
    )[0][rows.metric]  # fmt: skip
    pieces = n if clusters_N is None else int(clusters_N.max()) + 1
    if rows.metric in _SHARES:
        low, high = proportion_interval(drawn, value, pieces)
    else:
        low, high = percentile_interval(drawn, value)
    what = "rows" if clusters_N is None else "groups"
    folds = int(rows.fold_N.max()) + 1
    method = f"{folds}-fold cross-validation, {_DRAWS:,} bootstrap samples of the {what} judged"
    return TransferScore(value=value, low=low, high=high, method=method), drawn


def _halved(found: Sequence[float]) -> tuple[TransferScore, Floats]:
    """The first value with an interval from the others, which are those of halves."""
    value, drawn = float(found[0]), np.asarray(found[1:], dtype=np.float64)
    low, high = spread_interval(value, drawn, len(drawn), floor=-np.inf, bias=False)
    method = f"{len(drawn)} random halves of the rows, drawn by class"
    return TransferScore(value=value, low=low, high=high, method=method), drawn
