"""The comparison itself, with arms that cost nothing and answer as they are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import datasets
import numpy as np
import pytest

from warmstart.backbones import Backbone, backbone
from warmstart.core import (
    DataError,
    Interrupted,
    NotApplicable,
    Run,
    RunError,
    UsageError,
    WarmstartError,
)
from warmstart.data import Dataset, View, read, split
from warmstart.models import Model
from warmstart.planning import (
    Arm,
    ArmResult,
    Embedding,
    Task,
    arm_json,
    compare,
    elapsed_clock,
    run_comparison,
)
from warmstart.strategies import Cost, Fitted, Strategy

LOG: list[tuple[str, int]] = []
LIMITS: list[tuple[str, int, int | None]] = []
ENDS: list[float] = []


class Told(Model):
    """Knows the truth from the text (`row 7 is 1`) and is right on so many rows in ten."""

    kind = "told"
    modality = "text"

    def __init__(self, names: tuple[str, ...], right: int) -> None:
        self.label_names, self.right = names, right

    def proba_of(self, inputs: Any) -> np.ndarray:
        out = np.full((len(inputs), len(self.label_names)), 0.1)
        for place, text in enumerate(inputs):
            _, row, _, label = text.split()
            shift = 0 if int(row) // 2 % 10 < self.right else 1
            out[place, (int(label) + shift) % len(self.label_names)] = 0.9
        return out / out.sum(axis=1, keepdims=True)

    def proba(self, dataset: Dataset) -> np.ndarray:
        assert (dataset.labels_N < 0).all(), "a model is asked without labels"
        return self.proba_of(dataset.inputs())

    def facts(self) -> dict[str, Any]:
        return {}

    def save_weights(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any], device: str) -> Told:
        raise NotImplementedError


class Fake(Strategy):
    name: ClassVar[str] = "fake"
    title: ClassVar[str] = "Fake"
    right: int = 5
    epochs: int = 10
    step: float = 0.0
    pause: float = 0.0
    refusal: str = ""
    trouble: str = ""

    def check(self, backbone: Backbone, view: View) -> None:
        if self.refusal:
            raise NotApplicable(self.refusal)

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost | None:
        self._stumble("measure")
        time.sleep(self.pause)
        return Cost(self.step, 4, self.epochs, 0.0) if self.step else None

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        LOG.append((self.mark, run.seed))
        LIMITS.append((self.mark, run.seed, run.max_steps))
        self._stumble("fit")
        full = self.epochs * 4
        steps = full if run.max_steps is None else min(full, run.max_steps)
        stopped = "finished" if steps == full else "max_steps"
        model = Told(view.label_names, self.right)
        return Fitted(model, 1, stopped=stopped, epochs=steps / 4)

    @property
    def mark(self) -> str:
        return f"{type(self).__name__}{self.right}"

    def _stumble(self, where: str) -> None:
        kind, _, place = self.trouble.partition(" ")
        if place == where:
            raise {"na": NotApplicable, "data": DataError, "usage": UsageError,
                   "run": RunError, "ctrl-c": Interrupted}[kind]("because")  # fmt: skip


class Long(Fake):
    """Tells how much time it has."""

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        assert run.deadline is not None
        ENDS.append(run.deadline - time.monotonic())
        return super().fit(backbone, view, run)


class Control(Fake):
    role: ClassVar[Any] = "control"
    from_scratch: ClassVar[bool] = True


class Once(Fake):
    seeded: ClassVar[bool] = False


@pytest.fixture(scope="module")
def data() -> Dataset:
    rows = {
        "text": [f"row {i} is {i % 2}" for i in range(200)],
        "label": [i % 2 for i in range(200)],
    }
    return read(datasets.Dataset.from_dict(rows), label_names=["even", "odd"])


@pytest.fixture
def task(data: Dataset, tiny_text: Path, tmp_path: Path) -> Callable[..., Task]:
    LOG.clear()
    LIMITS.clear()
    ENDS.clear()
    parts = split(data)

    def make(**settings: Any) -> Task:
        values: dict[str, Any] = {
            "backbone": backbone(str(tiny_text)), "view": parts.view(data),
            "test": parts.test_rows(data), "folder": tmp_path / "run", "primary": "accuracy",
            "seeds": 1, "budget": 600.0, "started": time.monotonic(), "device": "cpu",
        }  # fmt: skip
        return Task(**(values | settings))

    return make


def arm(name: str, cls: type[Fake] = Fake, **settings: Any) -> Arm:
    return Arm(name, cls(**settings))


def test_scores_pairs_and_verdict(task: Any) -> None:
    found = run_comparison([arm("low", right=6), arm("high", right=9),
                            arm("control", Control, right=10)], task())  # fmt: skip
    by_name = {result.name: result for result in found.arms}
    assert found.verdict.best == "control"
    assert set(found.verdict.negative_transfer) <= {"low", "high"}
    assert "low" in found.verdict.negative_transfer
    assert {(p.a, p.b) for p in found.pairs} == {
        ("low", "high"), ("low", "control"), ("high", "control"),
    }  # fmt: skip
    truth = task().test.labels_N
    for name, result in by_name.items():
        right = (result.test[0].argmax(axis=1) == truth).mean()
        assert result.scores is not None
        assert result.scores.main.value == pytest.approx(right), name
        assert result.status == "done"
    gap = next(p for p in found.pairs if (p.a, p.b) == ("low", "high"))
    values = [by_name[n].scores.main.value for n in ("low", "high")]
    assert gap.difference == pytest.approx(values[0] - values[1])


def test_first_seeds_come_first_and_what_has_one_answer_runs_once(task: Any) -> None:
    run_comparison([arm("slow", step=0.001, right=7), arm("once", Once), arm("quick", right=6)],
                   task(seeds=3))  # fmt: skip
    assert LOG[:3] == [("Once5", 0), ("Fake6", 0), ("Fake7", 0)]
    assert sorted(LOG[3:]) == [("Fake6", 1), ("Fake6", 2), ("Fake7", 1), ("Fake7", 2)]


def test_seeds_count_from_the_first(task: Any) -> None:
    run_comparison([arm("quick")], task(seeds=2, first_seed=40))
    assert LOG == [("Fake5", 40), ("Fake5", 41)]


def test_the_budget_shortens_and_every_seed_alike(task: Any) -> None:
    found = run_comparison([arm("slow", step=10.0), arm("fast", step=0.01, right=6)],
                           task(seeds=3, budget=200.0))  # fmt: skip
    slow, fast = found.arms
    assert slow.status == "shortened"
    assert fast.status == "done"
    limits = {limit for mark, _, limit in LIMITS if mark == "Fake5"}
    assert len([1 for mark, _, _ in LIMITS if mark == "Fake5"]) == 3
    (limit,) = limits
    # 400 s are wanted; what 90 % of 200 s leave beside the other arm, with the 1.15 margin.
    assert limit is not None
    assert 14 <= limit <= 15
    assert {limit for mark, _, limit in LIMITS if mark == "Fake6"} == {None}


def test_an_arm_that_gets_less_than_a_pass_is_cut_and_not_judged(task: Any) -> None:
    found = run_comparison([arm("slow", step=100.0, right=10), arm("quick", right=6)],
                           task(seeds=2, budget=200.0))  # fmt: skip
    assert [result.status for result in found.arms] == ["cut", "done"]
    assert found.verdict.best == "quick"
    assert [seed for mark, seed in LOG if mark == "Fake10"] == [0], "no second seed of a cut arm"
    assert "not judged" in " ".join(found.verdict.sentences)


def test_many_arms_leave_time_to_predict_for_each_other(task: Any, notes: list[str]) -> None:
    """60 held-out rows at 1 s a row: ten arms predict for 600 s of 1,000, and train for 400."""
    arms = [arm(f"a{i}", step=10.0, right=i) for i in range(10)]
    shared = task(budget=1000.0, embedding=Embedding(seconds=200.0))
    assert shared.predicting_seconds == pytest.approx(60)
    run_comparison(arms, shared)
    assert LIMITS[0][2] == 3, "400 s for ten arms at 10 s a step, with the 1.15 margin"
    (line,) = (line for line in notes if "in all" in line)
    # 10 x 40 steps x 10 s x 1.15, eleven times 60 s of predicting, a tenth in reserve
    assert line.startswith("10 arms would train for 77 min in all, and 17 min are left: most will ")
    assert "With --budget 1h40m all could end" in line


def test_the_verdict_says_what_budget_is_enough(task: Any) -> None:
    found = run_comparison([arm("slow", step=10.0), arm("fast", step=0.01, right=6)],
                           task(budget=200.0))  # fmt: skip
    (step,) = (step for step in found.verdict.next if "more time" in step)
    # 200 s, and what the slow arm lacks of 400 s x 1.15, since it took none of it here
    assert step == (
        "Give more time (--budget 15m is enough for all): the budget limited Fake (step 10.0)."
    )


def test_timing_takes_no_more_than_half_of_the_budget(task: Any) -> None:
    found = run_comparison(
        [arm("first", step=0.001, pause=1.2), arm("late", step=0.001, right=9), arm("once", Once)],
        task(budget=2.0),
    )  # fmt: skip
    assert [result.status for result in found.arms] == ["done", "cut", "done"]
    assert found.arms[1].reason == "the budget left no time for it"
    assert (
        "Cut by the budget, so not judged: Fake (right 9, step 0.001)." in found.verdict.sentences
    )
    assert "Fake9" not in {mark for mark, _ in LOG}


def test_what_was_asked_for_runs_however_late_it_is(task: Any) -> None:
    late = {"budget": 10.0, "started": time.monotonic() - 11.0}
    arms = [arm("asked", step=0.001), arm("control", Control, step=0.001, right=9)]
    found = run_comparison(arms, task(**late, asked="asked"))
    assert [result.status for result in found.arms] == ["done", "cut"]
    found = run_comparison(arms, task(**late))
    assert found.arms[0].status == "done", "what is on disk is not cut"
    assert found.arms[1].status == "cut"


def test_no_budget_means_no_measuring(task: Any) -> None:
    found = run_comparison([arm("slow", step=1e9)], task(budget=float("inf")))
    assert found.arms[0].status == "done"
    assert LIMITS == [("Fake5", 0, None)]


def test_what_cannot_work_is_shown_with_its_reason_and_replaced(task: Any) -> None:
    found = run_comparison(
        [arm("no", refusal="no words"), arm("yes")], task(),
        substitute=lambda left_out: arm("instead", right=8) if left_out.name == "no" else None,
    )  # fmt: skip
    assert [(r.name, r.status) for r in found.arms] == [
        ("no", "not applicable"), ("instead", "done"), ("yes", "done"),
    ]  # fmt: skip
    assert found.arms[0].reason == "no words"
    values = arm_json(found.arms[0], task())
    assert values["reason"] == "no words"
    assert "scores" not in values


@pytest.mark.parametrize("place", ["measure", "fit"])
@pytest.mark.parametrize(("kind", "status"), [("na", "not applicable"), ("data", "failed")])
@pytest.mark.parametrize("budget", [600.0, float("inf")])
def test_one_arms_trouble_leaves_the_others(
    task: Any, place: str, kind: str, status: str, budget: float
) -> None:
    if place == "measure" and budget == float("inf"):
        return
    found = run_comparison([arm("bad", trouble=f"{kind} {place}", right=1), arm("good", right=9)],
                           task(budget=budget))  # fmt: skip
    assert [(r.status, r.reason) for r in found.arms] == [(status, "because"), ("done", None)]
    assert found.verdict.best == "good"


@pytest.mark.parametrize("place", ["measure", "fit"])
@pytest.mark.parametrize("kind", ["usage", "run", "ctrl-c"])
def test_mistakes_damage_and_interruptions_stop_everything(
    task: Any, place: str, kind: str
) -> None:
    with pytest.raises(WarmstartError, match="because"):
        run_comparison([arm("bad", trouble=f"{kind} {place}"), arm("good", right=9)], task())


def test_finished_seeds_are_not_run_again(task: Any) -> None:
    arms = [arm("slow", step=10.0), arm("quick", right=8)]
    first = run_comparison(arms, task(seeds=2, budget=200.0))
    count = len(LOG)
    again = run_comparison(arms, task(seeds=2, budget=200.0))
    assert len(LOG) == count
    assert [r.status for r in again.arms] == [r.status for r in first.arms]
    assert again.verdict.best == first.verdict.best
    for one, two in zip(first.arms, again.arms, strict=True):
        np.testing.assert_array_equal(np.stack(one.test), np.stack(two.test))


def test_a_resumed_seed_keeps_the_steps_it_was_granted(task: Any) -> None:
    arms = [arm("slow", step=10.0), arm("stop", trouble="ctrl-c fit", right=8, step=0.001)]
    with pytest.raises(Interrupted):
        run_comparison(arms, task(seeds=2, budget=200.0))
    granted = LIMITS[0]
    LIMITS.clear()
    calm = [arms[0], arm("stop", right=8, step=0.001)]
    run_comparison(calm, task(seeds=2, budget=200.0))
    assert ("Fake5", 0) not in [entry[:2] for entry in LIMITS]
    assert [limit for mark, _, limit in LIMITS if mark == "Fake5"] == [granted[2]]


def test_damaged_seeds_are_run_again(task: Any) -> None:
    run_comparison([arm("quick")], task())
    path = task().folder / "arms" / "quick" / "seed-0" / "proba.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    run_comparison([arm("quick")], task())
    assert LOG == [("Fake5", 0), ("Fake5", 0)]


def test_arm_json_tells_what_was_measured(task: Any) -> None:
    from warmstart.planning import Prices

    priced = task(seeds=2, prices=Prices(price_per_hour=3600.0))
    result = run_comparison([arm("quick", right=8)], priced).arms[0]
    values = arm_json(result, priced)
    assert values["seeds"] == 2
    assert values["cost"]["money"] == pytest.approx(values["seconds"])
    assert values["seconds"] == pytest.approx(np.mean([s.seconds for s in result.seeds]))
    assert values["size_bytes"] > 0
    assert values["latency_ms"] > 0
    assert values["trainable_parameters"] == 1


class BySeed(Fake):
    """Right on as many rows in ten as its seed says."""

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        right = {0: 6, 1: 9, 2: 7}[run.seed]
        return Fitted(Told(view.label_names, right), 1, values={"right": right})


def test_the_seed_that_is_best_on_validation_is_kept(task: Any) -> None:
    here = task(seeds=3)
    found = run_comparison([arm("seeded", BySeed)], here)
    values = arm_json(found.arms[0], here)
    assert values["kept"]["seed"] == 1
    assert values["chosen"] == {"right": 9}
    own = (found.arms[0].test[1].argmax(axis=1) == here.test.labels_N).mean()
    assert values["kept"]["metrics"]["accuracy"] == pytest.approx(own)
    assert values["kept"]["metrics"]["accuracy"] > values["scores"]["metrics"]["accuracy"]["value"]
    assert values["size_bytes"] is not None
    saved = [seed.size_bytes is not None for seed in found.arms[0].seeds]
    assert saved == [True, True, False], "seed 2 is no better than seed 1"


def test_arms_of_one_strategy_have_names_of_their_own(task: Any) -> None:
    found = run_comparison([Arm("a", Fake()), Arm("b", Fake(right=9))], task())
    labels = [arm_json(result, task())["label"] for result in found.arms]
    assert labels == ["Fake", "Fake (right 9)"]


def test_the_clock_of_a_resumed_run_counts_earlier_sessions(tmp_path: Path) -> None:
    begun = time.monotonic() - 30.0
    with elapsed_clock(tmp_path, begun) as first:
        assert first == begun
    now = time.monotonic()
    with elapsed_clock(tmp_path, now) as second:
        assert now - second == pytest.approx(30.0, abs=1.0)

    def stop() -> None:
        with elapsed_clock(tmp_path, now - 100.0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    with elapsed_clock(tmp_path, now) as third:
        assert now - third >= 130.0


def test_features_are_billed_to_those_who_stand_on_them(task: Any) -> None:
    class OnFeatures(Fake):
        uses_features: ClassVar[bool] = True

    here = task(embedding=Embedding(seconds=50.0, peak_bytes=10**12, from_cache=True))
    found = run_comparison([arm("on", OnFeatures), arm("off", right=6)], here)
    on, off = (arm_json(result, here) for result in found.arms)
    assert on["seconds"] > 50 > off["seconds"]
    assert on["peak_memory_bytes"] == 10**12 > off["peak_memory_bytes"]
    assert any("cache" in note for note in on["notes"])
    assert not off["notes"]


@pytest.mark.parametrize(("embedding", "least"), [(0.0, 500), (20.0, 400)])
def test_the_last_arm_leaves_time_to_predict_and_judge(
    task: Any, embedding: float, least: float
) -> None:
    """Where a row takes 0.1 s, held-out rows and those embedded again take 36 s of ten minutes."""
    shared = task(embedding=Embedding(seconds=embedding))
    held = len(shared.view.validation) + len(shared.test)
    assert shared.closing_seconds == pytest.approx(embedding / 200 * (2 * held + 1.2 * 200) + 6)
    assert shared.kept_rows == (300 if embedding else 2000)
    run_comparison([arm("long", Long, step=1000.0)], shared)
    assert least < ENDS[0] <= 600 - shared.closing_seconds


@pytest.mark.parametrize(("step", "first"), [(1.0, 494), (100.0, 405)])
def test_time_that_no_arm_wants_is_there_for_a_slow_one(
    task: Any, step: float, first: float
) -> None:
    """Of 540 s for training two arms want 46 s each, or all of it (then half as late again)."""
    run_comparison([arm("a", Long, step=step), arm("b", Long, step=step, right=6)], task())
    assert ENDS[0] == pytest.approx(first, abs=5)


@pytest.mark.parametrize(
    ("seconds", "epochs", "lacking"),
    [
        (40.0, 5.0, 75.0),
        (200.0, 8.0, 50.0),
        (300.0, 10.0, 0.0),
        (12.0, 0.02, 103.0),
        (0.1, 0.0, 114.9),
    ],
)
def test_what_a_slow_arm_lacks_is_counted_at_its_own_pace(
    task: Any, seconds: float, epochs: float, lacking: float
) -> None:
    """Timed at 100 s for ten epochs (115 with the margin)."""
    granted = SimpleNamespace(seconds_full=100.0, full_epochs=10)
    seed = SimpleNamespace(allowance=granted, seconds=seconds, epochs=epochs)
    result = ArmResult(arm("a"), "cut")
    result.seeds.append(cast(Any, seed))
    assert result.lacking(task()) == pytest.approx(lacking)


def test_a_later_seed_may_take_what_the_first_one_took(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed at 40 s, it took 100 s: another seed has 130 s, not one and a half times 40."""
    asked: list[float] = []
    monkeypatch.setattr(compare, "_run", lambda *_, spare, **__: asked.append(spare))
    first = SimpleNamespace(seconds=100.0, allowance=SimpleNamespace(estimated=40.0))
    result = ArmResult(arm("a"), "done")
    result.seeds.append(cast(Any, first))
    compare._more_seeds([result], task(seeds=2))
    assert asked == [pytest.approx(90.0)]
