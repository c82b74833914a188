"""Saved indexes: what comes back is what was saved, or an error that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from warmstart.core import RunError, progress, read_json, verify_manifest, write_manifest
from warmstart.retrieval.index import (
    HNSW,
    IVFPQ,
    Engine,
    FaissIndex,
    Flat,
    ItemId,
    IVFFlat,
    Target,
    Vectors,
)

D = 16
ENGINES: dict[str, Engine] = {
    "flat": Flat(),
    "hnsw": HNSW(neighbours=16, building=60, searching=100),
    "ivf-flat": IVFFlat(lists=16, probes=8),
    "ivf-pq": IVFPQ(lists=16, probes=16, codes=4, refine=32),
    "ivf-pq, 4 bits": IVFPQ(lists=16, probes=16, codes=4, bits=4, refine=32),
}


def unit(rows: int, seed: int = 0) -> np.ndarray:
    rows_ND = np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def make(kind: str = "hnsw", rows: int = 1500) -> FaissIndex:
    rows = 39 * 256 if kind.startswith("ivf-pq") else rows
    ids: list[ItemId] = [row if row % 2 else f"item {row}" for row in range(rows)]
    return FaissIndex.build(ids, unit(rows), tower="tower-a", engine=ENGINES[kind])


class Notes:
    """Keeps what the user would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, *_: object) -> Any:
        return progress._Default().task("", None, "")

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaissIndex, Path]:
    folder = tmp_path_factory.mktemp("saved") / "index"
    index = make()
    index.save(folder)
    return index, folder


@pytest.fixture
def copy(saved: tuple[FaissIndex, Path], tmp_path: Path) -> Path:
    """A published index to damage."""
    return Path(shutil.copytree(saved[1], tmp_path / "index"))


def same_answers(one: FaissIndex, other: FaissIndex, k: int = 20) -> None:
    queries_QD = unit(30, seed=1)
    scores_QK, ids = one.search(queries_QD, k)
    again_QK, again = other.search(queries_QD, k)
    assert again == ids
    np.testing.assert_allclose(again_QK, scores_QK, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_what_was_saved_comes_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmstart.retrieval.index.folder.SHARD_ROWS", 400)
    index = make(kind)
    index.save(tmp_path / "index")
    seen = Notes()
    with progress.use(seen):
        again = FaissIndex.load(tmp_path / "index", tower="tower-a", threads=2)
    assert seen.lines == []
    same_answers(index, again)
    assert again.ids == index.ids
    assert again.engine == index.engine
    assert (again.tower, again.dimension, again.threads) == ("tower-a", D, 2)
    manifest = verify_manifest(tmp_path / "index")
    assert again.name == index.name == f"index@{manifest['checksum'][:12]}"
    assert manifest["tower"] == "tower-a"
    assert manifest["count"] == len(index)
    assert len(list((tmp_path / "index").glob("vectors-*.npy"))) == -(-len(index) // 400)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


def test_changes_are_saved(tmp_path: Path) -> None:
    index = make()
    index.delete(["item 0", 1])
    index.update([3, "item 4"], unit(2, seed=5))
    index.add(["new", 10**12], unit(2, seed=6))
    assert index.name == "unsaved"
    index.save(tmp_path / "index")
    again = FaissIndex.load(tmp_path / "index")
    same_answers(index, again)
    assert set(again.ids) == set(index.ids)
    assert "item 0" not in again
    np.testing.assert_allclose(again.vectors([3, "new"]), index.vectors([3, "new"]))
    again.delete(["new"])
    again.save(tmp_path / "later")
    assert "new" not in FaissIndex.load(tmp_path / "later")


def test_an_empty_index_is_saved(tmp_path: Path) -> None:
    index = FaissIndex.build([], np.empty((0, D)), tower="t", engine="flat")
    index.save(tmp_path / "index")
    again = FaissIndex.load(tmp_path / "index")
    assert len(again) == 0
    assert again.search(unit(1), 3)[1] == [[]]


def test_all_deleted_is_saved(tmp_path: Path) -> None:
    index = FaissIndex.build(["a", "b"], unit(2), tower="t", engine="flat")
    index.delete(["a", "b"])
    index.save(tmp_path / "index")
    assert FaissIndex.load(tmp_path / "index").ids == ()


def test_another_tower_is_refused_naming_both(copy: Path) -> None:
    with pytest.raises(RunError, match=r"item tower tower-a, the model has item tower tower-b"):
        FaissIndex.load(copy, tower="tower-b")


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    index = make("flat", rows=50)
    with pytest.raises(RunError, match="exists already"):
        index.save(copy)
    assert (copy / "manifest.json").read_bytes() == before
    mapped = FaissIndex.load(copy)
    index.save(copy, replace=True)
    assert len(FaissIndex.load(copy)) == 50
    assert len(mapped.search(unit(1), 700)[1][0]) == 700  # what was loaded is still there


@pytest.mark.parametrize(
    "name",
    ["vectors-00000.npy", "ids-00000.json", "index.json", "golden_queries.npy", "golden.json"],
)
def test_a_damaged_file_of_the_truth_is_named(copy: Path, name: str) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(RunError, match=name):
        FaissIndex.load(copy)
    (copy / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        FaissIndex.load(copy)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "engine")


def _flip(folder: Path) -> None:
    raw = bytearray((folder / "engine" / "engine.faiss").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "engine" / "engine.faiss").write_bytes(raw)


def _republish(folder: Path, index: Any, **facts: object) -> None:
    """Another engine with a manifest that is in order."""
    truth = read_json(folder / "manifest.json")["checksum"]
    if isinstance(index, bytes):
        (folder / "engine" / "engine.faiss").write_bytes(index)
    else:
        faiss.write_index(index, str(folder / "engine" / "engine.faiss"))
    (folder / "engine" / "manifest.json").unlink()
    write_manifest(folder / "engine", **{"kind": "item-engine", "truth": truth, **facts})


def _foreign(folder: Path) -> None:
    engine = faiss.read_index(str(folder / "engine" / "engine.faiss"))
    _republish(folder, engine, truth="of another index")


def _garbage(folder: Path) -> None:
    _republish(folder, b"no engine at all" * 10)


def _another_type(folder: Path) -> None:
    flat = faiss.IndexFlatIP(D)
    flat.add(unit(1500))
    _republish(folder, flat)


def _another_metric(folder: Path) -> None:
    graph = faiss.IndexHNSWFlat(D, 16)
    graph.add(unit(1500))
    _republish(folder, graph)


def _other_vectors(folder: Path) -> None:
    """Of the right type and shape; only the golden queries can tell."""
    _republish(folder, ENGINES["hnsw"].build(Vectors((unit(1500, seed=9),), D), 0))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_remove, "built again from the vectors"),
        (_flip, "damaged"),
        (_foreign, "belongs to other vectors"),
        (_garbage, "cannot be read by FAISS"),
        (_another_type, "not the engine that index.json describes"),
        (_another_metric, "not the engine that index.json describes"),
        (_other_vectors, "finds 0"),
    ],
)
def test_an_unusable_engine_is_built_again(
    saved: tuple[FaissIndex, Path], copy: Path, harm: Any, words: str
) -> None:
    harm(copy)
    seen = Notes()
    with progress.use(seen):
        again = FaissIndex.load(copy, tower="tower-a")
    assert words in " ".join(seen.lines)
    same_answers(saved[0], again)
    quiet = Notes()
    with progress.use(quiet):
        FaissIndex.load(copy)
    assert quiet.lines == []  # it was kept


def test_ids_of_other_rows_are_noticed(copy: Path) -> None:
    """Ids in another order under a manifest that is in order: the golden queries tell."""
    ids = read_json(copy / "ids-00000.json")
    (copy / "ids-00000.json").write_text(json.dumps(ids[1:] + ids[:1]))
    _sign_again(copy)
    with pytest.raises(RunError, match="golden queries"):
        FaissIndex.load(copy)


def test_vectors_of_another_index_are_noticed(copy: Path) -> None:
    np.save(copy / "vectors-00000.npy", unit(1500, seed=8))
    _sign_again(copy)
    with pytest.raises(RunError, match="golden queries"):
        FaissIndex.load(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "euclidean"}, "metric"),
        ({"dimension": 8}, r"is \(1500, 16\)"),
        ({"count": 3}, "3 live items"),
        ({"engine": "magic"}, 'no engine "magic"'),
        ({"settings": {"searching": -1}}, "searching"),
        ({"shards": [10, 1490]}, "index.json says"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_facts_that_do_not_fit(copy: Path, change: dict[str, object], words: str) -> None:
    facts = read_json(copy / "index.json")
    (copy / "index.json").write_text(json.dumps({**facts, **change}))
    _sign_again(copy)
    with pytest.raises(RunError, match=words):
        FaissIndex.load(copy)


def test_ids_that_come_twice_are_noticed(copy: Path) -> None:
    ids = read_json(copy / "ids-00000.json")
    (copy / "ids-00000.json").write_text(json.dumps([*ids[:-1], ids[0]]))
    _sign_again(copy)
    with pytest.raises(RunError, match="an id comes twice"):
        FaissIndex.load(copy)


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    write_manifest(tmp_path, kind="run")
    with pytest.raises(RunError, match="no item index"):
        FaissIndex.load(tmp_path)


def test_nothing_is_published_when_what_was_written_answers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    right = np.save
    monkeypatch.setattr(np, "save", lambda path, array: right(path, array[::-1]))
    with pytest.raises(RunError, match="golden queries"):
        index.save(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    assert index.name == "unsaved"


def test_what_was_measured_stays_with_the_index(tmp_path: Path) -> None:
    index = FaissIndex.build(range(300), unit(300), tower="t", target=Target(p99_ms=500))
    assert index.choice is not None
    assert index.choice["engine"] == "flat"
    index.save(tmp_path / "index")
    assert FaissIndex.load(tmp_path / "index").choice == index.choice


def _sign_again(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    shutil.rmtree(folder / "engine")
    (folder / "manifest.json").unlink()
    kept = {key: manifest[key] for key in ("kind", "metric", "tower", "dimension", "count")}
    write_manifest(folder, **kept)
