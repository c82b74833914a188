"""Proxy A-distance: how well a linear classifier tells source from target.

With ε the share of rows that a classifier puts on the wrong side, 2 (1 - 2 ε) is 0 where it can
only guess and 2 where it is never wrong. ε is measured by cross-validation: every row is judged by
a classifier that has seen neither it nor a row equal to it. Both sides weigh the same, so that ε is
the mean of their two error rates and guessing is one half, however many rows each has.

Source: Ben-David, Blitzer, Crammer and Pereira, Analysis of Representations for Domain Adaptation,
NeurIPS 2006, §4; Ben-David et al., A Theory of Learning from Different Domains, 2010.

The classifier is scikit-learn's LogisticRegression at its defaults: a penalty of `l2` = 1 on the
sum of the losses, vectors taken as they are (their mean aside, which the intercept takes up). So
the unit of the vectors matters, as it does there: embeddings of length 1 are held back a little,
vectors of length 20 hardly, and vectors much shorter than 1 too much; give those a smaller `l2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from warmstart.core import DataError, Streams
from warmstart.strategies.logistic import few_threads

from .a_distance_solver import Preconditioner, hessian, logistic, solve_many
from .distance_halves import halves_of, spread_interval
from .distance_inputs import (
    Estimate,
    Floats,
    Ints,
    at_least,
    equal_rows,
    grouped_folds,
    shared_rows,
    two_sets,
)

__all__ = ["ADistance", "DomainScores", "domain_scores", "proxy_a_distance"]

_ROUGH, _FINE = 1e-3, 1e-5  # what is left of a solve's squared Newton decrement
_ONE_STEP = 4  # rows a dimension from which on a bootstrap sample is solved by one step
_CELLS = 32_000_000  # numbers of one (N, K) array at most: problems are solved in lots


class ADistance(Estimate):
    """Proxy A-distance. May be a little below 0 where there is no shift.

    Attributes:
        error: Mean of the two error rates of the cross-validated classifier, ε.
        folds: Parts of the cross-validation.
        resamples: Bootstrap samples of the interval.
        shared: Target rows that equal a source row; nothing can tell these apart.
    """

    error: float
    folds: int
    resamples: int
    shared: int


@dataclass(frozen=True)
class DomainScores:
    """What the cross-validated classifier says of each row.

    Attributes:
        source_N: Log-odds of being a target row, both sides weighing the same, for source rows.
        target_M: The same for target rows.
        shared: Target rows that equal a source row.
    """

    source_N: Floats
    target_M: Floats
    shared: int

    @property
    def error(self) -> float:
        """Mean of the two error rates; log-odds of 0 count as half an error."""
        return float(_wrong(self.source_N).mean() + _wrong(-self.target_M).mean()) / 2


def proxy_a_distance(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    folds: int = 5,
    resamples: int = 20,
    halves: int = 0,
    l2: float = 1.0,
    source_weights_N: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ADistance:
    """Estimate the proxy A-distance of two sets of vectors.

    The interval is value ± t × s, with s the standard deviation over bootstrap samples of the rows,
    each with its own cross-validation (copies of a row stay in one fold), and t Student's factor
    for their number. Where rows are many, a sample's classifiers are taken one step away from those
    of all rows (the one-step bootstrap: Shao and Tu, The Jackknife and Bootstrap, 1995). The mean
    of the samples is not used: a classifier that learns from a bootstrap sample has seen fewer
    different rows and errs more. Where no row is on the wrong side, the exact binomial bound takes
    the place of a spread of zero.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        folds: Parts of the cross-validation, at least 2; fewer where a side has fewer rows.
        resamples: Bootstrap samples; 0 for no interval.
        halves: Random halvings of the source for the yardstick; 0 for none.
        l2: Penalty of the classifier on the sum of the losses, above 0.
        source_weights_N: Weight of each source row, for a source that is to count otherwise.
        seed: Of folds, resamples and halves.

    Raises:
        DataError: For vectors that cannot be compared.
        UsageError: For settings out of range.
    """
    at_least("proxy_a_distance", "resamples", resamples, 0, "20")
    at_least("proxy_a_distance", "halves", halves, 0, "20")
    rows = _Rows(source_ND, target_MD, folds, l2, source_weights_N, seed)
    with few_threads(float(rows.x_ND.size) * rows.folds * max(resamples, halves, 1)):
        return _estimate(rows, resamples, halves)


def _estimate(rows: _Rows, resamples: int, halves: int) -> ADistance:
    scores_N = rows.scores(rows.weight_N[:, None])[:, 0]
    error = rows.error(scores_N, rows.weight_N)
    value = 2 * (1 - 2 * error)
    interval, method = None, "no resamples: no interval"
    if resamples > 1:
        weight_NR = rows.bootstrap(resamples)
        found_NR = rows.scores(weight_NR, rough=True)
        errors_R = np.array([rows.error(found_NR[:, r], weight_NR[:, r]) for r in range(resamples)])
        interval = spread_interval(
            value, 2 * (1 - 2 * errors_R), resamples, ceiling=2.0, bias=False
        )
        if error == 0:
            interval = (2 * (1 - 2 * (1 - 0.025 ** (1 / len(scores_N)))), 2.0)
        method = f"bootstrap, {resamples} samples, each cross-validated"
    yardstick = rows.yardstick(halves) if halves and rows.n >= 4 else None
    return ADistance(
        name="proxy_a_distance", value=float(value), interval=interval, method=method,
        rows=(rows.n, rows.m), halves=yardstick, error=float(error), folds=rows.folds,
        resamples=resamples, shared=rows.shared,
    )  # fmt: skip


def domain_scores(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    folds: int = 5,
    l2: float = 1.0,
    seed: int = 0,
) -> DomainScores:
    """Cross-validated log-odds of each row being a target row, as the proxy A-distance has them.

    exp of a source row's score is the density ratio target / source at that row.

    Raises:
        DataError: For vectors that cannot be compared.
    """
    rows = _Rows(source_ND, target_MD, folds, l2, None, seed)
    with few_threads(float(rows.x_ND.size) * rows.folds):
        scores_N = rows.scores(rows.weight_N[:, None])[:, 0].astype(np.float64)
    return DomainScores(scores_N[: rows.n], scores_N[rows.n :], rows.shared)


def _wrong(score_N: Floats) -> Floats:
    """1 for a source row that is taken for a target row, one half for a tie."""
    return np.asarray((score_N > 0) + 0.5 * (score_N == 0))


class _Rows:
    """The rows of both sides, scaled, with their folds; solves problems on them."""

    def __init__(
        self,
        source_ND: npt.ArrayLike,
        target_MD: npt.ArrayLike,
        folds: int,
        l2: float,
        source_weights_N: npt.ArrayLike | None,
        seed: int,
    ) -> None:
        at_least("proxy_a_distance", "folds", folds, 2, "5 or 10")
        at_least("proxy_a_distance", "l2", l2, 1e-12, "0.01 to 100")
        source, target = two_sets(source_ND, target_MD, "proxy_a_distance")
        self.n, self.m, self.l2 = len(source), len(target), l2
        self.streams = Streams(seed).child("shift", "a-distance")
        pooled = np.concatenate([source, target])
        self.number_N = equal_rows(pooled)
        self.shared = shared_rows(self.number_N, self.n)
        self.side_N = np.repeat([0, 1], [self.n, self.m])
        self.folds = min(folds, self.n, self.m)
        self.fold_N = grouped_folds(
            self.number_N, self.side_N, self.folds, self.streams.numpy("folds")
        )
        self.x_ND = _prepared(pooled)
        weight_N = np.repeat(
            [self.total / (2 * self.n), self.total / (2 * self.m)], [self.n, self.m]
        )
        if source_weights_N is not None:
            weight_N[: self.n] *= _relative(source_weights_N, self.n)
        self.weight_N = weight_N.astype(np.float32)

    @property
    def total(self) -> int:
        """Rows of both sides."""
        return self.n + self.m

    def error(self, score_N: Floats, weight_N: Floats) -> float:
        """Mean of the weighted error rates of the two sides."""
        wrong_N = np.where(self.side_N == 0, _wrong(score_N), _wrong(-score_N))
        rates = [
            float(np.average(wrong_N[self.side_N == side], weights=weight_N[self.side_N == side]))
            for side in (0, 1)
        ]
        return sum(rates) / 2

    def bootstrap(self, resamples: int) -> Floats:
        """Row weights of bootstrap samples of each side (N, R)."""
        generator = self.streams.numpy("bootstrap")
        counts_NR = np.empty((self.total, resamples), dtype=np.float32)
        for r in range(resamples):
            ours_N = np.bincount(generator.integers(0, self.n, self.n), minlength=self.n)
            theirs_M = np.bincount(generator.integers(0, self.m, self.m), minlength=self.m)
            counts_NR[:, r] = np.concatenate([ours_N, theirs_M])
        return counts_NR * self.weight_N[:, None]

    @cached_property
    def _solved(self) -> tuple[Floats, Preconditioner]:
        """The classifier of all rows, and its Hessian as it is with a fold left out."""
        y_N1 = self.side_N[:, None].astype(np.float32)
        whole_D = solve_many(
            self.x_ND, y_N1, self.weight_N[:, None], self.l2, np.zeros(self.x_ND.shape[1]),
            _flat_hessian(self.x_ND, self.weight_N, self.l2), tolerance=_ROUGH,
        )[:, 0]  # fmt: skip
        p_N = logistic(self.x_ND @ whole_D.astype(np.float32))
        curved_N = self.weight_N * p_N * (1 - p_N) * (self.folds - 1) / self.folds
        return whole_D, Preconditioner.of(hessian(self.x_ND, curved_N, self.l2))

    def scores(self, weight_NR: Floats, *, rough: bool = False) -> Floats:
        """Out-of-fold log-odds (N, R) of the classifiers with these row weights.

        One problem with all rows is solved first. From there each (resample, fold) is a few steps,
        or, where it is to be rough and rows are many, one: to first order that is the solution.
        """
        few = rough and self.total >= _ONE_STEP * self.x_ND.shape[1]
        y_NR = np.broadcast_to(self.side_N[:, None].astype(np.float32), weight_NR.shape)
        return _out_of_fold(
            self.x_ND, y_NR, weight_NR, self.fold_N, self.l2, *self._solved,
            tolerance=_ROUGH if rough else _FINE, max_steps=1 if few else 100,
        )  # fmt: skip

    def yardstick(self, count: int) -> float:
        """The largest A-distance of random halvings of the source, equal rows kept together."""
        x_ND, fold_N = self.x_ND[: self.n], self.fold_N[: self.n]
        groups = np.unique(self.number_N[: self.n], return_inverse=True)[1]
        y_GR = halves_of(int(groups.max()) + 1, count, self.streams.numpy("yardstick")).T
        y_NR = y_GR[groups].astype(np.float32)
        ones_R = y_NR.sum(axis=0)
        if not np.all((ones_R > 0) & (ones_R < self.n)):
            return 0.0  # one distinct row alone: its halves are equal
        weight_NR = self.n / 2 / np.where(y_NR > 0, ones_R, self.n - ones_R)
        bound = _flat_hessian(x_ND, np.ones(self.n), self.l2)
        scores_NR = _out_of_fold(
            x_ND, y_NR, weight_NR.astype(np.float32), fold_N, self.l2, np.zeros(x_ND.shape[1]),
            bound, tolerance=_ROUGH,
        )  # fmt: skip
        wrong_NR = np.where(y_NR == 0, _wrong(scores_NR), _wrong(-scores_NR))
        errors_R = (wrong_NR * weight_NR).sum(axis=0) / self.n
        return float((2 * (1 - 2 * errors_R)).max())


def _out_of_fold(
    x_ND: Floats,
    y_NR: Floats,
    weight_NR: Floats,
    fold_N: Ints,
    l2: float,
    start_D: Floats,
    inverse: Preconditioner,
    *,
    tolerance: float,
    max_steps: int = 100,
) -> Floats:
    """Solve every (resample, fold), and let it judge the rows of its fold: log-odds (N, R)."""
    resamples, folds = weight_NR.shape[1], int(fold_N.max()) + 1
    found_NR = np.empty((len(x_ND), resamples), dtype=np.float32)
    lot = max(1, _CELLS // (len(x_ND) * folds))
    for begin in range(0, resamples, lot):
        chosen = np.arange(begin, min(begin + lot, resamples))
        fold_K = np.repeat(np.arange(folds), len(chosen))
        take_K = np.tile(chosen, folds)
        seen_NK = fold_N[:, None] != fold_K[None, :]
        w_DK = solve_many(
            x_ND, y_NR[:, take_K], weight_NR[:, take_K] * seen_NK, l2,
            start_D, inverse, tolerance=tolerance,
            max_steps=max_steps,
        ).astype(np.float32)  # fmt: skip
        for fold in range(folds):
            held_N = np.flatnonzero(fold_N == fold)
            found_NR[np.ix_(held_N, chosen)] = x_ND[held_N] @ w_DK[:, fold_K == fold]
    return found_NR


def _flat_hessian(x_ND: Floats, weight_N: Floats, l2: float) -> Preconditioner:
    """The Hessian where every probability is one half, from a part of the rows where they are many.

    It only shapes the steps, so that a part is as good as the whole.
    """
    step = max(1, len(x_ND) // (16 * x_ND.shape[1]))
    part_ND, part_N = x_ND[::step], weight_N[::step]
    scale = float(weight_N.sum() / part_N.sum()) / 4
    return Preconditioner.of(hessian(np.ascontiguousarray(part_ND), part_N * scale, l2))


def _prepared(pooled_ND: Floats) -> Floats:
    """Centred rows in single precision, and a column of ones.

    Where there are more dimensions than rows, rows are turned into the space that they span: the
    penalised classifier lies there, and lengths and angles stay as they are.
    """
    centred_ND = pooled_ND - pooled_ND.mean(axis=0, dtype=np.float64).astype(pooled_ND.dtype)
    if centred_ND.shape[1] > len(centred_ND):
        wide_ND = centred_ND.astype(np.float64)
        values_N, vectors_NN = np.linalg.eigh(wide_ND @ wide_ND.T)
        centred_ND = vectors_NN * np.sqrt(np.maximum(values_N, 0.0))
    found_ND = np.empty((len(centred_ND), centred_ND.shape[1] + 1), dtype=np.float32)
    found_ND[:, :-1] = centred_ND
    found_ND[:, -1] = 1.0
    return found_ND


def _relative(weights_N: npt.ArrayLike, rows: int) -> Floats:
    """Row weights with mean 1."""
    found = np.asarray(weights_N, dtype=np.float64)
    if found.shape != (rows,) or not np.isfinite(found).all() or (found < 0).any():
        raise DataError(
            f"proxy_a_distance: source_weights_N must be {rows} finite numbers, none below 0; got "
            f"shape {found.shape}."
        )
    mean = found.mean()
    if mean == 0:
        raise DataError("proxy_a_distance: source_weights_N are all 0: no source row counts.")
    relative: Floats = found / mean
    return relative
