"""A run whose user tower reads texts: compared, opened, recommended, indexed, grown and served."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from warmstart.core import BackboneError, Run, RunError, UsageError
from warmstart.retrieval import TextHistory
from warmstart.serving import Settings, app
from warmstart.workflow import (
    RetrievalRun,
    build_run_index,
    compare,
    evaluate,
    open_run,
    recommend,
    refresh,
    run_service,
)
from warmstart.workflow.retrieval import RETRIEVAL_ARMS, USUAL_ARMS, named_contenders

ITEMS, USERS = 24, 50
TRACK = (
    "text-history:width=16:epochs=3:rate=0.02:dropout=0:draws=8:last=4:places=4:history=8"
    ":metric=HR@10"
)
WORDS = ("plum", "truck", "night", "old", "good", "bad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users of two teams, each of which keeps to its half of the items."""
    root = tmp_path_factory.mktemp("told")
    generator = np.random.default_rng(0)
    events = [
        (1_000_000_000 + 100 * step + user, user, int(generator.integers(12)) + 12 * (user % 2))
        for step in range(8)
        for user in range(USERS)
    ]
    rows = [f"u{user},i{item},{moment}" for moment, user, item in sorted(events)]
    (root / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    titles = [f"i{i},{WORDS[i % 6]} {WORDS[i // 6]}" for i in range(ITEMS)]
    (root / "items.csv").write_text("item_id,title\n" + "\n".join(titles) + "\n")
    users = [f"u{u},{'red' if u % 2 else 'blue'},{20.5 + u}" for u in range(USERS)]
    (root / "users.csv").write_text("user_id,team,age\n" + "\n".join(users) + "\n")
    return root


@pytest.fixture(scope="module")
def encoder(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the encoder, which may go away."""
    found = tmp_path_factory.mktemp("encoder") / "tiny"
    shutil.copytree(tiny_text, found)
    return found


@pytest.fixture(scope="module")
def run(folder: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrievalRun:
    found = compare(
        folder, strategies=[TRACK, "popularity"], backbone=encoder, metric="HR@10", device="cpu",
        out=tmp_path_factory.mktemp("runs") / "told",
    )  # fmt: skip
    assert isinstance(found, RetrievalRun)
    return found


def test_a_comparison_reads_users_as_texts_when_it_is_asked_to() -> None:
    assert set(RETRIEVAL_ARMS) - set(USUAL_ARMS) == {"text-history"}
    assert named_contenders(["all"]) == list(RETRIEVAL_ARMS)
    assert named_contenders(None) is None, "the usual ones"


def test_it_is_judged_like_any_track(run: RetrievalRun) -> None:
    arm = run.results["arms"][0]
    assert arm["status"] == "done", arm["reason"]
    assert run.results["kept"] == TRACK
    assert len(arm["history"][0]) == 3
    assert arm["next_item"]["test"]["metrics"]["HR@10"]["value"] > 0
    again = evaluate(run.folder, run.results["data"]["source"], metric="HR@10", device="cpu")
    told = arm["next_item"]["test"]["metrics"]["HR@10"]["value"]
    assert again.scores.main.value == pytest.approx(told)


def test_it_is_left_out_where_the_budget_ends_before_the_test_questions_are_read(
    folder: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[str] = []
    fit = TextHistory.fit

    def noted(self: TextHistory, *args: Any, **more: Any) -> Any:
        found = fit(self, *args, **more)
        if more.get("validation") is None:
            learned.append("final")
        return found

    monkeypatch.setattr(TextHistory, "fit", noted)
    monkeypatch.setattr(Run, "out_of_time", lambda run: bool(learned))
    found = compare(
        folder, strategies=[TRACK.replace("epochs=3", "epochs=1"), "popularity"],
        backbone=encoder, metric="HR@10", device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    arm = next(one for one in found.results["arms"] if one["name"].startswith("text-history"))
    assert learned
    assert arm["status"] == "not applicable"
    assert "the budget ended after 0 of" in arm["reason"]


def test_it_recommends_to_users_and_to_somebody_with_words_alone(run: RetrievalRun) -> None:
    opened = open_run(run.folder, device="cpu")
    assert isinstance(opened, RetrievalRun)
    known = opened.recommend(user="u3", k=5)
    told = recommend(
        run.folder, history=run.history("u3"), k=5, attributes={"team": "red", "age": 23.5},
        device="cpu",
    )  # fmt: skip
    assert [one.item for one in told] == [one.item for one in known]
    assert [one.score for one in told] == pytest.approx([one.score for one in known], abs=1e-5)
    red = opened.recommend(history=[], k=5, attributes={"team": "red"})
    blue = opened.recommend(history=[], k=5, attributes={"team": "blue"})
    assert [one.score for one in red] != [one.score for one in blue]
    with pytest.raises(UsageError, match='Did you mean "team"'):
        opened.recommend(history=[], attributes={"tem": "red"})


def test_its_index_and_server_are_those_of_any_run(
    run: RetrievalRun, encoder: Path, tmp_path: Path
) -> None:
    report = build_run_index(run, device="cpu", engine="flat")
    service = run_service(run, report.folder)
    new = tmp_path / "new.csv"
    new.write_text("item_id,title\ntwin,plum plum\n")  # i0 under another name
    grown = refresh(run, new, backbone=encoder, device="cpu")
    later = run_service(run, grown.folder)
    assert later.tower == service.tower
    np.testing.assert_allclose(
        later.user_vector(["twin"], None), service.user_vector(["i0"], None), atol=1e-6
    )
    body = {"history": ["i1", "i2"], "attributes": {"team": "red", "age": 30}, "k": 4}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app(service, Settings(deadline_seconds=60)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/recommend", json=body)

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    wanted = run.recommend(history=["i1", "i2"], k=4, attributes={"team": "red", "age": 30})
    # Items whose scores differ by rounding alone may change places, and none may change its score.
    found = {one["id"]: one["score"] for one in answer.json()["items"]}
    assert found == pytest.approx({one.item: one.score for one in wanted}, abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_an_encoder_that_has_moved_is_named(
    run: RetrievalRun, encoder: Path, wide_text: Path
) -> None:
    moved = encoder.rename(encoder.parent / "elsewhere")
    try:
        with pytest.raises(BackboneError, match=r"is not where it was: .* Name it with --backbone"):
            recommend(run.folder, user="u1", device="cpu")
        with pytest.raises(RunError, match=r"not the encoder that .* was made with"):
            recommend(run.folder, user="u1", backbone=wide_text, device="cpu")
        found = recommend(run.folder, user="u1", k=3, backbone=moved, device="cpu")
        source = run.results["data"]["source"]
        later = evaluate(run.folder, source, metric="HR@10", backbone=moved, device="cpu")
        told = run.results["arms"][0]["next_item"]["test"]["metrics"]["HR@10"]["value"]
        assert later.scores.main.value == pytest.approx(told)
    finally:
        moved.rename(encoder)
    assert found == recommend(run.folder, user="u1", k=3, device="cpu")


def test_an_encoder_with_pickled_weights_is_read_where_it_is_allowed(
    folder: Path, tiny_text: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_text, old)
    weights = load_file(old / "model.safetensors")
    (old / "model.safetensors").unlink()
    torch.save(weights, old / "pytorch_model.bin")
    made = compare(
        folder, strategies=[TRACK.replace("epochs=3", "epochs=1")], backbone=old, metric="HR@10",
        device="cpu", out=tmp_path / "run", allow_bin=True,
    )  # fmt: skip
    assert isinstance(made, RetrievalRun)
    with pytest.raises(BackboneError, match="--allow-bin"):
        recommend(made.folder, user="u1", device="cpu")
    wanted = made.recommend(user="u1", k=3)
    found = recommend(made.folder, user="u1", k=3, device="cpu", allow_bin=True)
    assert [one.item for one in found] == [one.item for one in wanted]
    build_run_index(made.folder, device="cpu", engine="flat", allow_bin=True)
    new = tmp_path / "new.csv"
    new.write_text("item_id,title\ntwin,plum plum\n")
    assert refresh(made.folder, new, device="cpu", allow_bin=True).items == ITEMS + 1
    source = made.results["data"]["source"]
    assert evaluate(made.folder, source, metric="HR@10", device="cpu", allow_bin=True)
