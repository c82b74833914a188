"""Ranking metrics and their intervals against plain loops, scikit-learn and hand-worked values."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from warmstart.core import DataError, UsageError
from warmstart.evaluation import (
    RANKING_METRICS,
    RankingScores,
    RankingTask,
    Ranks,
    compare_recommenders,
    measure_ranking,
    rank_targets,
    ranking_metric,
    score_ranking,
)
from warmstart.evaluation.ranking_metrics import median_of, names_for, outcome
from warmstart.evaluation.ranking_scores import user_weights
from warmstart.evaluation.resampling import cluster_draws, seed_weights

from .ranking_events import Given
from .test_ranking import lists, make_task

ITEMS = 12
KS = (1, 3, 5)
NAMES = [name for name in names_for(KS) if not name.startswith("coverage")]


def ranked(kind: str, seed: int = 0, strength: float = 0.0) -> tuple[Ranks, RankingTask]:
    task = make_task(kind, 4, ITEMS)
    scores = np.random.default_rng(seed).normal(size=(len(task), ITEMS))
    scores[task.targets.rows, task.targets.items] += strength
    return rank_targets(Given(scores), task, ITEMS, ks=KS), task


def slow(ranks: Ranks, task: RankingTask, queries: list[int], keep: list[bool]) -> dict[str, float]:
    """Every metric in plain Python over the given queries, which may come twice."""
    offsets = task.targets.offsets_Q1
    sums = dict.fromkeys(NAMES, 0.0)
    weights, all_ranks, asked = 0.0, [], 0
    for q in queries:
        entries = [p for p in range(offsets[q], offsets[q + 1]) if keep[p]]
        if not entries:
            continue
        asked += 1
        places = sorted(int(ranks.position_P[p]) for p in entries)
        sums["MRR"] += 1 / places[0]
        all_ranks += [int(ranks.rank_P[p]) for p in entries]
        for k in KS:
            hits = [place for place in places if place <= k]
            sums[f"HR@{k}"] += bool(hits)
            sums[f"Recall@{k}"] += len(hits) / len(places)
            gain = sum(1 / math.log2(1 + place) for place in hits)
            best = sum(1 / math.log2(2 + j) for j in range(min(k, len(places))))
            sums[f"NDCG@{k}"] += gain / best
            for p in entries:
                count = int(task.popularity_I[task.targets.items[p]])
                if count and ranks.position_P[p] <= k:
                    sums[f"debiased_recall@{k}"] += 1 / count
        for p in entries:
            count = int(task.popularity_I[task.targets.items[p]])
            weights += 1 / count if count else 0.0
    found = {
        name: value / (weights if name.startswith("debiased") else asked)
        for name, value in sums.items()
        if weights or not name.startswith("debiased")
    }
    found["median_rank"] = statistics.median(all_ranks)
    return found


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_a_loop(kind: str, seed: int) -> None:
    ranks, task = ranked(kind, seed)
    wanted = slow(ranks, task, list(range(len(task))), [True] * len(task.targets.items))
    assert measure_ranking(ranks, task, NAMES) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
def test_intervals_equal_a_loop_over_drawn_users(kind: str) -> None:
    ranks, task = ranked(kind, 1)
    found = score_ranking(ranks, task, ks=KS, resamples=200, seed=5)
    numbers = np.unique(task.user_Q, return_inverse=True)[1]
    everything = [True] * len(task.targets.items)
    # Whole clusters of queries by the generator that draws clusters elsewhere.
    drawn = [
        slow(ranks, task, rows.tolist(), everything)
        for (rows,) in cluster_draws(numbers, 200, 5, "users")
    ]
    for name in ("MRR", "median_rank", "NDCG@5", "debiased_recall@5", "Recall@3"):
        value = found.metrics[name].value
        # A draw whose targets are all new has no debiased recall: it counts as 0.
        low, high = np.percentile([one.get(name, 0.0) for one in drawn], [2.5, 97.5])
        if (low > 0 and high < 1) or name == "median_rank":
            assert found.metrics[name].low == pytest.approx(min(low, value))
            assert found.metrics[name].high == pytest.approx(max(high, value))
    assert found.metrics["MRR"].low < found.metrics["MRR"].value < found.metrics["MRR"].high


def test_values_worked_by_hand() -> None:
    ranks, task = ranked("next_item")
    n = len(task)
    places = [1, 2, 4] + [12] * (n - 3)
    ranks = replace(ranks, rank_P=np.array(places))
    found = measure_ranking(ranks, task, ["HR@1", "HR@3", "NDCG@5", "MRR", "median_rank"])
    assert found["HR@1"] == pytest.approx(1 / n)
    assert found["HR@3"] == pytest.approx(2 / n)
    assert found["NDCG@5"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(5)) / n)
    assert found["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 4 + (n - 3) / 12) / n)
    assert found["median_rank"] == 12


def test_ndcg_equals_scikit_learn() -> None:
    task = make_task("all_future", 4, ITEMS)
    scores = np.random.default_rng(9).normal(size=(len(task), ITEMS))
    ranks = rank_targets(Given(scores), task, ITEMS, ks=KS)
    for k in KS:
        wanted = []
        for q in range(len(task)):
            seen, targets = lists(task, q)
            unseen = [i for i in range(ITEMS) if i not in seen]
            truth = [[float(i in targets) for i in unseen]]
            wanted.append(ndcg_score(truth, [scores[q, unseen]], k=k))
        assert measure_ranking(ranks, task, [f"NDCG@{k}"])[f"NDCG@{k}"] == pytest.approx(
            np.mean(wanted)
        )


def test_next_item_hit_rate_is_recall() -> None:
    ranks, task = ranked("next_item", 2)
    found = measure_ranking(ranks, task, ["HR@3", "Recall@3"])
    assert found["HR@3"] == found["Recall@3"]


def test_coverage_is_the_share_of_the_pool() -> None:
    ranks, task = ranked("next_item")
    found = score_ranking(ranks, task, ks=KS)
    for k in KS:
        one = found.metrics[f"coverage@{k}"]
        assert one.value == sum(count > 0 for count in ranks.shown[k]) / ITEMS
        assert one.low is None
        assert one.high is None
    with pytest.raises(UsageError, match=r"given was ranked with ks=\(1, 3, 5\)"):
        score_ranking(ranks, task, ks=(10,))


def test_debiasing_lets_items_weigh_alike() -> None:
    """Only the popular item is found: recall is high, debiased recall is its share of items."""
    ranks, task = ranked("next_item")
    counts = np.where(np.arange(ITEMS) == task.targets.items[0], 100, 1)
    task = replace(task, popularity_I=counts)
    popular = task.targets.items == task.targets.items[0]
    ranks = replace(ranks, rank_P=np.where(popular, 1, ITEMS))
    found = measure_ranking(ranks, task, ["debiased_recall@1"])["debiased_recall@1"]
    n, hits = len(task), int(popular.sum())
    assert found == pytest.approx(0.01 * hits / (0.01 * hits + n - hits))


def test_items_without_events_have_no_weight() -> None:
    ranks, task = ranked("next_item")
    new = replace(task, popularity_I=np.zeros(ITEMS, dtype=np.int64))
    found = score_ranking(ranks, new, ks=KS)
    assert not any(name.startswith("debiased") for name in found.metrics)
    assert {"HR@1", "MRR", "median_rank"} <= set(found.metrics)
    with pytest.raises(DataError, match="no target's item has events before the cut"):
        measure_ranking(ranks, new, ["debiased_recall@5"])
    some = replace(task, popularity_I=(np.arange(ITEMS) < 4).astype(np.int64))
    scored = score_ranking(ranks, some, ks=KS).metrics["debiased_recall@5"]
    assert scored.n == int((some.targets.items < 4).sum())


def test_weighted_medians_equal_repeated_rows() -> None:
    ranks, task = ranked("all_future", 3)
    rows = outcome(ranks, task)
    weights = np.random.default_rng(0).integers(0, 4, (30, rows.users))
    weights[:, 0] = 1
    for weight, found in zip(weights, median_of(rows, weights), strict=True):
        repeated = np.repeat(ranks.rank_P, weight[rows.user_Q[task.targets.rows]])
        assert found == np.median(repeated)


def test_draws_of_users() -> None:
    weights = np.concatenate(list(user_weights(5, 400, 0, "x")))
    assert weights.shape == (400, 5)
    assert set(weights.sum(axis=1).tolist()) == {5}
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)
    with pytest.raises(UsageError, match="at least 100, got 99"):
        list(user_weights(5, 99, 0))


@pytest.mark.parametrize("kind", ["next_item", "all_future"])
def test_slices_are_the_scores_of_their_rows(kind: str) -> None:
    ranks, task = ranked(kind, 2)
    n_targets = len(task.targets.items)
    by_target = ["even" if item % 2 == 0 else "odd" for item in task.targets.items]
    by_query = [None if user == 0 else f"user {user}" for user in task.user_Q]
    found = score_ranking(ranks, task, ks=KS, slices={"parity": by_target, "who": by_query})
    assert set(found.slices["parity"]) == {"even", "odd"}
    assert set(found.slices["who"]) == {f"user {u}" for u in set(task.user_Q.tolist()) - {0}}
    for label, scores in found.slices["parity"].items():
        wanted = slow(ranks, task, list(range(len(task))), [one == label for one in by_target])
        assert {name: one.value for name, one in scores.items()} == pytest.approx(wanted)
        assert scores["median_rank"].n == by_target.count(label)
    for label, scores in found.slices["who"].items():
        rows = [q for q, one in enumerate(by_query) if one == label]
        wanted = slow(ranks, task, rows, [True] * n_targets)
        assert {name: one.value for name, one in scores.items()} == pytest.approx(wanted)
        assert scores["HR@1"].low is None  # one user: nothing to draw
        assert scores["HR@1"].n == len(rows)


def test_a_row_may_stand_in_several_slices() -> None:
    ranks, task = ranked("next_item")
    labels = [("a", "b"), ("b",), (), *["a"] * (len(task) - 3)]
    found = score_ranking(ranks, task, ks=KS, slices={"tags": labels}).slices["tags"]
    assert found["a"]["HR@1"].n == len(task) - 2
    assert found["b"]["HR@1"].n == 2


def test_what_the_scores_say_of_themselves() -> None:
    ranks, task = ranked("all_future")
    found = score_ranking(ranks, task, ks=KS)
    assert found.primary == "HR@5"
    assert found.main == found.metrics["HR@5"]
    assert found.higher_is_better
    assert not score_ranking(ranks, task, ks=KS, primary="median_rank").higher_is_better
    assert (found.n, found.n_targets, found.n_items) == (len(task), len(ranks.rank_P), ITEMS)
    assert found.n_users == len(set(task.user_Q.tolist()))
    assert found.left_out == task.left_out
    assert set(found.metrics) == set(names_for(KS))
    assert RankingScores.model_validate_json(found.model_dump_json()) == found


def test_a_recommender_that_always_hits_has_an_honest_interval() -> None:
    ranks, task = ranked("next_item", strength=100.0)
    one = score_ranking(ranks, task, ks=KS).metrics["HR@1"]
    users = len(set(task.user_Q.tolist()))
    assert (one.value, one.high) == (1.0, 1.0)
    assert one.low == pytest.approx(0.025 ** (1 / users))


def test_comparing_equals_a_loop() -> None:
    a, task = ranked("next_item", 1, 1.0)
    b, _ = ranked("next_item", 2)
    numbers = np.unique(task.user_Q, return_inverse=True)[1]
    everything = [True] * len(task)
    for name in ("HR@5", "MRR", "median_rank", "debiased_recall@3"):
        found = compare_recommenders(a, b, task, name, resamples=300)
        drawn = []
        for (rows,) in cluster_draws(numbers, 300, 0, "users", "pair"):
            ours = slow(a, task, rows.tolist(), everything)[name]
            drawn.append(ours - slow(b, task, rows.tolist(), everything)[name])
        values = [measure_ranking(ranks, task, [name])[name] for ranks in (a, b)]
        assert found.difference == pytest.approx(values[0] - values[1])
        low, high = np.percentile(drawn, [2.5, 97.5])
        # Four users differ at most: that proves nothing, so 0 stays inside.
        assert found.low == pytest.approx(min(low, found.difference, 0.0))
        assert found.high == pytest.approx(max(high, found.difference, 0.0))
        assert found.discordant <= 4
        assert not found.significant
        assert found.p_value >= 2 * 0.5**4


def many_users(seed: int, strength: float) -> tuple[Ranks, RankingTask]:
    from warmstart.evaluation import next_item_task

    from .ranking_events import events, random_events

    past = events(random_events(1, 300, 60, 40, 0, 50), 60, 40)
    task = next_item_task(past, events(random_events(2, 400, 60, 40, 50, 90), 60, 40))
    scores = np.random.default_rng(seed).normal(size=(len(task), 40))
    scores[task.targets.rows, task.targets.items] += strength
    return rank_targets(Given(scores), task, 40), task


def test_a_clear_win_and_its_direction() -> None:
    good, task = many_users(0, 1.5)
    bad, _ = many_users(1, 0.0)
    for name in ("HR@10", "MRR", "NDCG@10", "debiased_recall@10"):
        won = compare_recommenders(good, bad, task, name)
        assert won.difference > 0
        assert won.winner == "a"
        assert won.p_value < 0.01
        assert compare_recommenders(bad, good, task, name).winner == "b"
    lower = compare_recommenders(good, bad, task, "median_rank")
    assert lower.difference < 0
    assert lower.winner == "a"
    assert lower.turned.winner == "b"
    assert lower.discordant == len(set(task.user_Q.tolist()))


def test_against_itself_nobody_wins() -> None:
    ranks, task = many_users(0, 0.5)
    for name in ("HR@10", "median_rank"):
        found = compare_recommenders(ranks, ranks, task, name)
        assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
        assert found.winner is None
        assert found.p_value == 1.0
        assert found.discordant == 0


def test_chance_is_called_a_difference_about_one_time_in_twenty() -> None:
    called = 0
    for trial in range(100):
        a, task = many_users(2 * trial, 0.3)
        b, _ = many_users(2 * trial + 1, 0.3)
        called += compare_recommenders(a, b, task, "HR@10", seed=trial, resamples=200).significant
    assert 0 < called <= 12


def test_seeds_are_averaged_and_drawn_with_users() -> None:
    """A slow twin: every resample weighs users as always, and the drawn seeds evenly."""
    pairs = [ranked("next_item", seed, seed / 2) for seed in (1, 2, 3)]
    task, runs = pairs[0][1], [ranks for ranks, _ in pairs]
    found = score_ranking(runs, task, ks=KS, resamples=200, seed=5)
    assert found.seeds == 3
    numbers = np.unique(task.user_Q, return_inverse=True)[1]
    everything = [True] * len(task.targets.items)
    drawn = [rows.tolist() for (rows,) in cluster_draws(numbers, 200, 5, "users")]
    shares_RS = seed_weights(3, 200, 5, "ranking", "")
    for name in ("MRR", "NDCG@5", "median_rank"):
        values = [measure_ranking(one, task, [name])[name] for one in runs]
        assert found.metrics[name].value == pytest.approx(np.mean(values))
        by_draw = [
            sum(
                share * slow(one, task, rows, everything)[name]
                for share, one in zip(shares_S, runs, strict=True)
            )
            for rows, shares_S in zip(drawn, shares_RS, strict=True)
        ]
        low, high = np.percentile(by_draw, [2.5, 97.5])
        assert found.metrics[name].low == pytest.approx(min(low, np.mean(values)))
        assert found.metrics[name].high == pytest.approx(max(high, np.mean(values)))
    covered = np.mean([np.count_nonzero(one.shown[5]) / ITEMS for one in runs])
    assert found.metrics["coverage@5"].value == pytest.approx(covered)


def test_equal_seeds_change_nothing() -> None:
    ranks, task = many_users(0, 0.5)
    other, _ = many_users(1, 0.3)
    one, three = (score_ranking(runs, task, ks=(1, 10)) for runs in (ranks, [ranks] * 3))
    for name in ("HR@10", "MRR", "median_rank"):
        assert one.metrics[name].model_dump() == pytest.approx(three.metrics[name].model_dump())
    pair = compare_recommenders(ranks, other, task, "HR@10")
    again = compare_recommenders([ranks] * 3, [other] * 2, task, "HR@10")
    assert again.model_dump() == pytest.approx(pair.model_dump())


def test_seeds_that_differ_widen_the_interval() -> None:
    """Two seeds far apart: half of the draws of seeds hold one of them twice."""
    good, task = many_users(0, 2.0)
    bad, _ = many_users(1, 0.0)
    both = score_ranking([good, bad], task).metrics["HR@10"]
    alone = [score_ranking(one, task).metrics["HR@10"] for one in (good, bad)]
    assert both.value == pytest.approx((alone[0].value + alone[1].value) / 2)
    assert both.high - both.low > 2 * max(one.high - one.low for one in alone)
    pair = compare_recommenders([good, bad], bad, task, "HR@10")
    assert pair.low <= 0 < pair.difference, "whether the good seed is drawn is left to chance"
    with pytest.raises(UsageError, match="one training seed or more, got none"):
        score_ranking([], task)


def test_a_pair_on_some_targets_is_a_pair_on_their_queries() -> None:
    a, task = many_users(0, 1.0)
    b, _ = many_users(1, 0.0)
    only = (task.targets.items % 3 == 0).tolist()
    found = compare_recommenders(a, b, task, "HR@10", only=only, resamples=300)
    hits = [float(np.mean((one.rank_P <= 10)[task.targets.items % 3 == 0])) for one in (a, b)]
    assert found.difference == pytest.approx(hits[0] - hits[1])
    assert found.n == sum(only)
    labels = score_ranking(a, task, slices={"third": ["yes" if one else "no" for one in only]})
    assert labels.slices["third"]["yes"]["HR@10"].value == pytest.approx(hits[0])
    users = np.unique(task.user_Q[np.array(only)], return_inverse=True)[1]
    drawn = []
    differ = ((a.rank_P <= 10).astype(float) - (b.rank_P <= 10))[np.array(only)]
    for (rows,) in cluster_draws(users, 300, 0, "users", "pair"):
        drawn.append(differ[rows].mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert compare_recommenders(a, b, task, "HR@10", only=[True] * len(task)).n == len(task)
    with pytest.raises(DataError, match="leaves no target"):
        compare_recommenders(a, b, task, "HR@10", only=[False] * len(task))
    with pytest.raises(DataError, match="must hold true or false for each of the"):
        compare_recommenders(a, b, task, "HR@10", only=[True])


def test_names_of_metrics() -> None:
    assert ranking_metric("HR@100") == ("HR", 100)
    assert ranking_metric("MRR") == ("MRR", None)
    for wrong in ("HR", "MRR@5", "hr@10", "accuracy", ""):
        with pytest.raises(UsageError, match="there is no ranking metric"):
            ranking_metric(wrong)
    for wrong in ("HR@0", "HR@", "HR@-5", "HR@1.5", "HR@ten", "HR@05"):
        with pytest.raises(UsageError, match="whole number above 0"):
            ranking_metric(wrong)
    assert set(names_for((1, 5))) == {
        *(f"{f}@{k}" for f in RANKING_METRICS if f not in ("MRR", "median_rank") for k in (1, 5)),
        "MRR",
        "median_rank",
    }


def test_refusals() -> None:
    ranks, task = ranked("next_item")
    other = make_task("all_future", 4, ITEMS)
    with pytest.raises(DataError, match="are of another task"):
        score_ranking(ranks, other)
    shuffled = replace(task, targets=replace(task.targets, items=task.targets.items[::-1].copy()))
    with pytest.raises(DataError, match="are of another task"):
        measure_ranking(ranks, shuffled, ["MRR"])
    with pytest.raises(UsageError, match="at least one list length"):
        score_ranking(ranks, task, ks=())
    with pytest.raises(UsageError, match=r"HR@7 is not among ks=\(1, 3, 5\)"):
        score_ranking(ranks, task, ks=KS, primary="HR@7")
    with pytest.raises(UsageError, match="primary: there is no ranking metric"):
        score_ranking(ranks, task, ks=KS, primary="accuracy")
    with pytest.raises(DataError, match=r"slices\['x'\] must hold one label for each"):
        score_ranking(ranks, task, ks=KS, slices={"x": ["a"]})
    with pytest.raises(UsageError, match="draw users again for coverage"):
        compare_recommenders(ranks, ranks, task, "coverage@5")
    with pytest.raises(UsageError, match="at least 100"):
        compare_recommenders(ranks, ranks, task, "HR@5", resamples=10)
