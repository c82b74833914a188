"""`warmstart rank` from a shell: its answer, its JSON, its list of backbones, its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_it_answers_people_and_programs(
    call: Any, table: Path, tiny_text: Path, tiny_nli: Path
) -> None:
    words = ("rank", table, "--backbones", tiny_text, tiny_nli, "nowhere/at-all", "--limit", "all",
             "--resamples", 4, "--device", "cpu")  # fmt: skip
    found = call(*words, "--out", "rank.html")
    assert found.code == 0, found.err
    said = " ".join(found.out.split())
    for told in ("comes first of 2", "Probe accuracy", "LogME", "LEEP", "Parameters", "not told",
                 "nowhere/at-all is left out", "Written: rank.html"):  # fmt: skip
        assert told in said, told
    assert "nowhere/at-all is left out" in found.err
    assert "warmstart rank" in Path("rank.html").read_text()
    spoken = call(*words, "--by", "log-me", "--json")
    assert (spoken.code, spoken.err) == (0, "")
    told = json.loads(spoken.out)
    assert told["by"] == "log_me"
    assert [one["name"] for one in told["failed"]] == ["nowhere/at-all"]
    assert {one["label"] for one in told["backbones"]} == {"tiny-bert", "tiny-nli"}


def parsed(words: list[str]) -> dict[str, Any]:
    import typer

    from warmstart.cli import app

    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands["rank"].make_context("rank", words).params
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["d.csv", "--backbones", "a", "b", "c"],
        ["d.csv", "--backbones", "a", "b", "c", "--json"],
        ["d.csv", "--backbones", "a", "--backbones", "b", "c"],
        ["--json", "d.csv", "--backbones", "a", "b", "--by", "knn", "--backbones", "c"],
        ["d.csv", "--backbones=a", "--backbones=b", "--backbones", "c"],
    ],
)
def test_a_list_of_backbones_is_written_in_several_ways(words: list[str]) -> None:
    found = parsed(words)
    assert (found["data"], list(found["backbones"])) == ("d.csv", ["a", "b", "c"])


def test_commas_part_backbones(call: Any, table: Path, tiny_text: Path) -> None:
    named = f"{tiny_text},{tiny_text}:pooling=cls"
    found = call("rank", table, "--backbones", named, "--resamples", 2, "--json")
    assert found.code == 0, found.out
    assert len(json.loads(found.out)["backbones"]) == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--by", "probes"], 2, 'Did you mean "probe"'),
        (["--limit", "some"], 2, "--limit must be a number of rows or all, got 'some'"),
        (["--limit", "2"], 2, "rank.limit must be at least 4"),
        (["--metric", "acuracy"], 2, 'Did you mean "accuracy"'),
        (["--out", "rank.pdf"], 2, "must end in .html (the report) or .json"),
        (["--backbones", ","], 2, "at least one backbone"),
        (["--backbones"], 2, "--backbones"),
        (["--backbones", "minilm:dept=2"], 2, 'Did you mean "depth"'),
        (["--label", "lable"], 3, "no column 'lable'"),
    ],
)
def test_errors_are_sentences(
    call: Any, table: Path, options: list[str], code: int, message: str
) -> None:
    found = call("rank", table, *options)
    assert (found.code, message in " ".join(found.err.split())) == (code, True), found.err
    assert json.loads(call("rank", table, "--json", *options).out)["error"]["exit_code"] == code
