"""Users' attributes: coded by users with training events, with places for what is not known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from warmstart.backbones import Space
from warmstart.core import Streams, UsageError
from warmstart.evaluation import Queries
from warmstart.retrieval import ProfileCode, TwoTowerModel, learn_profiles
from warmstart.retrieval.profiles import value_name
from warmstart.retrieval.towers import Towers, TowerShape
from warmstart.retrieval.two_tower_asked import told_about
from warmstart.retrieval.user_texts import UserTexts, about_text

from .towerkit import chains, fit, halves, texts


def table() -> pl.DataFrame:
    """Forty users: the last ten have no training events, and say things that nobody else says."""
    ages = [20.5 + user for user in range(30)] + [1000.0] * 10
    jobs = ["clerk" if user % 2 else "nurse" for user in range(30)] + ["spy"] * 10
    return pl.DataFrame({
        "user_id": [f"u{user}" for user in range(40)],
        "age": [None if user == 3 else age for user, age in enumerate(ages)],
        "job": ["" if user == 4 else job for user, job in enumerate(jobs)],
        "level": [user % 3 for user in range(40)],
        "zip": [f"{10_000 + user}" for user in range(40)],
        "country": ["here"] * 40,
    })  # fmt: skip


def slow_code(column: Any, value: Any) -> list[float]:
    """What one value comes to, written out."""
    if column.kind == "category":
        name = None if value in (None, "") else str(value)
        row = [1.0 if name == known else 0.0 for known in column.values]
        other = name is not None and name not in column.values
        return [*row, float(other), float(name is None)]
    bins = [0.0] * (len(column.edges) + 1)
    if value is None:
        return [0.0, *bins, 1.0]
    place = 0
    while place < len(column.edges) and value >= column.edges[place]:
        place += 1
    bins[place] = 1.0
    scaled = (value - column.mean) / column.scale
    return [max(-3.0, min(3.0, scaled)), *bins, 0.0]


def test_the_code_is_that_of_users_with_training_events() -> None:
    users = table()
    code = learn_profiles(users, np.arange(30))
    assert code is not None
    assert [(column.name, column.kind) for column in code.columns] == [
        ("age", "number"), ("job", "category"), ("level", "category"),
    ]  # zip: nobody shares one; country: one value  # fmt: skip
    age, job, level = code.columns
    own = [20.5 + user for user in range(30) if user != 3]
    assert age.mean == pytest.approx(np.mean(own))
    assert age.scale == pytest.approx(np.std(own))
    assert age.edges == pytest.approx(np.quantile(own, [0.2, 0.4, 0.6, 0.8]))
    assert (job.values, level.values) == (("clerk", "nurse"), ("0", "1", "2"))
    changed = users.with_columns(
        pl.when(pl.int_range(pl.len()) >= 30).then(pl.lit("x")).otherwise(pl.col("job"))
        .alias("job"), pl.when(pl.int_range(pl.len()) >= 30).then(-5.0)
        .otherwise(pl.col("age")).alias("age"),
    )  # fmt: skip
    assert learn_profiles(changed, np.arange(30)) == code, "other users decide nothing"


def test_every_value_has_its_place() -> None:
    users = table()
    code = learn_profiles(users, np.arange(30))
    assert code is not None
    found_UP = code.encode(users)
    wanted = [
        [number for column in code.columns for number in slow_code(column, row[column.name])]
        for row in users.iter_rows(named=True)
    ]
    np.testing.assert_allclose(found_UP, wanted, rtol=1e-6)
    assert found_UP.shape[1] == len(code.places)
    at = {name: place for place, name in enumerate(code.places)}
    assert found_UP[3, at["age: (missing)"]] == 1
    assert found_UP[4, at["job: (missing)"]] == 1
    assert found_UP[35, at["job: (other)"]] == 1
    assert found_UP[35, at["age: (value)"]] == 3, "far numbers count as three deviations"
    nobody_P = code.of()
    assert nobody_P.sum() == 3
    assert all(nobody_P[place] == name.endswith("(missing)") for name, place in at.items())
    told_P = code.of({"job": "nurse", "age": "30"})
    assert told_P[at["job: nurse"]] == 1
    assert told_P[at["age: (value)"]] == pytest.approx(
        (30 - code.columns[0].mean) / code.columns[0].scale
    )
    np.testing.assert_array_equal(code.of({"age": math.nan, "job": " "}), nobody_P)
    with pytest.raises(UsageError, match='Did you mean "job"'):
        code.of({"jop": "nurse"})
    with pytest.raises(UsageError, match=r"'age' of users is a number such as 35\.4, got 'old'"):
        code.of({"age": "old"})
    again = ProfileCode.parse(code.model_dump(mode="json"), "profiles")
    np.testing.assert_array_equal(again.encode(users.drop("age")), code.encode(
        users.with_columns(age=pl.lit(None, dtype=pl.Float64))
    ))  # fmt: skip


def test_a_table_that_tells_nothing() -> None:
    users = pl.DataFrame({"user_id": ["a", "b"], "when": [[1], [2]], "x": [1, 1]})
    assert learn_profiles(users, np.arange(2)) is None


def test_nobody_known_is_what_was_learned_as_missing() -> None:
    shape = TowerShape(items=0, features=4, width=8, layers=1, heads=2, profile=3)
    absent = torch.tensor([0.0, 0.0, 1.0])
    towers = Towers(shape, streams=Streams(0), absent_P=absent).eval()
    vectors = torch.zeros(2, 1, 8)
    rows, places = torch.tensor([0, 1]), torch.tensor([0, 0])
    alone = towers.users(vectors, rows, places)
    told = towers.users(vectors, rows, places, absent.expand(2, -1))
    torch.testing.assert_close(alone, told)
    towers.load_state_dict(Towers(shape, streams=Streams(1)).state_dict())
    assert not towers.users.absent_P.any(), "it is kept with the weights"


def test_attributes_are_taken_away_at_random_while_training() -> None:
    shape = TowerShape(items=0, features=4, width=8, layers=0, profile=2, profile_dropout=0.5)
    towers = Towers(shape, streams=Streams(0), absent_P=torch.tensor([0.0, 1.0]))
    profile_BP = torch.tensor([[1.0, 0.0]]).expand(2000, -1)
    kept = towers.users._told(profile_BP, 2000)[:, 0].mean().item()
    assert kept == pytest.approx(0.5, abs=0.05)
    assert torch.equal(towers.eval().users._told(profile_BP, 2000), profile_BP)


@pytest.mark.parametrize("layers", [0, 1])
def test_attributes_reach_the_answer(tmp_path: Path, layers: int) -> None:
    past, _ = halves(chains())
    users = pl.DataFrame({
        "user_id": [str(user) for user in range(24)],
        "team": ["red" if user % 2 else "blue" for user in range(24)],
    })  # fmt: skip
    trained = fit(
        tmp_path / "run", past, text_IE=texts(), users=users, epochs=1, keep="last", layers=layers
    )
    trained.save(tmp_path / "model")
    model = TwoTowerModel.load(tmp_path / "model")
    assert model.profiles == trained.profiles
    asked = Queries.of([[1, 2], [1, 2], [1, 2]], users=[0, 1, -1])
    blue, red, nobody = model.user_vectors(asked)
    np.testing.assert_allclose(trained.user_vectors(asked), [blue, red, nobody], atol=1e-6)
    assert np.abs(blue - red).max() > 1e-4
    somebody = Queries.of([[1, 2]], users=[-1])
    np.testing.assert_allclose(model.user_vectors(somebody, {"team": "red"})[0], red, atol=1e-6)
    np.testing.assert_allclose(model.user_vectors(somebody, {})[0], nobody, atol=1e-6)
    strange = model.user_vectors(somebody, {"team": "green"})[0]
    assert min(np.abs(strange - one).max() for one in (red, blue, nobody)) > 1e-5
    without = fit(tmp_path / "other", past, text_IE=texts(), users=users, epochs=1, keep="last",
                  use_profiles=False)  # fmt: skip
    assert without.profiles is None
    with pytest.raises(UsageError, match="reads no attributes"):
        without.user_vectors(somebody, {"team": "red"})


def test_wrong_tables(tmp_path: Path) -> None:
    past, _ = halves(chains())
    users = pl.DataFrame({"user_id": ["a"], "team": ["red"]})
    with pytest.raises(UsageError, match="one row for each of the 24 users, got 1"):
        fit(tmp_path, past, users=users)
    with pytest.raises(UsageError, match="not both"):
        fit(tmp_path, past, users=users, profile_UP=np.zeros((24, 1)))


def test_who_asks_is_told_as_numbers_or_in_words() -> None:
    code = learn_profiles(table(), np.arange(30))
    asked = Queries.of([[1, 2], []], users=[5, -1])
    told = {"age": 24.0, "job": "nurse", "level": 2.0}
    found = told_about(asked, told, code, None)
    assert code is not None
    assert found.profile_UP is not None
    np.testing.assert_array_equal(found.profile_UP.numpy(), code.of(told)[None])
    assert np.asarray(found.queries.user_Q).tolist() == [0, 0]
    assert found.about is None
    space = Space(backbone="x", modality="text", pooling="mean")
    teller = UserTexts((), (), ("level", "job"), last=3, width=2, space=space)
    found = told_about(asked, told, code, teller)
    assert (found.about, found.profile_UP, found.queries) == ("level 2, job nurse", None, asked)
    for teller_or_none in (None, teller):
        with pytest.raises(UsageError, match="reads no attributes of users"):
            told_about(asked, told, None, teller_or_none)


@pytest.mark.parametrize(
    ("value", "name"),
    [(3.0, "3"), (float("nan"), None), (" \t", None), (" a  b ", "a  b"), (0, "0")],
)
def test_a_value_is_called_alike_in_numbers_and_in_words(value: Any, name: str | None) -> None:
    assert value_name(value) == name
    words = about_text({"it": value}, ["it"])
    assert words == ("" if name is None else f"it {' '.join(name.split())}")
