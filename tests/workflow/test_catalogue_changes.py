"""What `refresh` changes of a run's catalogue, and who knows of it: index, server, verbs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from PIL import Image

from warmstart.core import DataError, RunError, UsageError, write_manifest
from warmstart.serving import Settings
from warmstart.serving import recommending as answers
from warmstart.serving.errors import ServingError
from warmstart.serving.messages import RecommendRequest
from warmstart.serving.metrics import Metrics
from warmstart.serving.snapshot import Snapshot
from warmstart.serving.thumbnails import Thumbnails
from warmstart.workflow import (
    IndexReport,
    RetrievalRun,
    RunService,
    build_run_index,
    evaluate,
    fit,
    recommend,
    refresh,
    run_service,
)
from warmstart.workflow import indexing as made_by
from warmstart.workflow.run_index import current_index, index_home

ITEMS, USERS = 12, 24
SETTINGS = {"width": 16, "layers": 1, "heads": 1, "history": 4, "epochs": 2, "popularity": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk round a ring of items; somebody who has done nothing yet."""
    root = tmp_path_factory.mktemp("ring")
    rows = ["user_id,item_id,timestamp,event"]
    for step in range(8):
        rows += [f"u{user},i{(user + step) % ITEMS},{10**9 + 100 * step + user},view"
                 for user in range(USERS)]  # fmt: skip
    rows.append(f"looker,i1,{10**9},hover")
    (root / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = [f"i{i},plum {i},{'even' if i % 2 == 0 else 'odd'}" for i in range(ITEMS)]
    (root / "items.csv").write_text("\n".join(["item_id,title,tags", *items]) + "\n")
    return root


@pytest.fixture
def run(folder: Path, tiny_text: Path, tmp_path: Path, once: dict[str, Path]) -> RetrievalRun:
    """A run of its own for each test, fitted once."""
    if "run" not in once:
        place = tmp_path.parent / "catalogue-changes"
        found = fit(
            folder, settings=SETTINGS, backbone=tiny_text, device="cpu", positive="view", out=place
        )
        once["run"] = found.folder
    named = tmp_path / "films"
    shutil.copytree(once["run"], named)
    return RetrievalRun(named, "cpu")


@pytest.fixture(scope="module")
def once() -> dict[str, Path]:
    return {}


def table(path: Path, *rows: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["item_id,title,tags,image", *rows]) + "\n")
    return path


def picture(path: Path, red: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path)


def red_of(snapshot: Snapshot, item: str) -> float:
    """How red the served picture of an item is."""
    code = snapshot.picture(snapshot.card(item))
    assert code is not None
    made = Thumbnails(Settings().thumbnail_size, 10**6, 10**6).jpeg(snapshot, code)
    pixel = Image.open(BytesIO(made)).getpixel((4, 4))
    assert isinstance(pixel, tuple)
    return pixel[0]


def answered(service: RunService, body: dict[str, Any]) -> dict[str, Any]:
    """What the server's route gives."""
    request = RecommendRequest.model_validate(body)
    return answers.recommend(Snapshot(service), request, Metrics())


def served(run: RetrievalRun) -> RunService:
    current = current_index(run)
    assert current is not None
    return run_service(run, current)


def test_known_items_are_shown_as_the_table_has_them(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path, notes: list[str]
) -> None:
    before = build_run_index(run)
    old = served(run)
    changed = table(tmp_path / "new.csv", "i3,pear 3,,", "i4,plum 4,even,", "new,plum 40,even,")
    refresh(run, changed, backbone=tiny_text)
    assert "2 items are known and keep their vectors; 1 shown otherwise than before." in notes
    new = served(run)
    assert new.cards["i3"] == old.cards["i3"].__class__("pear 3", ("odd",), "", None)
    assert {name: card for name, card in new.cards.items() if name not in ("i3", "new")} == {
        name: card for name, card in old.cards.items() if name != "i3"
    }
    np.testing.assert_array_equal(new.index.vectors(["i3"]), old.index.vectors(["i3"]))
    with pytest.raises(DataError, match=r"holds no item that .* does not know as it is"):
        refresh(run, changed, backbone=tiny_text)
    only_shown = refresh(run, table(tmp_path / "shown.csv", "new,plum forty,even,"))
    assert only_shown.items == before.items + 1
    assert served(run).cards["new"].title == "plum forty"


def test_removed_items_are_not_answered_and_come_back(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path
) -> None:
    refresh(run, table(tmp_path / "new.csv", "new,plum 40,even,"), backbone=tiny_text)
    old = served(run)
    history = ["i1", "i2"]
    first = recommend(run, history=history, k=1)[0].item
    left = refresh(run, remove=[first, "new"])
    assert left.items == ITEMS - 1
    now = served(run)
    assert now.gone == (first,)
    found = [one.item for one in recommend(run, history=history, k=50)]
    assert len(found) == ITEMS - 3
    assert not {first, "new"} & set(found)
    _, ids = now.index.search(now.user_vector(history, None)[None], 50, exclude=history)
    assert list(ids[0]) == found  # the index and the towers agree
    met = recommend(run, history=[first], k=1)[0].item  # who met it is still understood
    answer = answered(now, {"history": [first], "k": 1})
    assert [one["id"] for one in answer["items"]] == [met]
    assert answer["unknown"] == []
    refresh(run, table(tmp_path / "back.csv", f"{first},plum again,even,"))
    again = served(run)
    assert again.cards[first].title == "plum again"
    np.testing.assert_allclose(again.index.vectors([first]), old.index.vectors([first]), atol=1e-6)
    assert recommend(run, history=history, k=1)[0].item == first
    for wrong, message in (
        (["nowhere"], "has no item 'nowhere' that could be removed"),
        (list(again.index.ids), "Leave one at least"),
    ):
        with pytest.raises(DataError, match=message):
            refresh(run, remove=wrong)
    with pytest.raises(UsageError, match=r"a table of items .* ids to remove"):
        refresh(run)
    with pytest.raises(UsageError, match=r"takes a list of ids, got 'i3'. Write \['i3'\]"):
        refresh(run, remove="i3")
    both = table(tmp_path / "both.csv", "i3,plum,even,", "i4,plum,even,")
    with pytest.raises(DataError, match="has the item 'i4', which is to be removed too"):
        refresh(run, both, remove=["i4"])
    with pytest.raises(DataError, match=r"no column 'skuu' of item ids.*title"):
        refresh(run, both, item="skuu")
    with pytest.raises(UsageError, match='Did you mean "hnsw"'):
        refresh(run, both, engine="hsnw")


def test_recommend_and_evaluate_know_what_was_added(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path
) -> None:
    later = tmp_path / "later.csv"
    rows = [f"u{user},{item},{2 * 10**9 + user},view"
            for user, item in enumerate(("new", "i0", "new"))]  # fmt: skip
    later.write_text("\n".join(["user_id,item_id,timestamp,event", *rows]) + "\n")
    before = evaluate(run, later)
    assert (before.scores.n, before.events["unknown item"]) == (1, 2)
    refresh(run, table(tmp_path / "new.csv", "new,plum 40,even,"), backbone=tiny_text)
    after = evaluate(run, later)
    assert (after.scores.n, after.events["unknown item"]) == (3, 0)
    assert "new" in [one.item for one in recommend(run, history=["i1"], k=50)]
    assert recommend(run, history=["new"], k=1, tag="odd")[0].tags == ("odd",)
    assert run.recommend(history=["i1"], k=50)  # the run itself does not change
    with pytest.raises(DataError, match="knows no item 'new'"):
        run.recommend(history=["new"])


def test_pictures_of_new_items_are_those_of_their_table(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path
) -> None:
    """Two tables have a picture of the same name, the run has none."""
    for place, red in (("a", 250), ("b", 100)):
        picture(tmp_path / place / "cover.png", red)
        new = table(tmp_path / place / "new.csv", f"{place},plum {red},even,cover.png")
        refresh(run, new, backbone=tiny_text)
    snapshot = Snapshot(served(run))
    assert red_of(snapshot, "a") == pytest.approx(250, abs=8)
    assert red_of(snapshot, "b") == pytest.approx(100, abs=8)
    assert snapshot.picture(snapshot.card("i1")) is None
    assert snapshot.service.images == ((tmp_path / "a").resolve(), (tmp_path / "b").resolve())


def test_users_without_a_positive_event_are_known(run: RetrievalRun) -> None:
    build_run_index(run)
    service = served(run)
    assert service.histories["looker"] == []
    assert set(service.histories) == set(run.user_codes)
    _, ids = service.index.search(service.user_vector([], "looker")[None], 3)
    assert list(ids[0]) == [one.item for one in run.recommend(user="looker", k=3)]


def test_a_stopped_build_goes_on(
    run: RetrievalRun, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    """Shards that were written before the stop are not asked for again; the index is the same."""
    monkeypatch.setattr(made_by, "_ROWS", 5)
    plain = build_run_index(run)
    asked: list[int] = []
    whole = made_by.build_index

    def stopped(folder: Path, blocks: Any, **settings: Any) -> Any:
        def some(start: int) -> Iterator[Any]:
            asked.append(start)
            for number, block in enumerate(blocks(start)):
                if len(asked) == 1 and number == 2:
                    raise KeyboardInterrupt
                yield block

        return whole(folder, some, shard_rows=5, **settings)

    monkeypatch.setattr(made_by, "build_index", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_run_index(run)
    assert current_index(run) == plain.folder
    again = build_run_index(run)
    assert asked == [0, 10]
    assert any("10 rows of an earlier build" in line for line in notes)
    first, second = (run_service(run, one.folder).index for one in (plain, again))
    assert first.ids == second.ids
    np.testing.assert_array_equal(first.vectors(first.ids), second.vectors(second.ids))
    assert sorted(path.name for path in index_home(run).iterdir()) == [
        ".lock", "0001", "0002", "current",
    ]  # fmt: skip


def test_shards_of_another_catalogue_are_not_taken_up(
    run: RetrievalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made_by.build_index

    def stopped(folder: Path, blocks: Any, **settings: Any) -> Any:
        def some(start: int) -> Iterator[Any]:
            yield from blocks(start)
            raise KeyboardInterrupt

        return whole(folder, some, shard_rows=5, **settings)

    monkeypatch.setattr(made_by, "build_index", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_run_index(run)
    monkeypatch.setattr(made_by, "build_index", whole)
    report: IndexReport = refresh(run, remove=["i0"])
    names = pl.read_parquet(report.folder / "items.parquet")["item_id"].to_list()
    assert list(served(run).index.ids) == names == [f"i{i}" for i in range(1, ITEMS)]


def test_two_processes_do_not_build_at_once(run: RetrievalRun) -> None:
    index_home(run).mkdir()
    with (
        FileLock(index_home(run) / ".lock"),
        pytest.raises(RunError, match="Another process is building an index"),
    ):
        build_run_index(run)
    build_run_index(run)


def test_a_damaged_index_is_built_again(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path, notes: list[str]
) -> None:
    broken = refresh(run, table(tmp_path / "new.csv", "new,plum 40,even,"), backbone=tiny_text)
    (broken.folder / "items.parquet").write_bytes(b"no table")
    with pytest.raises(RunError, match="is damaged"):
        served(run)
    assert build_run_index(run).items == ITEMS
    assert any("without what refresh changed" in line for line in notes)
    assert served(run).items.equals(run.items)


def test_own_and_further_pictures_are_served_each_from_its_place(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path
) -> None:
    """A run with pictures, relative to its folder, and a table elsewhere with one of that name."""
    own, other = tmp_path / "own", tmp_path / "other"
    picture(own / "cover.png", 40)
    picture(own / "sub" / "more.png", 70)
    picture(other / "cover.png", 200)
    named = {"images": str(own)}
    pictured = run.items.with_columns(
        image=pl.when(pl.col("item_id") == "i1").then(pl.lit("cover.png")).otherwise(None)
    )
    pictured.write_parquet(run.folder / "items.parquet")
    results = json.loads((run.folder / "results.json").read_text())
    results["data"] |= named
    (run.folder / "results.json").write_text(json.dumps(results))
    run = RetrievalRun(run.folder, "cpu")
    refresh(run, table(own / "more.csv", "i2,plum 2,even,sub/more.png", "i1,plum 1,odd,cover.png"))
    service = served(run)
    assert service.images == (own,)
    assert (service.cards["i1"].image, service.cards["i2"].image) == ("cover.png", "sub/more.png")
    refresh(run, table(other / "new.csv", "new,plum 9,even,cover.png"), backbone=tiny_text)
    snapshot = Snapshot(served(run))
    assert snapshot.service.images == (own, other)
    assert red_of(snapshot, "i1") == pytest.approx(40, abs=8)
    assert red_of(snapshot, "i2") == pytest.approx(70, abs=8)
    assert red_of(snapshot, "new") == pytest.approx(200, abs=8)
    with pytest.raises(DataError, match="does not know as it is"):
        refresh(run, own / "more.csv")
    bare = table(tmp_path / "bare" / "bare.csv", "bare,plum 11,even,")
    refresh(run, bare, backbone=tiny_text)
    assert served(run).images == (own, other)  # a table without pictures opens no folder
    (other / "cover.png").unlink()
    (other / "cover.png").symlink_to(tmp_path / "bare" / "bare.csv")
    with pytest.raises(ServingError):
        red_of(Snapshot(served(run)), "new")


def test_an_index_of_before_has_the_run_s_own_pictures(run: RetrievalRun, tmp_path: Path) -> None:
    report = build_run_index(run)
    facts = json.loads((report.folder / "index.json").read_text())
    assert facts.pop("images") == []
    (report.folder / "index.json").write_text(json.dumps(facts))
    results = json.loads((run.folder / "results.json").read_text())
    results["data"]["images"] = str(tmp_path)
    (run.folder / "results.json").write_text(json.dumps(results))
    write_manifest(report.folder, task_type="retrieve", tower=run.towers.fingerprint)
    assert served(RetrievalRun(run.folder, "cpu")).images == (tmp_path,)


def test_a_few_rows_are_read_as_the_run_was(folder: Path, tiny_text: Path, tmp_path: Path) -> None:
    """Tags apart by spaces, which a few rows do not show; ids in the run's own column."""
    data = tmp_path / "data"
    data.mkdir()
    lines = (folder / "interactions.csv").read_text().replace("item_id", "sku", 1)
    (data / "interactions.csv").write_text(lines)
    some = [
        " ".join(tag for bit, tag in enumerate("abcd") if i + 1 >> bit & 1) for i in range(ITEMS)
    ]
    items = [f"{9 - i},i{i},plum {i},{some[i]}" for i in range(ITEMS)]
    (data / "items.csv").write_text("\n".join(["id,sku,title,tags", *items]) + "\n")
    run = fit(
        data, settings=SETTINGS, backbone=tiny_text, device="cpu", positive="view", item="sku",
        out=tmp_path / "run",
    )  # fmt: skip
    assert isinstance(run, RetrievalRun)
    new = tmp_path / "new.csv"
    new.write_text("id,sku,title,tags\n1,new,plum 40,a d z\n2,i3,plum 3,b\n")
    refresh(run, new, backbone=tiny_text)
    service = served(run)
    assert service.cards["new"].tags == ("a", "d", "z")
    assert service.cards["i3"].tags == ("b",)
    assert len(service.index) == ITEMS + 1
