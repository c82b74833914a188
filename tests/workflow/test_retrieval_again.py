"""A run that is fitted again: the index of the towers before is left aside, and never answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.core import RunError
from warmstart.workflow import (
    RetrievalRun,
    build_run_index,
    fit,
    refresh,
    run_service,
    serve_run,
    serving,
)
from warmstart.workflow.indexing import POINTER, current_index, index_home

ITEMS, USERS = 8, 20


@pytest.fixture
def fitted(tiny_text: Path, tmp_path: Path) -> Callable[[int], RetrievalRun]:
    """`fitted(seed)`: a run of the same name each time, of towers by that seed."""
    data = tmp_path / "ring"
    data.mkdir()
    events = [
        f"u{user},i{(user + step) % ITEMS},{1_000_000_000 + 100 * step + user}"
        for step in range(5)
        for user in range(USERS)
    ]
    (data / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    items = [f"i{i},{('plum', 'truck')[i % 2]} {i}" for i in range(ITEMS)]
    (data / "items.csv").write_text("\n".join(["item_id,title", *items]))

    def run(seed: int) -> RetrievalRun:
        found = fit(
            data, strategy="frozen", settings={"width": 8, "layers": 0, "epochs": 1}, seed=seed,
            controls="none", backbone=tiny_text, device="cpu", out=tmp_path / "films",
            replace=True,
        )  # fmt: skip
        assert isinstance(found, RetrievalRun)
        return found

    return run


def served(run: RetrievalRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the server would answer with."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(serving, "serve_http", lambda *_, **given: told.append(given))
    serve_run(run.folder, device="cpu")
    (given,) = told
    folder = given["current"].parent / given["current"].read_text().strip()
    return given["load"](folder)


def answers(service: Any) -> list[str]:
    """Items for a history, from the index."""
    vector_D = service.user_vector(["i1", "i2"], None)
    _, found = service.index.search(vector_D[None], 4, exclude=["i1", "i2"], tower=service.tower)
    return list(found[0])


def test_serve_builds_another_index_than_that_of_the_towers_before(
    fitted: Callable[[int], RetrievalRun], tmp_path: Path, notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = fitted(0)
    old = build_run_index(before, device="cpu").folder
    assert current_index(before) == old
    after = fitted(1)
    assert after.towers.fingerprint != before.towers.fingerprint
    notes.clear()
    assert current_index(after) is None
    assert notes == [f"{old} is of another model than {after.folder}: it is left aside."]
    with pytest.raises(RunError, match="tower"):
        run_service(after, old)

    service = served(after, monkeypatch)
    assert "This run has no index yet: one is built." in notes
    assert service.tower == after.towers.fingerprint
    assert answers(service) == [one.item for one in after.recommend(history=["i1", "i2"], k=4)]
    assert current_index(after) == index_home(after) / "0002"
    assert old.is_dir(), "a server of before may still read it"
    notes.clear()
    served(after, monkeypatch)
    assert not any("left aside" in line or "is built" in line for line in notes)


def test_new_items_of_the_towers_before_are_not_carried_over(
    fitted: Callable[[int], RetrievalRun], tiny_text: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("item_id,title\nnew1,plum 77\n")
    before = fitted(0)
    assert refresh(before, new, backbone=tiny_text, device="cpu").items == ITEMS + 1
    after = fitted(1)
    assert build_run_index(after, device="cpu").items == ITEMS
    grown = refresh(after, new, backbone=tiny_text, device="cpu")
    assert grown.items == ITEMS + 1
    service = run_service(after, grown.folder)
    assert (index_home(after) / POINTER).read_text() == f"{grown.folder.name}\n"
    assert "new1" in service.index
    assert set(answers(service)) <= {"new1", *(f"i{i}" for i in range(ITEMS))}
