"""Publishing: whatever fails or dies, and wherever, a reader finds the old state or the new one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.core import (
    MANIFEST,
    RunError,
    finish_folder,
    publishing,
    read_json,
    sweep,
    verify_manifest,
    write_atomic,
    write_json,
    write_manifest,
)


class Killed(BaseException):
    """Stands for SIGKILL or a failing disk."""


class _Handle:
    """A file whose write puts half of the bytes down before it fails."""

    def __init__(self, handle: Any, step: Callable[[str], bool]) -> None:
        self._handle, self._step = handle, step

    def write(self, data: bytes) -> int:
        if self._step("write"):
            self._handle.write(data[: len(data) // 2])
            self._handle.flush()
            raise Killed
        return int(self._handle.write(data))

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


@contextmanager
def failing(at: int, *, dead: bool) -> Iterator[list[str]]:
    """Let the `at`-th file operation fail; when `dead`, every later one too, as after a kill."""
    calls: list[str] = []

    def step(name: str) -> bool:
        calls.append(name)
        return len(calls) - 1 == at or (dead and len(calls) - 1 > at)

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if step(name):
                raise Killed
            result = function(*args, **kwargs)
            return _Handle(result, step) if name == "open" and "wb" in args else result

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [
            (Path, "open"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"),
            (os, "fsync"), (shutil, "rmtree"),
        ]:  # fmt: skip
            patch.setattr(owner, name, wrap(name, getattr(owner, name)))
        yield calls


def publish(final: Path, version: int, *, replace: bool = True) -> None:
    with publishing(final, replace=replace, version=version) as folder:
        (folder / "inner").mkdir()
        for name in ("a.txt", "inner/b.txt"):
            with (folder / name).open("wb") as handle:
                handle.write(f"version {version}\n".encode())


def version_of(final: Path) -> int | None:
    """The whole state at `final`; raises when it is a part."""
    if not final.exists():
        return None
    version = int(verify_manifest(final)["version"])
    for name in ("a.txt", "inner/b.txt"):
        assert (final / name).read_text() == f"version {version}\n"
    return version


def steps_of(work: Callable[[], None]) -> int:
    with failing(-1, dead=False) as calls:
        work()
    return len(calls)


@pytest.mark.parametrize("dead", [False, True], ids=["error", "kill"])
@pytest.mark.parametrize("replace", [False, True], ids=["new", "replace"])
def test_a_folder_is_old_or_new_wherever_it_stops(
    tmp_path: Path, dead: bool, replace: bool
) -> None:
    old = 1 if replace else None
    counting = tmp_path / "counting" / "final"
    if replace:
        publish(counting, 1)
    steps = steps_of(lambda: publish(counting, 2, replace=replace))
    assert steps > 10
    seen = set()
    for at in range(steps):
        final = tmp_path / str(at) / "final"
        if replace:
            publish(final, 1)
        with failing(at, dead=dead), pytest.raises(Killed):
            publish(final, 2, replace=replace)
        found = version_of(final)
        if not (dead and replace and found is None):  # the instant between the two renames
            assert found in {old, 2}, at
        sweep(final)
        found = version_of(final)
        assert found in {old, 2}, at
        seen.add(found)
        left = final.parent.iterdir() if final.parent.exists() else []
        assert [path.name for path in left if path.name != "final"] == [], at
        publish(final, 3)
        assert version_of(final) == 3
    assert seen == {old, 2}


@pytest.mark.parametrize("dead", [False, True], ids=["error", "kill"])
def test_a_file_is_old_or_new_wherever_it_stops(tmp_path: Path, dead: bool) -> None:
    old, new = "old " * 50, "new " * 80
    steps = steps_of(lambda: write_atomic(tmp_path / "counting.txt", new))
    seen = set()
    for at in range(steps):
        path = tmp_path / str(at) / "x.txt"
        path.parent.mkdir()
        path.write_text(old)
        with failing(at, dead=dead), pytest.raises(Killed):
            write_atomic(path, new)
        seen.add(path.read_text())
        if not dead:
            assert [p.name for p in path.parent.iterdir()] == ["x.txt"], at
    assert seen == {old, new}


SCRIPT = """
import sys
from pathlib import Path
from warmstart.core import publishing
final, version = Path(sys.argv[1]), int(sys.argv[2])
while True:
    version += 1
    with publishing(final, replace=True, version=version) as folder:
        (folder / "inner").mkdir()
        for name in ("a.txt", "inner/b.txt"):
            (folder / name).write_text(f"version {version}\\n")
    print(version, flush=True)
"""


def test_sigkill(tmp_path: Path) -> None:
    final, chance, last = tmp_path / "final", random.Random(0), 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(final), str(last)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        said = int(child.stdout.readline())  # the first is out: kill somewhere in a later one
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        said = max([said, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
        child.stdout.close()
        child.wait()
        sweep(final)
        found = version_of(final)
        assert found in {said, said + 1}  # what was announced is there; at most one more
        last = found or 0
        assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_the_body_failing_publishes_nothing(tmp_path: Path) -> None:
    final = tmp_path / "final"
    publish(final, 1)
    with contextlib.suppress(ValueError), publishing(final, replace=True) as folder:
        (folder / "half.txt").write_text("half")
        raise ValueError
    assert version_of(final) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_an_existing_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    final = tmp_path / "final"
    publish(final, 1)
    with pytest.raises(RunError, match=r"final exists already\. Name another"):
        publish(final, 2, replace=False)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RunError, match="final exists already"):
        finish_folder(other, final)
    assert version_of(final) == 1


def test_sweep_brings_the_old_state_back_and_clears_the_rest(tmp_path: Path) -> None:
    final = tmp_path / "run[1]*"  # a name that is also a pattern
    publish(final, 1)
    final.rename(tmp_path / ".run[1]*.0123abcd.old")
    (tmp_path / ".run[1]*.4567abcd.tmp").mkdir()
    (tmp_path / ".other.4567abcd.tmp").mkdir()
    (tmp_path / "run[1]*.txt").write_text("mine")
    sweep(final)
    assert version_of(final) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".other.4567abcd.tmp", "run[1]*", "run[1]*.txt",
    ]  # fmt: skip
    shutil.copytree(final, tmp_path / ".run[1]*.0123abcd.old")
    sweep(final)
    assert not (tmp_path / ".run[1]*.0123abcd.old").exists()
    sweep(tmp_path / "nowhere" / "final")


def test_an_old_state_set_aside_counts_as_existing(tmp_path: Path) -> None:
    final = tmp_path / "final"
    publish(final, 1)
    final.rename(tmp_path / ".final.0123abcd.old")
    with pytest.raises(RunError, match="exists already"):
        publish(final, 2, replace=False)
    assert version_of(final) == 1


def test_a_torn_file_of_a_killed_writer_is_not_published(tmp_path: Path) -> None:
    partial = tmp_path / "x.partial"
    partial.mkdir()
    (partial / ".results.json.0123abcd.tmp").write_text("{")
    (partial / "results.json").write_text("{}")
    finish_folder(partial, tmp_path / "x", kind="run")
    manifest = verify_manifest(tmp_path / "x")
    assert list(manifest["files"]) == ["results.json"]
    assert manifest["kind"] == "run"
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == [MANIFEST, "results.json"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    final = tmp_path / "final"
    publish(final, 1)
    return final


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as a mistaken writer would: with a checksum that fits."""
    manifest = read_json(folder / MANIFEST)
    manifest.pop("checksum")
    change(manifest)
    from warmstart.core.publish import _checksum

    write_json(folder / MANIFEST, {**manifest, "checksum": _checksum(manifest)})


def test_every_flipped_bit_is_refused_and_its_file_named(published: Path) -> None:
    for name in (MANIFEST, "a.txt", "inner/b.txt"):
        path = published / name
        raw = path.read_bytes()
        step = 1 if name != MANIFEST else 9  # every byte once, every bit in turn
        for bit in range(0, len(raw) * 8, step):
            damaged = bytearray(raw)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(RunError) as caught:
                verify_manifest(published)
            assert str(published if name == MANIFEST else path) in str(caught.value), bit
        path.write_bytes(raw)
    assert version_of(published) == 1


@pytest.mark.parametrize("size", [0, 1, 40, -1])
def test_a_manifest_cut_short(published: Path, size: int) -> None:
    raw = (published / MANIFEST).read_bytes().rstrip()
    (published / MANIFEST).write_bytes(raw[:size])
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        verify_manifest(published)


def test_missing_and_lengthened(published: Path) -> None:
    with (published / "a.txt").open("a") as handle:
        handle.write("more")
    with pytest.raises(RunError, match=r"a\.txt is damaged"):
        verify_manifest(published)
    (published / "a.txt").unlink()
    with pytest.raises(RunError, match=r"a\.txt is missing"):
        verify_manifest(published)
    (published / MANIFEST).unlink()
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        verify_manifest(published)


@pytest.mark.parametrize("name", ["../outside.txt", "inner/../../outside.txt", "{root}/outside.txt",
                                  "link/outside.txt", "a\0b"])  # fmt: skip
def test_names_stay_inside_the_folder(published: Path, name: str) -> None:
    outside = published.parent / "outside.txt"
    outside.write_text("secret")
    (published / "link").symlink_to(published.parent)
    from warmstart.core import hash_file

    given = name.format(root=published.parent)
    rewrite(published, lambda m: m["files"].update({given: hash_file(outside)}))
    with pytest.raises(RunError, match="lies outside the folder"):
        verify_manifest(published)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_named(published: Path, version: object) -> None:
    rewrite(published, lambda m: m.update(format_version=version))
    with pytest.raises(RunError, match=rf"format version {version!r}; this warmstart reads 1"):
        verify_manifest(published)


@pytest.mark.parametrize("value", [[], {"format_version": 1}, {"files": []}, "x", None])
def test_a_manifest_of_another_shape(published: Path, value: object) -> None:
    write_json(published / MANIFEST, value)
    with pytest.raises(RunError, match=r"manifest\.json is damaged: it lists no files"):
        verify_manifest(published)


def test_facts_of_every_kind_pass_the_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    facts = {"n": np.int64(3), "x": np.array([0.1, 2.0]), "path": Path("p"), "of": {3: (1, "é")}}
    write_manifest(tmp_path, **facts)
    found = verify_manifest(tmp_path)
    assert found["n"] == 3
    assert found["x"] == [0.1, 2.0]
    assert found["of"] == {"3": [1, "é"]}


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": np.float32(0.5), "b": {2, 1}, "c": [np.bool_(True)], "d": "हिन्दी"})
    assert read_json(path) == {"a": 0.5, "b": [1, 2], "c": [True], "d": "हिन्दी"}
    assert "हिन्दी" in path.read_text(encoding="utf-8")
    kept = path.read_bytes()
    for value in (float("nan"), float("inf"), np.float64("nan"), np.array([1.0, np.inf])):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, {"x": value})
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(path, object())
    assert path.read_bytes() == kept


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"nul"])
def test_damaged_json_names_its_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(RunError, match=r"x\.json does not exist"):
        read_json(path)
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"x\.json is damaged"):
        read_json(path)


def test_json_is_plain(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "x.json").read_bytes())) == ["b", "a"]


def test_a_failed_write_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(tmp_path / "answers.csv", "a")
    assert caught.value.filename == str(tmp_path / "answers.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [100, 101])
def test_every_file_is_flushed_however_many_there_are(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    fsync = os.fsync

    def flush(handle: int) -> None:
        flushed.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    with publishing(tmp_path / "many") as folder:
        for i in range(count):
            (folder / f"{i}.txt").write_text("a")
    assert {path.stat().st_ino for path in (tmp_path / "many").iterdir()} <= set(flushed)


def test_a_file_that_cannot_be_flushed_stops_the_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "many.tmp"
    folder.mkdir()
    for i in range(150):
        (folder / f"{i}.txt").write_text("a")
    with pytest.raises(OSError, match="No space left"):
        finish_folder(folder, tmp_path / "many")
    assert not (tmp_path / "many").exists()
