"""The head of a checkpoint, read again: what it says of rows, and where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import backbone
from warmstart.core import NotApplicable
from warmstart.data import Dataset, read


@pytest.fixture
def photos(pictures: Path) -> Dataset:
    return read(pictures)


@pytest.fixture
def texts(topics: Callable[..., Any], tmp_path: Path) -> Dataset:
    path = tmp_path / "texts.csv"
    rows = [f"{text},{label}" for text, label in zip(*topics(40), strict=True)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return read(path)


@pytest.fixture
def resnet_with_head(tiny_resnet: Path, tmp_path: Path) -> Path:
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path / "resnet-with-head"
    names = {0: "cat", 1: "dog", 2: "fox", 3: "owl"}
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=names,
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ResNetForImageClassification(config).eval().save_pretrained(folder)
    shutil.copy(tiny_resnet / "preprocessor_config.json", folder)
    return folder


@pytest.mark.parametrize("from_vectors", [False, True])
def test_images(resnet_with_head: Path, photos: Dataset, from_vectors: bool) -> None:
    """Against a loop of one row at a time; with and without the features that are there."""
    from transformers import ResNetForImageClassification

    found = backbone(resnet_with_head, modality="image")
    head = found.source_classifier()
    assert head.names == ("cat", "dog", "fox", "owl")
    vectors = found.features(photos).vectors_ND if from_vectors else None
    runs: list[int] = []
    head.network.register_forward_pre_hook(lambda *_: runs.append(1))
    proba = head.proba(photos, vectors)
    assert len(runs) == (1 if from_vectors else 2)  # four rows tried, or batches of 32 and 8
    network = ResNetForImageClassification.from_pretrained(resnet_with_head).eval()
    encoder = found.load()
    for row in range(0, len(photos), 7):
        with torch.inference_mode():
            logits = network(**encoder.preprocess(photos.inputs([row]))).logits
        expected = logits.double().softmax(dim=1).numpy()[0]
        assert proba[row] == pytest.approx(expected, abs=1e-5)


def test_texts(tiny_nli: Path, texts: Dataset) -> None:
    """The head stands on the pooler, so vectors of another pooling do not stand in for it."""
    from transformers import BertForSequenceClassification

    found = backbone(tiny_nli, modality="text")
    head = found.source_classifier()
    proba = head.proba(texts, found.features(texts).vectors_ND)
    assert proba.sum(axis=1) == pytest.approx(np.ones(len(texts)))
    assert np.array_equal(proba, head.proba(texts))
    network = BertForSequenceClassification.from_pretrained(tiny_nli).eval()
    encoder = found.load()
    for row in range(0, len(texts), 9):
        with torch.inference_mode():
            logits = network(**encoder.preprocess(texts.inputs([row]))).logits
        assert proba[row] == pytest.approx(logits.double().softmax(dim=1).numpy()[0], abs=1e-5)


def test_vectors_of_its_own_pooling_stand_in_for_the_network(
    tiny_nli: Path, texts: Dataset
) -> None:
    found = backbone(tiny_nli, modality="text")
    head = found.source_classifier()
    runs: list[int] = []
    head.network.register_forward_pre_hook(lambda *_: runs.append(1))
    by_head = head.proba(texts, found.features(texts, pooling="model").vectors_ND)
    assert len(runs) == 1
    assert by_head == pytest.approx(head.proba(texts), abs=1e-5)


def test_where_there_are_no_source_classes(
    tiny_text: Path, tiny_clip: Path, resnet_with_head: Path, tmp_path: Path
) -> None:
    def refused(folder: Path, modality: Any, words: str) -> None:
        with pytest.raises(NotApplicable, match=words):
            backbone(folder, modality=modality).source_classifier()

    refused(tiny_text, "text", r"its checkpoint \(BertModel\) has no classification head")
    refused(tiny_clip, "image", "an image-text model has no fixed source classes")
    several = tmp_path / "several"
    shutil.copytree(resnet_with_head, several)
    facts = json.loads((several / "config.json").read_text())
    facts["problem_type"] = "multi_label_classification"
    (several / "config.json").write_text(json.dumps(facts))
    refused(several, "image", "does not choose one of several classes")


def test_a_head_without_weights_is_none(tiny_resnet: Path, tmp_path: Path) -> None:
    """A configuration may promise a head whose weights are not there; they would be random."""
    folder = tmp_path / "promised"
    shutil.copytree(tiny_resnet, folder)
    facts = json.loads((folder / "config.json").read_text())
    facts["architectures"] = ["ResNetForImageClassification"]
    (folder / "config.json").write_text(json.dumps(facts))
    before = torch.random.get_rng_state()
    with pytest.raises(NotApplicable, match=r"lacks weights of the classification head \(classif"):
        backbone(folder, modality="image").source_classifier()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_network_of_ones_own_names_no_classes() -> None:
    own = backbone(
        module=torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)),
        processor=lambda items: {"input": torch.zeros(len(items), 3)},
        groups={"first": ["0"], "second": ["1"]},
        modality="text",
    )
    with pytest.raises(NotApplicable, match="network of one's own names no source classes"):
        own.source_classifier()
