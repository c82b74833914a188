"""Both towers: the text encoder learns group by group, from a prefix that is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, Encoder, backbone, embed_inputs
from warmstart.core import NotApplicable, Run, UsageError
from warmstart.data import from_inputs
from warmstart.retrieval import BothTowers, ItemTexts, TwoTowerModel
from warmstart.training import Checkpoints

from .towerkit import SMALL, ToyEvents, chains, halves, next_item_task

WORDS = ["apple", "pear", "plum", "grape", "melon", "cherry", "car", "truck", "train", "tram"]
ITEMS = 30


def texts(folder: Path, cache: Any = None) -> ItemTexts:
    made = [f"the {WORDS[i % 10]} is {'old' if i % 3 else 'very new'}" for i in range(ITEMS)]
    made[4] = ""
    return ItemTexts(backbone(folder, modality="text", cache=cache), made)


def vectors(given: ItemTexts) -> np.ndarray:
    found = np.zeros((ITEMS, 24), dtype=np.float32)
    chosen = [given.texts[code] for code in given.told]
    found[given.told] = given.backbone.features(from_inputs(chosen, "text")).vectors_ND
    return found


def fit(folder: Path, data: ToyEvents, given: ItemTexts | None, **changes: Any) -> TwoTowerModel:
    named = {
        key: changes.pop(key)
        for key in ("validation", "image_IE", "checkpoints", "deadline", "max_steps")
        if key in changes
    }
    limits = {key: named.pop(key) for key in ("deadline", "max_steps") if key in named}
    values = {**SMALL, "epochs": 2, "text_epochs": 1, "encode": 12, "encode_chunk": 5, "draws": 16,
              "text_rate": 1e-2, "shares": "in-batch=0.5,hard=0.5", **changes}  # fmt: skip
    settings = BothTowers.parse(values, "both-towers")
    text_IE = None if given is None else vectors(given)
    run = Run(folder, device="cpu", **limits)
    return settings.fit(data, run, text_IE=text_IE, texts=given, **named)


def without_dropout(given: Backbone, device: Any) -> Encoder:
    """The encoder, whose draws would differ with the pieces that texts come in."""
    encoder = given.load(device=device)
    for module in encoder.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


def test_stages_tune_the_encoder_from_its_end(tmp_path: Path, tiny_text: Path) -> None:
    given = texts(tiny_text)
    trained = fit(tmp_path / "run", chains(n_items=ITEMS), given, keep="last")
    stages = trained.facts["stages"]
    assert [stage["learns"] for stage in stages] == [[], ["block.1"], ["block.0", "block.1"]]
    assert [stage["epochs"] for stage in stages] == [2, 1, 1]
    assert [one["epoch"] for one in trained.facts["history"]["epochs"]] == [1, 2, 3, 4]
    assert trained.text_weights is not None
    plain = given.backbone.load(device="cpu").module.state_dict()
    names = set(trained.text_weights)
    assert names == {key for key in plain if ".layer." in key or key.startswith("layer.")}
    moved = {key for key, value in trained.text_weights.items() if not plain[key].equal(value)}
    assert {key for key in names if key.endswith("query.weight")} <= moved


def test_new_items_are_read_by_the_tuned_encoder(tmp_path: Path, tiny_text: Path) -> None:
    """What was trained on is what an item of the same text gets later, also from disk."""
    given = texts(tiny_text)
    trained = fit(tmp_path / "run", chains(n_items=ITEMS), given, keep="last", use_ids=False)
    trained.save(tmp_path / "model")
    again = TwoTowerModel.load(tmp_path / "model")
    assert again.fingerprint == trained.fingerprint
    found = again.encode_items(again.encode_texts(given.backbone, list(given.texts)))
    np.testing.assert_allclose(found, trained.item_vectors(), atol=1e-5)
    untouched = again.encode_items(vectors(given))
    told = np.array(given.told)
    assert np.abs(untouched - found)[told].max() > 1e-3
    np.testing.assert_allclose(untouched[4], found[4], atol=1e-6)  # it has no text
    pretrained = TwoTowerModel.load(tmp_path / "model")
    object.__setattr__(pretrained, "text_weights", None)
    assert pretrained.fingerprint != trained.fingerprint
    np.testing.assert_allclose(
        pretrained.encode_texts(given.backbone, list(given.texts)), vectors(given), atol=1e-6
    )


def test_a_fit_that_stops_goes_on_as_if_it_had_not(tmp_path: Path, tiny_text: Path) -> None:
    given, data = texts(tiny_text), chains(n_items=ITEMS)
    past, future = halves(data)
    task = next_item_task(past, future)
    settings = {"validation": task, "metric": "HR@10", "epochs": 1, "text_epochs": 2,
                "text_patience": None}  # fmt: skip
    whole = fit(tmp_path / "a", past, given, **settings)
    steps = whole.facts["stages"][1]["steps"]
    assert steps == 2 * whole.facts["stages"][0]["steps"]
    part = fit(
        tmp_path / "b", past, given, **settings, max_steps=steps - 1,
        checkpoints=Checkpoints(every_steps=1),
    )  # fmt: skip
    assert part.facts["history"]["stopped"] == "max_steps"
    assert len(part.facts["stages"]) == 2, "it was cut in the second of three stages"
    resumed = fit(tmp_path / "b", past, given, **settings, checkpoints=Checkpoints(every_steps=2))
    assert resumed.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(resumed.item_vectors(), whole.item_vectors())
    assert [s["best_epoch"] for s in resumed.facts["stages"]] == [
        s["best_epoch"] for s in whole.facts["stages"]
    ]


def test_replayed_and_whole_passes_take_the_same_steps(
    tmp_path: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces or at once, from kept rows or from tokens: the same loss and the same weights."""
    monkeypatch.setattr("warmstart.retrieval.item_texts.load_text_encoder", without_dropout)
    given, data = texts(tiny_text), chains(n_items=ITEMS)
    first = fit(tmp_path / "a", data, given, keep="last", dropout=0.0, id_dropout=0.0)
    once = fit(tmp_path / "b", data, given, keep="last", dropout=0.0, id_dropout=0.0,
               encode_chunk=None)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmstart.retrieval.item_texts.TextTower._record", lambda self: None)
        plain = fit(tmp_path / "c", data, given, keep="last", dropout=0.0, id_dropout=0.0)
    losses = [
        [record["train_loss"] for record in one.facts["history"]["epochs"]]
        for one in (first, once, plain)
    ]
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for one in (once, plain):
        np.testing.assert_allclose(one.item_vectors(), first.item_vectors(), atol=1e-4)


def test_a_stage_that_improves_nothing_changes_nothing(tmp_path: Path, tiny_text: Path) -> None:
    given = texts(tiny_text)
    past, future = halves(chains(n_items=ITEMS))
    trained = fit(
        tmp_path / "run", past, given, validation=next_item_task(past, future), metric="MRR",
        text_rate=1e-12, tower_rate=1e-12, text_epochs=3,
    )  # fmt: skip
    stages = trained.facts["stages"]
    assert [stage["best_epoch"] for stage in stages[1:]] == [0, 0]
    assert [stage["epochs"] for stage in stages[1:]] == [1, 1], "it stops after one in vain"
    assert trained.text_weights is None
    settings = BothTowers.parse({**SMALL, "epochs": 2}, "both-towers")
    from warmstart.training import History

    again = settings.refit(History.parse(trained.facts["history"], "history"), stages)
    assert (again.stop_after, again.text_stops, again.keep) == (
        stages[0]["best_epoch"],
        (0, 0),
        "last",
    )
    left_out = fit(tmp_path / "again", past, given, keep="last", text_stops=(0, 1))
    assert [stage["epochs"] for stage in left_out.facts["stages"]] == [2, 0, 1]


def test_images_stand_beside_tuned_texts(tmp_path: Path, tiny_clip: Path) -> None:
    """CLIP for both: its text tower is tuned, its image vectors are concatenated."""
    from PIL import Image

    clip = backbone(tiny_clip)
    generator = np.random.default_rng(0)
    pictures = [
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        for _ in range(ITEMS)
    ]
    image_IE = clip.features(from_inputs(pictures, "image")).vectors_ND
    made = [f"photo of a {WORDS[i % 10]}" for i in range(ITEMS)]
    text_IE = clip.features(from_inputs(made, "text")).vectors_ND
    settings = BothTowers.parse(
        {**SMALL, "epochs": 1, "text_epochs": 1, "text_groups": 1, "draws": 16, "encode": 8,
         "text_rate": 1e-2}, "both-towers",
    )  # fmt: skip
    trained = settings.fit(
        chains(n_items=ITEMS), Run(tmp_path / "run", device="cpu"), text_IE=text_IE,
        image_IE=image_IE, texts=ItemTexts(clip, made),
    )  # fmt: skip
    assert (trained.text, trained.image) == (text_IE.shape[1], image_IE.shape[1])
    trained.save(tmp_path / "model")
    again = TwoTowerModel.load(tmp_path / "model")
    new = again.encode_items(again.encode_texts(clip, ["photo of a red car"]), image_IE[:1])
    other = again.encode_items(again.encode_texts(clip, ["photo of a red car"]), image_IE[1:2])
    assert np.abs(new - other).max() > 1e-3
    if again.text_weights is not None:
        assert all("text" in key for key in again.text_weights)


def test_what_cannot_work_is_said(tmp_path: Path, tiny_text: Path) -> None:
    data = chains(n_items=ITEMS)
    with pytest.raises(NotApplicable, match="needs texts of the items"):
        fit(tmp_path, data, None)
    short = ItemTexts(texts(tiny_text).backbone, ["a plum"])
    settings = BothTowers.parse({**SMALL}, "both-towers")
    with pytest.raises(UsageError, match="one for each of the 30 items, got 1"):
        settings.fit(data, Run(tmp_path), text_IE=vectors(texts(tiny_text)), texts=short)
    with pytest.raises(UsageError, match="text_groups must be 1 to 3"):
        fit(tmp_path, data, texts(tiny_text), text_groups=4)
    for values, message in (
        ({"use_text": False}, "use_text must be true"),
        ({"average": 0.9}, "average must be 0"),
        ({"text_stops": (1,)}, "text_stops must have text_groups"),
    ):
        with pytest.raises(UsageError, match=message):
            BothTowers.parse(values, "both-towers")


def test_the_table_is_what_the_encoder_gives(tiny_text: Path) -> None:
    from warmstart.retrieval.item_texts import TextTower

    given = texts(tiny_text)
    table = torch.zeros(ITEMS, 26)
    table[:, 24:] = 7.0
    tower = TextTower(given, table)
    tower.learn(["block.1"])
    with torch.no_grad():
        for _, value in tower.encoder.groups.parameters("block.1"):
            value.add_(0.05)
    tower.refresh("now")
    wanted = embed_inputs(tower.encoder, [given.texts[code] for code in given.told])
    np.testing.assert_allclose(table[given.told, :24].numpy(), wanted, atol=1e-5)
    assert bool((table[:, 24:] == 7.0).all())
    assert not bool(table[4, :24].any())
    table[:, :24] = 0.0
    tower.refresh("now")
    assert not bool(table[:, :24].any()), "made at this mark already"
    tower.finish()
    np.testing.assert_allclose(table[given.told, :24].numpy(), wanted, atol=1e-6)
