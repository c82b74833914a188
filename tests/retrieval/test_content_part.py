"""What pretrained vectors say beside learned ones: the code, the parts of vectors, the choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import DataError, NotApplicable, UsageError
from warmstart.evaluation import measure_ranking, rank_targets
from warmstart.retrieval import FaissIndex, TwoTower, TwoTowerModel
from warmstart.retrieval.content_part import FLAG, LAST, RECENT, ContentCode, ContentPart
from warmstart.retrieval.content_settings import ContentSettings, Counts
from warmstart.retrieval.fitting_content import choose_content, with_content
from warmstart.retrieval.fitting_new_items import choose_new_items
from warmstart.retrieval.fitting_validation import Judge

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
    """Items 4 and 9 are new; older items than the last five do not count, one more new one does."""
    assert mixed.content is not None
    plain = replace(mixed, content=replace(mixed.content, bonus=0.0))
    histories: list[list[int]] = [[], [1, 2], [4], [1, 4], [4, 9, 4, 9, 9], [4, 9, 1, 2, 3, 5, 6]]
    queries = Queries.of(histories)
    learned_QI = replace(mixed, content=None).scores(queries).numpy()
    for bonus, trust in ((0.2, 1.0), (0.01, 1.0), (0.0, 0.4)):
        part = replace(mixed.content, bonus=bonus, by_history=0.3, trust=trust)
        raised = replace(mixed, content=part)
        gained_QI = (raised.scores(queries) - plain.scores(queries)).numpy()
        for query, history in enumerate(histories):
            share = (sum(one in (4, 9) for one in history[-RECENT:]) + 1) / (RECENT + 1)
            for item in range(30):
                wanted = bonus + 0.3 * share - (1 - trust) * learned_QI[query, item]
                wanted *= item in (4, 9)
                assert gained_QI[query, item] == pytest.approx(wanted, abs=1e-5)
        product = raised.user_vectors(queries) @ raised.item_vectors().T
        np.testing.assert_allclose(product, raised.scores(queries).numpy(), atol=1e-5)
        assert raised.fingerprint not in (mixed.fingerprint, plain.fingerprint)
        assert raised.item_vectors()[4, -1] == pytest.approx(max(bonus, FLAG))


@pytest.mark.parametrize("popularity", [0.0, 0.7, -0.4])
def test_an_index_answers_as_the_scores_do(mixed: TwoTowerModel, popularity: float) -> None:
    model = replace(mixed, popularity=popularity)
    index = FaissIndex.build(range(30), model.item_vectors(), tower=model.fingerprint)
    queries = Queries.of([[3, 4], [20]])
    _, found = index.search(model.user_vectors(queries), 5, tower=model.fingerprint)
    best = torch.topk(model.scores(queries), 5, dim=1).indices.tolist()
    assert [list(map(int, row)) for row in found] == best
    assert model.item_vectors().shape == (30, model.dimension)


def test_popularity_stands_beside_contents_and_grows(mixed: TwoTowerModel) -> None:
    """Cosine + temperature * s log p, from one inner product; new items count as the rarest."""
    lifted = replace(mixed, popularity=0.7)
    queries = Queries.of([[3, 4], [20], []])
    share_I = mixed.share_I.double().numpy().copy()
    share_I[share_I == 0] = share_I[share_I > 0].min() / 2
    temperature = mixed.towers.temperature().item()
    wanted_QI = mixed.scores(queries).numpy() + temperature * 0.7 * np.log(share_I)
    np.testing.assert_allclose(lifted.scores(queries).numpy(), wanted_QI, rtol=1e-4)
    product_QI = lifted.user_vectors(queries) @ lifted.item_vectors().T
    np.testing.assert_allclose(product_QI, wanted_QI, rtol=1e-4)
    pairs_II = mixed.item_vectors() @ mixed.item_vectors().T
    np.testing.assert_allclose(
        lifted.item_vectors() @ lifted.item_vectors().T, pairs_II, atol=FLAG**2 + 1e-6
    )
    new, names = texts()[:2], [*mixed.item_ids, "a", "b"]
    grown = lifted.with_items(["a", "b"], new)
    other = lifted.with_vectors(names, grown.item_vectors()[30:])
    rarest = np.log(mixed.share_I[mixed.share_I > 0].min().item() / 2)
    plain_QN = mixed.with_items(["a", "b"], new).scores(queries).numpy()[:, 30:]
    for one in (grown, other):
        found_QN = one.scores(queries).numpy()[:, 30:]
        np.testing.assert_allclose(found_QN, plain_QN + temperature * 0.7 * rarest, rtol=1e-4)
        assert one.fingerprint == lifted.fingerprint != mixed.fingerprint


def test_it_is_saved_and_grows(mixed: TwoTowerModel, tmp_path: Path) -> None:
    assert mixed.content is not None
    mixed = replace(mixed, content=replace(mixed.content, by_history=0.2, trust=0.5))
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
    bare = loaded.encode_items(blank)[:, : loaded.items_ID.shape[1]]
    np.testing.assert_allclose(np.linalg.norm(bare, axis=1), 0.5, atol=1e-6)  # trusted as little
    assert loaded.encode_items(new)[:, -1] == pytest.approx(0.1)  # the bonus of new items
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
    judge = Judge(replace(given, content=None), task, "MRR")
    tried = {
        weight: judge(with_content(given, part, weight))
        for weight in (0.0, *(given.towers.temperature().item() * one for one in (5, 10, 20, 30)))
    }
    assert tried[chosen.facts["content"]] == max(tried.values())
    ranks = rank_targets(chosen, task, task.n_items)
    assert measure_ranking(ranks, task, ["MRR"])["MRR"] == max(tried.values())
    assert chosen.facts["new_items"] == 0.0
    assert given.facts["content"] == 0.35
    assert any("count 0.35 times" in note for note in given.facts["notes"])
    assert choose_content(chosen, None, ContentSettings("auto"), judge) is chosen
    assert choose_content(chosen, part, ContentSettings(0.0), judge) is chosen


class Made:
    """A judge with made-up metrics: .5 without content, .8 with it, less what things cost.

    A step of the bonus costs .1 and of the raise by history `price`; new items gain by both, and
    lose with the trust.
    """

    def __init__(
        self, new: int, price: float = 0.0, mistrust: float = 0.0, *, told: bool = True
    ) -> None:
        self.new, self.price, self.mistrust = new, price, mistrust
        self.told, self.asked = told, 0

    def __call__(self, model: TwoTowerModel) -> float:
        self.asked += 1
        part = model.content
        if part is None:
            return 0.5
        unit = model.towers.temperature().item()
        steps = (0.4 * part.bonus + self.price * part.by_history) / unit
        return 0.8 - steps - 0.001 * part.weight + self.mistrust * (1 - part.trust)

    def of_new(self, model: TwoTowerModel) -> tuple[float, float]:
        assert model.content is not None
        gain = model.content.by_history if self.told else 0.0
        return self(model), gain + 0.28 * model.content.trust


def choose(mixed: TwoTowerModel, judge: Any, *settings: Counts) -> ContentPart:
    assert mixed.content is not None
    part = replace(mixed.content, weight=0.0, bonus=0.0)
    base = replace(mixed, content=None)
    made = choose_content(base, part, ContentSettings("auto", *settings), judge)
    assert made.content is not None
    return made.content


def test_the_bonus_stops_where_it_would_cost_more_than_content_won(mixed: TwoTowerModel) -> None:
    """.8 - .4 x .5 is still above .5, and .8 - .4 x .75 is not."""
    found = choose(mixed, Made(20), "auto")
    assert found.weight == pytest.approx(5 * 0.07)
    assert found.bonus == pytest.approx(0.5 * 0.07)
    assert (found.by_history, found.trust) == (0.0, 1.0)


def test_of_what_is_nearly_the_best_it_takes_what_finds_most_new_items(
    mixed: TwoTowerModel,
) -> None:
    free = choose(mixed, Made(20), 0.0, "auto", "auto")
    assert (free.by_history, free.trust, free.bonus) == (pytest.approx(12 * 0.07), 1.0, 0.0)
    # A hundredth of .8 pays for five temperatures at .0015 each, and not for seven.
    dear = choose(mixed, Made(20, price=0.0015), 0.0, "auto", "auto")
    assert (dear.by_history, dear.trust) == (pytest.approx(5 * 0.07), 1.0)
    better = choose(mixed, Made(20, price=0.0015, mistrust=0.1), 0.0, "auto", "auto")
    # Less trust without a raise finds fewer new items, so three temperatures are the best of these.
    assert (better.by_history, better.trust) == (pytest.approx(7 * 0.07), 0.3)
    fixed = choose(mixed, Made(20, mistrust=0.1), 0.0, 0.2, "auto")
    assert (fixed.by_history, fixed.trust) == (0.2, 1.0)  # less trust alone finds fewer new items
    untold = choose(mixed, Made(20, mistrust=0.1, told=False), 0.0, "auto", "auto")
    assert (untold.by_history, untold.trust) == (0.0, 1.0)  # no other finds as many new items
    alone = choose(mixed, Made(20, mistrust=0.1), 0.0, 0.0, "auto")
    assert (alone.by_history, alone.trust) == (0.0, 1.0)
    given = Made(20, price=0.01)
    assert choose(mixed, given, 0.1, 0.2, 0.5) == replace(
        free, bonus=0.1, by_history=0.2, trust=0.5
    )
    assert given.asked == 5  # without content, and four weights


def test_new_items_never_cost_more_than_content_has_won(mixed: TwoTowerModel) -> None:
    """Three temperatures leave .7952 and five .7922, both within a hundredth of .7997."""
    assert mixed.content is not None
    base = replace(mixed, content=replace(mixed.content, weight=0.35, bonus=0.0))
    for floor, wanted in ((0.0, 5), (0.794, 3), (0.799, 0)):
        settings = ContentSettings(0.35, 0.0, "auto", 1.0)
        judge: Any = Made(20, price=0.0015)
        made = choose_new_items(base, settings, judge, floor=floor)
        assert made.content is not None
        assert made.content.by_history == pytest.approx(wanted * 0.07)


def test_questions_are_ranked_as_ever_by_a_judge(mixed: TwoTowerModel) -> None:
    """A twin that asks each model anew, over the new items alone too; towers are run once."""
    asked: list[int] = []
    plain = TwoTowerModel.learned_vectors

    def counted(self: TwoTowerModel, queries: Any) -> torch.Tensor:
        asked.append(len(queries))
        return plain(self, queries)

    past, future = halves(chains())
    task = next_item_task(past, future)
    assert mixed.content is not None
    for metric in ("HR@10", "MRR"):
        judge = Judge(mixed, task, metric, block=7)
        assert judge.new == sum(int(one) in (4, 9) for one in task.targets.items) > 0
        for trust, popularity in ((1.0, 0.0), (0.3, 0.2)):
            made = replace(
                mixed, content=replace(mixed.content, trust=trust), popularity=popularity
            )
            ranks = rank_targets(made, task, task.n_items)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TwoTowerModel, "learned_vectors", counted)
                every, new = judge.of_new(made)
                assert judge(made) == every == measure_ranking(ranks, task, [metric])[metric]
            rank_C = [
                rank for rank, item in zip(ranks.rank_P, task.targets.items, strict=True)
                if item in (4, 9)
            ]  # fmt: skip
            twin = [1 / rank if metric == "MRR" else float(rank <= 10) for rank in rank_C]
            assert new == pytest.approx(sum(twin) / len(twin))
        assert sum(asked) == len(task)
        asked.clear()


def test_nothing_is_chosen_where_hardly_a_new_item_is_asked_for(
    mixed: TwoTowerModel, notes: list[str]
) -> None:
    found = choose(mixed, Made(18, mistrust=0.1), "auto", "auto", "auto")
    assert (found.bonus, found.by_history, found.trust) == (0.0, 0.0, 1.0)
    assert any(note.startswith("18 questions of validation ask for a new item") for note in notes)
    assert len(notes) == 1
    choose(mixed, Made(18), 0.0, "auto", "auto")
    assert len(notes) == 1  # who did not ask for it is not told


def test_content_that_wins_nothing_is_left_out(mixed: TwoTowerModel, notes: list[str]) -> None:
    judge: Any = lambda model: 0.4 if model.content else 0.5  # noqa: E731
    base = replace(mixed, content=None)
    for settings, told in (
        (ContentSettings("auto", 0.03, "auto"), ["new_items"]),
        (ContentSettings("auto", 0.0, 0.1, 0.5), ["new_by_history and new_trust"]),
        (ContentSettings("auto", 0.0, "auto", "auto"), []),
    ):
        notes.clear()
        assert choose_content(base, mixed.content, settings, judge).content is None
        assert [note.partition("left out, ")[2] for note in notes] == [
            f"{t} with it." for t in told
        ]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"content": -1.0}, UsageError, "content"),
        ({"content": 0.0, "new_items": 0.1}, UsageError, "new_items needs content"),
        ({"content": 0.0, "new_by_history": 0.1}, UsageError, "new_by_history needs content"),
        ({"content": 0.0, "new_trust": 0.5}, UsageError, "new_trust needs content"),
        ({"new_trust": 0.0}, UsageError, "new_trust"),
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
    for values in (
        {"content": 0.5},
        {"new_items": 0.1},
        {"new_by_history": 0.1},
        {"new_trust": 0.5},
    ):
        with pytest.raises(NotApplicable, match="need pretrained vectors"):
            fit(tmp_path / "a", past, keep="last", **values)
    for values in (
        {"new_items": "auto"}, {"new_items": 0.1}, {"new_items": "auto", "content": 1},
        {"new_by_history": 0.1}, {"new_trust": 0.5},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="on a validation task"):
            fit(tmp_path / "b", past, text_IE=texts(), keep="last", **values)
    assert not list(tmp_path.glob("*/metrics.jsonl"))
    made = fit(tmp_path / "c", past, text_IE=texts(), epochs=1, keep="last")
    assert made.content is None
