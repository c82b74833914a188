"""To adapt or not: ranks, agreement, and each kind of evidence against."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from warmstart.core import UsageError
from warmstart.shift import (
    Candidate,
    DomainGap,
    Judged,
    SharesConflict,
    choose_snapshot,
    concordance,
    decide,
    shares_conflict,
)
from warmstart.shift.select_ranks import mean_ranks, rank_table

FAR = DomainGap(error=0.1, low=0.08, high=0.12, n=1000)
NEAR = DomainGap(error=0.49, low=0.46, high=0.52, n=1000)
CALM = SharesConflict(em=0.02, bbse=0.03, apart=0.01)
TORN = SharesConflict(em=0.25, bbse=0.22, apart=0.05)


def judged(weighted: float, embedded: float, neighbours: float) -> Judged:
    return Judged(weighted=weighted, embedded=embedded, neighbours=neighbours, accuracy=0.9)


def candidate(name: str, *values: float, aligns: bool = False) -> Candidate:
    return Candidate(name, name.upper(), aligns, judged(*values))


SOURCE = candidate("source-only", 0.5, 0.5, 3.0)


def slow_w(ranks: np.ndarray) -> float:
    """Kendall's W from the mean of Spearman's correlation over pairs: W = ((V - 1) r + 1) / V."""
    judges = len(ranks)
    pairs = [float(np.corrcoef(a, b)[0, 1]) for a, b in itertools.combinations(ranks, 2)]
    return ((judges - 1) * float(np.mean(pairs)) + 1) / judges


def test_concordance_known_answers() -> None:
    same = np.tile([1.0, 2.0, 3.0, 4.0], (3, 1))
    assert concordance(same) == pytest.approx(1.0)
    assert concordance(np.array([[1.0, 2, 3], [3, 2, 1]])) == pytest.approx(0.0)
    assert concordance(same[:1]) is None
    assert concordance(same[:, :1]) is None
    assert concordance(np.full((3, 4), 2.5)) is None


@pytest.mark.parametrize("seed", range(5))
def test_concordance_against_a_slow_twin(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    ranks = np.stack([drawn.permutation(6) + 1.0 for _ in range(3)])
    assert concordance(ranks) == pytest.approx(slow_w(ranks))


def test_concordance_with_ties() -> None:
    """The corrected W still follows the mean correlation of the ranks where ties are alike."""
    ranks = np.array([[1.5, 1.5, 3, 4], [3, 4, 1.5, 1.5], [1.5, 3, 1.5, 4]])
    assert concordance(ranks) == pytest.approx(slow_w(ranks))


def test_ranks_turn_risks_and_share_ties() -> None:
    table = rank_table([judged(0.3, 0.2, 1.0), judged(0.1, 0.2, 2.0), judged(0.2, 0.4, 2.0)])
    np.testing.assert_allclose(table, [[3, 1, 2], [1.5, 1.5, 3], [3, 1.5, 1.5]])
    np.testing.assert_allclose(mean_ranks(table), [2.5, 4 / 3, 13 / 6])
    assert choose_snapshot([judged(1, 1, 1), judged(0.5, 0.5, 2), judged(2, 2, 0)]) == 1
    assert choose_snapshot([judged(1, 1, 1), judged(1, 1, 1)]) == 1, "the later of equal ones"


def test_a_method_is_taken_where_the_evidence_speaks_for_it() -> None:
    better = candidate("dann", 0.3, 0.4, 3.5, aligns=True)
    found = decide([SOURCE, better, candidate("mmd", 0.4, 0.45, 2.0)], gap=FAR, conflict=CALM)
    assert (found.kept, found.adapting, found.proposed) == ("dann", True, "dann")
    assert found.preferred_by["dann"] == ("weighted", "embedded", "neighbours")
    assert found.against == ()
    assert found.sentences[0].startswith("DANN is kept, chosen without target labels")
    assert "3 of 3 validators prefer it" in found.sentences[0]
    assert found.mean_ranks["dann"] == 1.0


def test_two_of_three_are_enough_and_one_is_not() -> None:
    two = candidate("dann", 0.3, 0.4, 2.0)
    assert decide([SOURCE, two], gap=FAR, conflict=CALM).kept == "dann"
    # Far ahead under one validator, behind under both others, yet first by its mean rank.
    others = [candidate("a", 0.4, 0.9, 2.0), candidate("b", 0.5, 0.95, 1.0)]
    lone = candidate("dann", 0.2, 0.55, 2.9)
    source = candidate("source-only", 0.85, 0.5, 3.0)
    found = decide([source, *others, lone], gap=FAR, conflict=CALM)
    assert found.proposed == "dann"
    assert found.preferred_by["dann"] == ("weighted",)
    assert (found.kept, found.adapting) == ("source-only", False)
    assert any("validators disagree: DANN has the best mean rank, but only" in one
               for one in found.against)  # fmt: skip


def test_source_only_stays_where_the_validators_put_it_first() -> None:
    found = decide([SOURCE, candidate("dann", 0.9, 0.9, 1.0)], gap=FAR, conflict=CALM)
    assert found.kept == "source-only"
    assert "mean rank puts SOURCE-ONLY first" in found.against[0]


def test_a_tiny_distance_speaks_against() -> None:
    found = decide([SOURCE, candidate("dann", 0.1, 0.1, 9.0)], gap=NEAR, conflict=CALM)
    assert found.kept == "source-only"
    assert "cannot be told apart (A-distance 0.04, 95 % interval 0.00 to 0.16)" in found.against[0]


def test_domains_that_hardly_overlap_keep_source_only() -> None:
    """The weighted validators have nothing to stand on, and are not believed."""
    better = candidate("dann", 0.1, 0.1, 9.0)
    apart = replace(FAR, overlap=0.1, effective=200.0, weighed=300)
    found = decide([SOURCE, better], gap=apart, conflict=CALM)
    assert (found.kept, found.proposed) == ("source-only", "dann")
    (told,) = found.against
    assert told.startswith("The domains hardly overlap (A-distance 1.60): about 10 % of the target")
    thin = replace(FAR, overlap=0.9, effective=12.0, weighed=300)
    found = decide([SOURCE, better], gap=thin, conflict=CALM)
    assert (found.kept, found.proposed) == ("source-only", "dann")
    assert found.against[0].startswith("12 of 300 validation rows carry the importance weights")
    for whole in (
        replace(FAR, overlap=0.9, effective=200.0, weighed=300),
        replace(FAR, overlap=0.97, effective=18.0, weighed=20),  # a small source that overlaps
    ):
        assert decide([SOURCE, better], gap=whole, conflict=CALM).kept == "dann"


def test_who_insists_keeps_a_method() -> None:
    gap = replace(FAR, overlap=0.1, effective=12.0, weighed=300)
    better, worse = candidate("dann", 0.1, 0.1, 9.0), candidate("mmd", 0.9, 0.9, 1.0)
    found = decide([SOURCE, better, worse], gap=gap, conflict=CALM, keep="mmd")
    assert (found.kept, found.adapting, found.proposed) == ("mmd", True, "dann")
    assert found.sentences[0] == (
        "MMD is kept because you asked for it; the evidence would keep SOURCE-ONLY. 0 of 3 "
        "validators prefer it to SOURCE-ONLY."
    )
    assert any("hardly overlap" in one for one in found.sentences)
    found = decide([SOURCE, better, worse], gap=FAR, conflict=CALM, keep="source-only")
    assert (found.kept, found.adapting) == ("source-only", False)
    assert found.sentences[0].endswith("the evidence would keep DANN.")
    found = decide([SOURCE, better], gap=FAR, conflict=CALM, keep="dann")
    assert found.sentences[0].endswith("the evidence says the same.")
    with pytest.raises(UsageError, match=r"keep must name .*source-only, mmd.*got 'dann'"):
        decide([SOURCE, worse], gap=gap, conflict=CALM, keep="dann")


def test_differing_class_shares_leave_aligning_methods_out() -> None:
    align, other = candidate("dann", 0.1, 0.1, 9.0, aligns=True), candidate("em", 0.2, 0.2, 8.0)
    found = decide([SOURCE, align, other], gap=FAR, conflict=TORN)
    assert found.kept == "em"
    assert found.excluded == ("dann",)
    assert "dann" not in found.mean_ranks
    assert "class shares seem to differ" in found.against[-1]
    assert "DANN" in found.against[-1]


def test_shares_must_differ_by_more_than_the_estimators_do() -> None:
    assert TORN.found
    assert not SharesConflict(em=0.25, bbse=0.22, apart=0.30).found, "they contradict one another"
    assert not SharesConflict(em=0.25, bbse=0.05, apart=0.01).found
    assert not CALM.found
    shares = {
        "source": np.array([0.5, 0.5]), "em": np.array([0.9, 0.1]), "bbse": np.array([0.8, 0.2]),
    }  # fmt: skip
    found = shares_conflict(shares)
    assert (found.em, found.bbse, found.apart) == pytest.approx((0.4, 0.3, 0.1))


def test_source_only_alone_and_nothing_at_all() -> None:
    found = decide([SOURCE], gap=FAR, conflict=CALM)
    assert (found.kept, found.adapting, found.concordance) == ("source-only", False, None)
    with pytest.raises(UsageError, match="at least one candidate"):
        decide([], gap=FAR, conflict=CALM)
