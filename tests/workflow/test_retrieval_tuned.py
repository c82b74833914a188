"""Texts that were tuned, pictures and attributes: from a comparison to new items and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmstart.backbones import backbone
from warmstart.core import RunError, UsageError
from warmstart.data import from_inputs
from warmstart.retrieval import TwoTowerModel
from warmstart.workflow import RetrievalRun, build_run_index, compare, refresh, run_service

ITEMS, USERS = 12, 40
TRACK = (
    "both-towers:width=16:layers=1:heads=1:history=6:epochs=2:rate=0.02:dropout=0:draws=8:"
    "text_epochs=2:text_groups=1:text_rate=0.01:tower_rate=0.01:encode=6:encode_chunk=4:"
    "shares=in-batch=0.5,hard=0.5:use_ids=false:keep=last"
)


def picture(path: Path, red: int) -> None:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[..., 0] = red
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users of two teams walk round a ring of items with titles and pictures."""
    root = tmp_path_factory.mktemp("ring")
    generator = np.random.default_rng(0)
    events = []
    for user in range(USERS):
        place = int(generator.integers(ITEMS))
        for step in range(8):
            events.append((1_000_000_000 + 100 * step + user, user, place))
            place = (place + (1 if user % 2 else 5)) % ITEMS
    rows = [f"u{user},i{place},{moment}" for moment, user, place in sorted(events)]
    (root / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    items = ["item_id,title,tags,image"]
    for item in range(ITEMS):
        picture(root / f"{item}.png", 20 * item)
        name = ("plum", "truck", "rain")[item % 3]
        items.append(f"i{item},the {name} is {'old' if item % 2 else 'new'},t{item % 2},{item}.png")
    (root / "items.csv").write_text("\n".join(items) + "\n")
    users = [f"u{user},{'red' if user % 2 else 'blue'},{20 + user}.5" for user in range(USERS)]
    (root / "users.csv").write_text("\n".join(["user_id,team,age", *users]) + "\n")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> RetrievalRun:
    found = compare(
        folder, strategies=[TRACK, "popularity"], backbone=tiny_clip, metric="HR@5",
        budget="none", device="cpu", out=tmp_path_factory.mktemp("runs") / "ring",
    )  # fmt: skip
    assert isinstance(found, RetrievalRun)
    return found


def test_the_run_tells_its_stages(run: RetrievalRun) -> None:
    arm = run.results["arms"][0]
    assert arm["status"] == "done", arm["reason"]
    assert arm["settings"]["text_stops"] is None
    stages = [note for note in arm["notes"] if note.startswith("Stage ")]
    assert "what is above the text encoder" in stages[0]
    assert "(block.1)" in stages[1]
    assert len(arm["history"][0]) == 4
    assert run.results["image_backbone"]["name"] == run.results["backbone"]["name"]
    towers = run.towers
    assert towers.text_weights is not None
    assert (towers.text > 0, towers.image > 0) == (True, True)
    assert towers.profiles is not None
    assert [column.name for column in towers.profiles.columns] == ["team", "age"]


def test_new_items_come_by_text_and_picture(
    run: RetrievalRun, folder: Path, tmp_path: Path, tiny_clip: Path, tiny_text: Path
) -> None:
    """An item like a known one, under another name, gets that one's vector."""
    build_run_index(run, device="cpu")
    picture(tmp_path / "same.png", 60)
    picture(tmp_path / "other.png", 250)
    new = tmp_path / "new.csv"
    new.write_text(
        "item_id,title,tags,image\ntwin,the plum is old,t1,same.png\n"
        "half,the plum is old,t1,other.png\nbare,the plum is old,t1,\n"
    )
    with pytest.raises(RunError, match="Name it with --backbone"):
        refresh(run, new, backbone=tiny_text, device="cpu")
    grown = refresh(run, new, device="cpu")
    service = run_service(run, grown.folder)
    known, twin, half, bare = service.index.vectors(["i3", "twin", "half", "bare"])
    np.testing.assert_allclose(twin, known, atol=1e-4)
    assert np.abs(half - known).max() > 1e-3
    assert np.abs(bare - known).max() > 1e-3
    towers, clip = run.towers, backbone(tiny_clip)
    texts = [str(text) for text in run.items["text"]]
    read = from_inputs([str(folder / f"{item}.png") for item in range(ITEMS)], "image")
    image_IG = clip.features(read).vectors_ND
    again = towers.encode_items(towers.encode_texts(clip, texts), image_IG)
    np.testing.assert_allclose(again, towers.item_vectors(), atol=1e-4)


def test_attributes_are_asked_or_missing(run: RetrievalRun) -> None:
    opened = TwoTowerModel.load(run.folder / "model")
    assert opened.profiles == run.towers.profiles

    def scores(**asked: object) -> list[float]:
        return [one.score for one in run.recommend(history=["i1"], k=5, **asked)]

    nobody = scores()
    assert nobody == scores(attributes={})
    assert scores(attributes={"team": "red"}) != scores(attributes={"team": "blue"}) != nobody
    own = [one.score for one in run.recommend(user="u3", k=3)]
    told = [
        one.score
        for one in run.recommend(
            history=run.history("u3"), k=3, attributes={"team": "red", "age": 23.5}
        )
    ]
    assert told == pytest.approx(own, abs=1e-5)
    with pytest.raises(UsageError, match="no attribute 'height'"):
        scores(attributes={"height": 2})
