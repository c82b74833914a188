"""What the routes answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from warmstart.core import RunError, UsageError
from warmstart.serving import app
from warmstart.serving.errors import Json, QuickJson

from .fakes import Fake, get, is_error, make, post, unit


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def slow_answer(fake: Fake, history: list[str], k: int, left_out: set[str]) -> list[str]:
    """Every inner product in a loop."""
    query_D = fake.user_vector(history, None)
    scored = {
        item: float(fake.index.vectors([item])[0] @ query_D)
        for item in fake.cards
        if item not in left_out
    }
    return [str(item) for item in sorted(scored, key=lambda item: -scored[item])[:k]]


def test_a_history_is_answered() -> None:
    fake = Fake()
    history = ["a-3", "a-10"]
    answer = post("/v1/recommend", {"history": history, "k": 5}, fake).json()
    assert (answer["model"], answer["index"], answer["user"]) == ("model-a", "index-a", None)
    assert ids(answer) == slow_answer(fake, history, 5, set(history))
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    first = answer["items"][0]
    card = fake.cards[first["id"]]
    assert first["title"] == card.title
    assert first["tags"] == list(card.tags)
    assert first["description"] == card.description
    assert first["thumbnail"] is None
    assert answer["unknown"] == answer["unknown_tags"] == []


def test_a_known_user_is_answered_from_the_history_that_is_known() -> None:
    fake = Fake()
    answer = post("/v1/recommend", {"user": "u/1", "k": 5}, fake).json()
    history = [str(item) for item in fake.histories["u/1"]]
    assert answer["user"] == "u/1"
    assert ids(answer) == slow_answer(fake, history, 5, set(history))


def test_seen_items_may_come_back_when_asked_for() -> None:
    fake = Fake()
    body = {"history": ["a-3"], "k": 1, "exclude_seen": False}
    assert ids(post("/v1/recommend", body, fake).json()) == ["a-3"]


def test_items_to_leave_out() -> None:
    fake = Fake()
    best = ids(post("/v1/recommend", {"history": ["a-3"], "k": 5}, fake).json())
    body = {"history": ["a-3"], "k": 3, "exclude": [*best[:2], "nothing", 5]}
    answer = post("/v1/recommend", body, fake).json()
    assert ids(answer) == best[2:]
    assert answer["unknown"] == ["nothing", 5]


@pytest.mark.parametrize(("match", "expected"), [("any", {"blue", "round"}), ("all", None)])
def test_filters_by_tag(match: str, expected: set[str] | None) -> None:
    body = {"history": ["a-1"], "k": 60, "tags": ["blue", "round", "unheard"], "match": match}
    answer = post("/v1/recommend", body).json()
    assert answer["unknown_tags"] == ["unheard"]
    if expected is None:  # nothing has all three
        assert answer["items"] == []
        body["tags"] = ["blue", "round"]
        answer = post("/v1/recommend", body).json()
        assert sorted(ids(answer)) == ["a-0", "a-15", "a-30", "a-45"]
    else:
        wanted = {f"a-{row}" for row in range(60) if row % 3 == 0 or row % 5 == 0}
        assert set(ids(answer)) == wanted
        assert all(expected & set(item["tags"]) for item in answer["items"])


def test_new_users_without_any_history() -> None:
    assert len(post("/v1/recommend", {"history": []}).json()["items"]) == 10
    assert len(post("/v1/recommend", {"user": "empty"}).json()["items"]) == 10
    refused = post("/v1/recommend", {"history": []}, Fake(empty_allowed=False))
    assert is_error(refused, 422, "no_vector")
    assert "one item or more" in refused.json()["error"]["message"]


def test_attributes_of_somebody_new() -> None:
    fake = Fake()
    told = {"team": "red", "age": 41}
    answer = post("/v1/recommend", {"history": [], "attributes": told, "k": 5}, fake).json()
    place = ["(value)", "to 25", "to 45", "on", "(no age)", "blue", "red", "(other)", "(no team)"]
    rows_PD = unit(len(place), 7)
    query_D = 0.75 * rows_PD[0] + rows_PD[2] + rows_PD[6]  # (41 - 33.5) / 10 by hand
    scored = {item: float(fake.index.vectors([item])[0] @ query_D) for item in fake.cards}
    assert ids(answer) == sorted(scored, key=lambda item: -scored[item])[:5]
    assert answer["items"][0]["score"] == pytest.approx(max(scored.values()), abs=1e-5)
    seen = post("/v1/recommend", {"history": ["a-3"], "attributes": told, "k": 60}, fake).json()
    assert "a-3" not in ids(seen)
    known = post("/v1/recommend", {"user": "u/1", "attributes": told, "k": 5}, fake).json()
    assert known["user"] == "u/1"
    assert known["items"][0]["score"] <= answer["items"][0]["score"]


@pytest.mark.parametrize(
    "told",
    [{}, {"team": None}, {"team": "", "age": " "}, {"age": None}],
)
def test_attributes_that_tell_nothing(told: dict[str, Any]) -> None:
    alone = post("/v1/recommend", {"history": [], "attributes": {"team": None}}).json()
    assert post("/v1/recommend", {"history": [], "attributes": told}).json() == alone


def test_a_value_that_training_never_saw_is_another() -> None:
    green = post("/v1/recommend", {"history": [], "attributes": {"team": "green"}}).json()
    mauve = post("/v1/recommend", {"history": [], "attributes": {"team": "mauve"}}).json()
    blue = post("/v1/recommend", {"history": [], "attributes": {"team": "blue"}}).json()
    assert green == mauve
    assert green != blue


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"teem": "red"}, "no attribute 'teem' of users. Did you mean \"team\""),
        ({"shoe": 44}, "Available: age, team"),
        ({"age": "old"}, "a number such as 33.5, got 'old'"),
    ],
)
def test_attributes_that_the_model_does_not_read(told: dict[str, Any], message: str) -> None:
    refused = post("/v1/recommend", {"history": ["a-1"], "attributes": told})
    assert is_error(refused, 422, "wrong_attributes")
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["details"][0]["where"] == "attributes"


def test_a_model_without_attributes() -> None:
    plain = Fake(profiles=None)
    refused = post("/v1/recommend", {"history": [], "attributes": {"team": "red"}}, plain)
    assert is_error(refused, 422, "wrong_attributes")
    assert "reads no attributes" in refused.json()["error"]["message"]
    assert post("/v1/recommend", {"history": [], "attributes": {}}, plain).status_code == 200
    assert get("/v1/catalogue", plain).json()["attributes"] == []


def test_unknown_items_are_told() -> None:
    answer = post("/v1/recommend", {"history": ["a-3", "zzz", 9, "zzz"]}).json()
    assert answer["unknown"] == ["zzz", 9]
    refused = post("/v1/recommend", {"history": ["zzz"]})
    assert is_error(refused, 404, "unknown_items")
    assert refused.json()["error"]["details"] == [{"where": "history", "message": "'zzz'"}]


def test_unknown_users() -> None:
    assert is_error(post("/v1/recommend", {"user": "nobody"}), 404, "unknown_user")
    assert is_error(get("/v1/users/nobody"), 404, "unknown_user")
    assert is_error(get("/v1/users/"), 404, "unknown_user")


def test_numbers_and_text_find_one_another() -> None:
    assert post("/v1/recommend", {"user": "7"}).json()["user"] == 7
    assert get("/v1/users/7").json()["user"] == 7
    assert is_error(post("/v1/recommend", {"user": "07"}), 404, "unknown_user")


def test_a_vector_without_meaning_is_no_failure() -> None:
    class Broken(Fake):
        def user_vector(self, history: Any, user: Any, attributes: Any = None) -> np.ndarray:
            return np.full(8, np.nan, dtype=np.float32)

    assert is_error(post("/v1/recommend", {"history": ["a-1"]}, Broken()), 422, "no_vector")


def test_a_defect_is_told_in_the_same_form() -> None:
    class Broken(Fake):
        def user_vector(self, history: Any, user: Any, attributes: Any = None) -> np.ndarray:
            raise ZeroDivisionError("secret")

    refused = post("/v1/recommend", {"history": ["a-1"]}, Broken())
    assert is_error(refused, 500, "defect")
    assert "secret" not in refused.text


def test_similar_items() -> None:
    fake = Fake()
    answer = post("/v1/similar", {"item": "a-5", "k": 4, "exclude": ["a-6"]}, fake).json()
    assert answer["item"] == "a-5"
    assert ids(answer) == slow_answer(fake, ["a-5"], 4, {"a-5", "a-6"})
    assert (answer["model"], answer["index"]) == ("model-a", "index-a")
    assert is_error(post("/v1/similar", {"item": "zzz"}), 404, "unknown_item")


def test_items_are_found_by_words_of_their_title() -> None:
    found = get("/v1/items/search?q=ITEM 1&limit=3").json()
    assert ids(found) == ["a-1", "a-10", "a-11"]
    assert ids(get("/v1/items/search?q=amelie").json()) == ["a-0"]
    assert ids(get("/v1/items/search?q=co AMÉL").json()) == ["a-0"]
    assert ids(get("/v1/items/search?q=zebra").json()) == []
    assert ids(get("/v1/items/search?q=%20!").json()) == []
    assert found["items"][0]["title"] == "a item 1"


def test_a_user_is_shown_newest_first() -> None:
    answer = get("/v1/users/u/1?limit=3").json()
    assert [item["id"] for item in answer["history"]] == ["a-3", "a-2", "a-1"]
    assert answer["total"] == 4
    assert answer["user"] == get("/v1/users/u%2F1").json()["user"] == "u/1"


def test_users_are_found_by_the_beginning_of_their_id() -> None:
    assert get("/v1/users").json()["users"] == [7, "empty", "u/1"]
    assert get("/v1/users?q=u").json()["users"] == ["u/1"]
    assert get("/v1/users?q=x").json() == {
        "model": "model-a",
        "index": "index-a",
        "users": [],
        "total": 3,
    }


def test_the_catalogue_is_described() -> None:
    answer = get("/v1/catalogue").json()
    assert answer["items"] == 60
    assert answer["users"] == 3
    assert answer["tags"] == [{"tag": "blue", "items": 20}, {"tag": "round", "items": 12}]
    assert answer["attributes"] == [
        {"name": "age", "kind": "number", "values": [], "typical": 33.5},
        {"name": "team", "kind": "category", "values": ["blue", "red"], "typical": None},
    ]


def test_items_without_a_card_are_called_by_their_id() -> None:
    fake = Fake()
    fake.index.add(["new one"], fake.index.vectors(["a-3"]))
    body = {"history": ["a-3"], "k": 1}
    (item,) = post("/v1/recommend", body, fake).json()["items"]
    assert (item["id"], item["title"], item["tags"]) == ("new one", "new one", [])


def test_long_descriptions_are_cut() -> None:
    fake = Fake()
    fake.cards = {
        item: type(card)(card.title, card.tags, "x" * 5000, None)
        for item, card in fake.cards.items()
    }
    (item,) = post("/v1/recommend", {"history": ["a-3"], "k": 1}, fake).json()["items"]
    assert len(item["description"]) == 400


def test_an_index_of_another_tower_is_not_served() -> None:
    fake = Fake()
    fake.tower = "other"
    with pytest.raises(RunError, match="item tower other, the index index-a was built by tower-a"):
        make(fake)


def test_something_must_be_served() -> None:
    with pytest.raises(UsageError, match="needs a service"):
        app(None)
    with pytest.raises(UsageError, match="together"):
        app(Fake(), current="x")


def test_what_json_cannot_say() -> None:
    """No answer holds what is no number; a lone surrogate is escaped and can be read."""
    with pytest.raises(ValueError, match="JSON compliant"):
        Json({"a": float("nan")})
    for kind in (Json, QuickJson):
        assert json.loads(kind({"b": "é", "c": "\ud800"}).body) == {"b": "é", "c": "\ud800"}


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_a_defect(
    score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Fake()
    search = service.index.search

    def spoilt(*given: Any, **named: Any) -> Any:
        scores_QK, found = search(*given, **named)
        scores_QK[0, 0] = score
        return scores_QK, found

    monkeypatch.setattr(service.index, "search", spoilt)
    assert is_error(post("/v1/recommend", {"user": 7, "k": 3}, service), 500, "defect")
