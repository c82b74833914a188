"""The k-shot grid: its draws, its budget, its pairs and its words."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pytest

from warmstart.backbones import Backbone, FeatureCache, backbone
from warmstart.core import DataError, NotApplicable, Run, UsageError
from warmstart.data import View, read, split
from warmstart.evaluation import compare_arms, score_metric
from warmstart.planning import parse_arms, parse_shots, run_shots, serve, shots_json
from warmstart.planning.shots import ShotTask, draw_seed, draw_view
from warmstart.strategies import Cost, Fitted, Prototypes, Strategy


@pytest.mark.parametrize(
    ("value", "found"),
    [("1,4,16", (1, 4, 16)), (" 4, 1 ,4", (1, 4)), (3, (3,)), ([8, 2], (2, 8)), ("2,", (2,))],
)
def test_shots_are_read(value: Any, found: tuple[int, ...]) -> None:
    assert parse_shots(value) == found


@pytest.mark.parametrize("value", ["", "0", "1,x", "-1", "1.5", [], [0], "200000", ["2.0"]])
def test_other_shots_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="shots must be whole numbers from 1 to 100000, got"):
        parse_shots(value)


class Timed(Prototypes):
    """Class means with steps: what it takes is told, and fits are counted."""

    name: ClassVar[str] = "timed"
    title: ClassVar[str] = "Timed"
    uses_features: ClassVar[bool] = False
    seconds: float = 0.0
    fits: ClassVar[list[tuple[int, int]]] = []
    fail: bool = False

    def check(self, backbone: Backbone, view: View) -> None:
        if self.fail and len(view.train) < 4:
            raise NotApplicable("it needs four rows.")

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        return Cost(self.seconds, 1, 1, 0.0)

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        type(self).fits.append((len(view.train), run.seed))
        return super().fit(backbone, view, run)


@pytest.fixture(autouse=True)
def fresh() -> None:
    Timed.fits.clear()


@pytest.fixture(scope="module")
def parts(topics: Callable[..., Any]) -> Any:
    texts, labels = topics(150)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    return data, split(data)


@pytest.fixture
def task(
    parts: Any, tiny_text: Path, tmp_path: Path, tmp_path_factory: Any
) -> Callable[..., ShotTask]:
    def make(**settings: Any) -> ShotTask:
        data, divided = parts
        cache = FeatureCache(tmp_path_factory.getbasetemp() / "shots-cache")
        values: dict[str, Any] = {
            "backbone": backbone(str(tiny_text), cache=cache), "view": divided.view(data),
            "test": divided.test_rows(data), "folder": tmp_path, "primary": "accuracy",
            "shots": (1, 2, 4), "draws": 3, "budget": float("inf"), "started": time.monotonic(),
            "device": "cpu",
        }  # fmt: skip
        return ShotTask(**(values | settings))

    return make


def test_a_draw_has_k_rows_of_each_class_and_grows(parts: Any) -> None:
    data, divided = parts
    view = divided.view(data)
    for draw in range(3):
        before: set[str] = set()
        for k in (1, 2, 4, 8):
            drawn = draw_view(view, k, draw_seed(0, draw))
            assert Counter(drawn.train.labels_N.tolist()) == {0: k, 1: k}
            assert max(Counter(drawn.validation.labels_N.tolist()).values()) <= k
            assert set(drawn.train.ids) <= set(view.train.ids)
            assert set(drawn.validation.ids) <= set(view.validation.ids)
            assert before < set(drawn.train.ids), "k rows are among the larger k's"
            before = set(drawn.train.ids)
    ids = [tuple(draw_view(view, 4, draw_seed(0, d)).train.ids) for d in range(3)]
    assert len(set(ids)) == 3
    again = draw_view(divided.view(data), 4, draw_seed(0, 1))
    assert tuple(again.train.ids) == ids[1]


def test_what_the_rarest_class_cannot_give_is_left_out(as_rows: Any) -> None:
    view = as_rows({"a": 9, "b": 3})
    served, unserved = serve(view, (1, 2, 4, 8), 2, 0)
    assert served == (1, 2)
    assert [one.k for one in unserved] == [4, 8]
    assert unserved[0].reason == "class 'b' has 3 distinct training rows"
    with pytest.raises(DataError, match=r"no number of shots in 4, 8 can be drawn: class 'b'"):
        serve(view, (4, 8), 2, 0)


@pytest.fixture
def as_rows() -> Callable[[dict[str, int]], View]:
    def make(counts: dict[str, int]) -> View:
        rows = [(f"{name} {i}", name) for name, n in counts.items() for i in range(n)]
        rows.append(("b 0", "b"))  # a row that stands twice counts once
        data = read(datasets.Dataset.from_dict(
            {"text": [t for t, _ in rows], "label": [n for _, n in rows]}
        ))  # fmt: skip
        return View(data, data)

    return make


def test_every_arm_meets_the_same_rows(task: Any) -> None:
    one = task()
    cells = run_shots(parse_arms(["zero-shot", Timed(), "prototypes"]), one)
    assert len(cells) == 1 + 2 * 9
    assert sorted(Timed.fits) == sorted((2 * k, d) for k in (1, 2, 4) for d in range(3))
    by = {(c.arm.name, c.k, c.draw): c.proba(one) for c in cells}
    for k in (1, 2, 4):
        for draw in range(3):
            np.testing.assert_array_equal(by["timed", k, draw], by["prototypes", k, draw])
    table, _ = shots_json(parse_arms(["zero-shot", Timed(), "prototypes"]), cells, [], one)
    pairs = {(p["a"], p["b"], p["k_a"]): p for p in table["pairs"]}
    for (a, b, _), pair in pairs.items():
        if {a, b} == {"timed", "prototypes"}:
            assert (pair["difference"], pair["low"], pair["high"]) == (0, 0, 0)
            assert not pair["significant"]


def test_values_intervals_and_pairs_against_the_evaluation(task: Any) -> None:
    one = task()
    arms = parse_arms(["prototypes", "knn", "probe"])
    cells = run_shots(arms, one)
    table, verdict = shots_json(arms, cells, [], one)
    truth = one.test.labels_N
    stacks = {
        (arm.name, k): np.stack([c.proba(one) for c in cells if (c.arm, c.k) == (arm, k)])
        for arm in arms
        for k in one.shots
    }
    for arm in table["arms"]:
        for cell in arm["cells"]:
            proba = stacks[arm["name"], cell["k"]]
            hits = (proba.argmax(axis=2) == truth).mean(axis=1)
            assert cell["values"] == pytest.approx(hits.tolist())
            assert cell["value"] == pytest.approx(hits.mean())
            expected = score_metric(proba, truth, "accuracy")
            assert (cell["low"], cell["high"]) == (expected.low, expected.high)
            assert cell["low"] <= cell["value"] <= cell["high"]
    leaders = {
        k: max(table["arms"], key=lambda a: a["cells"][i]["value"])["name"]
        for i, k in enumerate(one.shots)
    }
    for pair in table["pairs"]:
        assert pair["a"] == leaders[pair["k_a"]]
        found = compare_arms(
            stacks[pair["a"], pair["k_a"]], stacks[pair["b"], pair["k_b"]], truth,
            resamples=1000, paired_seeds=True,
        )  # fmt: skip
        assert pair["difference"] == pytest.approx(found.difference)
        assert (pair["low"], pair["high"]) == (found.low, found.high)
    assert len(verdict.sentences) == 3
    assert verdict.sentences[0].startswith("With 1 row a class ")
    assert verdict.best is None
    assert "no test row is used" in table["validation"].lower()


def test_draws_that_arms_share_are_drawn_together() -> None:
    """Two arms that rise and fall with the draw: their difference is sure when they are paired."""
    truth = np.zeros(400, dtype=np.int64)
    shares = [0.2, 0.8, 0.5, 0.9, 0.1]

    def arm(extra: float) -> np.ndarray:
        proba = np.zeros((5, 400, 2))
        for place, share in enumerate(shares):
            right = np.arange(400) < 400 * (share + extra)
            proba[place, :, 0], proba[place, :, 1] = right, ~right
        return proba

    a, b = arm(0.1), arm(0.0)
    apart, together = (compare_arms(a, b, truth, paired_seeds=paired) for paired in (False, True))
    assert not apart.significant
    assert together.significant
    assert together.low == pytest.approx(0.1, abs=0.03)
    with pytest.raises(DataError, match="as many of each arm, got 5 and 4"):
        compare_arms(a, b[:4], truth, paired_seeds=True)


def test_finished_cells_are_not_fitted_again(task: Any) -> None:
    arms = parse_arms([Timed()])
    first = run_shots(arms, task())
    assert len(Timed.fits) == 9
    (first[4].folder(task()) / "result.json").unlink()
    Timed.fits.clear()
    again = run_shots(arms, task())
    assert len(Timed.fits) == 1
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.proba(task()), two.proba(task()))


def test_a_spent_budget_is_told(task: Any) -> None:
    """Arms with steps are left out when they cannot end; the others keep their first draw."""
    one = task(budget=60.0)
    arms = parse_arms(["prototypes", Timed(seconds=1000.0)])
    cells = run_shots(arms, one)
    assert Timed.fits == []
    assert all(c.counts == (c.arm.name == "prototypes") for c in cells)
    table, verdict = shots_json(arms, cells, [], one)
    late = table["arms"][1]["cells"]
    assert [c["reason"] for c in late] == ["the budget ended"] * 3
    assert verdict.sentences[-1] == (
        "Timed (seconds 1000.0) has none at k = 1, 2 and 4: the budget ended. "
        "A larger --budget or fewer --draws cures that."
    )
    spent = task(budget=1.0, started=time.monotonic() - 5, folder=one.folder / "spent")
    cells = run_shots(parse_arms(["prototypes"]), spent)
    assert [c.counts for c in cells] == [True] * 3 + [False] * 6


def test_an_estimate_is_the_last_cell_of_that_size(task: Any, monkeypatch: Any) -> None:
    """A first cell is measured, later ones are known."""
    measured: list[int] = []
    real = Timed.measure

    def measure(self: Any, backbone: Any, view: Any, run: Any) -> Cost:
        measured.append(len(view.train))
        return real(self, backbone, view, run)

    monkeypatch.setattr(Timed, "measure", measure)
    cells = run_shots(parse_arms([Timed(seconds=0.1)]), task(budget=600.0))
    assert measured == [2, 4, 8]
    assert all(c.counts for c in cells)


def test_arms_that_cannot_serve_a_k_say_so(task: Any) -> None:
    one = task()
    arms = parse_arms([Timed(fail=True), "prototypes"])
    cells = run_shots(arms, one)
    table, verdict = shots_json(arms, cells, [], one)
    rows = table["arms"][0]["cells"]
    assert [(c["k"], c["draws"], c["reason"]) for c in rows] == [
        (1, 0, "it needs four rows"), (2, 3, None), (4, 3, None),
    ]  # fmt: skip
    assert "Timed (fail true) has none at k = 1: it needs four rows." in verdict.sentences
    assert rows[0]["value"] is None


def test_silent_names_leave_zero_shot_out(task: Any, topics: Any) -> None:
    texts, labels = topics(90)
    names = [str(int(name == "fruit")) for name in labels]
    data = read(datasets.Dataset.from_dict({"text": texts, "label": names}))
    divided = split(data)
    one = task(view=divided.view(data), test=divided.test_rows(data), shots=(2,), draws=1)
    arms = parse_arms(["zero-shot", "prototypes"])
    table, verdict = shots_json(arms, run_shots(arms, one), [], one)
    assert table["arms"][0]["cells"][0]["value"] is None
    assert any("Zero-shot is left out: the class names" in text for text in verdict.sentences)


def test_the_words_follow_the_numbers(task: Any) -> None:
    one = task(shots=(1, 8), draws=3)
    arms = parse_arms(["zero-shot", "prototypes", "knn"])
    cells = run_shots(arms, one)
    table, verdict = shots_json(arms, cells, [], one)
    said = " ".join(verdict.sentences)
    for arm in table["arms"]:
        for cell in arm["cells"]:
            assert cell["value"] is not None
            assert math.isfinite(cell["value"])
    best = max(table["arms"][1:], key=lambda arm: arm["cells"][1]["value"])
    value = f"{best['cells'][1]['value'] * 100:.1f} %"
    assert f"With 8 rows a class {best['label']}" in said
    assert value in said
    zero = f"Zero-shot reaches accuracy {table['arms'][0]['cells'][0]['value'] * 100:.1f} %"
    assert zero in said
    step = next(p for p in table["pairs"] if p["a"] == p["b"])
    change = f"{step['difference'] * 100:+.1f} points"
    assert change in verdict.next[0]
    assert ("still pay" in verdict.next[0]) == (step["significant"] and step["difference"] > 0)


def test_a_strategy_that_learns_nothing_says_so() -> None:
    from warmstart.strategies import names, strategy_class

    assert [n for n in names() if not strategy_class(n).learns] == ["zero-shot"]
    assert issubclass(Timed, Strategy)
