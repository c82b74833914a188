"""Rows to batches, the classification step, its evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Run, Streams, UsageError
from warmstart.data import parse_augmentation, read
from warmstart.training import (
    Batch,
    Classifier,
    ExampleRows,
    RowLoader,
    balanced_weights,
    classification_loaders,
    classification_step,
    default_workers,
    evaluation,
    fit_loop,
)
from warmstart.training.supervised import macro_f1


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 4)

    def forward(
        self, batch: dict[str, Tensor], *, depth: int | None = None, pooling: str | None = None
    ) -> Tensor:
        mask = batch["attention_mask"][:, :, None]
        return (self.table(batch["input_ids"]) * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("cache", [0, 200, 10**6])
def test_cached_tokens_are_what_the_tokenizer_gives(
    kit: SimpleNamespace, left: bool, cache: int
) -> None:
    data = kit.ToyText()

    def preprocess(texts: Any) -> dict[str, Tensor]:
        return kit.preprocess_words(texts, left=left)

    source = ExampleRows(data, preprocess, streams=Streams(0), cache_bytes=cache)
    for rows in ([0, 5, 3], [7], [3, 0, 11, 30]):
        batch = source.batch(rows, 0)
        direct = preprocess(data.inputs(rows))
        assert batch.inputs.keys() == direct.keys()
        for key in direct:
            assert batch.inputs[key].dtype == direct[key].dtype
            assert torch.equal(batch.inputs[key], direct[key]), key
        assert batch.labels_B.tolist() == data.labels_N[rows].tolist()
        assert batch.rows_B.tolist() == rows
    assert list(source.lengths() or []) == [1 + len(text.split()) for text in data.texts]


def test_text_is_tokenised_once(kit: SimpleNamespace) -> None:
    data, counted = kit.ToyText(), []

    def preprocess(texts: Any) -> dict[str, Tensor]:
        counted.append(len(texts))
        return kit.preprocess_words(texts)

    source = ExampleRows(data, preprocess, streams=Streams(0))
    loader = RowLoader(source, 8, streams=Streams(0))
    for epoch in range(3):
        assert sum(len(batch) for batch in loader.batches(epoch)) == 40
    assert sum(counted) == 40 + 2  # two more to learn how padding looks


def test_text_without_a_mask_is_preprocessed_each_time(kit: SimpleNamespace) -> None:
    def preprocess(texts: Any) -> dict[str, Tensor]:
        return {"x": torch.tensor([[float(len(text))] for text in texts])}

    source = ExampleRows(kit.ToyText(), preprocess, streams=Streams(0))
    assert source.lengths() is None
    assert source.batch([1, 2], 0).inputs["x"].shape == (2, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_a_function_of_seed_epoch_and_id(
    kit: SimpleNamespace, workers: int
) -> None:
    def loader(seed: int, size: int) -> RowLoader:
        source = ExampleRows(
            kit.ToyRows(), kit.preprocess_vectors, streams=Streams(seed), augment=kit.noisy
        )
        return RowLoader(source, size, streams=Streams(seed), num_workers=workers)

    def by_row(found: Any) -> dict[int, list[float]]:
        return {
            int(row): values.tolist()
            for batch in found
            for row, values in zip(batch.rows_B, batch.inputs["x"], strict=True)
        }

    first = by_row(loader(0, 4).batches(0))
    assert first == by_row(loader(0, 7).batches(0))  # whatever batch a row is in
    assert first != by_row(loader(0, 4).batches(1))
    assert first != by_row(loader(1, 4).batches(0))


def test_shards_cover_the_epoch(kit: SimpleNamespace) -> None:
    source = ExampleRows(kit.ToyRows(), kit.preprocess_vectors, streams=Streams(0))
    loader = RowLoader(source, 4, streams=Streams(0))
    whole = [batch.rows_B.tolist() for batch in loader.batches(0, 4)]
    parts = [[b.rows_B.tolist() for b in loader.batches(0, 4, rank, 2)] for rank in range(2)]
    assert [parts[place % 2][place // 2] for place in range(6)] == whole


def test_the_loss_is_torchs(kit: SimpleNamespace) -> None:
    model = kit.ToyNet().eval()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    batch = Batch({"x": x}, labels, torch.arange(9))
    state: Any = SimpleNamespace(modules={"model": model})
    logits = model({"x": x})
    plain = classification_step()(batch, state)
    torch.testing.assert_close(plain.loss, functional.cross_entropy(logits, labels))
    smooth = classification_step(label_smoothing=0.1)(batch, state)
    torch.testing.assert_close(
        smooth.loss,
        functional.cross_entropy(logits, labels, label_smoothing=0.1),
    )
    weights = balanced_weights(labels.numpy(), 2)
    assert weights.tolist() == pytest.approx([0.75, 1.5])
    assert weights[labels.numpy()].mean() == pytest.approx(1.0)
    weighted = classification_step(class_weights=weights)(batch, state)
    torch.testing.assert_close(  # equal to torch's where the batch has the classes in proportion
        weighted.loss,
        functional.cross_entropy(logits, labels, weight=torch.tensor(weights).float()),
    )
    with pytest.raises(UsageError, match="label_smoothing"):
        classification_step(label_smoothing=1.0)


def test_absent_classes_weigh_nothing() -> None:
    assert balanced_weights(np.array([0, 0, 2, 2]), 3).tolist() == [1.0, 0.0, 1.0]


def test_macro_f1_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        truth, guess = generator.integers(0, 4, 30), generator.integers(0, 5, 30)
        confusion = np.zeros((6, 6), dtype=np.int64)
        np.add.at(confusion, (truth, guess), 1)
        assert macro_f1(confusion) == pytest.approx(f1_score(truth, guess, average="macro"))
    assert macro_f1(np.zeros((2, 2), dtype=np.int64)) == 0.0


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_whole_fit(kit: SimpleNamespace, tmp_path: Path, modality: str) -> None:
    streams = Streams(0)
    if modality == "text":
        data, preprocess, encoder = kit.ToyText(), kit.preprocess_words, BagOfWords()
        data.texts = [["aa", "bbb", "cccc"][label] for label in data.labels_N]
        nn.init.normal_(encoder.table.weight, generator=torch.Generator().manual_seed(0))
    else:
        data, preprocess = kit.ToyRows(), kit.preprocess_vectors

        class First(nn.Module):
            def forward(self, batch: dict[str, Tensor]) -> Tensor:
                return batch["x"]

        encoder = First()
    width, classes = (4, 3) if modality == "text" else (6, 2)
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    model = Classifier(
        encoder, head,
        pooling="mean" if modality == "text" else None,
    )  # fmt: skip
    train, held = classification_loaders(data, data, preprocess, batch_size=8, streams=streams)
    history = fit_loop(
        step=classification_step(), modules={"model": model}, loaders=train, epochs=30,
        optimizers=torch.optim.AdamW(model.parameters(), lr=0.1),
        evaluate=evaluation(held, classes=classes), run=Run(tmp_path, device="cpu"),
    )  # fmt: skip
    last = history.epochs[-1]
    assert last["validation_accuracy"] > 0.9
    assert last["validation_macro_f1"] > 0.9
    with torch.no_grad():
        inputs = preprocess(data.inputs())
        loss = functional.cross_entropy(model(inputs), torch.from_numpy(data.labels_N))
    assert last["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_usage_errors(kit: SimpleNamespace) -> None:
    text = kit.ToyText()
    with pytest.raises(UsageError, match="this data set is text"):
        ExampleRows(text, kit.preprocess_words, streams=Streams(0), augment=kit.noisy)
    text.labels_N[3] = -1
    with pytest.raises(UsageError, match="no label"):
        classification_loaders(
            text, text, kit.preprocess_words, batch_size=2, streams=Streams(0)
        )  # fmt: skip
    with pytest.raises(UsageError, match="num_workers"):
        RowLoader(
            ExampleRows(kit.ToyRows(), kit.preprocess_vectors, streams=Streams(0)), 2,
            streams=Streams(0), num_workers=-1,
        )  # fmt: skip
    assert default_workers(torch.device("cpu"), "image") == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_pictures_are_a_function_of_seed_epoch_and_id(
    pictures: Path, workers: int
) -> None:
    data = read(pictures)
    seen: list[list[tuple[int, int]]] = []

    def preprocess(images: Any) -> dict[str, Tensor]:
        seen.append([image.size for image in images])
        small = [np.asarray(image.resize((8, 8)), dtype=np.float32) for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(small))}

    def values(seed: int, epoch: int, size: int) -> dict[int, Tensor]:
        train, _ = classification_loaders(
            data, data, preprocess, batch_size=size, streams=Streams(seed), num_workers=workers,
            augment=parse_augmentation("crop,flip,rotate,jitter"),
        )  # fmt: skip
        found = {}
        for batch in train.batches(epoch):
            rows = zip(batch.rows_B.tolist(), batch.inputs["pixel_values"], strict=True)
            found.update(dict(rows))
        return found

    first = values(0, 0, 8)
    assert any(size != (24, 24) for sizes in seen for size in sizes)
    again = values(0, 0, 5)  # whatever batch a row is in
    assert all(torch.equal(first[row], again[row]) for row in first)
    for other in (values(0, 1, 8), values(1, 0, 8)):
        assert not any(torch.equal(first[row], other[row]) for row in first)


def test_oversampling_in_the_loaders(kit: SimpleNamespace) -> None:
    data = kit.ToyRows()
    data.labels_N = np.array([0] * 32 + [1] * 8)
    train, held = classification_loaders(
        data, data, kit.preprocess_vectors, batch_size=8, streams=Streams(0), oversample=1.0
    )
    assert (len(train), len(held)) == (8, 3)
    labels = torch.cat([batch.labels_B for batch in train.batches(0)])
    assert torch.bincount(labels).tolist() == [32, 32]
    resumed = [batch.rows_B.tolist() for batch in train.batches(1, 5)]
    assert resumed == [batch.rows_B.tolist() for batch in train.batches(1)][5:]
