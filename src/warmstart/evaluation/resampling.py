"""Bootstrap by rows and seeds: exact index resampling in memory of a fixed size.

The rows of the test set are drawn with replacement, and so are the training seeds when there are
several; a metric is the mean over the drawn seeds. All arms of one call see the same row draws,
which makes the difference of two arms a paired one; seeds of different arms are drawn apart, for
their training runs have nothing in common.

Where rows come in clusters (several of one patient, one author), whole clusters are drawn: rows of
one cluster are alike, and drawing them apart would make intervals too narrow.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
Clusters: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application, 1997, §3.8.
With few seeds (three, say) the spread between seeds is under-estimated by the factor (S - 1) / S.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from warmstart.core import DataError, Streams, UsageError

from .metrics import Floats, Ints, Outcomes, values_at

__all__ = [
    "LEVEL",
    "cluster_draws",
    "cluster_numbers",
    "percentile_interval",
    "proportion_interval",
    "resampled",
    "row_draws",
    "seed_weights",
]

LEVEL = 0.95
_CHUNK = 1_000_000


def row_draws(n_rows: int, resamples: int, seed: int, *name: str, width: int = 1) -> Iterator[Ints]:
    """Row numbers drawn with replacement, some samples at a time.

    Args:
        n_rows: N.
        resamples: How many samples in all.
        seed: Root seed.
        *name: Name of the random stream, after "bootstrap".
        width: Size of what the caller keeps for each sample, to bound memory.

    Yields:
        (r, N) row numbers; r × max(N, width) stays under a million, or r is 1.
    """
    generator = Streams(seed).numpy("bootstrap", *name)
    step = max(1, _CHUNK // max(n_rows, width))
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), n_rows)
        yield generator.integers(0, n_rows, size=size, dtype=np.int64)


def cluster_numbers(clusters: Sequence[object] | None, n_rows: int, who: str) -> Ints | None:
    """The number of each row's cluster, counted from 0; None for rows that stand alone.

    A row whose cluster is None is a cluster of its own.

    Raises:
        DataError: When there is not one value for each row.
    """
    if clusters is None:
        return None
    if len(clusters) != n_rows:
        raise DataError(
            f"{who}: clusters must hold one value for each of the {n_rows} rows, got "
            f"{len(clusters)}."
        )
    found: dict[object, int] = {}
    for row, value in enumerate(clusters):
        found.setdefault(("row", row) if value is None else ("value", str(value)), len(found))
    keys = [("row", i) if v is None else ("value", str(v)) for i, v in enumerate(clusters)]
    return np.array([found[key] for key in keys], dtype=np.int64)


def cluster_draws(clusters_N: Ints, resamples: int, seed: int, *name: str) -> Iterator[Ints]:
    """As `row_draws`, with whole clusters drawn with replacement.

    Args:
        clusters_N: Number of each row's cluster, from 0.
        resamples: How many samples in all.
        seed: Root seed.
        *name: Name of the random stream, after "bootstrap".

    Yields:
        (1, M) row numbers; M differs where clusters differ in size.
    """
    generator = Streams(seed).numpy("bootstrap", *name)
    order = np.argsort(clusters_N, kind="stable")
    ends = np.cumsum(np.bincount(clusters_N))
    members = np.split(order, ends[:-1])
    for _ in range(resamples):
        drawn = generator.integers(0, len(members), size=len(members))
        yield np.concatenate([members[number] for number in drawn])[None]


def resampled(
    arms: Sequence[Sequence[Outcomes]],
    names: Iterable[str],
    *,
    seed: int,
    resamples: int,
    stream: Sequence[str] = (),
    clusters_N: Ints | None = None,
    paired_seeds: bool = False,
) -> list[dict[str, Floats]]:
    """Metrics of each arm on resampled rows and seeds.

    Args:
        arms: For each arm its outcomes, one entry a training seed, all on the same rows.
        names: Metrics.
        seed: Root seed of the draws.
        resamples: R, at least 100.
        stream: Further name of the random stream.
        clusters_N: Number of each row's cluster, where whole clusters are drawn.
        paired_seeds: Whether run s of every arm had the same training rows, so that runs are drawn
            together as rows are.

    Returns:
        For each arm, metric to its R values. Value r of every arm comes from the same rows.

    Raises:
        UsageError: For fewer than 100 resamples.
    """
    if resamples < 100:
        raise UsageError(
            f"resamples must be at least 100, got {resamples}. Typical values: 1000 to 10000."
        )
    wanted = tuple(names)
    first = arms[0][0]
    if clusters_N is not None:
        draws = cluster_draws(clusters_N, resamples, seed, "clusters", *stream)
    else:
        draws = row_draws(
            len(first.truth_N), resamples, seed, "rows", *stream, width=first.n_classes + 1
        )
    parts: list[list[list[dict[str, Floats]]]] = [[[] for _ in seeds] for seeds in arms]
    for index_RN in draws:
        for arm, seeds in enumerate(arms):
            for number, rows in enumerate(seeds):
                parts[arm][number].append(values_at(rows, index_RN, wanted))
    found = []
    for arm, seeds in enumerate(arms):
        drawn = "shared" if paired_seeds else str(arm)
        weight_RS = seed_weights(len(seeds), resamples, seed, drawn, *stream)
        by_name: dict[str, Floats] = {}
        for name in wanted:
            values_SR = np.stack(
                [np.concatenate([part[name] for part in parts[arm][s]]) for s in range(len(seeds))]
            )
            by_name[name] = np.einsum("rs,sr->r", weight_RS, values_SR)
        found.append(by_name)
    return found


def percentile_interval(values_R: Floats, value: float) -> tuple[float, float]:
    """The middle 95 % of the resampled values, widened where needed to hold the value itself.

    Calibration error is a mean of absolute values and lies higher on resamples than on the rows
    themselves; there the plain percentiles can leave the value out.
    """
    tail = (1 - LEVEL) / 2 * 100
    low, high = np.percentile(values_R, [tail, 100 - tail])
    return min(float(low), value), max(float(high), value)


def proportion_interval(values_R: Floats, value: float, n_rows: int) -> tuple[float, float]:
    """As `percentile_interval`, for a share of rows, with the exact bound where all rows agree.

    When every row is right (or wrong) each resample is too, and the percentiles would claim
    certainty. The exact binomial bound (Clopper and Pearson 1934) is taken there instead:
    low = 0.025^(1/n) for a share of 1.
    """
    low, high = percentile_interval(values_R, value)
    bound = ((1 - LEVEL) / 2) ** (1 / n_rows)
    if low >= 1.0:
        low = bound
    if high <= 0.0:
        high = 1.0 - bound
    return low, high


def seed_weights(n_seeds: int, resamples: int, seed: int, *name: str) -> Floats:
    """Seeds drawn with replacement: (R, S) shares of each in each resample; rows sum to 1."""
    if n_seeds == 1:
        return np.ones((resamples, 1))
    generator = Streams(seed).numpy("bootstrap", "seeds", *name)
    drawn = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples)
    return np.asarray(drawn / n_seeds, dtype=np.float64)
