"""The documents keep their word: links, commands, names, targets."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHELL = {"", "sh", "bash", "shell", "console"}
FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)(?:\s[^)]*)?\)")


def name(path: Any) -> str:
    return path.relative_to(ROOT).as_posix() if isinstance(path, Path) else str(path)


def blocks(page: Path, languages: set[str]) -> Iterator[str]:
    for indent, language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles]
    return {word.replace(" ", "-") for word in words}


def shell_lines(page: Path) -> Iterator[str]:
    for body in blocks(page, SHELL):
        for line in body.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")


def warmstart_commands(lines: Iterator[str]) -> list[list[str]]:
    """The words after `warmstart` in lines that call it."""
    found = []
    for line in lines:
        match = re.match(r"^(?:\w+=\S+ )*(?:\.venv/bin/)?warmstart( .*)?$", line)
        if match:
            found.append(shlex.split(match.group(1) or "", comments=True))
    return found


def parse(words: list[str]) -> None:
    """Let the command line read the words without acting on them."""
    import typer

    from warmstart.cli import app

    group: Any = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        return
    assert words[0] in group.commands, f"there is no command {words[0]!r}"
    command, rest = group.commands[words[0]], words[1:]
    if any(word.startswith("[") for word in rest):  # a synopsis: its options must exist
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.strip("[]") for word in rest if word.startswith(("[-", "-"))}
        assert used <= known, f"{words[0]} has no {', '.join(sorted(used - known))}"
    elif not {"--help", "-h"} & set(rest):
        command.make_context(words[0], list(rest))


def check_python(source: str, where: str) -> None:
    """It compiles, and every name of warmstart that it uses is there."""
    tree = ast.parse(source, where)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "warmstart"
    } | {"ws"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "warmstart":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{where}: no {node.module}.{alias.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
        ):
            root = importlib.import_module("warmstart")
            assert node.attr in root.__all__, f"{where}: there is no ws.{node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        assert there.is_relative_to(ROOT), f"{name(page)}: {target} leaves the repository"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_parse(page: Path) -> None:
    for words in warmstart_commands(shell_lines(page)):
        parse(words)


def test_examples_in_help_parse() -> None:
    import typer

    from warmstart.cli import app

    group: Any = typer.main.get_command(app)
    for command in group.commands.values():
        lines = [line.strip() for line in (command.help or "").splitlines()]
        commands = warmstart_commands(iter(lines))
        assert commands, f"warmstart {command.name} --help has no example"
        for words in commands:
            parse(words)


def test_every_strategy_stands_in_the_readme() -> None:
    from warmstart.strategies import names

    table = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))
    ours = {n for n in names() if _module(n).startswith("warmstart.")}
    assert rows == ours


SETTING = re.compile(r"^\| (?:`([\w-]+)`: )?`(\w+)` \| `([^`]+)` \| [^|]+ \|$", re.MULTILINE)


def test_every_setting_of_a_track_stands_in_the_docs_with_its_default() -> None:
    """Defaults are read as `--set` reads them."""
    from warmstart.retrieval import TRACKS, make_track

    page = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    told: dict[str, dict[str, str]] = {name: {} for name in TRACKS}
    for track, setting, default in SETTING.findall(page):
        for name in [track] if track else [name for name in TRACKS if name != "zero-shot"]:
            told[name][setting] = default
    for name, differs in re.findall(r"^\| `([\w-]+)` \| ((?:`\w+=[^`]+`(?:, )?)+) \|$", page, re.M):
        told[name] |= dict(re.findall(r"`(\w+)=([^`]+)`", differs))
    for name, track in TRACKS.items():
        assert told[name].keys() == track.model_fields.keys(), name
        assert make_track(name, told[name]) == track(), name


def test_every_ranking_metric_stands_in_the_docs() -> None:
    from warmstart.evaluation import RANKING_METRICS

    page = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)(?:@K)?` \| [^|`]+", page, re.M)) >= set(RANKING_METRICS)


def _module(strategy: str) -> str:
    from warmstart.strategies import strategy_class

    return strategy_class(strategy).__module__


def test_every_name_of_an_items_column_stands_in_the_docs() -> None:
    from warmstart.data import interaction_columns as columns

    page = (ROOT / "docs" / "interactions.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| (title|description|tags|image path) \| (.*) \|$", page, re.MULTILINE)
    )
    told = {meaning: tuple(re.findall("`(.*?)`", names)) for meaning, names in rows.items()}
    assert told == {
        "title": columns.TITLE_NAMES,
        "description": columns.DESCRIPTION_NAMES,
        "tags": columns.TAG_NAMES,
        "image path": columns.IMAGE_NAMES,
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks(page: Path) -> None:
    for body in blocks(page, {"python", "py"}):
        check_python(body, name(page))


@pytest.mark.parametrize("script", EXAMPLES, ids=name)
def test_examples(script: Path) -> None:
    check_python(script.read_text(encoding="utf-8"), name(script))


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"setup", "demo", "test", "check", "bench"} <= targets
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        inline = re.findall(r"`(?:\w+=\S+ )?make ([a-z]+)[^`\n]*`", text)
        fenced = [
            match.group(1)
            for line in shell_lines(page)
            if (match := re.match(r"^(?:\w+=\S+ )*make ([a-z]+)", line))
        ]
        assert {*inline, *fenced} <= targets, name(page)


def test_nothing_points_at_the_workplace() -> None:
    """No path of the machine that it was written on; benchmarks may read what lies beside."""
    words = ("/" + "work/", "../" + "shared", "/tmp" + "/w/")
    folders = ("src", "tests", "docs", "examples", ".ci")
    files = [p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"]
    files += [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".html", ".j2", ".css", ".js", ""}
    for path in files:
        if path.suffix in kinds and "__pycache__" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            for word in words:
                assert word not in text, f"{name(path)} holds {word}"
