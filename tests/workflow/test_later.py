"""`evaluate` on a retrieval run: later events, the run's own, new users and unknown items."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from warmstart.cli import main
from warmstart.core import DataError, UsageError
from warmstart.evaluation import Queries
from warmstart.reporting import comparison_view
from warmstart.workflow import RetrievalEvaluation, RetrievalRun, compare, evaluate

ITEMS, USERS, START = 12, 60, 1_000_000_000
TRACK = "two-tower:width=16:layers=1:heads=1:history=6:epochs=3:rate=0.02:dropout=0"


def walks(steps: int, first: int = 0) -> list[tuple[int, str, str]]:
    """Users who walk round a ring of items: (second, user, item) in time order."""
    generator = np.random.default_rng(first)
    rows = []
    for user in range(USERS):
        place = int(generator.integers(ITEMS))
        for step in range(steps):
            rows.append((START + 100 * (first + step) + user, f"u{user}", f"i{place}"))
            place = (place + (1 if generator.random() < 0.9 else 2)) % ITEMS
    return sorted(rows)


def write(path: Path, rows: list[tuple[int, str, str]], heads: str = "timestamp") -> Path:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [("user_id", "item_id", heads), *((user, item, time) for time, user, item in rows)]
    )
    path.write_text(buffer.getvalue())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ring")
    write(root / "interactions.csv", walks(9))
    items = ["item_id,title,tags", *(f"i{i},plum {i},{'even' if i % 2 else 'odd'}"
                                     for i in range(ITEMS))]  # fmt: skip
    (root / "items.csv").write_text("\n".join(items) + "\n")
    users = ["user_id,team", *(f"u{u},{'red' if u % 2 else 'blue'}" for u in range(USERS))]
    (root / "users.csv").write_text("\n".join(users) + "\n")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrievalRun:
    found = compare(
        folder, strategies=[TRACK, "popularity", "recent-popularity"], backbone=tiny_text,
        metric="HR@5", device="cpu", out=tmp_path_factory.mktemp("runs") / "films",
    )  # fmt: skip
    assert isinstance(found, RetrievalRun)
    return found


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Events after the run's, with a new user, an unknown item and an event of long ago."""
    rows = walks(4, first=9)
    rows += [(START + 5000 + n, "new", f"i{n}") for n in range(3)]
    rows += [(START + 6000, "u1", "mystery"), (START - 50, "u2", "i5")]
    return write(tmp_path / "later.csv", sorted(rows))


def ask(run: RetrievalRun, data: Path, **options: Any) -> RetrievalEvaluation:
    found = evaluate(run, data, **options)
    assert isinstance(found, RetrievalEvaluation)
    return found


def test_the_runs_own_events_give_the_runs_own_numbers(run: RetrievalRun, folder: Path) -> None:
    found = ask(run, folder)
    assert [one.name for one in found.arms] == [TRACK, "popularity", "recent-popularity"]
    for one in found.arms:
        for kind in ("next_item", "all_future"):
            wanted = run.arm(one.name)[kind]["test"]
            had = getattr(one, kind).model_dump(mode="json")
            assert had["metrics"] == wanted["metrics"]
            assert had["slices"] == wanted["slices"]
            assert had["n"] == wanted["n"]
    assert found.events["unknown item"] == found.events["history only"] == 0
    assert found.events["learned"] == sum(run.events["time"] < found.since)
    assert found.events["of the run's test"] == found.events["asked"]
    gaps = dict(found.gaps)
    assert set(gaps) == {"team", "tag"}
    for one in run.results["fairness"]:
        assert gaps[one["by"]].model_dump(mode="json")["groups"] == one["groups"]


def slow_ranks(run: RetrievalRun, data: Path, since: int) -> list[tuple[int, bool]]:
    """Rank and warmth of each question, by plain loops over (time, user, item)."""
    ids = run.items["item_id"].to_list()
    users = {code: name for name, code in run.user_codes.items()}
    own = [(time, users[user], ids[item]) for user, item, time in run.events.iter_rows()]
    with data.open() as file:
        rows = [(int(r["timestamp"]), r["user_id"], r["item_id"]) for r in csv.DictReader(file)]
    fresh = [row for row in rows if row[2] in ids]
    asked = [row for row in fresh if row[0] >= since]
    log = sorted([row for row in own if row not in asked] + [r for r in fresh if r not in own])
    trained = {item for time, _, item in own if time < since}
    found = []
    for time, user, item in asked:
        history = [i for t, u, i in log if u == user and (t, u, i) < (time, user, item)]
        if item in history:
            continue
        codes = [ids.index(i) for i in history]
        query = Queries.of([codes], users=[run.user_codes.get(user, -1)])
        scores = run.towers.scores(query)[0].tolist()
        place = ids.index(item)
        above = [i for i in range(ITEMS) if i != place and i not in codes
                 and scores[i] >= scores[place]]  # fmt: skip
        found.append((1 + len(above), item in trained))
    return found


def test_later_events_are_ranked_as_a_loop_does(run: RetrievalRun, later: Path) -> None:
    found = ask(run, later)
    ranks = slow_ranks(run, later, found.since)
    assert len(ranks) == found.scores.n
    for k in (1, 5, 10):
        wanted = float(np.mean([rank <= k for rank, _ in ranks]))
        assert found.scores.metrics[f"HR@{k}"].value == pytest.approx(wanted)
    assert found.scores.metrics["MRR"].value == pytest.approx(
        np.mean([1 / rank for rank, _ in ranks])
    )
    warm = [rank <= 5 for rank, known in ranks if known]
    assert found.scores.slices["item"]["warm"]["HR@5"].value == pytest.approx(np.mean(warm))


def test_what_is_left_out_is_counted_and_told(run: RetrievalRun, later: Path) -> None:
    found = ask(run, later)
    assert found.events["unknown item"] == 1
    assert found.events["history only"] == 1
    assert found.events["new users"] == 1
    assert found.events["learned"] == found.events["of the run's test"] == 0
    assert found.scores.left_out["unknown item"] == 1
    asked = found.scores.n + found.scores.left_out["already seen"]
    assert asked == found.events["asked"] == 4 * USERS + 3
    said = " ".join(found.sentences)
    assert "1 with an item that the run does not know" in said
    assert f"on {found.scores.n:,} questions of" in said
    assert found.scores.slices["user"]["cold"]["HR@5"].n == 3
    by_name = {lift[1]: lift[2] for lift in found.lifts}
    for one in found.arms[1:]:
        gap = found.scores.main.value - one.next_item.main.value
        assert by_name[one.name].difference == pytest.approx(gap)
    assert RetrievalEvaluation.model_validate_json(found.model_dump_json()) == found


def test_it_is_shown_as_a_comparison_is(run: RetrievalRun, later: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_view(ask(run, later).to_json()))
    text = console.file.getvalue()
    for words in ("HR@5 against Popularity (95 % by users)", "against Recent popularity",
                  "cold users", "Two towers", "Events left out: 1 with", "By team:"):  # fmt: skip
        assert words in text, words


def test_columns_are_read_as_the_run_read_them(
    tiny_text: Path, folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "odd"
    data.mkdir()
    write(data / "interactions.csv", walks(9), "moment_it_was")
    options: dict[str, Any] = {"time": "moment_it_was"}
    made = compare(
        data, strategies=[TRACK.replace("two-tower", "scratch"), "popularity"], device="cpu",
        out=tmp_path / "run", **options,
    )  # fmt: skip
    assert made.results["data"]["reading"] == options
    assert isinstance(made, RetrievalRun)
    fresh = write(tmp_path / "fresh.csv", walks(2, first=9), "moment_it_was")
    assert ask(made, fresh).events["asked"] == 2 * USERS
    usual = write(tmp_path / "usual.csv", walks(2, first=9))
    assert ask(made, usual, time="timestamp").events["asked"] == 2 * USERS


def test_bad_questions(run: RetrievalRun, folder: Path, tmp_path: Path, later: Path) -> None:
    old = write(tmp_path / "old.csv", walks(2))
    with pytest.raises(DataError, match="has no positive event since 2001"):
        evaluate(run, old)
    strange = write(
        tmp_path / "strange.csv", [(START + 9000 + n, f"u{n}", f"x{n}") for n in (1, 2)]
    )
    with pytest.raises(DataError, match="and 2 with items that it does not know"):
        evaluate(run, strange)
    with pytest.raises(UsageError, match="group= cannot apply to a run on interactions"):
        evaluate(run, later, group="team")
    with pytest.raises(UsageError, match="text= cannot apply to a run on interactions"):
        evaluate(run, later, text="title")
    with pytest.raises(UsageError, match="met by every list"):
        evaluate(run, later, metric="HR@50")


def test_from_the_command_line(
    run: RetrievalRun, later: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def call(*words: Any) -> str:
        monkeypatch.setattr("sys.argv", ["warmstart", *map(str, words)])
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            main()
        said = capsys.readouterr()
        assert "Error" not in said.err
        return said.out

    told = json.loads(call("evaluate", run.folder, later, "--json", "--device", "cpu"))
    assert told["data"]["events"]["unknown item"] == 1
    assert told["arms"][0]["next_item"]["test"]["primary"] == "HR@5"
    assert [lift["b"] for lift in told["lifts"]] == ["popularity", "recent-popularity"]
    shown = call("evaluate", run.folder, later, "--metric", "MRR", "--device", "cpu")
    assert "MRR against Popularity" in shown


def test_two_seeds_in_a_run(folder: Path, tmp_path: Path) -> None:
    track = TRACK.replace("two-tower", "scratch")
    made = compare(
        folder, strategies=[track, "popularity"], metric="HR@5", device="cpu", seeds=2,
        out=tmp_path / "run",
    )  # fmt: skip
    arm = made.arm(track)
    assert [one["seed"] for one in arm["seeds"]] == [0, 1]
    assert sum(one["kept"] for one in arm["seeds"]) == 1
    assert len(arm["history"]) == 2
    ranks = pl.read_parquet(made.folder / "ranks_next_item.parquet").filter(pl.col("arm") == track)
    each = [float((part["rank"].to_numpy() <= 5).mean()) for _, part in ranks.group_by("seed")]
    assert len(each) == 2
    scores = arm["next_item"]["test"]
    assert scores["seeds"] == 2
    assert scores["metrics"]["HR@5"]["value"] == pytest.approx(np.mean(each))
    assert made.results["settings"]["seeds"] == 2
    assert made.arm("popularity")["next_item"]["test"]["seeds"] == 1
    assert "mean of 2 seeds" in made.report.read_text()
    assert isinstance(made, RetrievalRun)
    kept = [one["seed"] for one in arm["seeds"] if one["kept"]]
    alone = ask(made, folder).scores.metrics["HR@5"].value
    assert alone == pytest.approx(
        float((ranks.filter(pl.col("seed") == kept[0])["rank"].to_numpy() <= 5).mean())
    ), "what is served is the kept seed"
    with pytest.raises(UsageError, match="seeds must be at least 1, got 0"):
        compare(folder, seeds=0)
