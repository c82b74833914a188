"""What the numbers lead to, in words."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.planning import ArmFacts, Pair, Verdict, judge

TITLES = {"probe": "Linear probe", "finetune": "Fine-tuning", "scratch": "From scratch",
          "tfidf": "TF-IDF", "zero-shot": "Zero-shot",
          "probe:depth=auto": "Linear probe (depth auto)"}  # fmt: skip


def arm(name: str, validation: float, test: float, seconds: float = 10, **other: Any) -> ArmFacts:
    control = name in {"scratch", "tfidf"}
    values: dict[str, Any] = {
        "name": name, "title": TITLES[name], "role": "control" if control else "arm",
        "status": "done", "validation": validation, "test": test, "low": test - 0.03,
        "high": test + 0.03, "seconds": seconds, "from_scratch": name == "scratch",
        "uses_backbone": name != "tfidf",
    }  # fmt: skip
    return ArmFacts(**(values | other))


def pair(a: str, b: str, difference: float, significant: bool) -> Pair:
    half = 0.01 if significant else abs(difference) + 0.01
    return Pair(a=a, b=b, difference=difference, low=difference - half, high=difference + half,
                significant=significant)  # fmt: skip


def verdict(arms: list[ArmFacts], pairs: list[Pair], **other: Any) -> Verdict:
    settings: dict[str, Any] = {"metric": "accuracy", "skipped": {}}
    return judge(arms, pairs, **(settings | other))


def words(found: Verdict) -> str:
    return " ".join(found.sentences)


def test_the_best_is_best_on_validation_not_on_test() -> None:
    arms = [arm("probe", 0.90, 0.85), arm("finetune", 0.88, 0.91)]
    found = verdict(arms, [pair("probe", "finetune", -0.06, True)])
    assert found.best == "probe"
    assert found.sentences[0].startswith("Linear probe is best on the validation rows and reaches "
                                         "85.0 % accuracy on the test rows (95 %")  # fmt: skip
    assert "Fine-tuning scored higher on the test rows (91.0 %)" in words(found)


def test_a_tie_on_validation_goes_to_the_cheaper() -> None:
    arms = [arm("finetune", 0.9, 0.9, 100), arm("probe", 0.9, 0.9, 5)]
    assert verdict(arms, [pair("finetune", "probe", 0.0, False)]).best == "probe"


def test_the_cheapest_that_is_not_significantly_worse() -> None:
    arms = [
        arm("finetune", 0.95, 0.94, 100), arm("probe", 0.93, 0.93, 10),
        arm("tfidf", 0.93, 0.92, 2), arm("zero-shot", 0.60, 0.60, 1),
    ]  # fmt: skip
    pairs = [
        pair("finetune", "probe", 0.01, False), pair("tfidf", "finetune", -0.02, False),
        pair("finetune", "zero-shot", 0.34, True), pair("probe", "zero-shot", 0.33, True),
    ]  # fmt: skip
    found = verdict(arms, pairs)
    assert (found.best, found.cheapest_within) == ("finetune", "tfidf")
    assert "TF-IDF is not significantly worse" in words(found)
    assert "(difference 2.0 points, -1.0 to 5.0)" in words(found)
    assert "1/50 of the time" in words(found)


def test_a_dearer_equal_is_no_cheapest() -> None:
    arms = [arm("probe", 0.95, 0.94, 10), arm("finetune", 0.94, 0.94, 100)]
    assert verdict(arms, [pair("probe", "finetune", 0.0, False)]).cheapest_within is None


def test_only_a_loss_to_scratch_is_negative_transfer() -> None:
    arms = [arm("probe", 0.7, 0.7), arm("scratch", 0.8, 0.8), arm("tfidf", 0.9, 0.9)]
    pairs = [pair("probe", "scratch", -0.1, True), pair("tfidf", "probe", 0.2, True),
             pair("scratch", "tfidf", -0.1, True)]  # fmt: skip
    found = verdict(arms, pairs)
    assert found.negative_transfer == ("probe",)
    assert found.below_control == ({"arm": "probe", "control": "tfidf"},)
    assert (
        "Negative transfer: Linear probe is below training from scratch, by 10.0 points "
        "(9.0 to 11.0)."
    ) in found.sentences
    assert "Linear probe is below a control: TF-IDF beats it by 20.0 points (19.0 to 21.0)." in (
        found.sentences
    )
    assert "The best arm is a control" in words(found)
    assert any("another backbone" in step for step in found.next)


def test_what_learns_nothing_transfers_nothing() -> None:
    arms = [arm("zero-shot", 0.6, 0.6, learns=False), arm("scratch", 0.8, 0.8)]
    found = verdict(arms, [pair("zero-shot", "scratch", -0.2, True)])
    assert found.negative_transfer == ()
    assert found.below_control == ({"arm": "zero-shot", "control": "scratch"},)
    assert "Negative transfer" not in words(found)


def test_a_weak_start_is_no_ground_for_another_backbone_where_tuning_it_was_best() -> None:
    arms = [arm("zero-shot", 0.6, 0.6), arm("finetune", 0.9, 0.9), arm("scratch", 0.7, 0.7)]
    pairs = [pair("zero-shot", "scratch", -0.1, True), pair("finetune", "scratch", 0.2, True),
             pair("finetune", "zero-shot", 0.3, True)]  # fmt: skip
    found = verdict(arms, pairs)
    assert found.negative_transfer == ("zero-shot",)
    assert not any("another backbone" in step for step in found.next)


def test_another_backbone_is_advised_where_every_arm_lost_to_a_control() -> None:
    arms = [arm("zero-shot", 0.6, 0.6), arm("probe", 0.8, 0.8), arm("tfidf", 0.9, 0.9)]
    lost = pair("zero-shot", "tfidf", -0.3, True)
    near = verdict(arms, [lost, pair("probe", "tfidf", -0.1, False)])
    assert not any("another backbone" in step for step in near.next)
    far = verdict(arms, [lost, pair("probe", "tfidf", -0.1, True)])
    assert any("another backbone" in step for step in far.next)
    probe = [arm("finetune", 0.6, 0.6), arm("probe", 0.8, 0.8, role="control")]
    own = verdict(probe, [pair("finetune", "probe", -0.2, True)])
    assert own.below_control == ({"arm": "finetune", "control": "probe"},)
    assert not any("another backbone" in step for step in own.next), "the probe stands on it too"


def test_a_difference_that_is_not_significant_is_no_loss() -> None:
    arms = [arm("probe", 0.7, 0.7), arm("scratch", 0.8, 0.8)]
    found = verdict(arms, [pair("probe", "scratch", -0.1, False)])
    assert found.negative_transfer == ()
    assert found.below_control == ()


def test_cut_arms_are_not_judged() -> None:
    arms = [arm("probe", 0.7, 0.7), arm("finetune", 0.99, 0.99, status="cut"),
            arm("scratch", 0.8, 0.8, status="cut")]  # fmt: skip
    pairs = [pair("probe", "finetune", -0.29, True), pair("probe", "scratch", -0.1, True)]
    found = verdict(arms, pairs)
    assert found.best == "probe"
    assert found.negative_transfer == ()
    assert "Cut by the budget, so not judged: Fine-tuning, From scratch." in found.sentences
    assert any("--budget" in step for step in found.next)


def test_shortened_arms_may_win_but_are_no_losers() -> None:
    losing = [arm("finetune", 0.5, 0.5, status="shortened"), arm("tfidf", 0.8, 0.8)]
    found = verdict(losing, [pair("finetune", "tfidf", -0.3, True)])
    assert found.below_control == ()
    assert any("the budget limited Fine-tuning" in step for step in found.next)
    winning = [arm("finetune", 0.9, 0.9, status="shortened"), arm("tfidf", 0.8, 0.8)]
    assert verdict(winning, [pair("finetune", "tfidf", 0.1, True)]).best == "finetune"


@pytest.mark.parametrize("arms", [[], [arm("probe", 0.9, 0.9, status="cut")]])
def test_without_an_arm_there_is_no_verdict(arms: list[ArmFacts]) -> None:
    found = verdict(arms, [])
    assert found.best is None
    assert "no verdict" in words(found)
    assert found.next


def test_what_to_try_next() -> None:
    wide = verdict([arm("probe", 0.9, 0.9, low=0.8, high=0.95)], [],
                   skipped={"zero-shot": "the class names say nothing"})  # fmt: skip
    assert [any(part in step for step in wide.next)
            for part in ("Add test rows", "depth=auto", "the class names say nothing")] == [
        True, True, True,
    ]  # fmt: skip
    both = verdict([arm("probe", 0.9, 0.9), arm("probe:depth=auto", 0.8, 0.8)], [])
    assert not any("depth=auto" in step for step in both.next), "it was an arm already"


def test_one_arm_is_not_called_the_best_of_anything() -> None:
    found = verdict([arm("finetune", 0.9, 0.9)], [])
    assert found.sentences[0].startswith("Fine-tuning reaches 90.0 % accuracy on the test rows")
    assert "best" not in words(found)


def test_a_cheaper_arm_that_is_better_on_test_is_not_called_worse() -> None:
    arms = [arm("finetune", 0.95, 0.80, 100), arm("probe", 0.93, 0.90, 10)]
    found = verdict(arms, [pair("finetune", "probe", -0.10, True)])
    assert found.cheapest_within == "probe"
    assert "Linear probe is significantly better on the test rows at 1/10 of" in words(found)
    assert "not significantly worse" not in words(found)


def test_a_control_that_ran_alone_beat_nothing() -> None:
    alone = verdict([arm("tfidf", 0.9, 0.9), arm("scratch", 0.5, 0.5)], [])
    assert "no adaptation" not in words(alone)
    beside = verdict([arm("tfidf", 0.9, 0.9), arm("probe", 0.5, 0.5)], [])
    assert "no adaptation of the pretrained model beat TF-IDF" in words(beside)


def test_with_several_seeds_the_kept_one_is_told_apart_from_the_mean() -> None:
    found = verdict(
        [arm("finetune", 0.9, 0.9, seeds=3, kept_seed=2, kept_test=0.912), arm("probe", 0.8, 0.8)],
        [],
    )
    assert "means of 3 seeds" in words(found)
    assert "seed 2, the best on validation: 91.2 %" in words(found)


@pytest.mark.parametrize(("lower", "said"), [(0.36, "so few test rows"), (0.02, "not signif")])
def test_few_test_rows_are_not_called_no_worse(lower: float, said: str) -> None:
    arms = [arm("finetune", 0.95, 0.94, 100), arm("probe", 0.93, 0.94 - lower, 10)]
    found = verdict(arms, [pair("finetune", "probe", lower, False)])
    assert said in words(found)
    assert ("not significantly worse" in words(found)) == (lower < 0.1)


def test_a_long_list_of_short_arms_is_cut() -> None:
    names = list(TITLES)
    arms = [arm(name, 0.9, 0.9, status="shortened") for name in names]
    step = next(step for step in verdict(arms, []).next if "more time" in step)
    assert step == (
        "Give more time (--budget): the budget limited Linear probe, Fine-tuning, From scratch "
        "and 3 more arms."
    )
    four = next(step for step in verdict(arms[:4], []).next if "more time" in step)
    assert four.endswith("limited Linear probe, Fine-tuning, From scratch, TF-IDF.")
    known = next(step for step in verdict(arms[:1], [], enough=5000).next if "more time" in step)
    assert known.startswith("Give more time (--budget 1h25m is enough for all): the budget ")
