"""Every command: its help, its answer, its JSON."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from warmstart.strategies.registry import SPECTRUM

PROBE = ("--strategy", "probe", "--controls", "none", "--out", "runs/a")
COMMANDS = [
    "plan", "fit", "compare", "shift", "adapt", "rank", "predict", "evaluate", "drift", "embed",
    "info", "rates", "recommend", "index", "serve", "refresh", "sample",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_an_example(call: Any, command: str, flag: str) -> None:
    found = call(command, flag)
    assert found.code == 0
    assert f"warmstart {command}" in found.out.split("Usage:")[1].split("Example")[1]
    assert "--json" in found.out or command == "serve"


def test_help_lists_every_strategy(call: Any) -> None:
    for command in ("fit", "compare"):
        told = " ".join(call(command, "--help").out.replace("│", " ").split())
        assert ", ".join(SPECTRUM) in told


def test_the_names_of_arms_are_those_of_the_library() -> None:
    from warmstart.cli._options import ARMS
    from warmstart.workflow import RETRIEVAL_ARMS

    assert ", ".join(RETRIEVAL_ARMS) == ARMS


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("probe,finetune", ["probe", "finetune"]),
        ("probe, knn:k=5,", ["probe", "knn:k=5"]),
        ("two-tower:shares=a=.5,b=.5", ["two-tower:shares=a=.5,b=.5"]),
        (
            "two-tower:shares=in-batch=0.5,mined=0.5:width=64,ease,item-knn:last=5",
            ["two-tower:shares=in-batch=0.5,mined=0.5:width=64", "ease", "item-knn:last=5"],
        ),
        (
            "finetune:augment=crop,flip,rotate=15,probe:l2=1",
            ["finetune:augment=crop,flip,rotate=15", "probe:l2=1"],
        ),
        ("finetune:rules=stem=frozen,head=x3,all", ["finetune:rules=stem=frozen,head=x3", "all"]),
        ("probe,fintune", ["probe", "fintune"]),  # no setting is open: a name that nobody knows
        (" , ", []),
    ],
)
def test_arms_are_cut_where_one_begins(text: str, arms: list[str]) -> None:
    from warmstart.cli._options import parse_arms

    assert parse_arms(text) == arms


def test_the_root_tells_commands_and_exit_codes(call: Any) -> None:
    found = call("--help")
    for command in COMMANDS:
        assert f" {command} " in found.out
    assert "Exit codes: 0 done" in found.out
    assert call("--version").out.startswith("warmstart 0.")


def test_commands_start_fast() -> None:
    """The command line itself imports no torch; help must not wait for it."""
    code = "import sys, warmstart.cli; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def document(found: Any, code: int = 0) -> Any:
    """Standard output is one JSON document; standard error is empty."""
    assert found.code == code, found
    assert found.err == ""
    return json.loads(found.out)


def test_every_command_speaks_json(call: Any, table: Path, tiny_text: Path, tmp_path: Path) -> None:
    backbone = ("--backbone", tiny_text)
    plan = document(call("plan", table, "--quick", "--json"))
    assert plan["strategy"] == "zero-shot"
    fitted = document(call("fit", table, *backbone, *PROBE,
                           "--json"))  # fmt: skip
    assert fitted["folder"] == "runs/a"
    assert fitted["verdict"]["best"] == "probe"
    assert fitted["command"].startswith("warmstart fit ")
    compared = document(call("compare", table, *backbone, "--strategies", "probe,tfidf",
                             "--seeds", 1, "--price-per-hour", 2, "--watts", 50,
                             "--json"))  # fmt: skip
    assert [arm["name"] for arm in compared["arms"]] == ["probe", "tfidf"]
    assert compared["arms"][0]["cost"]["money"] > 0
    answers = document(call("predict", "runs/a", table, "--json"))
    assert len(answers) == 60
    assert set(answers[0]) == {"id", "input", "label", "score", "scores"}
    one = document(call("predict", "runs/a", "--input", "a plum", "--input", "my car", "--json"))
    assert [row["input"] for row in one] == ["a plum", "my car"]
    scores = document(call("evaluate", "runs/a", table, "--json"))
    assert scores["primary"] == "accuracy"
    assert (scores["seen_in_training"], scores["seen_in_validation"]) == (42, 9)
    embedded = document(call("embed", table, *backbone, "--out", "v.npy", "--json"))
    assert (embedded["rows"], embedded["dimension"], embedded["out"]) == (60, 24, "v.npy")
    for target in ((), ("runs/a",), (tiny_text,), (table,)):
        assert "kind" in document(call("info", *target, "--json"))
    assert "sentiment" in document(call("sample", "--json"))
    digits = ("sample", "digits", "digits", "--rows", 20, "--json")
    assert document(call(*digits))["rows"] == 20
    again = document(call("sample", "digits", "digits", "--if-missing", "--json"))
    assert again == {"folder": "digits", "present": True}


def test_answers_for_people(call: Any, table: Path, tiny_text: Path, tmp_path: Path) -> None:
    fitted = call("fit", table, "--backbone", tiny_text, *PROBE,
                  "--set", "l2=0.01")  # fmt: skip
    assert fitted.code == 0
    assert "Model:  runs/a/model" in fitted.out
    assert f"Report: {tmp_path.resolve()}/runs/a/report.html\n" in fitted.out, "on one line"
    assert "42 training, 9 validation and 9 test rows" in fitted.err
    results = json.loads((tmp_path / "runs/a/results.json").read_text())
    assert results["arms"][0]["chosen"]["l2"] == 0.01
    compared = call("compare", table, "--backbone", tiny_text, "--strategies", "probe,tfidf",
                    "--seeds", 1, "--out", "runs/b")  # fmt: skip
    assert "is best on the validation rows" in " ".join(compared.out.split())
    for words in (("plan", table, "--quick"), ("evaluate", "runs/a", table), ("info", "runs/b"),
                  ("info", table), ("info", tiny_text), ("info",), ("sample",),
                  ("embed", table, "--backbone", tiny_text)):  # fmt: skip
        found = call(*words)
        assert found.code == 0, words
        assert found.out.strip()


def test_a_plan_is_measured_told_and_written(call: Any, table: Path, tiny_text: Path) -> None:
    words = ("plan", table, "--backbone", tiny_text, "--device", "cpu")
    found = call(*words, "--within", "5m", "--out", "plan.html")
    assert found.code == 0
    for word in ("Recommended:", "[recommended]", "Because:", "is where your data may lie",
                 "plan.html", "--strategy"):  # fmt: skip
        assert word in found.out
    assert Path("plan.html").read_text().startswith("<!doctype html>")
    assert call(*words, "--out", "plan.txt").code == 2
    assert call(*words, "--quick", "--memory", "1GB").code == 2
    limited = call("plan", table, "--backbone", tiny_text, "--quick", "--max-size", "1KB", "--json")
    assert document(limited)["strategy"] == "tfidf"


def test_evaluate_warns_of_rows_that_the_run_has_seen(
    call: Any, table: Path, tiny_text: Path
) -> None:
    call(
        "fit",
        table,
        "--backbone",
        tiny_text,
        *PROBE,
    )
    found = call("evaluate", "runs/a", table, "--device", "cpu")
    assert found.code == 0
    assert "Warning: of 60 rows the run was trained on 42 and chosen on 9" in found.err


def test_allow_bin_is_an_option_of_what_opens_a_backbone(call: Any) -> None:
    run = ("recommend", "index", "refresh", "serve", "evaluate")
    for command in ("compare", "fit", "embed", "plan", "info", *run):
        assert "--allow-bin" in call(command, "--help").out
    for command in ("predict", "evaluate", "embed"):
        assert "--device" in call(command, "--help").out


def test_predictions_are_written_inert(
    call: Any, table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    call(
        "fit",
        table,
        "--backbone",
        tiny_text,
        *PROBE,
    )
    (tmp_path / "new.csv").write_text('text\n=cmd|calc\n"@plum"\n[bold]an apple[/bold]\n')
    found = call("predict", "runs/a", "new.csv", "--out", "answers.csv")
    assert found.code == 0
    assert "Written: answers.csv (3 rows)" in found.out
    assert "[bold]an apple[/bold]" in found.out, "texts are no markup"
    with (tmp_path / "answers.csv").open(newline="") as handle:
        cells = [row["input"] for row in csv.DictReader(handle)]
    assert cells == ["'=cmd|calc", "'@plum", "[bold]an apple[/bold]"]


def test_ctrl_c_leaves_a_run_that_goes_on(
    call: Any, table: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.strategies import Probe

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    words = (
        "fit",
        table,
        "--backbone",
        tiny_text,
        *PROBE,
    )
    with monkeypatch.context() as patch:
        patch.setattr(Probe, "fit", interrupted)
        found = call(*words)
        assert found.code == 130
        assert "Repeat the command to go on" in found.err
        error = document(call(*words, "--json"), 130)["error"]
        assert error["exit_code"] == 130
    assert (tmp_path / "runs/a.partial").is_dir()
    found = call(*words)
    assert found.code == 0
    assert "Going on with the unfinished run" in found.err


def test_a_real_signal_in_a_real_process(table: Path, tiny_text: Path, tmp_path: Path) -> None:
    """SIGINT while fine-tuning: 130, a sentence, and the repeated command ends well."""
    words = [sys.executable, "-c", "from warmstart.cli import main; main()", "fit", str(table),
             "--backbone", str(tiny_text), "--strategy", "finetune", "--set", "epochs=400",
             "--set", "patience=400", "--out", "run", "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        log = tmp_path / "run.partial" / "arms"
        begun = time.monotonic()
        while not list(log.rglob("metrics.jsonl")):
            assert time.monotonic() - begun < 100
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Fine-tuning was stopped by SIGINT at step" in err
    assert "run it again to continue. The unfinished run is in run.partial." in err
    assert list((tmp_path / "run.partial").rglob("step-*/manifest.json"))
    assert not (tmp_path / "run").exists()


def test_the_k_shot_table(call: Any, table: Path, tiny_text: Path, tmp_path: Path) -> None:
    """`--shots` with numbers, and alone before another option or the data."""
    arms = ("--backbone", tiny_text, "--strategies", "prototypes,knn", "--draws", 2)
    found = call("compare", table, *arms, "--shots", "1,4", "--out", "runs/a")
    assert found.code == 0, found
    assert "Rows a" in found.out
    assert "With 4 rows a class" in " ".join(found.out.split())
    assert "Report:" in found.out
    assert "Model:" not in found.out
    assert "8 fits: prototypes, knn; k = 1, 4 rows a class, 2 draws." in found.err
    for place, words in enumerate(((table, "--shots", *arms), (*arms, "--shots", table))):
        told = document(call("compare", *words, "--out", f"runs/{place}", "--json"))
        assert told["shots"]["k"] == [1, 2, 4, 8, 16], "the rarest class has 21 rows"
        assert [one["k"] for one in told["shots"]["left_out"]] == [32]
    for wrong in ("0", "[0]", "4,x", "-1", "4 8"):
        refused = call("compare", table, "--shots", wrong)
        assert refused.code == 2
        assert "shots must be whole numbers from 1 to 100000" in refused.err
    assert call("info", "runs/a").code == 0
    assert call("predict", "runs/a", table).code == 5


def test_embed_tells_episodes(call: Any, table: Path, tiny_text: Path) -> None:
    words = ("embed", table, "--backbone", tiny_text, "--episodes")
    told = document(call(*words, "2x5", "--json"))["episodes"]
    assert (told["way"], told["shots"], told["episodes"]) == (2, 5, 600)
    assert 0 <= told["low"] <= told["accuracy"] <= told["high"] <= 1
    shown = call(*words, "2x5").out
    assert f"2-way 5-shot, nearest class mean: {told['accuracy']:.1%} right" in shown
    for wrong in ("5", "0x1", "1x5", "5y5", "2x0"):
        assert call(*words, wrong).code == 2
    few = call(*words, "3x1")
    assert few.code == 3
    assert "need 3 classes of 2 rows or more; 2 have that many" in few.err


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """Events whose columns have names that tell nothing."""
    path = tmp_path / "clicks.csv"
    rows = [f"u{n % 20},i{(n // 20 + n % 20 * 3) % 40},{1_000_000_000 + n}" for n in range(200)]
    path.write_text("who,what,at_\n" + "\n".join(rows) + "\n")
    return path


def test_columns_that_are_said_make_interactions(call: Any, clicks: Path) -> None:
    said = ("--user", "who", "--item", "what", "--time", "at_")
    planned = document(call("plan", clicks, *said, "--json"))
    assert planned["command"].endswith("--user who --item what --time at_")
    found = document(call("compare", clicks, *said, "--strategies", "popularity,item-knn",
                          "--metric", "HR@5", "--json"))  # fmt: skip
    assert found["task_type"] == "retrieve"
    assert call("compare", clicks, "--user", "who").code == 2


def test_ratings_and_weights_are_named(call: Any, clicks: Path) -> None:
    lines = clicks.read_text().splitlines()
    rows = [f"{line},{n % 5},{n % 3}" for n, line in enumerate(lines[1:])]
    clicks.write_text("\n".join([f"{lines[0]},liked,share", *rows]) + "\n")
    said = ("--user", "who", "--item", "what", "--time", "at_", "--rating", "liked",
            "--weight", "share")  # fmt: skip
    planned = document(call("plan", clicks, *said, "--positive", "rating>=2", "--json"))
    assert planned["reasons"][0]["value"] == 96, "three of five of the 160 training events"
    found = document(call("fit", clicks, *said, "--positive", "weight>=1", "--strategy", "scratch",
                          "--set", "epochs=1", "--set", "width=16", "--controls", "none",
                          "--metric", "HR@5", "--json"))  # fmt: skip
    assert found["data"]["reading"]["weight"] == "share"
    asked = document(call("evaluate", found["folder"], clicks, "--positive", "rating>=2", "--json"))
    assert asked["data"]["events"]["asked"] == 12, "three of five of the 20 test events"
    wrong = call("evaluate", found["folder"], clicks, "--rating", "like")
    assert wrong.code == 3
    assert "has no column 'like'" in wrong.err


def test_shares_of_events(call: Any, clicks: Path) -> None:
    said = (clicks, "--user", "who", "--item", "what", "--time", "at_")
    planned = document(call("plan", *said, "--fractions", "0.6,0.2,0.2", "--json"))
    assert planned["reasons"][0]["value"] == 120, "of 200 events"
    assert planned["command"].endswith("--fractions 0.6,0.2,0.2")
    for verb in ("plan", "fit", "compare"):
        for shares, told in (
            ("a,b", "three numbers such as 0.8,0.1,0.1"),
            ("80,10,10", "sum of 1"),
        ):
            wrong = call(verb, *said, "--fractions", shares)
            assert wrong.code == 2
            assert told in " ".join(wrong.err.split())
    both = call("compare", *said, "--fractions", "0.6,0.2,0.2", "--test-from", "2001-09-09")
    assert both.code == 2
    assert "fractions= does not go with test_from=" in " ".join(both.err.split())
