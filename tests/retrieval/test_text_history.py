"""Users as texts: how a text is built, which texts training reads, and what learns from them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from warmstart.backbones import FeatureCache, Space, backbone, embed_inputs
from warmstart.core import BackboneError, NotApplicable, Run, RunError, Streams, UsageError
from warmstart.evaluation import Queries, next_item_task
from warmstart.retrieval import ItemTexts, TextHistory, TwoTowerModel, item_titles
from warmstart.retrieval.sequences import Sequences, WindowRows
from warmstart.retrieval.text_readers import CachedTexts, FreshTexts
from warmstart.retrieval.towers import Towers, TowerShape
from warmstart.retrieval.user_texts import UserTexts, about_text, past_texts, user_text

from .towerkit import SMALL, ToyEvents, chains, events, halves

TITLES = ("Alien", "Brazil", "", "Casablanca")


def letters(texts: Any) -> np.ndarray:
    """A reader whose vectors count letters: a, b, c."""
    return np.array([[text.lower().count(one) for one in "abc"] for text in texts], np.float32)


def teller(**changes: Any) -> UserTexts:
    values: dict[str, Any] = {
        "titles": TITLES, "about": ("age 24", ""), "names": ("age",), "last": 3, "width": 3,
        "space": Space(backbone="letters", modality="text", pooling="mean"), "read": letters,
    }  # fmt: skip
    return UserTexts(**{**values, **changes})


# --- the text -------------------------------------------------------------------------------------


def test_a_text_is_what_is_known_then_the_last_titles_newest_first() -> None:
    assert user_text(["B", "A"], "age 24, job clerk") == "age 24, job clerk. B; A"
    assert user_text(["B", "", "A"]) == "B; A"
    assert user_text([], "age 24") == "age 24"
    assert user_text([]) == ""
    told = {"age": 24.0, "job": " a  clerk ", "vip": None, "gap": float("nan"), "x": 1}
    assert about_text(told, ["job", "age", "vip", "gap", "team"]) == "job a clerk, age 24"
    assert about_text({"height": 1.75}, ["height"]) == "height 1.75"


def test_items_without_a_title_are_called_by_their_text() -> None:
    items = pl.DataFrame({
        "title": ["A  title", None, "", None], "text": ["x", "the\ntext " * 30, None, None],
    })  # fmt: skip
    found = item_titles(items)
    assert found[0] == "A title"
    assert found[1] == ("the text " * 30)[:100]
    assert found[2:] == ["", ""]
    assert item_titles(items.select("title")) == ["A title", "", "", ""]


def test_texts_of_queries() -> None:
    asked = Queries.of([[0, 1, 3, 0], [], [2], [9, 1]], users=[0, 0, 1, -1])
    assert teller().texts(asked, 0, 4) == [
        "age 24. Alien; Casablanca; Brazil",
        "age 24",
        "",
        "Brazil",
    ]
    assert teller().texts(asked, 1, 3, about="age 99") == ["age 99", "age 99"]
    found_NE = teller().vectors(teller().texts(asked, 0, 4))
    np.testing.assert_array_equal(found_NE, [[7, 2, 2], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    with pytest.raises(RunError, match="its encoder is not there"):
        teller(read=None).vectors(["x"])


# --- which texts training reads -------------------------------------------------------------------


def slow_past(items: list[list[int]], places: int, last: int) -> list[list[str]]:
    """For each event of each user the text that stands for it, by a plain loop."""
    found = []
    for user, taken in enumerate(items):
        step = 1
        while -(-len(taken) // step) > places:
            step *= 2
        about = teller().about[user]
        found.append([
            user_text([TITLES[code] for code in reversed(taken[: event // step * step][-last:])],
                      about)
            for event in range(len(taken))
        ])  # fmt: skip
    return found


@pytest.mark.parametrize("places", [1, 2, 3, 4, 16])
def test_past_texts_are_those_before_some_events(tmp_path: Path, places: int) -> None:
    items = [[0, 1, 3, 0, 1, 2, 3, 3, 1], [1, 0, 2]]
    offsets = np.array([0, 9, 12])
    sequences = Sequences(offsets, np.array(items[0] + items[1]), np.arange(12))
    asked: list[str] = []

    def noted(texts: Any) -> np.ndarray:
        asked.extend(texts)
        return letters(texts)

    past = past_texts(
        sequences, teller(read=noted), places=places, without=0.0, run=Run(tmp_path, device="cpu")
    )
    wanted = [text for user in slow_past(items, places, 3) for text in user]
    np.testing.assert_array_equal(
        past.of(np.arange(12)).numpy(), [letters([text])[0] for text in wanted]
    )
    assert len(past.vectors_SE) <= 2 * places
    assert set(asked) == {text for text in wanted if text}
    rows = WindowRows(sequences, history=4, told=past.of)
    for batch in (rows.batch(list(range(len(rows))), 0), rows.batch([0], 0)):
        assert batch.told_NE is not None
        assert len(batch.told_NE) == len(batch.targets_N)
        assert (batch.items_BT < 0).all(), "no item vectors are looked at"
    whole = rows.batch(list(range(len(rows))), 0)
    parts = [part.told_NE for part in whole.chunks(2) if part.told_NE is not None]
    assert whole.told_NE is not None
    torch.testing.assert_close(torch.cat(parts), whole.told_NE)


def test_a_share_of_the_texts_goes_without_attributes(tmp_path: Path) -> None:
    users = 400
    offsets = np.arange(users + 1) * 4
    sequences = Sequences(offsets, np.zeros(4 * users, dtype=np.int64), np.arange(4 * users))
    run = Run(tmp_path, device="cpu")
    given = teller(about=("b",) * users)
    found = past_texts(sequences, given, places=4, without=0.25, run=run)
    share = float((found.vectors_SE[:, 1] == 0).mean())
    assert share == pytest.approx(0.25, abs=0.03)
    again = past_texts(sequences, given, places=4, without=0.25, run=run)
    np.testing.assert_array_equal(again.vectors_SE, found.vectors_SE)
    every = past_texts(sequences, given, places=4, without=0.0, run=run)
    assert (every.vectors_SE[:, 1] == 1).all()


def test_texts_stop_where_the_time_is_up(tmp_path: Path) -> None:
    sequences = Sequences(np.array([0, 2]), np.array([0, 1]), np.arange(2))
    late = Run(tmp_path, device="cpu", deadline=0.0)
    with pytest.raises(NotApplicable, match="after 0 of 2 texts of users were read"):
        past_texts(sequences, teller(), places=2, without=0.0, run=late)
    with pytest.raises(NotApplicable, match="needs titles of the items or a users table"):
        past_texts(sequences, teller(titles=(), about=()), places=2, without=0.0, run=late)


# --- the tower ------------------------------------------------------------------------------------


def test_the_tower_is_a_projection_with_hidden_layers() -> None:
    shape = TowerShape(items=0, features=4, width=8, layers=1, told=3, dropout=0.0)
    towers = Towers(shape, streams=Streams(0)).eval()
    told = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    found = towers.users(told)
    weights = towers.users.state_dict()
    for row, wanted in zip(told.tolist(), found.tolist(), strict=True):
        norm = sum(value * value for value in row) ** 0.5 or 1.0
        state = [value / norm * 3**0.5 for value in row]
        for layer in ("blocks.0", "output"):
            made = [
                sum(w * value for w, value in zip(line, state, strict=True)) + bias
                for line, bias in zip(
                    weights[f"{layer}.weight"].tolist(), weights[f"{layer}.bias"].tolist(),
                    strict=True,
                )
            ]  # fmt: skip
            state = made if layer == "output" else [
                float(torch.nn.functional.gelu(torch.tensor(value))) for value in made
            ]  # fmt: skip
        length = sum(value * value for value in state) ** 0.5
        assert [value / length for value in state] == pytest.approx(wanted, abs=1e-5)
    torch.testing.assert_close(found[0], found[2])
    assert not torch.equal(found[1], torch.zeros(8)), "somebody unknown has a direction too"
    assert set(towers.parameter_groups(blocks=True)) == {"items", "users.block.0", "users.head"}
    again = Towers(shape, streams=Streams(1))
    again.load_state_dict(towers.state_dict())
    with pytest.raises(UsageError, match="reads texts of users"):
        towers.user_vectors(WindowRows(_one(), history=2).batch([0], 0), torch.zeros(1, 8))


def _one() -> Sequences:
    return Sequences(np.array([0, 1]), np.array([0]), np.array([0]))


# --- the track ------------------------------------------------------------------------------------

WORDS = ("plum", "truck", "night", "old", "good", "bad")


def catalogue(folder: Path, cache: Path) -> tuple[ItemTexts, np.ndarray]:
    """Thirty items, whose titles are of two words each, and the vectors of these."""
    titles = [f"{WORDS[code % 6]} {WORDS[code // 6]}" for code in range(30)]
    given = ItemTexts(backbone(folder, modality="text", cache=FeatureCache(cache)), titles, titles)
    from warmstart.data import from_inputs

    return given, given.backbone.features(from_inputs(titles, "text")).vectors_ND


def team_walks() -> tuple[ToyEvents, pl.DataFrame]:
    """The red take items 0 to 14, the blue the others: a profile alone says what comes."""
    generator = np.random.default_rng(0)
    rows = [
        (user, int(generator.integers(0, 15)) + 15 * (user % 2))
        for _ in range(8)
        for user in range(24)
    ]
    users = pl.DataFrame({
        "user_id": [str(user) for user in range(24)],
        "team": ["truck" if user % 2 else "plum" for user in range(24)],
    })  # fmt: skip
    return events(rows, n_users=24, n_items=30), users


def settings(**changes: Any) -> TextHistory:
    own = {"dropout": 0.0, "draws": 12, "epochs": 15, "last": 3, "places": 4}
    return TextHistory.parse({**SMALL, **own, **changes}, "text-history")


@pytest.fixture(scope="module")
def learned(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of the walks, what it was given, and where it lies."""
    root = tmp_path_factory.mktemp("told")
    data, users = team_walks()
    past, future = halves(data)
    texts, text_IE = catalogue(tiny_text, root / "cache")
    made = settings().fit(
        past, Run(root / "run", device="cpu"), text_IE=text_IE, users=users, texts=texts,
        validation=next_item_task(past, future),
    )  # fmt: skip
    made.save(root / "model")
    return made, texts, root


def test_it_learns_by_the_losses_and_negatives_of_the_others(learned: Any) -> None:
    made, _, _ = learned
    assert made.facts["negatives"] == "in-batch=0.5, mined=0.5"
    losses = [epoch["train_loss"] for epoch in made.facts["history"]["epochs"]]
    assert losses[-1] < losses[0]
    nobody = Queries.of([[]], users=[-1])
    red = made.scores(nobody, {"team": "plum"})[0]
    blue = made.scores(nobody, {"team": "truck"})[0]
    assert float(red[:15].mean()) > float(red[15:].mean())
    assert float(blue[15:].mean()) > float(blue[:15].mean())
    torch.testing.assert_close(made.scores(Queries.of([[]], users=[0]))[0], red)
    assert not torch.equal(made.scores(nobody)[0], red), "nothing is known"
    history = made.scores(Queries.of([[16, 20, 22]], users=[-1]))[0]
    assert float(history[15:].mean()) > float(history[:15].mean()), "titles tell as well"


def test_a_saved_model_answers_as_it_did_once_it_has_its_encoder(
    learned: Any, wide_text: Path
) -> None:
    made, texts, root = learned
    asked = Queries.of([[0, 7], [16], [], [1] * 9], users=[0, -1, 3, 1])
    bare = TwoTowerModel.load(root / "model")
    assert bare.fingerprint == made.fingerprint
    with pytest.raises(RunError, match=r"model\.reading\(backbone\)"):
        bare.scores(asked)
    with pytest.raises(RunError, match="not the encoder that this user tower was trained on"):
        bare.reading(backbone(wide_text, modality="text"))
    kept = sorted(path for path in (root / "cache").rglob("*") if path.is_file())
    again = bare.reading(texts.backbone)
    torch.testing.assert_close(again.scores(asked), made.scores(asked), atol=1e-5, rtol=0)
    strange = Queries.of([[3, 9, 27]], users=[-1])
    assert again.scores(strange).shape == (1, 30)
    now = sorted(path for path in (root / "cache").rglob("*") if path.is_file())
    assert now == kept, "nothing of who asks is written"
    with pytest.raises(UsageError, match='Did you mean "team"'):
        again.scores(strange, {"tem": "plum"})


def test_the_encoder_is_set_as_it_was_for_training(tiny_text: Path, wide_text: Path) -> None:
    short = backbone(tiny_text, modality="text", max_length=4, pooling="cls")
    told = teller(width=0, space=short.space(modality="text"))
    assert told.fingerprint != teller(width=0, space=backbone(tiny_text).space()).fingerprint
    again = UserTexts.from_json(json.loads(json.dumps(told.to_json())))
    assert again.fingerprint == told.fingerprint
    text = "plum truck night old good bad " * 4
    for given in (backbone(tiny_text), backbone(tiny_text, max_length=9), short):
        reader = again.reading(given).read
        assert reader is not None
        np.testing.assert_allclose(reader([text]), embed_inputs(short.load(), [text]), atol=1e-6)
    with pytest.raises(RunError, match="its files differ"):
        again.reading(backbone(wide_text))
    set_otherwise = replace(again, space=again.space.model_copy(update={"normalize": True}))
    with pytest.raises(
        BackboneError, match=r"cannot be set as it was: normalize False against True"
    ):
        set_otherwise.reading(short)
    with pytest.raises(RunError, match="does not say how its encoder was set"):
        UserTexts.from_json({key: told.to_json()[key] for key in ("titles", "about", "names")})


def test_a_reader_keeps_the_newest_texts_at_hand(tiny_text: Path) -> None:
    encoder = backbone(tiny_text, modality="text").load()
    prepare = encoder.prepare
    asked: list[str] = []

    def counted(inputs: Any) -> Any:
        asked.extend(inputs)
        return prepare(inputs)

    encoder.prepare = counted
    reader = FreshTexts(encoder, most=2)
    asked.clear()
    first = reader(["plum", "truck", "plum"])
    assert asked == ["plum", "truck"]
    np.testing.assert_array_equal(first[0], first[2])
    reader(["plum"])
    assert asked == ["plum", "truck"], "at hand"
    again = reader(["night", "plum"])
    assert asked == ["plum", "truck", "night"]
    np.testing.assert_array_equal(again[1], first[0])
    reader(["truck"])
    assert asked[-1] == "truck", "the oldest had gone"
    many = reader(["old", "good", "bad"])
    np.testing.assert_allclose(many[2], reader(["bad"])[0], atol=1e-6)


def test_no_question_waits_while_texts_are_read(tiny_text: Path) -> None:
    encoder = backbone(tiny_text, modality="text").load()
    reader = FreshTexts(encoder)
    kept = reader(["plum"])
    collate = encoder.collate
    reads, goes_on = threading.Event(), threading.Event()

    def slow(items: Any) -> Any:
        reads.set()
        assert goes_on.wait(30)
        return collate(items)

    encoder.collate = slow
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(reader, ["truck night"])
        assert reads.wait(30)
        try:
            np.testing.assert_array_equal(pool.submit(reader, ["plum"]).result(10), kept)
        finally:
            goes_on.set()
        found = waits.result(30)
    encoder.collate = collate
    texts = [f"{WORDS[i % 6]} {WORDS[i // 6]}" for i in range(36)]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda text: reader([text])[0], texts * 2))
    wanted = embed_inputs(encoder, [*texts, "truck night"])
    np.testing.assert_allclose(many, np.tile(wanted[:-1], (2, 1)), atol=1e-6)
    np.testing.assert_allclose(found[0], wanted[-1], atol=1e-6)


def test_a_fit_keeps_so_many_texts_and_gives_up_the_oldest(tiny_text: Path) -> None:
    made: list[str] = []

    class Noted(CachedTexts):
        def _read(self, texts: list[str]) -> np.ndarray:
            made.extend(texts)
            return letters(texts)

    reader = Noted(backbone(tiny_text, modality="text"), most=3)
    np.testing.assert_array_equal(reader(["a", "b", "c", "aa"]), letters(["a", "b", "c", "aa"]))
    assert len(reader._kept) == 3, "one call brought more"
    assert all(vector_E.base is None for vector_E in reader._kept.values())
    made.clear()
    reader(["bb", "c", "aa"])
    assert made == ["bb"], "the others stayed"
    reader(["b"])
    assert made == ["bb", "b"], "the oldest had gone"
    many = [f"a{i}" for i in range(2500)]
    assert len(reader(many)) == 2500
    assert len(reader._kept) == 3


@pytest.mark.parametrize("asks", ["validation", "mining"])
def test_questions_are_read_while_there_is_time(
    asks: str, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, users = team_walks()
    past, future = halves(data)
    texts, text_IE = catalogue(tiny_text, tmp_path / "cache")
    told: list[str] = []

    def up(run: Run) -> bool:
        return len(told) > 0

    def noted(*args: Any, **more: Any) -> Any:
        found = past_texts(*args, **more)
        told.append("past")  # from here on the time is up
        return found

    monkeypatch.setattr(Run, "out_of_time", up)
    monkeypatch.setattr("warmstart.retrieval.text_history.past_texts", noted)
    chosen = settings() if asks == "validation" else settings(negatives="mined", keep="last")
    validation = next_item_task(past, future) if asks == "validation" else None
    with pytest.raises(NotApplicable, match=r"after 0 of \d+ texts of users .* more time\."):
        chosen.fit(
            past, Run(tmp_path / "run", device="cpu"), text_IE=text_IE, users=users, texts=texts,
            validation=validation,
        )  # fmt: skip


def test_items_that_came_later_are_told_by_their_titles(learned: Any) -> None:
    _, texts, root = learned
    model = TwoTowerModel.load(root / "model").reading(texts.backbone)
    twin = model.encode_texts(texts.backbone, [texts.texts[16]])
    longer = model.with_items(["new"], twin)
    asked = Queries.of([[30]], users=[-1])
    nobody = longer.user_vectors(Queries.of([[]], users=[-1]))
    np.testing.assert_allclose(longer.user_vectors(asked), nobody)
    told = longer.with_titles([*texts.titles, texts.titles[16]])
    np.testing.assert_allclose(
        told.user_vectors(asked), model.user_vectors(Queries.of([[16]], users=[-1])), atol=1e-6
    )


def test_ways_to_compute_the_same_step(tiny_text: Path, tmp_path: Path) -> None:
    """Gradient caching takes the step of the whole batch, and a loss may be watched instead."""
    data, users = team_walks()
    texts, text_IE = catalogue(tiny_text, tmp_path / "cache")
    given = {"text_IE": text_IE, "users": users, "texts": texts}
    found = []
    for name, chunk in (("whole", None), ("parts", 3)):
        made = settings(epochs=2, keep="last", negatives="full", cache_chunk=chunk).fit(
            data, Run(tmp_path / name, device="cpu"), **given
        )
        found.append(made.item_vectors())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    watched = settings(epochs=2).fit(data, Run(tmp_path / "watched", device="cpu"), **given)
    assert "validation_loss" in watched.facts["history"]["epochs"][0]


def test_what_it_refuses(tmp_path: Path, tiny_text: Path) -> None:
    texts, text_IE = catalogue(tiny_text, tmp_path / "cache")
    run = Run(tmp_path / "run", device="cpu")
    with pytest.raises(NotApplicable, match="needs titles of the items"):
        settings().fit(chains(), run, text_IE=text_IE)
    with pytest.raises(NotApplicable, match="needs titles of the items"):
        settings().fit(chains(), run, text_IE=text_IE, texts=ItemTexts(texts.backbone, texts.texts))
    for wrong, message in (
        ({"use_text": False}, "use_text must be true"),
        ({"shuffle_ties": True}, "shuffle_ties must be false"),
        ({"last": 0}, "last"),
        ({"layers": 5}, "layers"),
    ):
        with pytest.raises(UsageError, match=message):
            settings(**wrong)
    plain = TwoTowerModel.load(_plain_model(tmp_path))
    with pytest.raises(UsageError, match="reads item vectors, and needs no encoder"):
        plain.reading(texts.backbone)


def _plain_model(folder: Path) -> Path:
    from .towerkit import fit

    fit(folder / "plain-run", chains(), epochs=1, keep="last").save(folder / "plain")
    return folder / "plain"
