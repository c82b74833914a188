"""The commands on interactions: plan, fit, compare, index, recommend, refresh, serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import warmstart.workflow
from warmstart.cli._options import milliseconds
from warmstart.core import UsageError
from warmstart.serving import Settings

ITEMS, USERS = 12, 30
SMALL = {"width": 8, "layers": 0, "epochs": 1, "history": 4, "dropout": 0}
SETTINGS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk round a ring of items, each from a place of their own."""
    root = tmp_path_factory.mktemp("ring")
    events = [
        f"u{user},i{(user + step) % ITEMS},{1_000_000_000 + 100 * step + user}"
        for step in range(6)
        for user in range(USERS)
    ]
    (root / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    items = [f"i{i},{('plum', 'truck')[i % 2]} {i},{('even', 'odd')[i % 2]}" for i in range(ITEMS)]
    (root / "items.csv").write_text("\n".join(["item_id,title,tags", *items]))
    users = [f"u{u},{('blue', 'red')[u % 2]}" for u in range(USERS)]
    (root / "users.csv").write_text("\n".join(["user_id,team", *users]))
    return root


@pytest.fixture(scope="module")
def kept(folder: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is only looked at: nothing is written beside it."""
    found = warmstart.workflow.fit(
        folder, strategy="frozen", settings=SMALL, controls="none", backbone=tiny_text,
        device="cpu", out=tmp_path_factory.mktemp("runs") / "films",
    )  # fmt: skip
    return found.folder


def document(found: Any) -> Any:
    """Standard output is one JSON document; standard error is empty."""
    assert (found.code, found.err) == (0, ""), found
    return json.loads(found.out)


def test_from_a_plan_to_new_items(call: Any, folder: Path, tiny_text: Path, tmp_path: Path) -> None:
    told = document(call("plan", folder, "--json"))
    assert told["strategy"] == "frozen"
    assert f"warmstart fit {folder} --strategy frozen" in told["command"]
    words = call("plan", folder)
    assert (words.code, "Recommended: frozen" in words.out) == (0, True), words

    fitted = document(
        call("fit", folder, "--strategy", told["strategy"], *SETTINGS, "--backbone", tiny_text,
             "--device", "cpu", "--out", "runs/a", "--json")
    )  # fmt: skip
    assert fitted["folder"] == "runs/a"
    assert fitted["task_type"] == "retrieve"
    assert fitted["kept"].startswith("frozen:")
    assert [arm["name"] for arm in fitted["arms"]][1:3] == ["popularity", "recent-popularity"]

    target = ("--recall", 0.9, "--p99", "20ms", "--device", "cpu")
    made = document(call("index", "runs/a", *target, "--json"))
    home = tmp_path.resolve() / "runs/a.index"
    assert (made["folder"], made["items"]) == (f"{home}/0001", ITEMS)
    assert made["choice"]["target"] == {"recall": 0.9, "p99_ms": 20.0, "k": 100}
    shown = call("index", "runs/a", *target, "--engine", "hnsw")
    assert shown.code == 0, shown
    assert f"{ITEMS} items in a hnsw index" in shown.out
    assert f"Report: {home}/0002/report.html\n" in shown.out
    assert (home / "0002/report.html").is_file()

    asked = ("recommend", "runs/a", "--device", "cpu")
    known = document(call(*asked, "--user", "u1", "--k", 3, "--json"))
    assert len(known) == 3
    assert set(known[0]) == {"item", "score", "title", "tags"}
    assert not {f"i{1 + step}" for step in range(6)} & {one["item"] for one in known}
    raw = (*asked, "--history", "i0, i1", "--exclude", "i2,i3", "--tag", "even", "-k", 100)
    anybody = document(call(*raw, "--about", "team=red", "--json"))
    assert {one["item"] for one in anybody} == {"i4", "i6", "i8", "i10"}, "no more than there are"
    assert call(*asked, "--history", "", "--json").code == 0, "somebody new"
    table = call(*raw)
    assert table.code == 0
    head, *rows = table.out.splitlines()
    assert head.split() == ["item", "title", "tags", "score"]
    assert sorted(row.split()[:4] for row in rows) == [
        ["i10", "plum", "10", "even"], ["i4", "plum", "4", "even"], ["i6", "plum", "6", "even"],
        ["i8", "plum", "8", "even"],
    ]  # fmt: skip

    new = tmp_path / "new.csv"
    new.write_text("item_id,title,tags\ni1,truck 1,odd\nnew1,plum 77,even\n")
    refresh = ("refresh", "runs/a", "--items", new, "--backbone", tiny_text, *target)
    grown = document(call(*refresh, "--json"))
    assert (grown["folder"], grown["items"]) == (f"{home}/0003", ITEMS + 1)
    assert grown["choice"]["target"] == {"recall": 0.9, "p99_ms": 20.0, "k": 100}
    again = call(*refresh)
    assert again.code == 3
    assert "2 items are known and keep their vectors" in again.err
    new.write_text("item_id,title\nnew2,truck 78\n")
    shown = call(*refresh)
    assert shown.code == 0, shown
    assert f"{ITEMS + 2} items in a flat index" in shown.out
    assert (home / "current").read_text() == "0004\n"


def test_compare_sets_tracks_beside_baselines(
    call: Any, folder: Path, tiny_text: Path, tmp_path: Path
) -> None:
    track = "frozen:layers=0:epochs=1:width=8"
    arms = f"{track},zero-shot,popularity,item-knn:last=5"
    words = ("compare", folder, "--strategies", arms, "--backbone", tiny_text, "--metric", "HR@10",
             "--device", "cpu")  # fmt: skip
    told = document(call(*words, "--out", "runs/a", "--json"))
    assert [arm["name"] for arm in told["arms"]] == arms.split(",")
    assert told["settings"]["primary"] == "HR@10"
    assert {lift["a"] for lift in told["lifts"]} == {track, "zero-shot"}
    shown = call(*words, "--out", "runs/b")
    assert shown.code == 0, shown
    for word in ("HR@10", "Popularity", "Report:", "runs/b/report.html"):
        assert word in shown.out
    assert (tmp_path / "runs/b/report.html").is_file()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (("recommend", "RUN", "--user", "u99"), 3, "knows no user 'u99'."),
        (("recommend", "RUN", "--history", "i1,i99"), 3, "knows no item 'i99'."),
        (("recommend", "RUN", "--history", "i1", "--exclude", "x"), 3, "knows no item 'x'."),
        (("recommend", "RUN", "--user", "u1", "--tag", "evn"), 3, 'Did you mean "even"'),
        (("recommend", "RUN", "--user", "u1", "--about", "tem=red"), 2, 'Did you mean "team"'),
        (("recommend", "RUN", "--user", "u1", "--about", "team"), 2, "--about takes key=value"),
        (("recommend", "RUN", "--user", "u1", "--history", "i1"), 2, "either a user or a history"),
        (("recommend", "RUN"), 2, "either a user or a history"),
        (("recommend", "runs/none", "--user", "u1"), 5, "runs/none does not exist"),
        (("recommend", "DATA", "--user", "u1"), 5, "no finished warmstart folder"),
        (("index", "runs/none"), 5, "runs/none does not exist"),
        (("index", "DATA"), 5, "no finished warmstart folder"),
        (("index", "DATA/items.csv"), 5, "is a file. Name a run folder"),
        (("index", "RUN", "--p99", "soon"), 2, "'soon' is no time such as 5ms"),
        (("index", "RUN", "--engine", "hsnw"), 2, 'Did you mean "hnsw"'),
        (("refresh", "runs/none", "--items", "DATA/items.csv"), 5, "runs/none does not exist"),
        (("refresh", "RUN", "--items", "new.csv"), 3, "new.csv is no file. Name a table"),
        (("refresh", "RUN", "--items", "DATA/users.csv"), 3, "has no column of item ids"),
        (("refresh", "RUN", "--items", "DATA/items.csv"), 3, "holds no item that"),
        (("refresh", "RUN", "--items", "DATA/items.csv", "--p99", "0"), 2, "'0' is no time"),
        (("serve", "runs/none"), 5, "runs/none does not exist"),
        (("serve", "RUN", "--host", "0.0.0.0"), 2, "no API key"),
        (("serve", "RUN", "--deadline", "never"), 2, "'never' is no time"),
        (("serve", "RUN", "--max-body", "big"), 2, "max_body must be a size such as 500KB"),
        (
            ("serve", "RUN", "--max-body", "1KB", "--key-file", "no.txt"),
            2,
            "(no.txt) cannot be read",
        ),
        (("serve", "RUN", "--max-body", "1000"), 2, "serving.max_body_bytes must be"),
        (("plan", "torn"), 3, "interactions.csv, line 182: the item id 'ghost'"),
        (("fit", "torn"), 3, "interactions.csv, line 182: the item id 'ghost'"),
        (("compare", "torn"), 3, "interactions.csv, line 182: the item id 'ghost'"),
        (("fit", "DATA", "--strategy", "two-towers"), 2, 'Did you mean "two-tower"'),
        (("fit", "DATA", "--strategy", "frozen", "--set", "widht=8"), 2, 'Did you mean "width"'),
        (("fit", "DATA", "--user", "user"), 3, 'Did you mean "user_id"'),
        (("compare", "DATA", "--strategies", "frozen,popularty"), 2, 'Did you mean "popularity"'),
        (("compare", "DATA", "--metric", "accuracy"), 2, "there is no ranking metric"),
        (("compare", "DATA", "--test-from", "soon"), 2, "'soon'"),
        (("plan", "DATA", "--label", "x"), 2, "label= cannot apply to the interactions"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_errors_on_interactions(
    call: Any, folder: Path, kept: Path, tmp_path: Path, given: tuple[str, ...], code: int,
    message: str,
) -> None:  # fmt: skip
    shutil.copytree(folder, tmp_path / "torn")
    with (tmp_path / "torn/interactions.csv").open("a") as handle:
        handle.write("\nu1,ghost,1000000900\n")
    words = [word.replace("RUN", str(kept)).replace("DATA", str(folder)) for word in given]
    found = call(*words)
    assert (found.code, message in " ".join(found.err.split())) == (code, True), found
    assert found.out == ""
    if given[0] != "serve":
        spoken = call(*words, "--json")
        assert (spoken.code, spoken.err) == (code, "")
        error = json.loads(spoken.out)["error"]
        assert (error["exit_code"], message in error["message"]) == (code, True)
    assert not (kept.parent / "films.index/current").exists(), "no index is there"
    assert not list(tmp_path.glob("runs/*/manifest.json")), "and no run"


@pytest.mark.parametrize(
    "given",
    [
        ("recommend", "--user", "u1", "--k", "1001"),
        ("recommend", "--user", "u1", "-k", "0"),
        ("index", "--recall", "1.1"),
        ("refresh", "--items", "new.csv", "--recall", "0"),
        ("serve", "--max-k", "10001"),
        ("serve", "--max-history", "0"),
        ("serve", "--max-history", "100001"),
        ("serve", "--port", "70000"),
    ],
    ids="-".join,
)
def test_numbers_out_of_their_range(call: Any, given: tuple[str, ...]) -> None:
    found = call(given[0], "runs/none", *given[1:])
    told = " ".join(found.err.replace("│", " ").split())
    assert (found.code, found.out) == (2, "")
    assert f"Invalid value for '{given[-2]}'" in told or f"/ '{given[-2]}'" in told, told
    assert f"got {given[-1]}" in told or f"{given[-1]} is not in the range" in told


def test_a_run_that_classifies_has_no_items(
    call: Any, table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    assert call("fit", table, "--backbone", tiny_text, "--strategy", "probe", "--controls", "none",
                "--out", "runs/a").code == 0  # fmt: skip
    for words in (("index",), ("recommend", "--user", "u1"), ("serve",),
                  ("refresh", "--items", table)):  # fmt: skip
        found = call(words[0], "runs/a", *words[1:])
        assert found.code == 5
        assert "runs/a is a run that classifies" in found.err
    assert [path.name for path in (tmp_path / "runs").glob("a.*")] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("5ms", 5.0), ("0.2s", 200.0), ("1S", 1000.0), (" 2.5 ms ", 2.5), ("5", 5.0), ("600s", 6e5)],
)
def test_times_are_read_as_milliseconds(text: str, value: float) -> None:
    assert milliseconds(text) == value


@pytest.mark.parametrize("text", ["", "0ms", "-1ms", "5 minutes", "1e3ms", "601s", "ms", "inf"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no time such as 5ms or 0\.2s"):
        milliseconds(text)


def test_limits_of_the_server_are_options(
    call: Any, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(
        warmstart.workflow, "serve_run", lambda run, **given: served.append((run, given))
    )
    monkeypatch.setenv("WARMSTART_API_KEY", "the-key-of-the-environment")
    (tmp_path / "key.txt").write_text("the-key-of-the-file\n")
    limits = ("--max-k", 20, "--max-history", 30, "--max-body", "64KB", "--waiting", 7,
              "--deadline", "200ms")  # fmt: skip
    assert call("serve", kept, "--port", 0, *limits).code == 0
    assert call("serve", kept, "--workers", 2, "--key-file", "key.txt").code == 0
    (run, first), (_, second) = served
    assert (run, first["port"], first["workers"], second["workers"]) == (kept, 0, 1, 2)
    assert first["settings"] == Settings(
        key="the-key-of-the-environment", max_k=20, max_history=30, max_body_bytes=65_536,
        waiting=7, deadline_seconds=0.2,
    )  # fmt: skip
    assert second["settings"] == Settings(key="the-key-of-the-file")
