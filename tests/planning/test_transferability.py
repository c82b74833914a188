"""Scores of several backbones on the same rows: cross-validation, halves, order and agreement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart.core import DataError, UsageError
from warmstart.evaluation import h_score, kendall_tau, leep, log_me, nce
from warmstart.planning import TRANSFER_SCORES, TransferRows, measure_transfer, order_backbones
from warmstart.planning.transferability import cross_validated_knn, cross_validated_probe
from warmstart.strategies.logistic import fit_logistic

N, C = 60, 3


def rows(**changes: Any) -> TransferRows:
    labels = np.random.default_rng(0).permutation(np.arange(N) % C)
    given: dict[str, Any] = {
        "ids": [f"r{i:03d}" for i in range(N)], "contents": [f"c{i}" for i in range(N)],
        "classes": C, "metric": "accuracy", "resamples": 6,
    }  # fmt: skip
    return TransferRows.of(changes.pop("labels", labels), **(given | changes))


def vectors(apart: float, seed: int = 1, labels: Any = None, d: int = 8) -> Any:
    generator = np.random.default_rng(seed)
    labels = rows().labels_N if labels is None else labels
    return generator.normal(size=(C, d))[labels] * apart + generator.normal(size=(len(labels), d))


def test_every_score_is_the_formula_on_all_rows() -> None:
    cut, x = rows(), vectors(1.0)
    theta = np.random.default_rng(3).dirichlet(np.ones(4), N)
    found = measure_transfer(x, cut, source_proba_NS=theta)
    assert list(found.scores) == list(TRANSFER_SCORES)
    assert found.scores["log_me"].value == log_me(x, cut.labels_N)
    assert found.scores["h_score"].value == h_score(x, cut.labels_N)
    assert found.scores["leep"].value == leep(theta, cut.labels_N)
    assert found.scores["nce"].value == nce(theta.argmax(axis=1), cut.labels_N)
    for name in ("probe", "knn"):
        right = (found.proba[name].argmax(axis=1) == cut.labels_N).mean()
        assert found.scores[name].value == pytest.approx(right)
        assert len(found.draws[name]) == 1000
    for score in found.scores.values():
        assert score.low <= score.value <= score.high
    half = cut.half_RN[2]
    assert found.draws["log_me"][2] == log_me(x[half], cut.labels_N[half])
    assert list(measure_transfer(x, cut).scores) == ["probe", "knn", "log_me", "h_score"]


def test_cross_validation_against_a_loop() -> None:
    cut, x = rows(), vectors(0.8)
    probe, knn = cross_validated_probe(x, cut), cross_validated_knn(x, cut)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for row in range(0, N, 7):
        known = np.flatnonzero(cut.fold_N != cut.fold_N[row])
        near = sorted(known, key=lambda other: -float(unit[row] @ unit[other]))[:5]
        votes = np.full(C, 0.1 / C)
        for other in near:
            closer = float(unit[row] @ unit[near[0]] - unit[row] @ unit[other])
            votes[cut.labels_N[other]] += np.exp(-closer / 0.07)
        assert knn[row] == pytest.approx(votes / votes.sum(), abs=1e-5)
        solved = fit_logistic(x[known], cut.labels_N[known], C, ids=[cut.ids[i] for i in known])
        logits = solved.weight_CD @ x[row] + solved.bias_C
        expected = np.exp(logits - logits.max())
        assert probe[row] == pytest.approx(expected / expected.sum(), abs=1e-9)


def test_equal_rows_and_groups_are_never_divided() -> None:
    contents = [f"c{i // 2}" for i in range(N)]
    groups = [None if i < 10 else i // 6 for i in range(N)]
    cut = rows(contents=contents, groups=groups)
    for i in range(0, N, 2):
        assert cut.fold_N[i] == cut.fold_N[i + 1]
        assert (cut.half_RN[:, i] == cut.half_RN[:, i + 1]).all()
    for group in {value for value in groups if value is not None}:
        inside = [i for i, value in enumerate(groups) if value == group]
        assert len(set(cut.fold_N[inside])) == 1
    assert len(set(cut.fold_N[:10])) > 1  # rows without a group stand alone
    # Labels drawn by chance on pairs of equal rows: a row must not find its own twin.
    labels = np.repeat(np.random.default_rng(5).integers(0, C, N // 2), 2)
    twins = np.repeat(np.random.default_rng(6).normal(size=(N // 2, 8)), 2, axis=0)
    found = measure_transfer(twins, rows(labels=labels, contents=contents))
    assert found.scores["knn"].value < 0.6
    assert found.scores["probe"].value < 0.6


def test_halves_are_drawn_by_class() -> None:
    cut = rows()
    for half in cut.half_RN:
        counts = np.bincount(cut.labels_N[half], minlength=C)
        assert counts.min() >= 9
        assert half.sum() == N // 2
    assert len({half.tobytes() for half in cut.half_RN}) == len(cut.half_RN)
    assert np.array_equal(rows().half_RN, cut.half_RN)
    assert not np.array_equal(rows(seed=1).half_RN, cut.half_RN)


def test_a_class_of_one_row_stays_possible() -> None:
    labels = np.zeros(N, dtype=int)
    labels[0] = 2
    cut = rows(labels=labels)
    assert all(len(np.unique(labels[half])) == 2 for half in cut.half_RN)
    found = measure_transfer(vectors(1.0, labels=labels), cut)
    assert found.proba["probe"].sum(axis=1) == pytest.approx(np.ones(N))
    assert found.scores["probe"].value >= 1 - 2 / N


def test_the_interval_of_a_half_sampled_score_holds_what_new_rows_give() -> None:
    """Ten new samples of a like population: most of their LogME lies in the interval."""
    found = measure_transfer(vectors(1.0), rows(resamples=30)).scores["log_me"]
    centres = np.random.default_rng(1).normal(size=(C, 8))  # those of vectors(1.0)
    labels = rows().labels_N
    values = [
        log_me(centres[labels] + np.random.default_rng(s).normal(size=(N, 8)), labels)
        for s in range(100, 110)
    ]
    assert sum(found.low <= value <= found.high for value in values) >= 7
    assert found.high - found.low < 1.0


def test_the_order_and_how_sure_it_is() -> None:
    cut = rows()
    measured = [measure_transfer(vectors(apart), cut) for apart in (0.0, 2.0, 1.9)]
    found = order_backbones(measured, [300, 100, 200], cut)
    values = [one.scores["probe"].value for one in measured]
    assert found.order[-1] == 0
    assert values[found.order[0]] == max(values)
    assert found.size_order == (0, 2, 1)
    assert found.gaps[found.order[0]] is None
    far, near = found.gaps[0], found.gaps[found.order[1]]
    assert far is not None
    assert near is not None
    assert far.difference == pytest.approx(values[0] - max(values))
    assert far.sure
    assert not near.sure
    assert sum(found.first_share) == pytest.approx(1)
    assert found.first_share[0] == 0
    sized = {one.first: one for one in found.agreement if one.second == "size"}
    assert set(sized) == {"probe", "knn", "log_me", "h_score"}
    assert sized["log_me"].tau == kendall_tau(
        [one.scores["log_me"].value for one in measured], [300, 100, 200]
    )
    for one in sized.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.tau <= one.high
        assert one.backbones == 3
    both = next(o for o in found.agreement if (o.first, o.second) == ("probe", "log_me"))
    assert both.low is None


def test_equal_backbones_are_ordered_by_log_me_and_then_the_smaller() -> None:
    cut = rows()
    same = measure_transfer(vectors(1.0), cut)
    found = order_backbones([same, same], [200, 100], cut)
    assert found.order == (1, 0)
    assert found.first_share == (0.5, 0.5)
    assert found.agreement == ()  # one place for both: nothing to agree on
    gap = found.gaps[0]
    assert gap is not None
    assert (gap.difference, gap.sure) == (0, False)


def test_other_scores_and_metrics_may_order() -> None:
    cut = rows(metric="log_loss")
    measured = [measure_transfer(vectors(apart), cut) for apart in (0.3, 2.0)]
    for by in ("probe", "knn", "log-me", "h_score"):
        found = order_backbones(measured, [1, 2], cut, by=by)
        assert found.order == (1, 0)
        assert found.first_share[1] > 0.9
    losses = [one.scores["probe"].value for one in measured]
    assert losses[1] < losses[0]
    with pytest.raises(UsageError, match=r'no such score is called "logme".*Did you mean "log_me"'):
        order_backbones(measured, [1, 2], cut, by="logme")


def test_one_backbone_has_no_order() -> None:
    cut = rows()
    found = order_backbones([measure_transfer(vectors(1.0), cut)], [5], cut)
    assert (found.order, found.gaps, found.first_share) == ((0,), (None,), (1.0,))
    assert found.agreement == ()


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(DataError, match="two classes in each random half"):
        rows(labels=np.zeros(N, dtype=int))
    with pytest.raises(DataError, match=r"60 rows, 1 of which can be divided"):
        rows(contents=["c"] * N)
    with pytest.raises(DataError, match=r"60 of 60 rows have none. Leave them out"):
        rows(labels=np.full(N, -1))
    few = {"ids": ["a", "b"], "contents": ["a", "b"], "labels": np.array([0, 1])}
    with pytest.raises(DataError, match=r"in 2 classes. Give more rows"):
        rows(**few)
    with pytest.raises(UsageError, match=r"rank\.resamples must be at least 2, got 1"):
        rows(resamples=1)
    with pytest.raises(UsageError, match=r"rank\.folds must be at least 2, got 1"):
        rows(folds=1)
    with pytest.raises(DataError, match="5 vectors came for 60 rows"):
        measure_transfer(np.ones((5, 2)), rows())
