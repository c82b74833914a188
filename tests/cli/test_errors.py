"""What goes wrong ends in one sentence and the right exit code, also as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmstart.cli._options import parse_settings

PROBE = ("--strategy", "probe", "--controls", "none", "--out", "runs/a")

ONE_CLASS = "text,label\n" + "".join(f"text {i},same\n" for i in range(20))
RAGGED = "text,label\ngood,1\nbad,0,9\n"

CASES = [
    (("fit", "nothing.csv"), 3, "nothing.csv does not exist"),
    (("fit", "tabel.csv"), 3, 'Did you mean "table.csv"'),
    (("fit", "TABLE", "--text", "txet"), 3, 'Did you mean "text"'),
    (("fit", "TABLE", "--label", "labels"), 3, 'Did you mean "label"'),
    (("fit", "TABLE", "--group", "sites"), 3, 'Did you mean "site"'),
    (("plan", "one.csv"), 3, "every row has the label 'same'"),
    (("fit", "one.csv"), 3, "every row has the label 'same'"),
    (("fit", "ragged.csv"), 3, "ragged.csv"),
    (("fit", "empty.csv"), 3, "empty.csv"),
    (("fit", "TABLE", "--strategy", "porbe"), 2, 'Did you mean "probe"'),
    (("fit", "TABLE", "--strategy", "probe", "--set", "dept=1"), 2, 'Did you mean "depth"'),
    (("fit", "TABLE", "--strategy", "probe", "--set", "depth"), 2, "--set takes key=value"),
    (("fit", "TABLE", "--strategy", "probe", "--set", "l2=-1"), 2, "probe.l2"),
    (("fit", "TABLE", "--strategy", "unfreeze", "--set", "plan={0: []}"), 2, "plan is no JSON"),
    (("fit", "TABLE", "--strategy", "probe", "--set", "depth=99"), 2, "depth must be between"),
    (("fit", "TABLE", "--strategy", "cnn"), 6, "have no pixels"),
    (
        ("fit", "TABLE", "--strategy", "finetune", "--set", "rate=1e30", "--set", "clip=1e30"),
        7,
        "Fine-tuning diverged: ",
    ),
    (("fit", "TABLE", "--metric", "acuracy"), 2, 'Did you mean "accuracy"'),
    (("fit", "TABLE", "--label-names", "a"), 2, "label"),
    (("fit", "TABLE", "--device", "gpu"), 2, "device 'gpu' is unknown"),
    (("compare", "TABLE", "--budget", "soon"), 2, "budget must be a duration of a second or more"),
    (("compare", "TABLE", "--strategies", "probe,prob"), 2, 'Did you mean "probe"'),
    (("compare", "TABLE", "--strategies", "probe,probe"), 2, "named twice"),
    (("compare", "TABLE", "--max-length", "100000"), 2, "max_length must be between"),
    (("fit", "TABLE", "--image-size", "64"), 2, "image_size belongs to images"),
    (("fit", "TABLE", "--backbone", "./nothing/here"), 4, "'./nothing/here' is no folder here"),
    (("fit", "TABLE", "--backbone", "."), 4, "config.json"),
    (("predict", "runs/none", "TABLE"), 5, "runs/none does not exist"),
    (("predict", "TABLE", "TABLE"), 5, "is a file. Name a run folder"),
    (("fit", "TABLE", "--out", "one.csv"), 2, "one.csv is a file; a run needs a folder"),
    (("compare", "TABLE", "--budget", "0.5s"), 2, "of a second or more"),
    (("evaluate", "runs/none", "TABLE"), 5, "runs/none does not exist"),
    (("predict", ".", "TABLE"), 5, "no finished warmstart folder"),
    (("info", "."), 3, "."),
    (("predict", "runs/none"), 2, "either DATA or one or more --input"),
    (("predict", "runs/none", "--input", " "), 2, "--input is empty"),
    (("embed", "TABLE", "--pooling", "max"), 2, "pooling 'max'"),
    (("embed", "TABLE", "--depth", "9"), 2, "depth must be between 0 and 2"),
    (("embed", "TABLE", "--out", "v.pkl"), 2, ".npy or .parquet"),
    (("embed", "nothing.csv", "--out", "v.foo"), 2, "v.foo must end in .npy or .parquet"),
    (("fit", "nothing.csv", "--device", "gpu"), 2, "device 'gpu' is unknown"),
    (("embed", "nothing.csv", "--device", "gpu"), 2, "device 'gpu' is unknown"),
    (("predict", "runs/none", "TABLE", "--out", "x.txt"), 2, "x.txt must end in .csv"),
    (("predict", "runs/none", "TABLE", "--device", "gpu"), 2, "device 'gpu' is unknown"),
    (("evaluate", "runs/none", "TABLE", "--device", "gpu"), 2, "device 'gpu' is unknown"),
    (("fit", "nothing.csv", "--tracker", "wandbb"), 2, 'Did you mean "wandb"'),
    (("compare", "nothing.csv", "--tracker", "wandbb"), 2, 'Did you mean "wandb"'),
    (("info", "models/mni"), 5, "models/mni does not exist"),
    (("info", "nothing.csv"), 3, "nothing.csv does not exist"),
    (("info", "./nothing/at/all"), 4, "is no run, data or folder here"),
    (("sample", "sentimnet"), 2, 'Did you mean "sentiment"'),
    (("fit", ""), 2, "The source is empty"),
    (("compare", "TABLE", "--watts", "inf"), 2, "prices.watts must be a finite number"),
    (("compare", "TABLE", "--strategies", ","), 2, "strategies names no arm"),
    (("fit", "TABLE", "--seed", "9" * 30), 2, "seed must be between"),
    (("fit", "TABLE", "--label-names", "a,"), 2, "none empty"),
    (("fit", "TABLE", "--strategy", "finetune", "--set", "rate=inf"), 2, "a finite number"),
    (("fit", "TABLE", "--strategy", "finetune", "--set", "hidden=1e99"), 2, "finetune.hidden"),
    (("fit", "TABLE", "--strategy", "unfreeze", "--set", "plan=3"), 2, "must be a table such as"),
    (("embed", "table.parquet", "--out", "table.parquet"), 2, "is the file that is read"),
    (("predict", "runs/none", "table.csv", "--out", "table.csv"), 2, "is the file that is read"),
    (("fit", "TABLE", *PROBE[:-1], "table.csv/run"), 5, "cannot be made (Not a directory)"),
]


@pytest.fixture
def place(table: Path, tmp_path: Path, tiny_text: Path) -> Any:
    """Bad files beside the good table; DATA commands get the tiny backbone."""
    (tmp_path / "table.csv").write_text(table.read_text())
    (tmp_path / "table.parquet").write_text("")
    (tmp_path / "one.csv").write_text(ONE_CLASS)
    (tmp_path / "ragged.csv").write_text(RAGGED)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "models" / "mini").mkdir(parents=True)

    def words(given: tuple[str, ...]) -> list[str]:
        out = ["table.csv" if word == "TABLE" else word for word in given]
        if given[0] in {"fit", "compare", "embed"} and "--backbone" not in given:
            out += ["--backbone", str(tiny_text)]
        return out

    return words


@pytest.mark.parametrize(("given", "code", "message"), CASES, ids=lambda v: "-".join(v)
                         if isinstance(v, tuple) else None)  # fmt: skip
def test_errors(call: Any, place: Any, given: tuple[str, ...], code: int, message: str) -> None:
    words = place(given)
    found = call(*words)
    assert (found.code, message in " ".join(found.err.split())) == (code, True), found.err
    last = found.err.strip().split("Error: ")
    assert len(last) == 2
    assert last[1].rstrip().endswith((".", ")", "'"))
    made = [p.name for p in Path("runs").glob("*")]
    assert all(name.endswith((".partial", ".locks")) for name in made)
    spoken = call(*words, "--json")
    assert spoken.code == code
    assert spoken.err == ""
    error = json.loads(spoken.out)["error"]
    assert error["exit_code"] == code
    assert message in error["message"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("fit",), "Missing argument 'DATA'"),
        (("compare",), "Missing argument 'DATA'"),
        (("rank",), "Missing argument 'DATA'"),
        (("predict",), "Missing argument 'RUN'"),
        (("fit", "x.csv", "--sede", "1"), "No such option: --sede"),
        (("compare", "x.csv", "--seeds", "0"), "greater than or equal to 1, got"),
        (("fit", "x.csv", "--limit", "1"), "greater than or equal to 2, got"),
        (("compare", "x.csv", "--seeds", "many"), "--seeds"),
        (("plan", "x.csv", "--distance", "wide"), "--distance"),
        (("comprae", "x.csv"), "No such command 'comprae'"),
    ],
)
def test_usage(call: Any, given: tuple[str, ...], message: str) -> None:
    found = call(*given)
    assert found.code == 2
    assert found.out == ""
    assert message in " ".join(found.err.split())
    assert "-h' for help" in found.err
    spoken = call(*given, "--json")
    assert spoken.code == 2
    assert spoken.err == ""
    assert message in json.loads(spoken.out)["error"]["message"]


@pytest.mark.parametrize("victim", ["results.json", "model/head.safetensors", "manifest.json"])
def test_a_damaged_run_is_named(
    call: Any, table: Path, tiny_text: Path, tmp_path: Path, victim: str
) -> None:
    call(
        "fit",
        table,
        "--backbone",
        tiny_text,
        *PROBE,
    )
    path = tmp_path / "runs/a" / victim
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    for words in (("predict", "runs/a", table), ("evaluate", "runs/a", table), ("info", "runs/a")):
        found = call(*words)
        assert found.code == 5
        assert found.err.startswith("Error: runs/a")
        assert found.out == ""


def test_an_answer_that_cannot_be_written(
    call: Any, table: Path, tiny_text: Path, tmp_path: Path
) -> None:
    call(
        "fit",
        table,
        "--backbone",
        tiny_text,
        *PROBE,
    )
    (tmp_path / "taken.csv").mkdir()
    found = call("predict", "runs/a", table, "--out", "taken.csv")
    assert found.code == 1
    assert "taken.csv" in found.err
    (tmp_path / "file").write_text("")
    assert call("predict", "runs/a", table, "--out", "file/answers.csv").code == 1


def test_a_sentence_with_a_place_to_fill_is_no_json() -> None:
    given = ["templates={}|a text about {}", "plan={}", 'targets=["query"]', "rate=1e-3"]
    assert parse_settings(given) == {
        "templates": "{}|a text about {}", "plan": {}, "targets": ["query"], "rate": "1e-3",
    }  # fmt: skip
