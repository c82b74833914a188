"""From a folder of interactions to a run that recommends, is indexed, grows and is served."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import warmstart as ws
from warmstart.backbones import Backbone
from warmstart.core import DataError, NotApplicable, RunError, UsageError, verify_manifest
from warmstart.evaluation import Queries
from warmstart.serving.metrics import Metrics
from warmstart.serving.snapshot import Live
from warmstart.workflow import (
    RetrievalRun,
    build_run_index,
    compare,
    fit,
    open_run,
    plan,
    predict,
    recommend,
    refresh,
    run_service,
)
from warmstart.workflow.retrieval import interaction_options

ITEMS, USERS = 12, 60
TRACK = "two-tower:width=16:layers=1:heads=1:history=6:epochs=4:rate=0.02:dropout=0:metric=HR@10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk round a ring of items."""
    root = tmp_path_factory.mktemp("ring")
    generator = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    walks = []
    for user in range(USERS):
        place = int(generator.integers(ITEMS))
        for step in range(9):
            walks.append((1_000_000_000 + 100 * step + user, user, place))
            place = (place + (1 if generator.random() < 0.9 else 2)) % ITEMS
    rows += [f"u{user},i{place},{moment}" for moment, user, place in sorted(walks)]
    (root / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = ["item_id,title,tags"]
    items += [f"i{i},{name} {i},{'even' if i % 2 == 0 else 'odd'}"
              for i, name in enumerate(["plum", "truck"] * (ITEMS // 2))]  # fmt: skip
    (root / "items.csv").write_text("\n".join(items) + "\n")
    users = ["user_id,team", *(f"u{u},{'red' if u % 2 else 'blue'}" for u in range(USERS))]
    (root / "users.csv").write_text("\n".join(users) + "\n")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrievalRun:
    found = compare(
        folder, strategies=[TRACK, "zero-shot", "popularity", "item-knn"], backbone=tiny_text,
        metric="HR@10", device="cpu", out=tmp_path_factory.mktemp("runs") / "films",
    )  # fmt: skip
    assert isinstance(found, RetrievalRun)
    return found


def test_the_folder_holds_what_the_design_says(run: RetrievalRun) -> None:
    assert verify_manifest(run.folder)["task_type"] == "retrieve"
    names = {path.name for path in run.folder.iterdir()}
    assert {"manifest.json", "model", "results.json", "report.html", "README.md", "items.parquet",
            "events.parquet", "users.parquet", "ranks_next_item.parquet",
            "ranks_all_future.parquet"} <= names  # fmt: skip
    results = json.loads((run.folder / "results.json").read_text())
    assert results["task_type"] == "retrieve"
    assert [arm["name"] for arm in results["arms"]] == [TRACK, "zero-shot", "popularity",
                                                        "item-knn"]  # fmt: skip
    for arm in results["arms"]:
        scores = arm["next_item"]["test"]["metrics"]["HR@10"]
        assert scores["low"] <= scores["value"] <= scores["high"]
        assert {"HR@10", "MRR"} <= set(arm["next_item"]["validation"])
        assert {"user", "item", "popularity", "history"} == set(arm["next_item"]["test"]["slices"])
    assert {one["by"] for one in results["fairness"]} == {"team", "tag"}
    assert {lift["a"] for lift in results["lifts"]} == {TRACK, "zero-shot"}
    assert results["kept"] == TRACK
    assert "Leak audit: every event of a later part" in (run.folder / "report.html").read_text()
    told = {arm["name"]: arm["information"] for arm in results["arms"]}
    assert [name for name in told if told[name]] == [TRACK]
    chosen = results["arms"][0]["seeds"][0]["epochs_chosen"]
    record = results["arms"][0]["history"][0][chosen - 1]
    assert told[TRACK] == {"nats": record["validation_information"],
                           "most": record["validation_information_most"]}  # fmt: skip


def test_every_number_comes_from_the_kept_ranks(run: RetrievalRun) -> None:
    ranks = pl.read_parquet(run.folder / "ranks_next_item.parquet")
    for arm in run.results["arms"]:
        own = ranks.filter(pl.col("arm") == arm["name"])["rank"].to_numpy()
        found = arm["next_item"]["test"]["metrics"]
        assert found["HR@10"]["value"] == pytest.approx((own <= 10).mean())
        assert found["MRR"]["value"] == pytest.approx((1 / own).mean())


def test_it_recommends_to_users_and_to_anybody(run: RetrievalRun) -> None:
    seen = run.history("u3")
    found = run.recommend(user="u3", k=ITEMS)
    assert not {one.item for one in found} & set(seen)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    anybody = recommend(run.folder, history=["i1", "i2"], k=3, exclude=["i3"], device="cpu")
    assert len(anybody) == 3
    assert not {"i1", "i2", "i3"} & {one.item for one in anybody}
    assert all(one.title for one in anybody)
    assert {tag for one in run.recommend(history=[], tag="odd") for tag in one.tags} == {"odd"}
    assert len(run.recommend(history=[], k=5)) == 5, "somebody new has no history"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"user": "u999"}, DataError, "knows no user 'u999'"),
        ({"history": ["i1", "i99"]}, DataError, "knows no item 'i99'"),
        ({"user": "u1", "history": ["i1"]}, UsageError, "either a user or a history"),
        ({}, UsageError, "either a user or a history"),
        ({"history": [], "attributes": {"tea": "red"}}, UsageError, 'Did you mean "team"'),
        ({"user": "u1", "k": 0}, UsageError, "k must be 1 to 1000, got 0"),
        ({"user": "u1", "tag": "evn"}, DataError, 'Did you mean "even"'),
    ],
)
def test_bad_questions(run: RetrievalRun, given: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        run.recommend(**given)


def test_a_run_is_opened_by_its_kind(run: RetrievalRun) -> None:
    assert isinstance(open_run(run.folder), RetrievalRun)
    with pytest.raises(RunError, match="does not classify"):
        predict(run.folder, ["a text"])
    assert ws.recommend(run.folder, user="u1", k=1, device="cpu")


def test_what_several_workers_are_told(run: RetrievalRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings, the key among them, arrive as they were; each worker has one thread."""
    from warmstart.serving import Adopted, Settings
    from warmstart.workflow import serve_run, serving

    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(serving, "run_workers", lambda *given: told.append(given))
    key = "a key of enough length".replace(" ", "-")
    settings = Settings.parse({"key": key, "max_k": 77, "hosts": ["here"]}, "serving")
    serve_run(run.folder, port=0, settings=settings, workers=3, device="cpu")
    ((command, spec, host, port, _, workers),) = told
    assert (host, port, workers) == ("127.0.0.1", 0, 3)
    assert command[-1].endswith("serve_worker()")
    served: list[tuple[Any, dict[str, Any]]] = []
    adopted = Adopted(json.loads(json.dumps(spec)), "a socket", True)  # type: ignore[arg-type]
    monkeypatch.setattr(serving, "adopt", lambda: adopted)
    monkeypatch.setattr(serving, "serve_http", lambda *g, **named: served.append((g[3], named)))
    serving.serve_worker()
    ((found, named),) = served
    assert found == settings.model_copy(update={"threads": 1})
    assert found.key is not None
    assert found.key.get_secret_value() == key
    assert (named["listener"], named["wait"]) == ("a socket", True)
    assert named["load"](serving.current_index(run)).model == run.folder.name
    with pytest.raises(UsageError, match="at least 1, got 0"):
        serve_run(run.folder, workers=0)
    with pytest.raises(UsageError, match="name or folder"):
        serve_run(run.folder, workers=2, backbone=object.__new__(Backbone))
    with pytest.raises(UsageError, match="no API key"):
        serve_run(run.folder, host="0.0.0.0", workers=2)


def test_an_index_answers_as_the_model_does_and_grows(
    run: RetrievalRun, tmp_path: Path, tiny_text: Path
) -> None:
    report = build_run_index(run, device="cpu")
    verify_manifest(report.folder)
    assert report.items == ITEMS
    page = report.report.read_text()
    assert "Recall against latency" in page
    assert f"{ITEMS} items in a flat index" in page
    kept = json.loads((report.folder / "index.json").read_text())["choice"]["trials"]
    assert [one["engine"] for one in kept] == ["flat", "hnsw", "ivf-flat", "ivf-pq"]
    assert kept[0]["recall"] == 1.0
    service = run_service(run, report.folder)
    vector = service.user_vector(["i1", "i2"], None)
    _, ids = service.index.search(vector[None], 4, exclude=["i1", "i2"])
    assert list(ids[0]) == [one.item for one in run.recommend(history=["i1", "i2"], k=4)]
    about = {"team": "red"}
    vector = service.user_vector([], None, about)
    scores, ids = service.index.search(vector[None], 4)
    told = run.recommend(history=[], k=4, attributes=about)
    assert list(ids[0]) == [one.item for one in told]
    np.testing.assert_allclose(scores[0], [one.score for one in told], atol=1e-6)
    nobody = run.recommend(history=[], k=4)
    assert [one.score for one in told] != [one.score for one in nobody]
    assert service.profiles is not None
    assert [column.values for column in service.profiles.columns] == [("blue", "red")]
    assert service.cards["i0"].title == "plum 0"
    assert list(service.histories["u3"]) == run.history("u3")
    new = tmp_path / "new.csv"
    new.write_text("item_id,title,tags\ni1,truck 1,odd\nnew1,plum 77,even\nnew2,truck 9,odd\n")
    grown = refresh(run, new, backbone=tiny_text, device="cpu")
    assert grown.items == ITEMS + 2
    assert grown.folder != report.folder
    later = run_service(run, grown.folder)
    live, served = Live(Metrics()), run_service(run, report.folder)
    live.reload(served)
    gone = weakref.ref(served)
    del served
    live.reload(later)
    assert gone() is None  # nothing refers in a ring: without the collector too
    assert later.tower == service.tower
    assert {"new1", "new2"} <= set(later.index.ids)
    _, found = later.index.search(later.user_vector(["new1"], None)[None], ITEMS + 2)
    assert len(set(found[0])) == ITEMS + 2
    with pytest.raises(DataError, match="holds no item that"):
        refresh(run, new, backbone=tiny_text, device="cpu")


def test_new_items_are_read_as_the_run_s_own_were(
    folder: Path, tiny_text: Path, tmp_path: Path
) -> None:
    """An item like a known one gets its vector, though the encoder was set otherwise in the fit."""
    made = fit(
        folder, strategy="frozen", settings={"width": 16, "layers": 0, "epochs": 1, "history": 4},
        backbone=ws.backbone(tiny_text, modality="text", max_length=3, pooling="cls"),
        device="cpu", out=tmp_path / "fit",
    )  # fmt: skip
    (row,) = (one for one in (folder / "items.csv").read_text().splitlines() if "i3," in one)
    new = tmp_path / "new.csv"
    new.write_text("item_id,title,tags\n" + row.replace("i3,", "twin,") + "\n")
    assert isinstance(made, RetrievalRun)
    grown = refresh(made, new, backbone=tiny_text, device="cpu")
    twin, known = run_service(made, grown.folder).index.vectors(["twin", "i3"])
    np.testing.assert_allclose(twin, known, atol=1e-5)


def test_content_and_the_bonus_of_new_items_go_with_the_index(
    folder: Path, tiny_text: Path, tmp_path: Path
) -> None:
    """After each refresh the index gives the scores that the towers give, new items included."""
    settings = {"width": 16, "layers": 1, "heads": 1, "epochs": 1, "history": 4,
                "content": 0.8, "new_items": 0.1, "new_by_history": 0.6,
                "new_trust": 0.3}  # fmt: skip
    made = fit(
        folder, strategy="two-tower", settings=settings, backbone=tiny_text, device="cpu",
        out=tmp_path / "fit",
    )  # fmt: skip
    assert isinstance(made, RetrievalRun)
    assert made.towers.content is not None
    part = made.towers.content
    assert (part.weight, part.bonus, part.by_history, part.trust) == (0.8, 0.1, 0.6, 0.3)
    report = build_run_index(made, device="cpu")
    for place, name in enumerate(("", "a", "b")):
        if name:
            new = tmp_path / f"{name}.csv"
            new.write_text(f"item_id,title,tags\n{name},plum truck {name},even\n")
            report = refresh(made, new, backbone=tiny_text, device="cpu")
        service = run_service(made, report.folder)
        ids = list(service.index.ids)
        assert len(ids) == len(service.towers.item_ids) == ITEMS + place
        history = [ids.index("i2"), len(ids) - 1]
        wanted = service.towers.scores(Queries.of([history]))[0].numpy()
        query = service.user_vector([ids[one] for one in history], None)
        scores, found = service.index.search(query[None], len(ids), tower=service.tower)
        np.testing.assert_allclose(
            scores[0], [wanted[ids.index(one)] for one in found[0]], atol=1e-5
        )
        bonuses = service.index.vectors(ids)[:, -1]
        np.testing.assert_allclose(bonuses, [0.0] * ITEMS + [0.1] * place, atol=1e-6)


def test_fit_sets_a_track_beside_baselines(folder: Path, tiny_text: Path, tmp_path: Path) -> None:
    settings = {"width": 16, "layers": 0, "epochs": 1, "history": 4}
    found = fit(
        folder, strategy="frozen", settings=settings, backbone=tiny_text, device="cpu",
        out=tmp_path / "fit",
    )  # fmt: skip
    names = [arm["name"] for arm in found.results["arms"]]
    assert names[0].startswith("frozen:width=16")
    assert names[1:] == ["popularity", "recent-popularity", "item-knn", "ease"]
    assert found.results["arms"][0]["trainable_parameters"] > 0


def test_plan_speaks_for_interactions(folder: Path) -> None:
    found = plan(folder)
    assert found.strategy == "frozen"
    assert "under 2,000 events" in found.rule


def test_who_insists_on_a_random_split_is_warned_everywhere(
    folder: Path, table: Path, tmp_path: Path, notes: list[str]
) -> None:
    found = compare(
        folder, strategies=[f"{TRACK}:use_text=false", "popularity"], random_split=True,
        metric="HR@10", out=tmp_path / "random",
    )  # fmt: skip
    warned = [line for line in notes if "This split is random" in line]
    assert len(warned) == 1
    assert "nothing about the future" in warned[0]
    assert sum(found.results["data"]["audit"]["leaks"].values()) > 0
    assert any("split is random" in line for line in found.results["verdict"]["sentences"])
    assert "A random draw of events parts" in (found.folder / "README.md").read_text()
    assert "random" in plan(folder, random_split=True).warnings[0]
    assert "--random-split" in (plan(folder, random_split=True).command or "")
    with pytest.raises(RunError, match="divided at random"):
        ws.evaluate(found, folder)
    with pytest.raises(UsageError, match="divides without dates"):
        compare(folder, random_split=True, test_from="2001-01-01", out=tmp_path / "both")
    with pytest.raises(UsageError, match="random_split= belong to interactions"):
        compare(table, random_split=True)
    assert interaction_options(table, {"random_split": False}) is None


def test_shares_divide_through_the_verbs(folder: Path, table: Path, tmp_path: Path) -> None:
    shares = (0.6, 0.2, 0.2)
    given: dict[str, Any] = {"metric": "HR@10", "fractions": shares}
    found = compare(folder, strategies=["popularity"], out=tmp_path / "compare", **given)
    counts = [found.results["data"]["audit"][part]["events"]
              for part in ("train", "validation", "test")]  # fmt: skip
    assert counts == [324, 108, 108], "of 540 events"
    fitted = fit(folder, settings={"use_text": False, "width": 16, "epochs": 1}, controls="none",
                 out=tmp_path / "fit", **given)  # fmt: skip
    assert fitted.results["data"]["audit"]["test"]["events"] == 108
    planned = plan(folder, fractions=shares)
    assert "--fractions 0.6,0.2,0.2" in (planned.command or "")
    assert planned.reasons[0].value == 324
    for call, more in ((compare, {"out": tmp_path / "none"}), (plan, {})):
        with pytest.raises(UsageError, match=r"three numbers above 0.*got \(0\.8, 0\.1\)"):
            call(folder, fractions=(0.8, 0.1), **more)
        for date in ("test_from", "validation_from"):
            with pytest.raises(UsageError, match=f"fractions= does not go with {date}="):
                call(folder, fractions=shares, **{date: "2001-09-09"}, **more)
        with pytest.raises(UsageError, match="fractions= belong to interactions"):
            call(table, fractions=shares, **more)


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (compare, {"label": "x"}, "label= cannot apply to the interactions"),
        (compare, {"shots": 4}, "shots= cannot apply"),
        (compare, {"strategies": ["finetune"]}, "There is no arm 'finetune'"),
        (compare, {"metric": "accuracy"}, "there is no ranking metric"),
        (fit, {"controls": "some"}, "controls must be cheap, full or none"),
        (fit, {"max_forgetting": 2.0}, "max_forgetting= cannot apply"),
    ],
)
def test_options_of_the_other_task_are_refused(
    folder: Path, call: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        call(folder, **given)


def test_options_for_interactions_are_refused_elsewhere(table: Path) -> None:
    with pytest.raises(UsageError, match="user= belong to interactions"):
        fit(table, user="site")


def test_columns_that_are_said_work_through_the_verbs(
    folder: Path, tmp_path: Path, notes: list[str]
) -> None:
    events = (folder / "interactions.csv").read_text()
    clicks = tmp_path / "clicks.csv"
    clicks.write_text(events.replace("user_id,item_id,timestamp", "who,what,at_"))
    said = {"user": "who", "item": "what", "time": "at_"}
    planned = plan(clicks, **said)
    assert "--user who --item what --time at_" in (planned.command or "")
    run = compare(
        clicks, strategies=[f"{TRACK}:use_text=false", "popularity"], metric="HR@10",
        out=tmp_path / "run", **said,
    )  # fmt: skip
    assert run.results["data"]["reading"] == said
    asked = ws.evaluate(run, clicks)
    assert asked.events["of the run's test"] == asked.events["asked"]
    fitted = fit(clicks, settings={"use_text": False, "width": 16, "epochs": 1}, controls="none",
                 metric="HR@10", out=tmp_path / "fit", **said)  # fmt: skip
    assert fitted.results["task_type"] == "retrieve"
    with pytest.raises(DataError, match=r"no column 'hwo' \(user='hwo'\)\. Did you mean \"who\""):
        plan(clicks, **{**said, "user": "hwo"})
    with pytest.raises(UsageError, match=r"user= belong to .* \(--user, --item, --time\) where"):
        plan(clicks, user="who")


def test_a_plan_tells_how_the_events_were_read(
    folder: Path, tmp_path: Path, notes: list[str]
) -> None:
    header, *rows = (folder / "interactions.csv").read_text().splitlines()
    rows = [f"{row},{'view' if n % 3 else 'complete'}" for n, row in enumerate(rows)]
    (tmp_path / "interactions.csv").write_text("\n".join([f"{header},event", *rows]) + "\n")
    plan(tmp_path)
    assert len([line for line in notes if "(--positive complete)" in line]) == 1
    notes.clear()
    plan(tmp_path, positive="complete")
    assert not any("--positive" in line for line in notes)


def test_bad_rows_left_out_are_told_once(folder: Path, tmp_path: Path, notes: list[str]) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    with (tmp_path / "interactions.csv").open("a") as handle:
        handle.write("u1,ghost,1000000500\n")
    compare(
        tmp_path, strategies=["popularity"], metric="HR@10", skip_bad=True, out=tmp_path / "run"
    )
    assert len([line for line in notes if "1 bad row was left out" in line]) == 1


def test_a_track_that_was_not_fitted_names_what_else_was_run(folder: Path, tmp_path: Path) -> None:
    given = {"settings": {"negatives": "viewed", "use_text": False}, "metric": "HR@10"}
    with pytest.raises(NotApplicable, match=r"uniform\. What else was run is in"):
        fit(folder, strategy="two-tower", out=tmp_path / "beside", **given)
    with pytest.raises(NotApplicable, match=r"uniform\.$"):
        fit(folder, strategy="two-tower", controls="none", out=tmp_path / "alone", **given)
