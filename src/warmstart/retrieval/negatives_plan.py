"""From settings to what a position is told apart from: the objective and its samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from warmstart.core import NotApplicable, Run, progress
from warmstart.evaluation import Events
from warmstart.training import Callback

from .fitting import FullSoftmax, Objective, SampledSoftmax
from .fitting_mining import MineNegatives
from .frequency import StreamingFrequency
from .negatives import InBatch, Mixture, Sampler, StreamedBatch, Uniform
from .negatives_hard import Mined, SameTags, Viewed

if TYPE_CHECKING:
    from .two_tower import TwoTower
    from .two_tower_work import Work

__all__ = ["MIXABLE", "Comparison", "compare"]

MIXABLE = ("hard", "in-batch", "mined", "tags", "uniform", "viewed")
"""Samplers that a mixture may name; `hard` stands for those of `HARD` that the data have."""
HARD = ("viewed", "tags", "mined")
"""Hard negatives; `mined` needs nothing of the data, so there is always one."""


@dataclass(frozen=True)
class Comparison:
    """What a position is told apart from.

    Attributes:
        name: `full`, or the shares of the samplers.
        objective: The loss.
        modules: What a checkpoint must keep beside the towers.
        callbacks: What happens between epochs.
        notes: Sentences that the user should read.
    """

    name: str
    objective: Objective
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    notes: Sequence[str] = ()


def compare(
    settings: TwoTower,
    train: Events,
    work: Work,
    run: Run,
    tags: Sequence[Sequence[str]] | None = None,
) -> Comparison:
    """Set up the loss that the settings name.

    Args:
        settings: Of the fit.
        train: Events, whose views without completion are negatives.
        work: Sequences and items.
        run: Source of the hash functions of a stream, and how long reading may take.
        tags: Tags of all items.

    Raises:
        NotApplicable: For hard negatives that these events or items do not have, and when the
            time is up before the texts of the users that mining asks for are read.
        UsageError: For negatives by tags without tags.
    """
    catalogue = work.catalogue
    known = work.known if settings.mask_known else None
    seen = int(catalogue.known_I.sum())
    shares = _shares(settings, seen)
    if shares is None:
        full = FullSoftmax(
            catalogue, known=known, smoothing=settings.smoothing, power=settings.temperature_power
        )
        return Comparison("full", full)
    modules: dict[str, nn.Module] = {}
    callbacks: list[Callback] = []
    stream = None
    if settings.logq == "stream" and "in-batch" in shares:
        stream = StreamingFrequency(streams=run.streams)
        modules["frequency"] = stream
    notes: list[str] = []

    def sampler(name: str) -> Sampler:
        return _sampler(name, settings, train, work, stream, tags)

    samplers = {name: sampler(name) for name in shares if name != "hard"}
    if "hard" in shares:
        hard, told = _hard(sampler, samplers)
        shares = _shared_out(shares, list(hard))
        samplers = {name: hard[name] if name in hard else samplers[name] for name in shares}
        notes += told
    mined = samplers.get("mined")
    if isinstance(mined, Mined):
        modules["mined"] = mined
        mining = MineNegatives(
            mined, catalogue, work.sequences.select(work.learned_P), work.known,
            every=settings.mine_every, margin=settings.mine_margin, history=settings.history,
            texts=work.teller,
        )  # fmt: skip
        if work.teller is not None:
            work.teller.read_ahead(mining.queries, run)
        callbacks.append(mining)
    objective = SampledSoftmax(
        catalogue, Mixture(samplers, shares, known=known, corrected=settings.logq != "off"),
        settings.draws, symmetric=settings.symmetric, known=known,
        power=settings.temperature_power, stream=stream,
    )  # fmt: skip
    name = ", ".join(f"{name}={share:g}" for name, share in shares.items())
    if settings.negatives == "auto":
        notes.append(
            f"{seen:,} items are more than full_limit ({settings.full_limit:,}): each position is "
            f"compared with {settings.draws:,} sampled items ({name})."
        )
    for line in notes:
        progress.note(line)
    return Comparison(name, objective, modules, callbacks, notes)


def _shares(settings: TwoTower, seen: int) -> dict[str, float] | None:
    """The mixture that is meant; None for the full softmax."""
    if settings.negatives == "full":
        return None
    if settings.negatives == "auto":
        return None if seen <= settings.full_limit else dict(settings.shares)
    if settings.negatives == "mixed":
        return dict(settings.shares)
    return {settings.negatives: 1.0}


def _hard(
    make: Callable[[str], Sampler], others: Mapping[str, Sampler]
) -> tuple[dict[str, Sampler], list[str]]:
    """The hard negatives that these data have, and what is said of the others."""
    found: dict[str, Sampler] = {}
    notes = []
    for name in HARD:
        try:
            found[name] = others[name] if name in others else make(name)
        except NotApplicable as reason:
            notes.append(f"Hard negatives go without {name!r}: {reason}")
    return found, notes


def _shared_out(shares: Mapping[str, float], hard: Sequence[str]) -> dict[str, float]:
    """The shares with that of `hard` divided evenly among what stands for it."""
    found = {name: share for name, share in shares.items() if name != "hard"}
    for name in hard:
        found[name] = found.get(name, 0.0) + shares["hard"] / len(hard)
    return found


def _sampler(
    name: str,
    settings: TwoTower,
    train: Events,
    work: Work,
    stream: StreamingFrequency | None,
    tags: Sequence[Sequence[str]] | None,
) -> Sampler:
    allowed_I = work.catalogue.known_I.cpu().numpy()
    if name == "in-batch":
        return InBatch.counted(work.catalogue.counts_I) if stream is None else StreamedBatch(stream)
    if name == "uniform":
        return Uniform(work.catalogue.codes_L, train.n_items)
    if name == "viewed":
        return Viewed(
            np.asarray(train.user_N), np.asarray(train.item_N),
            np.asarray(train.positive_N, dtype=bool),
            n_users=train.n_users, n_items=train.n_items, allowed_I=allowed_I,
        )  # fmt: skip
    if name == "mined":
        return Mined(train.n_users, settings.mine_size, allowed_I=allowed_I)
    if tags is None:
        raise NotApplicable("negatives by tags need tags of the items, and there are none")
    return SameTags(tags, allowed_I=allowed_I)
