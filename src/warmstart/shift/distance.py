"""How far two sets of vectors lie apart: every distance, and all of them in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from warmstart.core import Config, UsageError, nearest, progress

from .a_distance import ADistance, proxy_a_distance
from .distance_inputs import Estimate
from .distance_moments import coral, frechet, mean_covariance, moment_distances
from .distance_sliced import sliced_wasserstein
from .mmd import MMD, mmd

__all__ = [
    "DISTANCES",
    "MMD",
    "ADistance",
    "DistanceInfo",
    "Estimate",
    "coral",
    "frechet",
    "mean_covariance",
    "measure_distances",
    "mmd",
    "proxy_a_distance",
    "sliced_wasserstein",
]


class DistanceInfo(Config):
    """How a distance is shown.

    Attributes:
        title: Its name for tables.
        meaning: What it is, in a sentence or two.
    """

    title: str
    meaning: str


DISTANCES: dict[str, DistanceInfo] = {
    "proxy_a_distance": DistanceInfo(
        title="Proxy A-distance",
        meaning="2 (1 - 2 ε), with ε the error rate of a cross-validated linear classifier that "
        "tells source from target rows: 0 where it can only guess, 2 where it never errs.",
    ),
    "mmd": DistanceInfo(
        title="MMD²",
        meaning="Squared distance of the mean embeddings under a Gaussian kernel whose bandwidth "
        "is the median distance of rows; unbiased, so that it scatters around 0 without a shift.",
    ),
    "coral": DistanceInfo(
        title="CORAL",
        meaning="|C_s - C_t|² / (4 D²): the squared difference of the covariances.",
    ),
    "frechet": DistanceInfo(
        title="Fréchet distance",
        meaning="Squared Wasserstein distance of Gaussians fitted to either side (as FID is told). "
        "Grows where rows are few.",
    ),
    "mean_covariance": DistanceInfo(
        title="Mean and covariance",
        meaning="|m_s - m_t|² + |C_s - C_t|²: squared differences of means and of covariances.",
    ),
    "sliced_wasserstein": DistanceInfo(
        title="Sliced Wasserstein",
        meaning="Root mean square transport cost over random directions, in the vectors' unit.",
    ),
    "word_divergence": DistanceInfo(
        title="Word divergence",
        meaning="Jensen-Shannon divergence of the word distributions, in bits: 0 where every word "
        "has the same share on both sides, 1 where none stands on both.",
    ),
}
"""Every distance, in the order in which they are shown. All but the last are between vectors."""

_OF_VECTORS = tuple(name for name in DISTANCES if name != "word_divergence")
_MOMENTS = ("coral", "frechet", "mean_covariance")


def measure_distances(
    source_ND: npt.ArrayLike,
    target_MD: npt.ArrayLike,
    *,
    names: Sequence[str] = _OF_VECTORS,
    halves: int = 20,
    permutations: int = 999,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Several distances between two sets of vectors, each with interval and yardstick.

    Args:
        source_ND: Source vectors (N, D), N at least 2.
        target_MD: Target vectors (M, D), M at least 2.
        names: Which; in the order of `DISTANCES`.
        halves: Random halvings of the source for the yardstick; 0 for none.
        permutations: Of the MMD's test.
        seed: Root seed.

    Raises:
        DataError: For vectors that cannot be compared.
        UsageError: For a distance that does not exist.
    """
    for name in names:
        if name not in _OF_VECTORS:
            raise UsageError(f"distance {name!r} is unknown.{nearest(name, _OF_VECTORS)}")
    found: dict[str, Estimate] = {}
    with progress.task("Measuring distances", total=len(names), unit="distances") as bar:
        if "proxy_a_distance" in names:
            found["proxy_a_distance"] = proxy_a_distance(
                source_ND, target_MD, halves=halves, seed=seed
            )
            bar.advance()
        if "mmd" in names:
            found["mmd"] = mmd(
                source_ND, target_MD, permutations=permutations, halves=halves, seed=seed
            )
            bar.advance()
        moments = tuple(name for name in _MOMENTS if name in names)
        for one in moment_distances(source_ND, target_MD, moments, halves=halves, seed=seed):
            found[one.name] = one
            bar.advance()
        if "sliced_wasserstein" in names:
            found["sliced_wasserstein"] = sliced_wasserstein(
                source_ND, target_MD, halves=halves, seed=seed
            )
            bar.advance()
    return tuple(found[name] for name in DISTANCES if name in found)
