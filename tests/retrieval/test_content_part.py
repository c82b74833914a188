"""What pretrained vectors say beside learned ones: the code, the parts of vectors, the choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.retrieval import FaissIndex, TwoTower, TwoTowerModel
from warmstart.retrieval.content_part import LAST, RECENT, ContentCode
from warmstart.retrieval.fitting_content import (
    ContentSettings,
    Counts,
    choose_content,
    with_content,
)
from warmstart.retrieval.fitting_validation import ranked

from .towerkit import Queries, chains, fit, halves, next_item_task, texts


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> TwoTowerModel:
    """Towers over ids and texts, beside which contents count; two items are new."""
    past, _ = halves(chains())
    made = fit(
        tmp_path_factory.mktemp("run"), past, text_IE=texts(), epochs=2, keep="last",
        content=0.8, new_items=0.1,
    )  # fmt: skip
    known = made.known_I.clone()
    known[[4, 9]] = False
    return replace(made, known_I=known)


def slow_code(features_IE: np.ndarray, components: int) -> np.ndarray:
    """Centred, turned to the principal axes, each scaled by variance ** -0.25, unit length."""
    unit_IE = np.array([row / np.linalg.norm(row) for row in features_IE.astype(np.float64)])
    centred_IE = unit_IE - unit_IE.mean(axis=0)
    _, values_K, axes_KE = np.linalg.svd(centred_IE, full_matrices=False)
    variance_K = values_K**2 / (len(unit_IE) - 1)
    found_IP = np.array(
        [[row @ axes_KE[p] * variance_K[p] ** -0.25 for p in range(components)]
         for row in centred_IE]
    )  # fmt: skip
    return np.array([row / np.linalg.norm(row) for row in found_IP])


def test_the_code_is_that_of_a_loop() -> None:
    """Cosines of contents are those of the plain way; axes may be turned round."""
    features_IE = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 2, 1, 1, 1] + 4
    code = ContentCode.learn(torch.from_numpy(features_IE).float(), (6,), components=4)
    assert code is not None
    found_IP = code(torch.from_numpy(features_IE).float()).numpy()
    assert found_IP.shape == (40, 7), "with the component for new items a multiple of 8"
    slow_IP = slow_code(features_IE, 4)
    np.testing.assert_allclose(found_IP @ found_IP.T, slow_IP @ slow_IP.T, atol=1e-4)


def test_what_texts_share_says_nothing() -> None:
    """Two groups around one large common direction: pretrained cosines are near 1, contents not."""
    generator = np.random.default_rng(1)
    group_N = np.repeat([1.0, -1.0], 20)[:, None]
    rows_NE = np.array([50.0, 0, 0]) + np.array([0, 3.0, 0]) * group_N
    rows_NE = rows_NE + 0.1 * generator.normal(size=(40, 3))
    code = ContentCode.learn(torch.from_numpy(rows_NE).float(), (3,))
    assert code is not None
    content = code(torch.from_numpy(rows_NE).float()).numpy()
    unit_NE = rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)
    assert (unit_NE @ unit_NE.T).min() > 0.99
    assert np.mean((content @ content.T)[:20, 20:]) < -0.5
    assert np.mean((content @ content.T)[:20, :20]) > 0.5


def test_kinds_weigh_alike_and_nothing_says_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(30, 5, generator=generator)
    code = ContentCode.learn(both, (3, 2))
    scaled = torch.cat([both[:, :3], 1000 * both[:, 3:]], dim=1)
    again = ContentCode.learn(scaled, (3, 2))
    assert code is not None
    assert again is not None
    torch.testing.assert_close(code(both), again(scaled), atol=1e-4, rtol=0)
    assert not code(torch.zeros(2, 5)).any()
    assert ContentCode.learn(torch.zeros(30, 5), (5,)) is None
    assert ContentCode.learn(torch.ones(30, 5), (5,)) is None


def test_scores_are_three_sums(mixed: TwoTowerModel) -> None:
    """A learned cosine, the weighted mean cosine of contents, and the bonus of the new items."""
    assert mixed.content is not None
    histories: list[list[int]] = [[0, 1, 2], [], list(range(5, 5 + LAST + 3))]
    queries = Queries.of(histories)
    learned_QI = replace(mixed, content=None).scores(queries).numpy()
    rows_IP = mixed.content.rows_IP.numpy()
    wanted_QI = learned_QI.astype(np.float64)
    for query, history in enumerate(histories):
        recent = history[-LAST:]
        for item in range(30):
            cosines = [float(rows_IP[one] @ rows_IP[item]) for one in recent]
            wanted_QI[query, item] += 0.8 * sum(cosines) / max(1, len(recent))
            wanted_QI[query, item] += 0.1 * (item in (4, 9))
    np.testing.assert_allclose(mixed.scores(queries).numpy(), wanted_QI, atol=1e-5)
    product = mixed.user_vectors(queries) @ mixed.item_vectors().T
    np.testing.assert_allclose(product, wanted_QI, atol=1e-5)
    assert mixed.item_vectors().shape == (30, mixed.dimension)


def test_new_items_are_raised_by_the_share_of_new_ones_among_the_last(
    mixed: TwoTowerModel,
) -> None:
    """Items 4 and 9 are new; older items than the last five do not count."""
    assert mixed.content is not None
    plain = replace(mixed, content=replace(mixed.content, bonus=0.0))
    raised = replace(mixed, content=replace(mixed.content, bonus=0.1, by_history=0.3))
    histories: list[list[int]] = [[], [1, 2], [4], [1, 4], [4, 9, 4, 9, 9], [4, 9, 1, 2, 3, 5, 6]]
    queries = Queries.of(histories)
    gained_QI = (raised.scores(queries) - plain.scores(queries)).numpy()
    for query, history in enumerate(histories):
        recent = history[-RECENT:]
        share = sum(one in (4, 9) for one in recent) / max(1, len(recent))
        for item in range(30):
            wanted = (0.1 + 0.3 * share) * (item in (4, 9))
            assert gained_QI[query, item] == pytest.approx(wanted, abs=1e-5)
    product = raised.user_vectors(queries) @ raised.item_vectors().T
    np.testing.assert_allclose(product, raised.scores(queries).numpy(), atol=1e-5)
    assert raised.fingerprint != mixed.fingerprint


def test_an_index_answers_as_the_scores_do(mixed: TwoTowerModel) -> None:
    index = FaissIndex.build(range(30), mixed.item_vectors(), tower=mixed.fingerprint)
    queries = Queries.of([[3, 4], [20]])
    _, found = index.search(mixed.user_vectors(queries), 5, tower=mixed.fingerprint)
    best = torch.topk(mixed.scores(queries), 5, dim=1).indices.tolist()
    assert [list(map(int, row)) for row in found] == best


def test_it_is_saved_and_grows(mixed: TwoTowerModel, tmp_path: Path) -> None:
    assert mixed.content is not None
    mixed = replace(mixed, content=replace(mixed.content, by_history=0.2))
    mixed.save(tmp_path / "model")
    loaded = TwoTowerModel.load(tmp_path / "model")
    queries = Queries.of([[1, 2], [4, 1]])
    assert loaded.fingerprint == mixed.fingerprint
    assert torch.equal(loaded.scores(queries), mixed.scores(queries))
    new = texts()[:2]
    grown = loaded.with_items(["a", "b"], new)
    other = loaded.with_vectors([*loaded.item_ids, "a", "b"], grown.item_vectors()[30:])
    assert grown.dimension == loaded.dimension
    for one in (grown, other):
        np.testing.assert_allclose(
            one.item_vectors()[30:], loaded.encode_items(new), atol=1e-6, rtol=0
        )
        np.testing.assert_allclose(
            one.user_vectors(Queries.of([[30, 31]])),
            grown.user_vectors(Queries.of([[30, 31]])),
            atol=1e-6,
        )
    blank = np.zeros_like(new)
    assert loaded.encode_items(new)[:, -1] == pytest.approx(0.3)  # what new items are raised by
    assert not loaded.encode_items(blank)[:, -1].any()  # of which something is told
    with pytest.raises(DataError, match="does not begin"):
        loaded.with_vectors([*loaded.item_ids, "a", "b"], grown.item_vectors())


def test_a_weight_makes_another_tower(mixed: TwoTowerModel) -> None:
    """An index of other weights must not be asked."""
    assert mixed.content is not None
    other = replace(mixed, content=replace(mixed.content, weight=0.7))
    assert (
        len({mixed.fingerprint, other.fingerprint, replace(mixed, content=None).fingerprint}) == 3
    )


def test_the_choice_is_the_best_on_validation(tmp_path: Path) -> None:
    past, future = halves(chains())
    task = next_item_task(past, future)
    chosen = fit(tmp_path / "a", past, text_IE=texts(), epochs=2, validation=task, metric="MRR")
    given = fit(
        tmp_path / "b", past, text_IE=texts(), epochs=2, validation=task, metric="MRR", content=0.35
    )
    part = given.content
    tried = {
        weight: ranked(with_content(given, part, weight), task, "MRR")
        for weight in (0.0, *(given.towers.temperature().item() * one for one in (5, 10, 20, 30)))
    }
    assert tried[chosen.facts["content"]] == max(tried.values())
    assert ranked(chosen, task, "MRR") == max(tried.values())
    assert chosen.facts["new_items"] == 0.0
    assert given.facts["content"] == 0.35
    assert any("count 0.35 times" in note for note in given.facts["notes"])
    assert choose_content(chosen, None, ContentSettings("auto"), task, "MRR") is chosen
    assert choose_content(chosen, part, ContentSettings(0.0), task, "MRR") is chosen


@pytest.fixture
def judged(mixed: TwoTowerModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TwoTowerModel]:
    """A choice by made-up metrics: without content .5, with it .8, a step of the bonus costs .1."""
    cost = 0.4

    def value(model: TwoTowerModel, task: object, metric: str) -> float:
        del task, metric
        if model.content is None:
            return 0.5
        unit = model.towers.temperature().item()
        steps = (0.4 * model.content.bonus + cost * model.content.by_history) / unit
        return 0.8 - steps - 0.001 * model.content.weight

    monkeypatch.setattr("warmstart.retrieval.fitting_content.ranked", value)

    def choose(
        answers: list[int], new_items: Counts = "auto", by_history: Counts = 0.0, price: float = 0.4
    ) -> TwoTowerModel:
        nonlocal cost
        cost = price
        task: Any = SimpleNamespace(targets=SimpleNamespace(items=np.array(answers)))
        settings = ContentSettings("auto", new_items, by_history)
        return choose_content(replace(mixed, content=None), mixed.content, settings, task, "MRR")

    return choose


def test_the_bonus_stops_where_it_would_cost_more_than_content_won(
    judged: Callable[..., TwoTowerModel],
) -> None:
    """Items 4 and 9 are new; .8 - .4 x .5 is still above .5, and .8 - .4 x .75 is not."""
    found = judged([4, 9] * 10)
    assert found.content is not None
    assert found.content.weight == pytest.approx(5 * 0.07)
    assert found.content.bonus == pytest.approx(0.5 * 0.07)


def test_new_items_by_history_are_raised_as_long_as_it_costs_nothing(
    judged: Callable[..., TwoTowerModel],
) -> None:
    """Free steps are all taken, and what then costs comes on top; a first costly one is not."""
    free = judged([4, 9] * 10, 0.0, "auto", 0.0)
    assert free.content is not None
    assert (free.content.by_history, free.content.bonus) == (pytest.approx(6 * 0.07), 0.0)
    both = judged([4, 9] * 10, "auto", "auto", 0.0)
    assert both.content is not None
    assert both.content.by_history == pytest.approx(6 * 0.07)
    assert both.content.bonus == pytest.approx(0.5 * 0.07)
    costly = judged([4, 9] * 10, 0.0, "auto", 0.01)
    assert costly.content is not None
    assert costly.content.by_history == 0.0
    fixed = judged([4, 9] * 10, 0.0, 0.2, 0.01)
    assert fixed.content is not None
    assert fixed.content.by_history == 0.2


def test_no_bonus_is_chosen_where_hardly_a_new_item_is_asked_for(
    judged: Callable[..., TwoTowerModel], notes: list[str]
) -> None:
    found = judged([4, 9] * 9 + [0] * 500, "auto", "auto", 0.0)
    assert found.content is not None
    assert (found.content.bonus, found.content.by_history) == (0.0, 0.0)
    assert any(note.startswith("18 questions of validation ask for a new item") for note in notes)


def test_content_that_wins_nothing_is_left_out(
    mixed: TwoTowerModel, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    monkeypatch.setattr(
        "warmstart.retrieval.fitting_content.ranked",
        lambda model, task, metric: 0.4 if model.content else 0.5,
    )
    base = replace(mixed, content=None)
    task: Any = object()
    given = ContentSettings("auto", 0.03, "auto")
    assert choose_content(base, mixed.content, given, task, "MRR").content is None
    assert any("new_items with it" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"content": -1.0}, UsageError, "content"),
        ({"content": 0.0, "new_items": 0.1}, UsageError, "new_items needs content"),
        ({"content": 0.0, "new_by_history": 0.1}, UsageError, "new_by_history needs content"),
        ({"new_items": "most"}, UsageError, "new_items"),
    ],
)
def test_settings_that_cannot_be(
    values: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TwoTower.parse(values, "two-tower")


def test_what_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    past, _ = halves(chains())
    for values in ({"content": 0.5}, {"new_items": 0.1}, {"new_by_history": 0.1}):
        with pytest.raises(NotApplicable, match="need pretrained vectors"):
            fit(tmp_path / "a", past, keep="last", **values)
    for values in (
        {"new_items": "auto"}, {"new_items": 0.1}, {"new_items": "auto", "content": 1},
        {"new_by_history": 0.1},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="on a validation task"):
            fit(tmp_path / "b", past, text_IE=texts(), keep="last", **values)
    assert not list(tmp_path.glob("*/metrics.jsonl"))
    made = fit(tmp_path / "c", past, text_IE=texts(), epochs=1, keep="last")
    assert made.content is None
