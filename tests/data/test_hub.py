"""Hugging Face objects, saved folders and hub ids."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from PIL import Image

from warmstart.core.errors import DataError, UsageError
from warmstart.data import read

from .helpers import notes


def reviews(n: int, word: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"text": [f"{word} {i}" for i in range(n)], "feeling": [i % 2 for i in range(n)]},
        features=datasets.Features(
            {
                "text": datasets.Value("string"),
                "feeling": datasets.ClassLabel(names=["sad", "glad"]),
            }
        ),
    )


def test_class_label_is_the_label_and_names_the_classes() -> None:
    data = read(reviews(6, "a"))
    assert data.label_names == ("sad", "glad")  # the feature's order, not the alphabet's
    assert data.labels_N.tolist() == [0, 1, 0, 1, 0, 1]


def test_dict_gives_the_parts() -> None:
    parts = datasets.DatasetDict(
        train=reviews(8, "a"), test=reviews(4, "b"), unsupervised=reviews(2, "c")
    )
    with notes() as lines:
        data = read(parts)
    assert data.parts == ["train"] * 8 + ["test"] * 4
    assert lines == ["dataset: parts left out: unsupervised."]


def test_unknown_label_is_an_error_with_its_row() -> None:
    rows = datasets.Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [0, 1, -1]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])}
        ),
    )
    with pytest.raises(DataError, match=r"row 3: the label .* is empty"):
        read(rows)
    assert len(read(rows, skip_bad=True)) == 2


def test_images_in_memory() -> None:
    pictures = [Image.new("RGB", (5, 4), (i, 0, 0)) for i in range(4)]
    rows = datasets.Dataset.from_dict(
        {"img": pictures, "label": ["a", "b", "a", "b"]},
        features=datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")}),
    )
    data = read(rows)
    assert data.modality == "image"
    assert data.inputs([3])[0].getpixel((0, 0)) == (3, 0, 0)
    assert data.select([1, 2]).inputs()[1].size == (5, 4)


def test_saved_folder(tmp_path: Path) -> None:
    datasets.DatasetDict(train=reviews(8, "a"), test=reviews(4, "b")).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d").parts == ["train"] * 8 + ["test"] * 4
    reviews(8, "a").save_to_disk(tmp_path / "e")
    assert len(read(tmp_path / "e")) == 8


def test_hub_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"'owner/none' is no file.*cannot be loaded: Name or serv"):
        read("owner/none")


def test_hub_id_with_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def load(name: str, configuration: str | None) -> datasets.Dataset:
        asked.append((name, configuration))
        return reviews(6, "a")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("owner/name:en").source == "owner/name:en"
    assert asked == [("owner/name", "en")]


def test_other_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="got list"):
        read(["a"])
