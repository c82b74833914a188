"""Gaussians around several means with one shrunk covariance, kept in bounded size.

The covariance is that of rows around the mean of their group, shrunk towards a multiple of the
identity (Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
Journal of Multivariate Analysis 2004), so that it has an inverse however few the rows are.

It is kept as its leading directions with their variances. Where they are not all kept, the others
share the mean of their variances (probabilistic principal components: Tipping and Bishop 1999), and
how far a row lies outside of the kept directions still counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmstart.core import NotApplicable

__all__ = ["Gaussian", "fit_gaussian"]

MOST_NUMBERS = 524_288  # of the kept directions: 2 MiB
_BLOCK = 4096
_LEAST_VARIANCE = 1e-6  # of the mean variance: below it is rounding


@dataclass(frozen=True)
class Gaussian:
    """Means and one covariance.

    Attributes:
        means_CD: Mean of each group, float32.
        directions_KD: Orthonormal directions of largest variance, float32, K at most D.
        variances_K: The variance along each, float64, largest first, above 0.
        rest: The variance in every other direction; 0 where K is D.
    """

    means_CD: np.ndarray
    directions_KD: np.ndarray
    variances_K: np.ndarray
    rest: float

    def squared_distances(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance to each mean (N, C), float64.

        (x - m)ᵀ S⁻¹ (x - m), with S as it is kept.
        """
        centre_D = self.means_CD.astype(np.float64).mean(axis=0)
        scale_K = 1 / np.sqrt(self.variances_K)
        axes_DK = self.directions_KD.T.astype(np.float64)
        means_CD = self.means_CD - centre_D
        found_NC = np.empty((len(vectors_ND), len(means_CD)))
        for start in range(0, len(vectors_ND), _BLOCK):
            at = slice(start, start + _BLOCK)
            rows_BD = vectors_ND[at] - centre_D
            inside_BK, mean_CK = rows_BD @ axes_DK, means_CD @ axes_DK
            found_NC[at] = _squared(inside_BK * scale_K, mean_CK * scale_K)
            if self.rest > 0:
                whole_BC = _squared(rows_BD, means_CD)
                outside_BC = whole_BC - _squared(inside_BK, mean_CK)
                found_NC[at] += np.maximum(outside_BC, 0.0) / self.rest
        return found_NC


def fit_gaussian(
    vectors_ND: np.ndarray,
    groups_N: np.ndarray,
    *,
    most_numbers: int = MOST_NUMBERS,
) -> Gaussian:
    """Mean of each group that has rows, and the shrunk covariance around them.

    Args:
        vectors_ND: At least two rows.
        groups_N: Group of each row; means come in the order of these numbers.
        most_numbers: Directions are kept up to so many numbers.

    Raises:
        NotApplicable: Where rows do not vary within their groups.
    """
    from sklearn.covariance import ledoit_wolf

    _, place_N = np.unique(groups_N, return_inverse=True)
    count_C = np.bincount(place_N)
    means_CD = np.zeros((len(count_C), vectors_ND.shape[1]))
    np.add.at(means_CD, place_N, vectors_ND.astype(np.float64))
    means_CD = (means_CD / count_C[:, None]).astype(np.float32)
    centred_ND = vectors_ND.astype(np.float64) - means_CD[place_N]
    if not np.any(np.abs(centred_ND) > 1e-6 * max(float(np.abs(vectors_ND).max()), 1e-30)):
        raise NotApplicable(
            f"the {len(vectors_ND)} training vectors do not vary within their classes, so that "
            "nothing is far from them"
        )
    covariance_DD, _ = ledoit_wolf(centred_ND, assume_centered=True)
    variances_D, vectors_DD = np.linalg.eigh(covariance_DD)
    variances_D, vectors_DD = variances_D[::-1], vectors_DD[:, ::-1]
    variances_D = np.maximum(variances_D, _LEAST_VARIANCE * variances_D.mean())
    dimension = len(variances_D)
    kept = min(dimension, max(1, most_numbers // dimension))
    # the sign of a direction is free: the entry of largest size is made positive
    directions_KD = vectors_DD[:, :kept].T
    largest_K = np.abs(directions_KD).argmax(axis=1)
    signs_K = np.where(directions_KD[np.arange(kept), largest_K] < 0, -1.0, 1.0)
    return Gaussian(
        means_CD=means_CD,
        directions_KD=np.ascontiguousarray(directions_KD * signs_K[:, None], dtype=np.float32),
        variances_K=np.ascontiguousarray(variances_D[:kept]),
        rest=float(variances_D[kept:].mean()) if kept < dimension else 0.0,
    )


def _squared(rows_ND: np.ndarray, means_CD: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, C)."""
    product_NC = rows_ND @ means_CD.T
    found_NC: np.ndarray = (
        (rows_ND**2).sum(axis=1)[:, None] + (means_CD**2).sum(axis=1) - 2 * product_NC
    )
    np.maximum(found_NC, 0.0, out=found_NC)
    return found_NC
