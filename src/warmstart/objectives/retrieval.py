"""Losses that tell the item a user took next from other items: InfoNCE and sampled softmax.

What is estimated in every form is the softmax over the items that a user may still take,
`-s⁺ + log(exp s⁺ + Σ_j exp s_j)`, with the sum over the catalogue replaced by a weighted sum over
sampled items. A sampled item counts `1 / (expected draws of it)`, which is the logQ correction:
`s - log(K q)`. The positive is no sample, it is always there, so it is not corrected.

Sources: Bengio and Senécal 2008, Adaptive importance sampling to accelerate training of a neural
probabilistic language model; Yi et al. 2019, Sampling-bias-corrected neural modeling for large
corpus item recommendations; Khrylchenko et al. 2025, Correcting the LogQ correction (the positive).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import UsageError

__all__ = [
    "TEMPERATURES",
    "accidental_hits",
    "bounded_temperature",
    "frequency_temperature",
    "info_nce",
    "log_expected_draws",
    "mutual_information_bound",
    "sampled_softmax",
    "unbounded_temperature",
]

TEMPERATURES = (0.01, 1.0)
"""The range that a temperature may take, fixed or learned."""


def info_nce(
    users_BD: Tensor,
    items_BD: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    masked_BB: Tensor | None = None,
    log_q_B: Tensor | None = None,
) -> Tensor:
    """InfoNCE over a batch: row b's item against the items of all other rows.

    Args:
        users_BD: Vectors of any length; they are scaled to 1.
        items_BD: The item that each user took, alike.
        temperature: What the cosines are divided by, above 0.
        symmetric: Whether the mean of user→item and item→user is taken.
        masked_BB: True where column k is no negative of row b (see `accidental_hits`); the diagonal
            is passed over.
        log_q_B: Logarithm of the probability that a row of the batch shows that item. The other
            B - 1 rows are then weighted so that their sum estimates the one over all items. The
            item→user direction is left as it is.

    Returns:
        The mean over the rows, at least 0 without `log_q_B`.

    Source: van den Oord et al. 2018, Representation learning with contrastive predictive coding,
    equation 4; symmetric as in Radford et al. 2021 (CLIP), figure 3.
    """
    _check_temperature(temperature)
    users_BD = functional.normalize(users_BD.float(), dim=-1)
    items_BD = functional.normalize(items_BD.float(), dim=-1)
    scores_BB = users_BD @ items_BD.T / temperature
    itself_BB = torch.eye(len(scores_BB), dtype=torch.bool, device=scores_BB.device)
    hidden_BB = itself_BB if masked_BB is None else masked_BB | itself_BB
    log_weight_B = None
    if log_q_B is not None:
        log_weight_B = -(log_q_B.float() + math.log(max(1, len(scores_BB) - 1)))
    positive_B = scores_BB.diagonal()
    losses_B = sampled_softmax(
        positive_B, scores_BB, masked_BK=hidden_BB, log_weight_BK=log_weight_B
    )
    if symmetric:
        losses_B = (losses_B + sampled_softmax(positive_B, scores_BB.T, masked_BK=hidden_BB.T)) / 2
    return losses_B.mean()


def sampled_softmax(
    positive_B: Tensor,
    candidates_BK: Tensor,
    *,
    masked_BK: Tensor | None = None,
    log_weight_BK: Tensor | None = None,
) -> Tensor:
    """`-s⁺ + log(exp s⁺ + Σ_k w_k exp s_k)` for each row.

    Args:
        positive_B: Score of each row's positive, already divided by the temperature.
        candidates_BK: Scores of its K negatives, alike.
        masked_BK: True where a candidate does not count.
        log_weight_BK: Logarithm of the weights w, of a shape that broadcasts; zero when None. Minus
            `log_expected_draws` gives the logQ correction.

    Returns:
        A loss for each row (B).
    """
    scores_BK = candidates_BK if log_weight_BK is None else candidates_BK + log_weight_BK
    if masked_BK is not None:
        scores_BK = scores_BK.masked_fill(masked_BK, float("-inf"))
    everything_BK = torch.cat([positive_B[:, None], scores_BK], dim=1)
    return torch.logsumexp(everything_BK, dim=1) - positive_B


def accidental_hits(
    targets_B: Tensor, candidates: Tensor, known_BK: Tensor | None = None
) -> Tensor:
    """Which candidates are no negatives: the row's own item, and items that its user is known for.

    Args:
        targets_B: Item of each row.
        candidates: Items that all rows share (K), or each row's own (B, K).
        known_BK: True where the user of the row is known to have taken the candidate.

    Returns:
        True where a candidate must not count (B, K).
    """
    shown_BK = candidates[None, :] if candidates.ndim == 1 else candidates
    hits_BK = targets_B[:, None] == shown_BK
    return hits_BK if known_BK is None else hits_BK | known_BK


def log_expected_draws(log_q: Sequence[Tensor], draws: Sequence[float]) -> Tensor:
    """`log Σ_m K_m q_m`: how often a mixture of samplers is expected to draw an item.

    Weighting every draw by one over this, whichever sampler it came from, makes their sum an
    unbiased estimate of the sum over all items that any of the samplers can draw.

    Args:
        log_q: Log probability of the items under each sampler, in shapes that broadcast; -inf
            where a sampler never draws an item.
        draws: Number of draws K_m of each.

    Source: Veach and Guibas 1995, Optimally combining sampling techniques, section 3.3 (the
    balance heuristic).
    """
    if len(log_q) != len(draws) or not log_q:
        raise UsageError(
            f"a mixture needs a number of draws for each sampler, got {len(draws)} for "
            f"{len(log_q)} samplers."
        )
    parts = [q + math.log(count) for q, count in zip(log_q, draws, strict=True) if count > 0]
    if not parts:
        raise UsageError("a mixture must draw something, got 0 draws from every sampler.")
    return reduce(torch.logaddexp, parts)


def mutual_information_bound(loss: float, candidates: float) -> float:
    """`log(K + 1) - loss`: nats that user and item vectors tell of one another, at the least.

    Args:
        loss: Mean InfoNCE loss over K negatives drawn as items occur, without logQ correction.
        candidates: K. The bound cannot exceed log(K + 1).

    Source: van den Oord et al. 2018, appendix A.1 (N = K + 1).
    """
    if candidates < 0:
        raise UsageError(f"candidates must be at least 0, got {candidates}.")
    return math.log(candidates + 1.0) - loss


def bounded_temperature(
    raw: Tensor, low: float = TEMPERATURES[0], high: float = TEMPERATURES[1]
) -> Tensor:
    """`low · (high / low)^sigmoid(raw)`: a learned temperature that cannot leave its bounds.

    Args:
        raw: Any real number; what is learned.
        low: Lower bound, above 0.
        high: Upper bound, above `low`.
    """
    return low * torch.exp(torch.sigmoid(raw) * math.log(high / low))


def unbounded_temperature(
    temperature: float, low: float = TEMPERATURES[0], high: float = TEMPERATURES[1]
) -> float:
    """The raw number for which `bounded_temperature` is `temperature`.

    Raises:
        UsageError: When the temperature is not strictly between its bounds.
    """
    if not 0 < low < temperature < high:
        raise UsageError(
            f"a learned temperature must start between {low} and {high}, got {temperature}. "
            "Typical: 0.07."
        )
    share = math.log(temperature / low) / math.log(high / low)
    return math.log(share / (1.0 - share))


def frequency_temperature(
    counts_B: Tensor,
    mean_log_count: float,
    temperature: float | Tensor,
    power: float,
    *,
    low: float = TEMPERATURES[0],
    high: float = TEMPERATURES[1],
) -> Tensor:
    """`τ · (count / typical count)^power` for each row, kept within bounds.

    With a positive power rows whose item is rare are learned at a lower temperature: their vectors
    are told apart more sharply, frequent items are treated more alike. It acts on training alone;
    scores of a trained model do not depend on it.

    Args:
        counts_B: How often the item of each row occurs in training.
        mean_log_count: Mean of log(1 + count) over the items of the training events: the typical
            row keeps τ.
        temperature: τ.
        power: 0 leaves τ as it is. Typical: 0 to 0.2.
        low: Lower bound.
        high: Upper bound.

    After Kukleva et al. 2023, Temperature schedules for self-supervised contrastive methods on
    long-tail data: frequent classes gain from a high temperature, rare ones from a low one. They
    vary it over time, here it varies with the item.
    """
    factor_B = torch.exp(power * (torch.log1p(counts_B.float()) - mean_log_count))
    return (temperature * factor_B).clamp(low, high)


def _check_temperature(temperature: float | Tensor) -> None:
    if isinstance(temperature, float | int) and temperature <= 0:
        raise UsageError(
            f"temperature must be above 0, got {temperature}. Typical values: 0.05 to 0.1."
        )
