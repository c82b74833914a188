"""What a fit of two towers works on: sequences, what is known of the items, the towers' shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from warmstart.core import DataError, Run, UsageError, fingerprint, pick_device
from warmstart.evaluation import Events

from .fitting import Catalogue
from .frequency import item_counts
from .item_texts import ItemTexts
from .negatives import Known
from .profiles import ProfileCode, learn_profiles
from .sequences import Sequences, group_events
from .towers import TowerShape
from .two_tower_model import join_features
from .user_texts import PastTexts, UserTexts

if TYPE_CHECKING:
    from .two_tower import TwoTower

__all__ = ["Work", "prepare"]


@dataclass(frozen=True)
class Work:
    """The events and items of a fit.

    Attributes:
        sequences: Users' positive events.
        learned_P: Which of them are learned from.
        held_P: Which are held out to watch the loss; none where a validation task is given.
        catalogue: What is known of the items by the learned events.
        known: Users' learned positives.
        shape: Of the towers.
        text: Length of the text vectors that are read.
        image: Length of the image vectors that are read.
        fingerprint: Of the given vectors: a fit that resumes must meet the same.
        profiles: How users' attributes are coded, by the users with learned events.
        texts: The items' texts and their encoder, for what tunes it.
        teller: Users as texts, for a tower that reads them; None for any other.
        past: Their vectors before the events.
    """

    sequences: Sequences
    learned_P: np.ndarray
    held_P: np.ndarray
    catalogue: Catalogue
    known: Known
    shape: TowerShape
    text: int
    image: int
    fingerprint: str
    profiles: ProfileCode | None = None
    texts: ItemTexts | None = None
    teller: UserTexts | None = None
    past: PastTexts | None = None

    @property
    def told(self) -> Callable[[np.ndarray], Tensor] | None:
        """What windows have in place of items; None for items."""
        return None if self.past is None else self.past.of


def prepare(
    settings: TwoTower,
    train: Events,
    run: Run,
    *,
    text_IE: np.ndarray | None,
    image_IE: np.ndarray | None,
    profile_UP: np.ndarray | None,
    watches_loss: bool,
    users: pl.DataFrame | None = None,
    texts: ItemTexts | None = None,
) -> Work:
    """Bring events and vectors into the form that training reads.

    Args:
        settings: Of the fit.
        train: Events in time order.
        run: Names the device.
        text_IE: Text vectors of all items.
        image_IE: Image vectors of all items.
        profile_UP: Attributes of all users as numbers.
        watches_loss: Whether the newest events may be held out.
        users: The users table, in place of these numbers.
        texts: The items' texts and their encoder.

    Raises:
        UsageError: When vectors do not fit the catalogue, or the items would have none.
        DataError: When they are not finite.
    """
    text = text_IE if settings.use_text else None
    image = image_IE if settings.use_images else None
    features = join_features(text, image)
    _check_rows("text and image vectors", features, "items", train.n_items)
    if features is None and not settings.use_ids:
        raise UsageError(
            "two-tower items need ids, text vectors or image vectors, got none. Set use_ids, or "
            "give text_IE."
        )
    sequences = group_events(train)
    learned_P, cut = _learned(sequences, settings, watches_loss)
    seen_N = np.asarray(train.time_N) < cut if cut is not None else slice(None)
    known_I = np.zeros(train.n_items, dtype=bool)
    known_I[np.asarray(train.item_N)[seen_N]] = True
    profiles, profile_UP = _profiles(
        settings, train, sequences.users_P[learned_P], profile_UP, users
    )
    held_P = ~learned_P & known_I[sequences.items_P]
    counts_I = item_counts(sequences.items_P[learned_P], train.n_items)
    catalogue = Catalogue(
        None if features is None else torch.from_numpy(features),
        torch.from_numpy(known_I),
        torch.from_numpy(counts_I),
        None if profile_UP is None else torch.from_numpy(np.asarray(profile_UP, dtype=np.float32)),
    )
    known = Known(
        torch.from_numpy(sequences.users_P[learned_P]),
        torch.from_numpy(sequences.items_P[learned_P]),
        train.n_items,
    )
    return Work(
        sequences, learned_P, held_P, catalogue.to(pick_device(run.device)), known,
        _shape(settings, train.n_items, features, profile_UP),
        0 if text is None else text.shape[1],
        0 if image is None else image.shape[1],
        fingerprint(features, profile_UP, known_I), profiles, texts,
    )  # fmt: skip


def _profiles(
    settings: TwoTower, train: Events, learned_P: np.ndarray, given_UP: np.ndarray | None,
    users: pl.DataFrame | None,
) -> tuple[ProfileCode | None, np.ndarray | None]:  # fmt: skip
    """How attributes are coded and what they come to, from the table or as they were given."""
    if not settings.use_profiles:
        return None, None
    if given_UP is not None and users is not None:
        raise UsageError("attributes come as profile_UP or as a users table, not both. Give one.")
    profiles = None
    if users is not None:
        if users.height != train.n_users:
            raise UsageError(
                f"the users table must have one row for each of the {train.n_users} users, got "
                f"{users.height}."
            )
        profiles = learn_profiles(users, learned_P)
        given_UP = None if profiles is None else profiles.encode(users)
    _check_rows("profile", given_UP, "users", train.n_users)
    if given_UP is not None and not np.isfinite(given_UP).all():
        raise DataError("profile values must be finite; some are not. Fill the gaps with 0.")
    return profiles, given_UP


def _learned(
    sequences: Sequences, settings: TwoTower, watches_loss: bool
) -> tuple[np.ndarray, int | None]:
    """Which events are learned from, and the time from which on they are held out."""
    everything = np.ones(len(sequences), dtype=bool)
    if not watches_loss or settings.keep == "last" or len(sequences) < 2:
        return everything, None
    place = min(len(sequences) - 1, int((1.0 - settings.held_out) * len(sequences)))
    cut = int(np.partition(sequences.times_P, place)[place])
    learned_P = sequences.times_P < cut
    if not learned_P.any():
        raise UsageError(
            "every event has the same time, so none can be held out. Set keep=last, or give a "
            "validation task."
        )
    return learned_P, cut


def _shape(
    settings: TwoTower, n_items: int, features: np.ndarray | None, profile: np.ndarray | None
) -> TowerShape:
    return TowerShape(
        items=n_items if settings.use_ids else 0,
        features=0 if features is None else features.shape[1],
        profile=0 if profile is None else profile.shape[1],
        profile_dropout=0.0 if profile is None else settings.profile_dropout,
        width=settings.width, layers=settings.layers, heads=settings.heads,
        history=settings.history, dropout=settings.dropout,
        feature_dropout=settings.feature_dropout, id_dropout=settings.id_dropout,
        hidden=settings.hidden,
    )  # fmt: skip


def _check_rows(who: str, given: np.ndarray | None, of: str, rows: int) -> None:
    if given is not None and (given.ndim != 2 or len(given) != rows):
        raise UsageError(
            f"{who} must have one row for each of the {rows} {of}, got an array of shape "
            f"{given.shape}."
        )
