"""Kept rows: crashes, rot, limits, views, and rows that are never computed twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.backbones import Encoder, FeatureCache, backbone, prefix_record, state_hash
from warmstart.backbones.prefix import PrefixCut, prefix_groups
from warmstart.backbones.prefix_record import Part, record
from warmstart.backbones.prefix_store import KeptRows, MemoryStore, PrefixSpace, PrefixStore
from warmstart.backbones.rowstore import content_key
from warmstart.core import BackboneError, RunError, progress
from warmstart.data import Dataset, from_inputs

from .test_features import Ear
from .tiny import pictures

Folders = Callable[[str], Path]
TEXTS = [" ".join("abcdefghijklmnop"[i % 7 : i % 7 + i % 9 + 1]) + f" {'xyz'[i % 3]}"
         for i in [*range(50), *range(3, 13)]]  # fmt: skip
DISTINCT = len(set(TEXTS))
SPACE = PrefixSpace(backbone="b", weights="w", modality="text", depth=2)
KEYS = [bytes([i]) * 16 for i in range(8)]


def texts(values: Sequence[str]) -> Dataset:
    return from_inputs(list(values), "text")


def ragged(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((i % 3 + 1, 5), generator=generator).to(dtype) for i in range(count)]


class Recorder:
    """Records the rows of a tiny BERT at depth 2 and counts what is computed."""

    def __init__(self, folder: Path, cache: FeatureCache | None) -> None:
        self.encoder: Encoder = backbone(folder).load(device="cpu")
        self.cache = cache
        first = ["a b", "c"] if self.encoder.modality == "text" else pictures(2)
        self.cut = PrefixCut(self.encoder, 2, self.encoder.preprocess(first))
        self.space = PrefixSpace(
            backbone="b",
            weights=state_hash(self.encoder, prefix_groups(self.encoder, 2)),
            modality=self.encoder.modality,
            depth=2,
        )
        self.computed = 0
        self.ear = Ear()
        plain = self.cut.run

        def counting(encoder: Encoder, batch: Any) -> Tensor:
            self.computed += len(next(iter(batch.values())))
            return plain(encoder, batch)

        self.cut.run = counting

    def __call__(self, *parts: Dataset | Part, **settings: Any) -> list[KeptRows] | None:
        self.computed = 0
        self.ear.notes.clear()
        named = [p if isinstance(p, Part) else Part(p, self.space) for p in parts]
        with progress.use(self.ear):
            return record(self.encoder, self.cut, named, cache=self.cache, **settings)

    def kept(self, data: Dataset | Part) -> KeptRows:
        made = self(data)
        assert made is not None
        return made[0]

    def expected(self, text: str) -> Tensor:
        return self.cut.run(self.encoder, self.encoder.preprocess([text]))


@pytest.fixture
def recorder(family_folder: Folders, tmp_path: Path) -> Recorder:
    return Recorder(family_folder("bert"), FeatureCache(tmp_path / "cache"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    made = ragged(6, dtype)
    for keeper in (PrefixStore(tmp_path / "space", SPACE), MemoryStore()):
        keeper.append(KEYS[:4], made[:4])
        keeper.append(KEYS[4:6], made[4:])
        kept = KeptRows(keeper, KEYS[5::-1])
        for place, row in enumerate(made[::-1]):
            assert torch.equal(kept.batch([place])[0], row)
        assert kept.nbytes == sum(row.nbytes for row in made)
    again = KeptRows(PrefixStore(tmp_path / "space", SPACE), KEYS[:6])
    assert torch.equal(again.batch([3])[0], made[3])
    with pytest.raises(BackboneError, match="record it first"):
        KeptRows(PrefixStore(tmp_path / "space", SPACE), KEYS)


@pytest.mark.parametrize("left", [False, True])
def test_batches_are_padded_as_the_mask_shows(left: bool) -> None:
    made = ragged(4)
    keeper = MemoryStore()
    keeper.append(KEYS[:4], made)
    kept = KeptRows(keeper, KEYS[:4])
    chosen, width = [2, 0, 1], 4
    mask = torch.zeros((3, width), dtype=torch.int64)
    slow = torch.zeros((3, width, 5))
    for place, row in enumerate(chosen):
        for step in range(len(made[row])):
            where = width - len(made[row]) + step if left else step
            mask[place, where] = 1
            slow[place, where] = made[row][step]
    assert torch.equal(kept.batch(chosen, mask), slow)
    with pytest.raises(BackboneError, match="tokenizer changed"):
        kept.batch([0, 0, 1], mask)
    with pytest.raises(BackboneError, match="attention mask"):
        kept.batch(chosen)


def test_rows_of_two_spaces_do_not_meet(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"weights": "v"}, {"depth": 1}, {"precision": "bf16"}, {"max_length": 9},
        {"image_size": 9}, {"view": 0}, {"view": 1}, {"augmentation": "flip"}, {"backbone": "c"},
    ]  # fmt: skip
    spaces = [SPACE, *(SPACE.model_copy(update=change) for change in changes)]
    assert len({space.fingerprint for space in spaces}) == len(spaces)
    PrefixStore(tmp_path, SPACE).append(KEYS[:1], ragged(1))
    with pytest.raises(RunError, match="does not describe this space"):
        PrefixStore(tmp_path, spaces[1])
    with pytest.raises(RunError, match=r"dtype float32, cell \[5\], got dtype float32, cell \[4\]"):
        PrefixStore(tmp_path, SPACE).append(KEYS[1:2], [torch.zeros(2, 4)])


def test_equal_contents_subsets_and_appended_rows(recorder: Recorder) -> None:
    kept = recorder.kept(texts(TEXTS))
    assert recorder.computed == DISTINCT < len(TEXTS)
    assert "takes" in recorder.ear.notes[0]
    for row in (0, 17, 59):
        torch.testing.assert_close(
            kept.batch([row]), recorder.expected(TEXTS[row]), rtol=1e-5, atol=1e-5
        )
    subset = recorder.kept(texts(TEXTS[50:5:-7]))
    assert recorder.computed == 0
    assert recorder.ear.notes == []
    assert torch.equal(subset.batch([0]), kept.batch([50]))
    recorder.kept(texts([*TEXTS[:9], "q r s", "t u", "q r s"]))
    assert recorder.computed == 2


def test_two_parts_share_their_rows(recorder: Recorder) -> None:
    made = recorder(texts(["a b", "c d e"]), texts(["c d e", "f"]))
    assert made is not None
    assert recorder.computed == 3
    assert torch.equal(made[0].batch([1]), made[1].batch([0]))


def test_the_size_that_is_announced_is_the_size_that_is_taken(recorder: Recorder) -> None:
    assert recorder.cache is not None
    data = texts(TEXTS)
    recorder(data)
    tokens = sum(len(recorder.encoder.prepare([text])[0]) for text in set(TEXTS))
    size = tokens * 32 * 4 + 64 * DISTINCT
    assert f"{size / 1000:.0f} KB" in recorder.ear.notes[0]
    assert abs(recorder.cache.size_bytes() - size) < 0.05 * size


KILLED = """
import os, sys
from pathlib import Path
from warmstart.backbones import FeatureCache, prefix_record
from warmstart.backbones.prefix_store import PrefixStore
from tests.backbones.test_prefix_store import TEXTS, Recorder, texts

prefix_record._FLUSH_SECONDS = 0.0
left = int(sys.argv[3])
append = PrefixStore.append

def dying(self, keys, rows):
    global left
    if left == 0:  # cells are on disk, their record is not
        self._append_cells(rows[0].numpy().tobytes() + b"cut short", 32 * 4)
        os._exit(9)
    left -= 1
    append(self, keys, rows)

PrefixStore.append = dying
Recorder(Path(sys.argv[1]), FeatureCache(sys.argv[2]))(texts(TEXTS), batch_size=2)
"""


def test_a_recording_that_was_killed_goes_on(family_folder: Folders, tmp_path: Path) -> None:
    folder, root, flushes = family_folder("bert"), tmp_path / "cache", 3
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(root), str(flushes)],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    recorder = Recorder(folder, FeatureCache(root))
    there = len(PrefixStore(root / recorder.space.fingerprint, recorder.space))
    assert there == 2 * 4 * flushes  # batches hold up to four times as many short rows
    kept = recorder.kept(texts(TEXTS))
    assert recorder.computed == DISTINCT - there
    for row in range(len(TEXTS)):
        torch.testing.assert_close(
            kept.batch([row]), recorder.expected(TEXTS[row]), rtol=1e-5, atol=1e-5
        )


def test_an_interrupt_keeps_what_is_done(recorder: Recorder) -> None:
    plain, calls = recorder.cut.run, 0

    def interrupted(encoder: Encoder, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(encoder, batch)

    recorder.cut.run = interrupted
    with pytest.raises(KeyboardInterrupt):
        recorder(texts(TEXTS), batch_size=2)
    before = recorder.computed
    assert 0 < before < DISTINCT
    recorder.cut.run = plain
    recorder.kept(texts(TEXTS))
    assert recorder.computed == DISTINCT - before


def test_a_flipped_bit_is_noticed(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_record, "_FLUSH_SECONDS", 0.0)
    first = recorder(texts(TEXTS), batch_size=2)
    assert first is not None
    whole = [first[0].batch([row]).clone() for row in range(len(TEXTS))]
    assert recorder.cache is not None
    path = recorder.cache.root / recorder.space.fingerprint / "prefix.bin"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    del first
    path.write_bytes(bytes(raw))
    kept = recorder.kept(texts(TEXTS))
    assert 0 < recorder.computed < DISTINCT
    assert "damaged" in recorder.ear.notes[0]
    assert "prefix rows" in recorder.ear.notes[0]
    for row, before in enumerate(whole):
        torch.testing.assert_close(kept.batch([row]), before, rtol=1e-5, atol=1e-5)


def test_too_little_room_is_said(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorder.cache is not None
    root = recorder.cache.root
    recorder.cache = FeatureCache(root, limit_bytes=10_000)
    assert recorder(texts(TEXTS)) is None
    assert recorder.computed == 0
    assert recorder.cache.size_bytes() == 0
    assert len(recorder.ear.notes) == 1
    assert "recomputed at every step" in recorder.ear.notes[0]
    assert "may hold 10 KB in all" in recorder.ear.notes[0]
    assert recorder(texts(TEXTS[:2])) is not None  # what fits is kept

    recorder.cache = FeatureCache(root)
    monkeypatch.setattr(prefix_record, "_free_bytes", lambda folder: 5_000)
    assert recorder(texts(TEXTS)) is None
    assert "has 5 KB left" in recorder.ear.notes[0]
    assert recorder(texts(TEXTS[:2])) is not None  # rows that are there need no room


def test_a_full_disk_is_said(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PrefixStore, "_append_cells", full)
    assert recorder(texts(TEXTS)) is None
    assert "No space left on device" in recorder.ear.notes[-1]


def test_memory_without_a_cache(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = recorder.kept(texts(TEXTS))
    recorder.cache = None
    memory = recorder.kept(texts(TEXTS))
    assert "in memory" in recorder.ear.notes[0]
    assert all(torch.equal(disk.batch([i]), memory.batch([i])) for i in range(len(TEXTS)))
    monkeypatch.setattr(prefix_record, "MEMORY_LIMIT_BYTES", 9_000)
    assert recorder(texts(TEXTS)) is None
    assert "more than the 9 KB that are kept in memory" in recorder.ear.notes[0]


def test_a_number_that_is_not_finite_is_refused(recorder: Recorder) -> None:
    with torch.no_grad():
        recorder.encoder.module.get_parameter("embeddings.word_embeddings.weight")[5] = torch.nan
    with pytest.raises(BackboneError, match="row '2' is not finite"):
        recorder(texts(["b c", "d", "a b", "e f"]))


def test_maps_are_kept_whole(family_folder: Folders, tmp_path: Path) -> None:
    recorder = Recorder(family_folder("resnet"), FeatureCache(tmp_path))
    images = pictures(3)
    kept = recorder.kept(from_inputs(images, "image"))
    plain = recorder.cut.run(recorder.encoder, recorder.encoder.preprocess(images))
    assert kept.batch([2, 0]).shape == (2, *plain.shape[1:])
    torch.testing.assert_close(kept.batch([0, 1, 2]), plain, rtol=1e-5, atol=1e-5)
    assert recorder.cut.width == plain.shape[1]


def test_views_are_rows_of_their_own(family_folder: Folders, tmp_path: Path) -> None:
    recorder = Recorder(family_folder("vit"), FeatureCache(tmp_path))
    images = [pictures(2)[0], pictures(2)[0], pictures(2)[1]]
    data = from_inputs(images, "image")

    def part(view: int) -> Part:
        def vary(image: Any, row_id: str) -> Any:
            return image.rotate(40 * view + 10 * int(row_id))

        space = recorder.space.model_copy(update={"view": view, "augmentation": "turn"})
        return Part(data, space, vary)

    made = recorder(part(0), part(1), data)
    assert made is not None
    assert recorder.computed == 3 + 3 + 2  # equal images are one row unless they are augmented
    for view in (0, 1):
        turned = [image.rotate(40 * view + 10 * i) for i, image in enumerate(images)]
        plain = recorder.cut.run(recorder.encoder, recorder.encoder.preprocess(turned))
        torch.testing.assert_close(made[view].batch([0, 1, 2]), plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(made[2].batch([0]), made[2].batch([1]))
    assert not torch.equal(made[0].batch([0]), made[0].batch([1]))
    few = Part(data.select([2, 1]), part(1).space, part(1).vary)
    again = recorder.kept(few)
    assert recorder.computed == 0
    assert torch.equal(again.batch([1]), made[1].batch([1]))


def test_final_vectors_are_kept_too(recorder: Recorder) -> None:
    data = texts(TEXTS[:9])
    made = record(recorder.encoder, None, [Part(data, recorder.space)], cache=recorder.cache)
    assert made is not None
    vectors_ND = recorder.encoder(recorder.encoder.preprocess(TEXTS[:9])).detach()
    torch.testing.assert_close(made[0].batch(range(9)), vectors_ND, rtol=1e-5, atol=1e-5)


def test_the_encoder_is_left_as_it_was(recorder: Recorder) -> None:
    recorder.encoder.train()
    before = state_hash(recorder.encoder)
    recorder(texts(TEXTS[:5]))
    assert recorder.encoder.training
    assert state_hash(recorder.encoder) == before


def test_keys_are_those_of_the_feature_cache() -> None:
    part = Part(texts(["a", "b"]), SPACE)
    assert part.keys() == [content_key(content) for content in part.dataset.contents]
    varied = Part(part.dataset, SPACE, lambda value, _: value)
    assert not set(varied.keys()) & set(part.keys())
    assert len(np.unique(varied.keys())) == 2
