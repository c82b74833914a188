"""The feature cache: hits, appends, crashes, rot, limits, and two spaces that never meet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.backbones import (
    Backbone,
    Encoder,
    FeatureCache,
    Space,
    backbone,
    embed_inputs,
    rowstore,
)
from warmstart.backbones.rowstore import content_key
from warmstart.core import RunError, UsageError, progress
from warmstart.data import Dataset, from_inputs

from .tiny import pictures

Folders = Callable[[str], Path]
TEXTS = [" ".join("abcdefghijklmnop"[i % 7 : i % 7 + i % 9 + 1]) + f" {'xyz'[i % 3]}"
         for i in range(60)]  # fmt: skip


class Ear:
    """Hears notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Any]:
        class Bar:
            def advance(self, n: int = 1) -> None: ...

            def describe(self, text: str) -> None: ...

        yield Bar()

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows went through a network, call by call."""
    counts: list[int] = []
    real = Encoder.forward_many

    def counting(self: Encoder, batch: dict[str, Any], wanted: Any) -> Any:
        counts.append(len(next(iter(batch.values()))))
        return real(self, batch, wanted)

    monkeypatch.setattr(Encoder, "forward_many", counting)
    return counts


def rows(texts: Sequence[str]) -> Dataset:
    return from_inputs(list(texts), "text")


@pytest.fixture
def source(family_folder: Folders, tmp_path: Path) -> Backbone:
    return backbone(family_folder("bert"), cache=FeatureCache(tmp_path / "cache"))


def folder_of(source: Backbone) -> Path:
    assert source.cache is not None
    return source.cache.root / source.space().fingerprint


def test_a_second_time_computes_nothing(source: Backbone, computed: list[int]) -> None:
    first = source.features(rows(TEXTS))
    computed.clear()
    second = source.features(rows(TEXTS))
    assert computed == []
    assert np.array_equal(first.vectors_ND, second.vectors_ND)
    np.testing.assert_allclose(
        first.vectors_ND, embed_inputs(source.load(device="cpu"), TEXTS), atol=1e-6
    )
    assert first.ids == tuple(str(i) for i in range(60))
    assert first.vectors_ND.dtype == np.float32


def test_subset_reorder_and_appended_rows_hit(source: Backbone, computed: list[int]) -> None:
    whole = source.features(rows(TEXTS[:40]))
    distinct = len(set(TEXTS[:40]))
    assert sum(computed) == distinct + 1  # one sample row finds the dimension
    computed.clear()
    few = source.features(rows(TEXTS[30:10:-3]))
    assert computed == []
    assert np.array_equal(few.vectors_ND, whole.vectors_ND[30:10:-3])
    source.features(rows([*TEXTS[:40], "q r s", "q r s", "t u"]))
    assert sum(computed) == 2


def test_equal_contents_are_computed_once(source: Backbone, computed: list[int]) -> None:
    made = source.with_settings().features(rows(["a b"] * 9 + ["c"]))
    assert sum(computed) == 3
    assert np.array_equal(made.vectors_ND[0], made.vectors_ND[8])


def test_depth_pooling_and_length_are_spaces_of_their_own(source: Backbone) -> None:
    data = rows(TEXTS[:5])
    last = source.features(data)
    for other in (
        source.features(data, depth=1),
        source.features(data, pooling="cls"),
        source.with_settings(max_length=4).features(data),
    ):
        with pytest.raises(UsageError, match="two spaces cannot be compared"):
            last.require_same_space(other)
        assert not np.array_equal(other.vectors_ND, last.vectors_ND)
    last.require_same_space(source.features(rows(TEXTS[5:9])))
    assert len(list(folder_of(source).parent.iterdir())) == 4


def test_several_depths_in_one_pass(source: Backbone, computed: list[int]) -> None:
    data = rows(TEXTS)
    made = source.features_at(data, [0, 2, None])
    passes = sum(computed)
    assert passes == len(set(TEXTS)) + 3
    for depth in (0, 2, None):
        alone = source.with_settings(cache=FeatureCache(folder_of(source).parent / "no"))
        np.testing.assert_allclose(
            made[depth].vectors_ND, alone.features(data, depth=depth).vectors_ND, atol=1e-6
        )


def test_rows_of_features(source: Backbone) -> None:
    made = source.features(rows(TEXTS[:6]))
    picked = made.rows(["4", "1"])
    assert picked.ids == ("4", "1")
    assert np.array_equal(picked.vectors_ND, made.vectors_ND[[4, 1]])
    with pytest.raises(UsageError, match="no features of row '77'"):
        made.rows(["77"])
    assert source.features(rows([])).vectors_ND.shape == (0, 32)


@pytest.mark.parametrize("name", ["index.bin", "vectors.f32"])
@pytest.mark.parametrize("cut", [1, 17, 100])
def test_a_torn_tail_is_passed_over(
    name: str, cut: int, source: Backbone, computed: list[int]
) -> None:
    source.features(rows(TEXTS[:20]))
    expected = source.features(rows(TEXTS[:40])).vectors_ND
    path = folder_of(source) / name
    path.write_bytes(path.read_bytes()[:-cut])
    computed.clear()
    found = source.features(rows(TEXTS[:40])).vectors_ND
    np.testing.assert_allclose(found, expected, atol=1e-6)
    fresh = len(set(TEXTS[:40]) - set(TEXTS[:20]))
    assert sum(computed) == fresh  # the second block only
    computed.clear()
    np.testing.assert_allclose(source.features(rows(TEXTS[:40])).vectors_ND, expected, atol=1e-6)
    assert computed == []


def test_vectors_without_a_record_are_passed_over(source: Backbone, computed: list[int]) -> None:
    expected = source.features(rows(TEXTS[:20])).vectors_ND
    with (folder_of(source) / "vectors.f32").open("ab") as handle:
        handle.write(b"x" * 77)
    source.features(rows(TEXTS[20:]))
    computed.clear()
    assert np.array_equal(source.features(rows(TEXTS[:20])).vectors_ND, expected)
    assert computed == []
    np.testing.assert_allclose(
        source.features(rows(TEXTS)).vectors_ND,
        embed_inputs(source.load(device="cpu"), TEXTS), atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["index.bin", "vectors.f32"])
def test_every_flipped_bit_is_noticed(name: str, source: Backbone) -> None:
    expected = source.features(rows(TEXTS[:8])).vectors_ND
    path = folder_of(source) / name
    sound = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(sound)
        damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(damaged))
        ear = Ear()
        with progress.use(ear):
            found = source.features(rows(TEXTS[:8])).vectors_ND
        np.testing.assert_allclose(found, expected, atol=1e-6)
        if name == "vectors.f32":
            assert any("damaged" in note for note in ear.notes)
            (folder_of(source) / "index.bin").write_bytes(
                (folder_of(source) / "index.bin").read_bytes()[: _first_record(source)]
            )


def _first_record(source: Backbone) -> int:
    raw = (folder_of(source) / "index.bin").read_bytes()
    again = raw.find(b"WSFB0001", 1)
    return again if again > 0 else len(raw)


def test_an_interrupted_embedding_is_resumed(
    source: Backbone, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Encoder.collate
    calls = 0

    def interrupting(self: Encoder, items: Sequence[Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(self, items)

    monkeypatch.setattr(Encoder, "collate", interrupting)
    with pytest.raises(KeyboardInterrupt):
        source.features(rows(TEXTS), batch_size=2)
    done = sum(computed) - 1
    assert done > 0
    computed.clear()
    source.features(rows(TEXTS))
    assert sum(computed) == len(set(TEXTS)) - done


def test_the_limit_keeps_features_in_memory(family_folder: Folders, tmp_path: Path) -> None:
    small = backbone(family_folder("bert"), cache=FeatureCache(tmp_path, limit_bytes=1000))
    ear = Ear()
    with progress.use(ear):
        made = small.features(rows(TEXTS))
    assert made.vectors_ND.shape == (60, 32)
    assert "limit of 1 KB" in ear.notes[0]
    assert "WARMSTART_CACHE_LIMIT" in ear.notes[0]
    assert small.cache is not None
    assert small.cache.size_bytes() == 0


def test_the_size_is_told_once_before_it_is_written(source: Backbone) -> None:
    ear, data = Ear(), rows(TEXTS)
    with progress.use(ear):
        source.features(data)
        source.features(data)  # nothing is written any more
        source.features_at(data, [None, 1, 0])
    count = len(set(TEXTS))
    assert source.cache is not None
    where = f"in {source.cache.root}."
    assert ear.notes == [
        f"Features of {count} rows take {count * (32 * 4 + 16) / 1000:.0f} KB {where}",
        f"Features of {count} rows take {2 * count * (32 * 4 + 16) / 1000:.0f} KB {where}",
    ]


def test_a_full_disk_is_said_and_survived(
    source: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rowstore, "_write", full)
    ear = Ear()
    with progress.use(ear):
        made = source.features(rows(TEXTS))
    assert made.vectors_ND.shape == (60, 32)
    assert "No space left" in ear.notes[1]


def test_another_format_is_refused(source: Backbone) -> None:
    source.features(rows(TEXTS[:3]))
    path = folder_of(source) / "space.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(RunError, match="another format"):
        source.features(rows(TEXTS[:3]))
    path.write_text(path.read_text()[:40])
    with pytest.raises(RunError, match=r"space\.json is damaged\. Delete .*filled anew"):
        source.features(rows(TEXTS[:3]))


def test_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMSTART_CACHE_LIMIT", "1.5G")
    assert FeatureCache("x").limit_bytes == 1_610_612_736
    monkeypatch.setenv("WARMSTART_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="WARMSTART_CACHE_LIMIT"):
        FeatureCache("x")
    monkeypatch.delenv("WARMSTART_CACHE_LIMIT")
    assert FeatureCache("x").limit_bytes == 20 * 2**30


WRITER = """
import sys
import numpy as np
from warmstart.backbones import FeatureCache, Space
from warmstart.backbones.rowstore import content_key
store = FeatureCache(sys.argv[1]).open(Space(backbone="b", modality="text", pooling="mean"))
for i in range(int(sys.argv[2]), int(sys.argv[2]) + 30):
    store.append([content_key(f"{i:032x}")], np.full((1, 5), i, dtype=np.float32))
"""


def test_several_processes_may_write(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(first)])
        for first in (15, 40)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    store = FeatureCache(tmp_path).open(Space(backbone="b", modality="text", pooling="mean"))
    wanted = [*range(15, 45), *range(40, 70)]
    where = store.positions([content_key(f"{i:032x}") for i in wanted])
    assert (where >= 0).all()
    assert store.vectors()[where][:, 3].tolist() == wanted
    assert len(store) == 55


KILLED = """
import os, sys
import numpy as np
from warmstart.backbones import FeatureCache, Space, cache
from warmstart.backbones.rowstore import content_key
store = FeatureCache(sys.argv[1]).open(Space(backbone="b", modality="text", pooling="mean"))
steps = int(sys.argv[2])
def step(real):
    def maybe(*args, **kwargs):
        global steps
        steps -= 1
        if steps < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return maybe
os.fsync = step(os.fsync)
os.replace = step(os.replace)
for i in range(6):
    store.append([content_key(f"{i:032x}")], np.full((1, 5), i, dtype=np.float32))
    print(i, flush=True)
"""


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_a_killed_write_leaves_only_sound_vectors(steps: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(steps)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    store = FeatureCache(tmp_path).open(Space(backbone="b", modality="text", pooling="mean"))
    keys = [content_key(f"{i:032x}") for i in range(6)]
    where = store.positions(keys)
    assert (where[: len(told)] >= 0).all()
    for i, row in enumerate(where):
        assert row < 0 or (store.vectors()[row] == i).all()
    store.append(keys, np.arange(6, dtype=np.float32)[:, None].repeat(5, axis=1))
    assert store.vectors()[store.positions(keys)][:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_images_go_through_the_cache(
    family_folder: Folders, tmp_path: Path, computed: list[int]
) -> None:
    source = backbone(family_folder("vit"), cache=FeatureCache(tmp_path))
    data = from_inputs(pictures(5), "image")
    first = source.features(data, batch_size=2)
    computed.clear()
    assert np.array_equal(source.features(data).vectors_ND, first.vectors_ND)
    assert computed == []
    with pytest.raises(Exception, match="reads image, but the data is text"):
        source.features(rows(["a"]))
