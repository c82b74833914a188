"""How well vectors of an untouched network fit labels: scores without training, and their orders.

LogME, the H-score, LEEP and NCE each give a number from one pass over the labelled rows; higher is
better. They order backbones on the same rows and labels. Their values have no unit, and those of
different data, or of different numbers of rows, are not to be compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.core import DataError

__all__ = ["h_score", "kendall_tau", "ledoit_wolf_shrinkage", "leep", "log_me", "nce"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_ROUNDS = 500
_SETTLED = 1e-6  # change of log(alpha / beta) in a round
_REACH = 1e12  # alpha / beta, in units of the largest squared singular value


def log_me(vectors_ND: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Logarithm of the maximum evidence that a row's vector gives of its label, a row.

    Each class against the rest is a target y in {0, 1} of Bayesian linear regression, y = F w + e
    with w ~ N(0, 1/alpha) and e ~ N(0, 1/beta). Told is log p(y | F, alpha, beta) at the alpha and
    beta that make it largest, over the number of rows, in the mean over classes. They are found by
    the fixed point alpha = gamma / m'm, beta = (N - gamma) / |F m - y|², in which only t = alpha /
    beta counts. As in the paper there is no intercept and vectors are taken as they are; a common
    factor on all of them changes nothing.

    Where a linear map of the vectors gives the labels without any error (more dimensions than rows
    can do that), t is held at 1e-12 of the largest squared singular value.

    Source: You, Liu, Wang and Long, LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning, ICML 2021, algorithm 1; the fixed point: You et al., JMLR 23, 2022.

    Args:
        vectors_ND: Vectors (N, D), N at least 2.
        labels_N: Class numbers from 0, at least two different ones.

    Raises:
        DataError: For vectors or labels that do not fit one another, or a single class.
    """
    x_ND, place_N, counts_C = _checked(vectors_ND, labels_N, "log_me")
    sigma_K, u_NK = _principal(x_ND)
    # Squared components of each class's target along the left singular vectors, and what is left.
    z2_KC = _class_sums(u_NK, place_N, len(counts_C)).T ** 2
    left_C = np.maximum(counts_C - z2_KC.sum(axis=0), 0.0)
    if len(sigma_K) == len(x_ND):
        left_C = np.zeros_like(left_C)
    t_C = _fixed_point(sigma_K, z2_KC, left_C, len(x_ND))
    return float(_evidence(sigma_K, z2_KC, left_C, len(x_ND), t_C).mean() / len(x_ND))


def _fixed_point(sigma_K: Floats, z2_KC: Floats, left_C: Floats, n: int) -> Floats:
    """Ratio t = alpha / beta of each class, from the mean squared singular value on."""
    top = float(sigma_K[0]) if len(sigma_K) else 1.0
    low, high = top / _REACH, top * _REACH
    t_C = np.full(len(left_C), float(sigma_K.mean()) if len(sigma_K) else high)
    column_K1 = sigma_K[:, None]
    open_C = np.arange(len(left_C))  # classes whose t still moves
    for _ in range(_ROUNDS):
        t_O, z2_KO = t_C[open_C], z2_KC[:, open_C]
        sum_KO = column_K1 + t_O
        gamma_O = (column_K1 / sum_KO).sum(axis=0)
        m2_O = (column_K1 * z2_KO / sum_KO**2).sum(axis=0)
        residual_O = (z2_KO * (t_O / sum_KO) ** 2).sum(axis=0) + left_C[open_C]
        below_O = np.maximum(m2_O * (n - gamma_O), np.finfo(np.float64).tiny)
        t_C[open_C] = np.clip(gamma_O * residual_O / below_O, low, high)
        open_C = open_C[np.abs(np.log(t_C[open_C] / t_O)) >= _SETTLED]
        if not len(open_C):
            break
    return t_C


def _evidence(sigma_K: Floats, z2_KC: Floats, left_C: Floats, n: int, t_C: Floats) -> Floats:
    """Log evidence of each class's target at t, with alpha the best for that t.

    y ~ N(0, (F F' + t I) / alpha), so alpha = N / y' (F F' + t I)^-1 y.
    """
    sum_KC = sigma_K[:, None] + t_C
    quadratic_C = (z2_KC / sum_KC).sum(axis=0) + left_C / t_C
    determinant_C = np.log(sum_KC).sum(axis=0) + (n - len(sigma_K)) * np.log(t_C)
    found: Floats = 0.5 * (n * np.log(n / quadratic_C) - determinant_C - n - n * np.log(2 * np.pi))
    return found


def h_score(vectors_ND: npt.ArrayLike, labels_N: npt.ArrayLike, *, shrink: bool = True) -> float:
    """How much of the vectors' variance lies between classes: tr(cov(f)^-1 cov(E[f | y])).

    Between 0 and the smaller of D and C - 1. Without shrinkage it grows towards that bound as rows
    get fewer than dimensions, whatever the labels: a covariance of few rows has directions of
    hardly any variance. With it (the default) cov(f) is drawn towards a multiple of the identity by
    the share that Ledoit and Wolf derive, and cov(E[f | y]) is scaled down by the same share.

    Source: Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer
    Learning, ICIP 2019; shrinkage: Ibrahim, Ponomareva and Mazumder, Newer is not always better:
    Rethinking transferability metrics, ECML 2022, §4.

    Args:
        vectors_ND: Vectors (N, D), N at least 2.
        labels_N: Class numbers from 0, at least two different ones.
        shrink: Whether the covariance is shrunk; else its pseudo-inverse is taken.

    Raises:
        DataError: For vectors or labels that do not fit one another, or a single class.
    """
    x_ND, place_N, counts_C = _checked(vectors_ND, labels_N, "h_score")
    x_ND = x_ND - x_ND.mean(axis=0)
    n, dimension = x_ND.shape
    sigma_K, u_NK = _principal(x_ND)
    if not len(sigma_K):
        return 0.0  # all vectors are equal
    kept = 1.0 - (ledoit_wolf_shrinkage(x_ND) if shrink else 0.0)
    floor = (1.0 - kept) * float(sigma_K.sum()) / n / dimension
    # Class means in the basis of the right singular vectors: s_k (sum of u_k over the class) / n_c.
    between_K = (_class_sums(u_NK, place_N, len(counts_C)) ** 2 / counts_C[:, None]).sum(axis=0) / n
    return float((kept * sigma_K * between_K / (kept * sigma_K / n + floor)).sum())


def ledoit_wolf_shrinkage(centred_ND: npt.ArrayLike) -> float:
    """How far a covariance is to be drawn towards a multiple of the identity, from 0 to 1.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
    matrices, Journal of Multivariate Analysis 88, 2004, §3.

    Args:
        centred_ND: Rows (N, D) whose mean is zero.
    """
    x_ND = np.asarray(centred_ND, dtype=np.float64)
    n, dimension = x_ND.shape
    gram = x_ND @ x_ND.T if n <= dimension else x_ND.T @ x_ND
    squares = float((gram**2).sum()) / n**2  # |S|², S the covariance
    mean = float(np.trace(gram)) / n / dimension
    distance = squares / dimension - mean**2
    fourth = float((np.einsum("nd,nd->n", x_ND, x_ND) ** 2).mean())
    error = (fourth - squares) / n / dimension
    return 0.0 if distance <= 0 else float(np.clip(error / distance, 0.0, 1.0))


def leep(source_proba_NS: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Mean log-likelihood of the labels under what the source classes tell of them.

    p(y | z) is counted with the source probabilities as weights, and a row's label gets
    log Σ_z p(y | z) θ_z. At most 0, where the source classes tell the label without doubt.

    Source: Nguyen, Hassner, Seeger and Archambeau, LEEP: A New Measure to Evaluate Transferability
    of Learned Representations, ICML 2020, §3.

    Args:
        source_proba_NS: Probabilities (N, S) of the source classes; each row sums to 1.
        labels_N: Class numbers from 0.

    Raises:
        DataError: For probabilities that are none, or labels that do not fit them.
    """
    proba_NS = _finite(source_proba_NS, "leep", "source probabilities")
    sums_N = proba_NS.sum(axis=1)
    if proba_NS.min() < -1e-9 or np.abs(sums_N - 1).max() > 1e-3:
        row = int(np.abs(sums_N - 1).argmax()) if proba_NS.min() >= -1e-9 else -1
        what = f"row {row} sums to {sums_N[row]:.4g}" if row >= 0 else f"got {proba_NS.min():.4g}"
        raise DataError(
            f"leep: source probabilities must be at least 0 and each row must sum to 1, {what}. "
            "Take the softmax of the logits."
        )
    place_N, counts_C = _classes(labels_N, len(proba_NS), "leep", least=1)
    proba_NS = np.maximum(proba_NS, 0.0)
    joint_CS = _class_sums(proba_NS, place_N, len(counts_C))
    given_CS = joint_CS / np.maximum(joint_CS.sum(axis=0), np.finfo(np.float64).tiny)
    likelihood_N = np.einsum("ns,ns->n", given_CS[place_N], proba_NS)
    return float(np.log(np.maximum(likelihood_N, np.finfo(np.float64).tiny)).mean())


def nce(source_labels_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Negative conditional entropy -H(Y | Z) of the labels given source labels, in nats.

    At most 0, where the source label tells the label without doubt; at least minus the entropy of
    the labels, where it tells nothing.

    Source: Tran, Nguyen and Hassner, Transferability and Hardness of Supervised Classification
    Tasks, ICCV 2019, §4.

    Args:
        source_labels_N: Source class of each row: its own, or the one that the network names.
        labels_N: Class numbers from 0.

    Raises:
        DataError: For labels that do not fit one another.
    """
    source = np.asarray(source_labels_N)
    if source.ndim != 1 or source.dtype.kind not in "iu" or not len(source) or source.min() < 0:
        raise DataError(
            "nce: source labels must be class numbers from 0, one a row, got shape "
            f"{source.shape} of {source.dtype}."
        )
    place_N, counts_C = _classes(labels_N, len(source), "nce", least=1)
    kinds, z_N = np.unique(source, return_inverse=True)
    joint_CS = np.zeros((len(counts_C), len(kinds)))
    np.add.at(joint_CS, (place_N, z_N.reshape(-1)), 1.0)
    given_CS = joint_CS / joint_CS.sum(axis=0)
    there = joint_CS > 0
    return float((joint_CS[there] * np.log(given_CS[there])).sum() / len(source)) + 0.0


def kendall_tau(first_B: npt.ArrayLike, second_B: npt.ArrayLike) -> float | None:
    """Kendall's tau-b of two scorings of the same things: 1 for one order, -1 for its reverse.

    Source: Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945.

    Args:
        first_B: A number for each.
        second_B: Another.

    Returns:
        None where either puts all in one place, or there are fewer than two.

    Raises:
        DataError: For scorings of different length.
    """
    a_B, b_B = np.asarray(first_B, dtype=np.float64), np.asarray(second_B, dtype=np.float64)
    if a_B.shape != b_B.shape or a_B.ndim != 1:
        raise DataError(
            f"kendall_tau needs two lists of equal length, got {a_B.shape} and {b_B.shape}."
        )
    a_BB, b_BB = (np.sign(one[:, None] - one[None, :]) for one in (a_B, b_B))
    untied = np.sqrt((a_BB**2).sum() * (b_BB**2).sum())
    return None if untied == 0 else float((a_BB * b_BB).sum() / untied)


def _principal(x_ND: Floats) -> tuple[Floats, Floats]:
    """Squared singular values above rounding, largest first, and their left vectors (N, K)."""
    n, dimension = x_ND.shape
    if n <= dimension:
        sigma_K, u_NK = np.linalg.eigh(x_ND @ x_ND.T)
    else:
        sigma_K, v_DK = np.linalg.eigh(x_ND.T @ x_ND)
    sigma_K = np.maximum(sigma_K[::-1], 0.0)
    rank = int((sigma_K > sigma_K[0] * max(n, dimension) * np.finfo(np.float64).eps).sum())
    if n <= dimension:
        return sigma_K[:rank], u_NK[:, ::-1][:, :rank]
    return sigma_K[:rank], x_ND @ v_DK[:, ::-1][:, :rank] / np.sqrt(sigma_K[:rank])


def _class_sums(values_NK: Floats, place_N: Ints, classes: int) -> Floats:
    """Sum (C, K) of the rows of each class."""
    order_N = np.argsort(place_N, kind="stable")
    starts_C = np.searchsorted(place_N[order_N], np.arange(classes))
    sums: Floats = np.add.reduceat(values_NK[order_N], starts_C, axis=0)
    return sums


def _checked(
    vectors_ND: npt.ArrayLike, labels_N: npt.ArrayLike, who: str
) -> tuple[Floats, Ints, Floats]:
    x_ND = _finite(vectors_ND, who, "vectors")
    place_N, counts_C = _classes(labels_N, len(x_ND), who, least=2)
    return x_ND, place_N, counts_C


def _finite(values: npt.ArrayLike, who: str, what: str) -> Floats:
    found: Any = np.asarray(values)
    if found.ndim != 2 or found.dtype.kind not in "fiub" or not found.size:
        raise DataError(
            f"{who}: {what} must be an array of numbers with a row for each label, got shape "
            f"{found.shape} of {found.dtype}."
        )
    found = found.astype(np.float64)
    finite_N = np.isfinite(found).all(axis=1)
    if not finite_N.all():
        raise DataError(
            f"{who}: row {int(np.flatnonzero(~finite_N)[0])} of the {what} holds a number that is "
            "not finite. Leave such rows out, or look at what made them."
        )
    rows: Floats = found
    return rows


def _classes(labels_N: npt.ArrayLike, rows: int, who: str, *, least: int) -> tuple[Ints, Floats]:
    """The place of each row's class among those that occur, and the rows of each."""
    labels: Any = np.asarray(labels_N)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"{who}: labels must be class numbers from 0, one for each of the {rows} rows, got "
            f"shape {labels.shape} of {labels.dtype}. Leave rows without a label out."
        )
    kinds, place_N, counts_C = np.unique(labels, return_inverse=True, return_counts=True)
    if len(kinds) < least:
        raise DataError(f"{who} needs rows of at least two classes, got those of one.")
    return place_N.reshape(-1).astype(np.int64), counts_C.astype(np.float64)
