"""The tracks' defaults: hard negatives by what the data have, rates that fall with depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmstart.core import Run, Streams, UsageError
from warmstart.retrieval import TRACKS, make_track
from warmstart.retrieval.both_towers import BothTowers
from warmstart.retrieval.fitting_mining import MineNegatives
from warmstart.retrieval.negatives_plan import HARD, compare
from warmstart.retrieval.sequences import group_events
from warmstart.retrieval.towers import Towers
from warmstart.retrieval.tracks import UserTowerTrack
from warmstart.retrieval.two_tower_work import prepare

from .towerkit import SMALL, ToyEvents, chains, events, texts

TAGS = [["even"] if item % 2 == 0 else ["odd"] for item in range(30)]


def track(**changes: object) -> UserTowerTrack:
    found = make_track("user-tower", {**SMALL, "draws": 12, "epochs": 1, "keep": "last", **changes})
    assert isinstance(found, UserTowerTrack)
    return found


def test_none_is_a_value_that_text_can_give() -> None:
    """As `--set patience=none` gives it."""
    settings = make_track("both-towers", {"patience": "none", "text_patience": "none"})
    assert isinstance(settings, BothTowers)
    assert (settings.patience, settings.text_patience) == (None, None)


def with_views() -> ToyEvents:
    """Chains in which every fourth event is a view alone."""
    plain = chains()
    rows = list(zip(plain.user_N.tolist(), plain.item_N.tolist(), strict=True))
    return events(rows, n_users=24, n_items=30, views=list(range(0, len(rows), 4)))


def test_the_user_tower_meets_hard_negatives_by_default() -> None:
    settings = make_track("user-tower")
    assert isinstance(settings, UserTowerTrack)
    assert (settings.negatives, settings.shares) == ("mixed", {"in-batch": 0.5, "hard": 0.5})
    assert settings.factor > 1
    assert not settings.use_ids


def test_hard_stands_for_what_the_data_have(tmp_path: Path) -> None:
    everything = track().fit(
        with_views(), Run(tmp_path / "a", device="cpu"), text_IE=texts(), tags=TAGS
    )
    shares = dict(part.split("=") for part in everything.facts["negatives"].split(", "))
    assert list(shares) == ["in-batch", *HARD]
    assert {name: float(share) for name, share in shares.items()} == pytest.approx(
        {"in-batch": 0.5, **dict.fromkeys(HARD, 0.5 / 3)}, rel=1e-4
    )
    assert everything.facts["notes"] == []
    alone = track().fit(chains(), Run(tmp_path / "b", device="cpu"), text_IE=texts())
    assert alone.facts["negatives"] == "in-batch=0.5, mined=0.5"
    notes = " ".join(alone.facts["notes"])
    assert "go without 'viewed': there are no items that were viewed but not completed" in notes
    assert "go without 'tags'" in notes
    only = track(negatives="hard").fit(
        chains(), Run(tmp_path / "c", device="cpu"), text_IE=texts(), tags=TAGS
    )
    assert only.facts["negatives"] == "tags=0.5, mined=0.5"
    named = track(shares="mined=0.5,hard=0.5").fit(
        chains(), Run(tmp_path / "d", device="cpu"), text_IE=texts(), tags=TAGS
    )
    assert named.facts["negatives"] == "mined=0.75, tags=0.25", "a share of its own counts too"


def test_blocks_learn_the_slower_the_further_from_the_end(tmp_path: Path) -> None:
    settings = track(layers=2, factor=2.0, rate=0.01, learn_temperature=True)
    work = prepare(
        settings, chains(), Run(tmp_path, device="cpu"), text_IE=texts(), image_IE=None,
        profile_UP=None, watches_loss=False,
    )  # fmt: skip
    towers = Towers(work.shape, learn_temperature=True, streams=Streams(0))
    table = settings._rates(towers)
    assert {row.group: row.rate for row in table.rows} == pytest.approx({
        "items": 0.01, "users.stem": 0.0025, "users.block.0": 0.005, "users.block.1": 0.01,
        "users.head": 0.01, "temperature": 0.01,
    })  # fmt: skip
    named = [key for row in table.rows for key, _ in row.members]
    assert sorted(named) == sorted(key for key, _ in towers.named_parameters())
    flat = track(factor=1.0, rate=0.01)._rates(towers)
    assert [row.group for row in flat.rows] == ["items", "users", "temperature"]
    with pytest.raises(UsageError, match="factor"):
        track(factor=0.5)


def test_mining_never_asks_held_out_events(tmp_path: Path) -> None:
    data = chains()
    settings = track(keep="best", held_out=0.3)
    run = Run(tmp_path, device="cpu")
    work = prepare(
        settings, data, run, text_IE=texts(), image_IE=None, profile_UP=None, watches_loss=True
    )
    assert 0 < work.learned_P.sum() < len(work.sequences)
    (mining,) = compare(settings, data, work, run).callbacks
    assert isinstance(mining, MineNegatives)
    sequences, learned = work.sequences, work.learned_P
    for user in range(24):
        own = slice(*sequences.offsets_U1[user : user + 2])
        kept = sequences.items_P[own][learned[own]]
        at = slice(*mining.queries.offsets_Q1[user : user + 2])
        assert mining.queries.items_H[at].tolist() == kept[:-1].tolist()
        assert int(mining._taken_U[user]) == kept[-1]


def test_some_events_of_sequences() -> None:
    data = group_events(chains(length=5))
    kept = np.random.default_rng(0).random(len(data)) < 0.4
    found = data.select(kept)
    for user in range(24):
        own = range(*data.offsets_U1[user : user + 2])
        wanted = [int(data.items_P[place]) for place in own if kept[place]]
        at = slice(*found.offsets_U1[user : user + 2])
        assert found.items_P[at].tolist() == wanted
        assert (found.users_P[at] == user).all()


def test_every_track_has_a_name_and_a_title() -> None:
    assert list(TRACKS) == ["zero-shot", "frozen", "user-tower", "two-tower", "both-towers",
                            "text-history", "scratch"]  # fmt: skip
    assert all(kind.name == name and kind.title for name, kind in TRACKS.items())
    assert len({kind.title for kind in TRACKS.values()}) == len(TRACKS)
