"""Density ratios by kernels: KLIEP fits the target's density, KMM matches means.

Both work on a few principal directions of the two domains together: a Gaussian kernel in hundreds
of dimensions sees every row as equally far from every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.core import Streams, UsageError

__all__ = ["Kliep", "fit_kliep", "kernel_mean_matching", "median_width", "principal"]

_WIDTHS = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)
_TINY = 1e-300


def principal(
    source_ND: np.ndarray, target_MD: np.ndarray, dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both domains in their common first principal directions, each of unit spread on average.

    Args:
        source_ND: Source rows.
        target_MD: Target rows.
        dimensions: Directions at most.

    Returns:
        (N, K) and (M, K), scaled by one number so that the mean variance of a direction is 1.
    """
    both_BD = np.concatenate([source_ND, target_MD]).astype(np.float64)
    both_BD -= both_BD.mean(axis=0)
    kept = min(dimensions, both_BD.shape[1])
    values_D, vectors_DD = np.linalg.eigh(both_BD.T @ both_BD / len(both_BD))
    directions_DK = vectors_DD[:, ::-1][:, :kept]
    scale = np.sqrt(max(float(values_D[::-1][:kept].mean()), 1e-24))
    scores_BK = both_BD @ directions_DK / scale
    return scores_BK[: len(source_ND)], scores_BK[len(source_ND) :]


def median_width(rows_NK: np.ndarray, *, streams: Streams, most: int = 1000) -> float:
    """Median distance of two different rows, over at most `most` rows: a kernel's usual width."""
    if len(rows_NK) > most:
        rows_NK = rows_NK[streams.numpy("width").choice(len(rows_NK), most, replace=False)]
    squared_NN = _squared(rows_NK, rows_NK)
    above = squared_NN[np.triu_indices(len(rows_NK), 1)]
    return max(float(np.sqrt(np.median(above))) if len(above) else 1.0, 1e-12)


@dataclass(frozen=True)
class Kliep:
    """A fitted ratio Σ_l a_l k(x, c_l).

    Attributes:
        centres_LK: Target rows that kernels stand on.
        alphas_L: Their weights, at least 0.
        width: σ of the Gaussian kernels.
        gap: How far the likelihood may be below its maximum, per row (a duality gap).
        scores: Cross-validated log-likelihood for each width that was tried.
    """

    centres_LK: np.ndarray
    alphas_L: np.ndarray
    width: float
    gap: float
    scores: dict[float, float]

    def ratio(self, rows_NK: np.ndarray) -> np.ndarray:
        """Ratios of these rows (N,), at least 0."""
        found_N: np.ndarray = _gaussian(rows_NK, self.centres_LK, self.width) @ self.alphas_L
        return found_N


def fit_kliep(
    source_NK: np.ndarray,
    target_MK: np.ndarray,
    *,
    streams: Streams,
    centres: int = 100,
    widths: Sequence[float] | None = None,
    folds: int = 5,
) -> Kliep:
    """Kullback-Leibler importance estimation: the mixture of kernels that best explains the target.

    Maximise (1 / M) Σ_j log r(y_j) over r(x) = Σ_l a_l k(x, c_l), a ≥ 0, with mean 1 over the
    source rows. With g_l = a_l · mean_i k(x_i, c_l) the constraint is Σ g = 1, so that this is the
    estimation of mixture weights, which expectation maximisation solves; the problem is concave.
    The kernel's width has the best cross-validated likelihood.

    Args:
        source_NK: Source rows in few dimensions.
        target_MK: Target rows.
        streams: Draws centres and folds.
        centres: Kernels at most.
        widths: Widths to try; multiples of the median distance when None.
        folds: Parts of the target rows that are held out in turn.

    Source: Sugiyama et al. 2008, Direct importance estimation for covariate shift adaptation.
    """
    if centres < 1 or (widths is not None and (not len(widths) or min(widths) <= 0)):
        raise UsageError(
            f"kliep: centres must be at least 1 and widths above 0, got {centres} and {widths}. "
            "Usual: 100 centres, widths about the median distance."
        )
    usual = median_width(np.concatenate([source_NK, target_MK]), streams=streams)
    tried = [factor * usual for factor in _WIDTHS] if widths is None else list(widths)
    order = streams.numpy("kliep", "centres").permutation(len(target_MK))
    centres_LK = target_MK[order[:centres]]
    fold_M = streams.numpy("kliep", "folds").permutation(len(target_MK)) % min(
        folds, len(target_MK)
    )
    scores: dict[float, float] = {}
    if len(tried) > 1:  # a width needs its likelihood to a few digits, not its weights
        for width in tried:
            scores[width] = _held_out(source_NK, target_MK, centres_LK, width, fold_M)
    best = max(scores, key=lambda width: scores[width]) if scores else tried[0]
    means_L = np.maximum(_gaussian(source_NK, centres_LK, best).mean(axis=0), _TINY)
    kernel_ML = _gaussian(target_MK, centres_LK, best) / means_L
    shares_L, gap = _mixture(kernel_ML, rounds=2000, within=1e-4)
    return Kliep(centres_LK, shares_L / means_L, best, gap, scores)


def _held_out(
    source_NK: np.ndarray,
    target_MK: np.ndarray,
    centres_LK: np.ndarray,
    width: float,
    fold_M: np.ndarray,
) -> float:
    """Mean log ratio of target rows that the weights were not fitted on."""
    means_L = np.maximum(_gaussian(source_NK, centres_LK, width).mean(axis=0), _TINY)
    kernel_ML = _gaussian(target_MK, centres_LK, width) / means_L
    total = 0.0
    for fold in np.unique(fold_M):
        held_M = fold_M == fold
        if held_M.all():
            shares_L, _ = _mixture(kernel_ML)
        else:
            shares_L, _ = _mixture(kernel_ML[~held_M])
        total += float(np.log(np.maximum(kernel_ML[held_M] @ shares_L, _TINY)).sum())
    return total / len(target_MK)


def _mixture(
    kernel_ML: np.ndarray, rounds: int = 100, within: float = 1e-3
) -> tuple[np.ndarray, float]:
    """Weights on the simplex that maximise the mean log of `kernel @ weights`; the gap left.

    The gap is max_l mean_j k_jl / (k w)_j - 1, which bounds how far the value is below its maximum
    (Lindsay 1983).
    """
    count = kernel_ML.shape[1]
    # Rows that no kernel reaches have no say; without the cut they would be 0 / 0.
    scaled_ML = kernel_ML / np.maximum(kernel_ML.max(axis=1, keepdims=True), _TINY)
    shares_L = np.full(count, 1.0 / count)
    gap = np.inf
    for _ in range(rounds):
        fitted_M = np.maximum(scaled_ML @ shares_L, _TINY)
        pull_L = (scaled_ML / fitted_M[:, None]).mean(axis=0)
        gap = float(pull_L.max()) - 1.0
        if gap <= within:
            break
        shares_L = shares_L * pull_L
    return shares_L / shares_L.sum(), gap


def kernel_mean_matching(
    source_NK: np.ndarray,
    target_MK: np.ndarray,
    *,
    width: float,
    highest: float = 20.0,
    slack: float | None = None,
    ridge: float = 1.0,
    block: int = 2000,
    streams: Streams,
    rounds: int = 3000,
    within: float = 1e-4,
) -> np.ndarray:
    """Weights of source rows under which the two domains' kernel means agree.

    Minimise ½ βᵀ K β - κᵀ β with K_ij = k(x_i, x_j), κ_i = (n / M) Σ_j k(x_i, y_j), over
    0 ≤ β_i ≤ B and |Σ β - n| ≤ n ε: accelerated projected gradient on a convex problem. Many β
    match the means nearly as well; the ridge adds ½ ridge ‖β - 1‖², so that of these the evenest is
    taken rather than one that follows single rows. Source rows beyond `block` are divided at
    random into parts that are solved apart, each against all target rows (ensemble KMM).

    Args:
        source_NK: Source rows in few dimensions.
        target_MK: Target rows.
        width: σ of the Gaussian kernel.
        highest: B, above 1.
        slack: ε in (0, 1); (√n - 1) / √n when None, as the paper proposes.
        ridge: Pull to equal weights, in units of k(x, x) = 1; 0 is the paper's program.
        block: Source rows solved together at most.
        streams: Draws the parts.
        rounds: Steps at most.
        within: Ends when no weight moved by more in a step.

    Returns:
        β (N,), in [0, B].

    Source: Huang et al. 2007, Correcting Sample Selection Bias by Unlabeled Data, equation 12; the
    parts as in Miao, Farahat and Kamel 2015.
    """
    if width <= 0 or highest <= 1 or (slack is not None and not 0 < slack < 1):
        raise UsageError(
            "kmm: width must be above 0, highest above 1 and slack in (0, 1), got "
            f"{width}, {highest} and {slack}. Usual: the median distance, 20, the default."
        )
    if ridge < 0 or block < 2:
        raise UsageError(
            f"kmm: ridge must be at least 0 and block at least 2, got {ridge} and {block}. "
            "Usual: 1 and 2000."
        )
    parts = -(-len(source_NK) // block)
    order = streams.numpy("kmm").permutation(len(source_NK))
    weights_N = np.empty(len(source_NK))
    for rows in np.array_split(order, parts):
        part_nK = source_NK[rows]
        n = len(rows)
        kernel_nn = _gaussian(part_nK, part_nK, width)
        kernel_nn[np.diag_indices(n)] += ridge
        pull_n = n * _mean_kernel(part_nK, target_MK, width) + ridge
        eps = (np.sqrt(n) - 1) / np.sqrt(n) if slack is None else slack
        weights_N[rows] = _match(kernel_nn, pull_n, highest, n * eps, rounds, within)
    return weights_N


def _match(
    kernel_nn: np.ndarray,
    pull_n: np.ndarray,
    highest: float,
    band: float,
    rounds: int,
    within: float,
) -> np.ndarray:
    """The quadratic program by FISTA with restarts (Beck and Teboulle 2009; O'Donoghue 2015)."""
    n = len(pull_n)
    step = 1.0 / max(_largest(kernel_nn), 1e-12)
    beta_n = np.ones(n)
    ahead_n, momentum = beta_n.copy(), 1.0
    for _ in range(rounds):
        gradient_n = kernel_nn @ ahead_n - pull_n
        moved_n = _project(ahead_n - step * gradient_n, highest, n - band, n + band)
        if float(gradient_n @ (moved_n - beta_n)) > 0:  # it went too far: forget the momentum
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        change_n = moved_n - beta_n
        ahead_n = moved_n + (momentum - 1) / following * change_n
        beta_n, momentum = moved_n, following
        if float(np.abs(change_n).max()) < within:
            break
    return beta_n


def _project(values_n: np.ndarray, highest: float, low: float, high: float) -> np.ndarray:
    """The nearest point with 0 ≤ β ≤ B and low ≤ Σ β ≤ high: a shift of all, then the box."""
    boxed_n: np.ndarray = np.clip(values_n, 0.0, highest)
    total = float(boxed_n.sum())
    if low <= total <= high:
        return boxed_n
    wanted = low if total < low else high
    near, far = float(values_n.min()) - highest - 1.0, float(values_n.max()) + 1.0
    for _ in range(100):
        shift = (near + far) / 2
        if float(np.clip(values_n - shift, 0.0, highest).sum()) > wanted:
            near = shift
        else:
            far = shift
    shifted_n: np.ndarray = np.clip(values_n - (near + far) / 2, 0.0, highest)
    return shifted_n


def _largest(kernel_nn: np.ndarray, rounds: int = 100) -> float:
    """The largest eigenvalue of a kernel matrix, a little from above (power iteration)."""
    vector_n = np.full(len(kernel_nn), 1.0 / np.sqrt(len(kernel_nn)))
    value = 0.0
    for _ in range(rounds):
        image_n = kernel_nn @ vector_n
        before, value = value, float(np.linalg.norm(image_n))
        if value <= 0:
            return 1.0
        vector_n = image_n / value
        if abs(value - before) <= 1e-6 * value:
            break
    return 1.02 * value


def _gaussian(one_NK: np.ndarray, other_MK: np.ndarray, width: float) -> np.ndarray:
    kernel_NM: np.ndarray = np.exp(-_squared(one_NK, other_MK) / (2 * width**2))
    return kernel_NM


def _mean_kernel(one_NK: np.ndarray, other_MK: np.ndarray, width: float) -> np.ndarray:
    """mean_j k(x_i, y_j) for each row, by blocks of the others."""
    total_N = np.zeros(len(one_NK))
    for start in range(0, len(other_MK), 2000):
        total_N += _gaussian(one_NK, other_MK[start : start + 2000], width).sum(axis=1)
    return total_N / len(other_MK)


def _squared(one_NK: np.ndarray, other_MK: np.ndarray) -> np.ndarray:
    squared_NM = (
        np.square(one_NK).sum(axis=1)[:, None]
        + np.square(other_MK).sum(axis=1)[None, :]
        - 2 * one_NK @ other_MK.T
    )
    cut_NM: np.ndarray = np.maximum(squared_NM, 0.0)
    return cut_NM
