"""The contest of recommenders: tuned on validation, judged on test, never the other way round."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from warmstart.core import NotApplicable, UsageError, read_json, write_json
from warmstart.data import Interactions, held_out_events, time_split
from warmstart.evaluation import Queries, measure_ranking
from warmstart.planning import (
    ContestTask,
    judge_contest,
    parse_contenders,
    plan_interactions,
    run_contest,
)
from warmstart.retrieval import Content, HistoryMean, MeanRecommender, make_track
from warmstart.retrieval.content_part import ContentCode

USERS, ITEMS = 30, 12


def events(texts: bool = True, seed: int = 0) -> Interactions:
    """Users walk round a ring of items, so what comes next is nearly certain."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        place = int(generator.integers(ITEMS))
        for step in range(9):
            rows.append((100 * step + user, user, place))
            place = (place + (1 if generator.random() < 0.9 else 2)) % ITEMS
    rows.sort()
    time_N, user_N, item_N = (np.array(part) for part in zip(*rows, strict=True))
    names = tuple(f"i{i}" for i in range(ITEMS))
    items = pl.DataFrame(
        {
            "item_id": names, "title": [f"Item {i}" for i in range(ITEMS)],
            "description": [None] * ITEMS, "tags": [["even" if i % 2 == 0 else "odd"]
                                                    for i in range(ITEMS)],
            "image": [None] * ITEMS, "text": [f"item {i}" if texts else "" for i in range(ITEMS)],
        }
    )  # fmt: skip
    return Interactions(
        user_N=user_N.astype(np.int32), item_N=item_N.astype(np.int32),
        time_N=time_N.astype(np.int64), positive_N=np.ones(len(time_N), dtype=bool),
        user_ids=tuple(f"u{u}" for u in range(USERS)), item_ids=names, items=items,
        source="ring",
    )  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., ContestTask]:
    def make(**settings: Any) -> ContestTask:
        data = events()
        split = time_split(data)
        angles_I = 2 * np.pi * np.arange(ITEMS) / ITEMS
        text_IE = np.stack([np.cos(angles_I), np.sin(angles_I)], axis=1).astype(np.float32)
        values: dict[str, Any] = {
            "split": split, "test": held_out_events(data, split), "folder": tmp_path,
            "content": Content(data.item_ids, text_IE), "primary": "HR@5", "device": "cpu",
            "started": time.monotonic(),
        }  # fmt: skip
        return ContestTask(**(values | settings))

    return make


SMALL = "width=16:layers=1:heads=1:history=6:epochs=12:rate=0.02:dropout=0:metric=HR@10"


def test_a_model_that_knows_the_order_beats_popularity(task: Any) -> None:
    shared = task()
    found = run_contest(
        parse_contenders(["popularity", "item-knn", "zero-shot", f"two-tower:{SMALL}"]), shared
    )
    by_name = {entry.name.split(":")[0]: entry for entry in found.entries}
    assert all(entry.status == "done" for entry in found.entries)
    assert found.kept is by_name["two-tower"]
    assert found.best is max(found.entries, key=lambda e: e.validation["HR@5"])
    assert found.baseline in (by_name["popularity"], by_name["item-knn"])
    lift = next(pair for a, _, pair in found.lifts if a.startswith("two-tower"))
    ours = by_name["two-tower"].scores["next_item"].metrics["HR@5"].value
    theirs = found.baseline.scores["next_item"].metrics["HR@5"].value
    assert lift.difference == pytest.approx(ours - theirs)
    assert by_name["item-knn"].tried, "a baseline is tuned"
    assert sum(row["chosen"] for row in by_name["item-knn"].tried) == 1
    assert by_name["two-tower"].settings["epochs_chosen"] >= 1
    verdict = judge_contest(found, shared)
    assert verdict.best == found.best.name
    assert found.best.contender.title in verdict.sentences[0]
    assert "HR@5" in verdict.sentences[0]


def test_the_choice_is_made_on_validation(task: Any) -> None:
    """The kept arm's test score plays no part: swapping test events changes no choice."""
    first = run_contest(parse_contenders(["popularity", "item-knn", "random"]), task())
    shared = task()
    order = np.arange(len(shared.test))
    swapped = shared.test.select(order[::2])
    second = run_contest(parse_contenders(["popularity", "item-knn", "random"]), task(test=swapped))
    for a, b in zip(first.entries, second.entries, strict=True):
        assert a.validation == b.validation
        assert a.settings == b.settings
    assert first.best is not None
    assert second.best is not None
    assert first.best.name == second.best.name
    assert len(first.entries[0].ranks["next_item"][0].rank_P) > len(
        second.entries[0].ranks["next_item"][0].rank_P
    )


def test_seeds_are_whole_ways_whose_mean_is_judged(task: Any) -> None:
    shared = task(seeds=2)
    found = run_contest(parse_contenders([f"two-tower:{SMALL}", "random"]), shared)
    tower, chance = found.entries
    assert len(chance.fits) == 1, "what needs no training has one seed"
    assert [fit.seed for fit in tower.fits] == [0, 1]
    scores = tower.scores["next_item"]
    assert scores.seeds == 2
    for name in ("HR@5", "MRR"):
        each = [
            measure_ranking(ranks, shared.next_item, [name])[name]
            for ranks in tower.ranks["next_item"]
        ]
        assert scores.metrics[name].value == pytest.approx(np.mean(each))
    first, second = (fit.validation["HR@5"] for fit in tower.fits)
    assert tower.validation["HR@5"] == pytest.approx((first + second) / 2)
    kept = [fit.recommender is not None for fit in tower.fits]
    assert kept == [first >= second, first < second]
    assert not np.array_equal(*(one.rank_P for one in tower.ranks["next_item"]))
    assert "the mean of 2 seeds" in judge_contest(found, shared).sentences[0]
    alone = run_contest(parse_contenders([f"two-tower:{SMALL}"]), task(seeds=1))
    assert np.array_equal(
        alone.entries[0].ranks["next_item"][0].rank_P, tower.ranks["next_item"][0].rank_P
    ), "the first seed is what one seed alone would be"


def test_no_second_seed_begins_that_would_not_fit(task: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(ContestTask, "left", property(lambda self: 600.0 if _young(self) else 0.1))
    found = run_contest(parse_contenders([f"two-tower:{SMALL}"]), task(seeds=3, budget=600.0))
    assert [fit.seed for fit in found.entries[0].fits] == [0]


def _young(task: ContestTask) -> bool:
    """Whether the first seed is still being trained."""
    return not list(task.folder.rglob("final/metrics.jsonl"))


def test_new_items_are_told_of_with_an_interval(task: Any, tmp_path: Path) -> None:
    """The tower that reads texts against what ranks by content or popularity, on new items."""
    data = events()
    old = data.item_N < ITEMS - 3
    late = data.time_N >= np.quantile(data.time_N, 0.85)
    data = data.select(old | late)
    shared = task(split=(split := time_split(data)), test=held_out_events(data, split))
    arms = [f"user-tower:{SMALL}", f"scratch:{SMALL}", "zero-shot", "popularity", "item-knn"]
    found = run_contest(parse_contenders(arms), shared)
    assert {(a, b) for a, b, _ in found.cold_lifts} == {(arms[0], "zero-shot"),
                                                        (arms[0], "popularity")}  # fmt: skip
    cold = {one.name: one.scores["next_item"].slices["item"]["cold"]["HR@5"]
            for one in found.entries}  # fmt: skip
    for a, b, pair in found.cold_lifts:
        assert pair.difference == pytest.approx(cold[a].value - cold[b].value)
        assert pair.n == cold[a].n == sum(shared.cold_P) > 0
        assert pair.low <= pair.difference <= pair.high
    said = " ".join(judge_contest(found, shared).sentences)
    assert "of those that rank by content or popularity alone" in said
    assert found.kept is not None
    pair = found.cold_lifts[0][2]
    for difference, told in ((-0.2, True), (0.2, False)):
        low, high = sorted((difference / 2, 2 * difference))
        clear = pair.model_copy(
            update={"difference": difference, "low": low, "high": high, "p_value": 0.001}
        )
        lifted = replace(found, cold_lifts=[(found.kept.name, "zero-shot", clear)])
        steps = " ".join(judge_contest(lifted, shared).next)
        assert ("Where new items matter more" in steps) is told


def test_what_validation_chose_for_new_items_goes_into_the_last_fit(task: Any) -> None:
    """As it was found; what an older search did not choose leaves new items as they are."""
    small = SMALL.replace("epochs=12", "epochs=1")
    shared = task()
    names = ("content", "new_items", "new_by_history", "new_trust")

    def last() -> list[float]:
        (entry,) = run_contest(parse_contenders([f"two-tower:{small}"]), shared).entries
        return [entry.fits[0].recommender.facts["settings"][name] for name in names]

    first = last()
    (kept,) = shared.folder.rglob("search/found.json")
    found = read_json(kept)
    assert first == [found[name] for name in names]
    chosen = {"content": 0.7, "new_items": 0.02, "new_by_history": 0.3, "new_trust": 0.5}
    older = {"content": 0.7, "new_items": 0.02}
    for values, wanted in ((chosen, [0.7, 0.02, 0.3, 0.5]), (older, [0.7, 0.02, 0.0, 1.0])):
        shutil.rmtree(kept.parent.parent / "final")
        write_json(kept, {k: v for k, v in found.items() if k not in names} | values)
        assert last() == wanted


def test_a_track_below_ids_alone_is_named_by_its_title(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = task()
    found = run_contest(parse_contenders(["frozen:width=16:heads=1:epochs=1"]), shared)
    monkeypatch.setattr(
        "warmstart.planning.recommending_verdict._below_scratch",
        lambda *_: (found.entries[0].name,),
    )
    verdict = judge_contest(found, shared)
    (said,) = [line for line in verdict.sentences if line.startswith("Negative transfer")]
    assert said.startswith("Negative transfer: Frozen encoders")


def test_what_the_user_set_is_not_tuned(task: Any) -> None:
    found = run_contest(parse_contenders(["item-knn:last=3"]), task())
    assert found.entries[0].tried == []
    assert found.entries[0].settings["last"] == 3


def test_arms_that_cannot_work_are_left_out_with_their_reason(task: Any) -> None:
    shared = task(content=Content(events().item_ids))
    found = run_contest(parse_contenders(["zero-shot", "popularity"]), shared)
    assert found.entries[0].status == "not applicable"
    assert "needs texts" in (found.entries[0].reason or "")
    assert found.best is found.entries[1]
    assert found.kept is None
    assert "--strategies two-tower" in " ".join(judge_contest(found, shared).next)


def test_a_tower_that_the_budget_cuts_is_not_judged(task: Any) -> None:
    shared = task(budget=0.01)
    found = run_contest(parse_contenders(["popularity", f"two-tower:{SMALL}"]), shared)
    cut = found.entries[1]
    assert cut.status == "cut"
    assert found.kept is None
    assert "Cut by the budget" in " ".join(judge_contest(found, shared).sentences)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["eese"], 'Did you mean "ease"'),
        (["two-tower:width"], "write key=value"),
        (["item-knn:last=0"], "last"),
        (["ease", "ease"], "named twice"),
        (["two-tower:layer=1"], 'Did you mean "layers"'),
    ],
)
def test_bad_arms(arms: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_contenders(arms)


def test_the_mean_of_the_history_is_a_loop_over_it() -> None:
    generator = np.random.default_rng(0)
    text_IE = generator.normal(size=(6, 4)).astype(np.float32)
    past: Any = SimpleNamespace(item_N=np.array([4, 0, 1, 0, 2, 3]))  # the sixth is new
    content = Content(tuple("abcdef"), text_IE)
    found = HistoryMean(last=2).recommender(content, past)
    assert isinstance(found, MeanRecommender)
    histories = [[0, 1, 2], [5], []]
    scores_QI = found.scores(Queries.of(histories))
    unit_IE = text_IE / np.linalg.norm(text_IE, axis=1, keepdims=True)
    for row, history in enumerate(histories):
        recent = history[-2:]
        mean_E = sum((unit_IE[i] for i in recent), np.zeros(4)) / max(1, len(recent))
        np.testing.assert_allclose(scores_QI[row], unit_IE @ mean_E, atol=1e-6)
    assert (scores_QI[2] == 0).all()
    with pytest.raises(NotApplicable, match="needs texts"):
        HistoryMean().recommender(Content(("a",)), past)
    white = HistoryMean(last=2, whitened=True).recommender(content, past)
    code = ContentCode.learn(torch.from_numpy(text_IE[:5]), (4,))
    assert code is not None
    np.testing.assert_allclose(white.unit_IE, code(torch.from_numpy(text_IE)).numpy(), atol=1e-6)
    cosines = [one.unit_IE @ one.unit_IE.T for one in (white, found)]
    assert not np.allclose(*cosines, atol=0.1)
    few = Content(tuple("abcdef"), np.zeros_like(text_IE))
    with pytest.raises(NotApplicable, match="three items"):
        HistoryMean(whitened=True).recommender(few, past)


def test_tracks_are_settings_of_the_two_tower_model() -> None:
    assert make_track("frozen").layers == 0
    assert not make_track("scratch").use_text
    assert not make_track("user-tower").use_ids
    with pytest.raises(UsageError, match='Did you mean "frozen"'):
        make_track("frozn")


def test_the_plan_follows_events_texts_and_what_is_new() -> None:
    data = events()
    few = plan_interactions(data, time_split(data))
    assert few.strategy == "frozen"
    assert {reason.name for reason in few.reasons} == {
        "events", "users", "share_with_text", "share_new_items",
    }  # fmt: skip
    bare = events(texts=False)
    assert plan_interactions(bare, time_split(bare)).strategy == "scratch"
    assert few.command.startswith("warmstart fit ring --strategy frozen")
