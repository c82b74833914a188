"""Preprocessing, pooling errors, embedding order and speed-independent facts of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from warmstart.backbones import backbone, embed_inputs, freeze, processing, state_hash, unfreeze
from warmstart.core import BackboneError, UsageError

from .tiny import TEXTS, pictures

Folders = Callable[[str], Path]


def test_padding_changes_no_vector_and_order_is_kept(family_folder: Folders) -> None:
    for family in ("bert", "gpt2", "modernbert"):
        encoder = backbone(family_folder(family)).load(device="cpu")
        texts = [*TEXTS, "", *(" ".join("abcdefgh"[: i % 8 + 1]) for i in range(70))]
        together = embed_inputs(encoder, texts)
        alone = np.concatenate([embed_inputs(encoder, [text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert embed_inputs(encoder, []).shape == (0, 32)


def test_images_keep_their_order_and_small_batches_agree(family_folder: Folders) -> None:
    encoder = backbone(family_folder("resnet")).load(device="cpu")
    images = pictures(7)
    np.testing.assert_allclose(
        embed_inputs(encoder, images, batch_size=2), embed_inputs(encoder, images), atol=1e-5
    )


def test_truncation_and_lengths(family_folder: Folders) -> None:
    encoder = backbone(family_folder("bert"), max_length=5).load(device="cpu")
    assert encoder.lengths(["a", "a b c", "a b c d e f g"]) == [3, 5, 5]
    batch = encoder.preprocess(["a", "a b c d e f g"])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_wrong_depth_and_pooling_are_named(family_folder: Folders) -> None:
    encoder = backbone(family_folder("bert")).load(device="cpu")
    batch = encoder.preprocess(["a"])
    with pytest.raises(UsageError, match="between 0 and 3"):
        encoder(batch, depth=4)
    with pytest.raises(UsageError, match="'maen' is not available"):
        encoder(batch, pooling="maen")
    with pytest.raises(UsageError, match="'model' is not available at depth 1"):
        encoder(batch, depth=1, pooling="model")
    resnet = backbone(family_folder("resnet")).load(device="cpu")
    with pytest.raises(UsageError, match="'cls'"):
        resnet(resnet.preprocess(pictures(1)), pooling="cls")
    assert resnet.dimension_at(1, "model") == resnet.dimension_at(1) == 8


def test_a_vector_that_is_not_finite_names_its_row(family_folder: Folders) -> None:
    encoder = backbone(family_folder("bert")).load(device="cpu")
    with torch.no_grad():
        encoder.module.embeddings.word_embeddings.weight[7] = float("inf")  # "c"
    with pytest.raises(BackboneError, match="row at position 1 is not finite"):
        embed_inputs(encoder, ["a", "c", "b"])


def test_embedding_leaves_the_mode_and_the_weights_as_they_were(family_folder: Folders) -> None:
    encoder = backbone(family_folder("bert")).load(device="cpu").train()
    before = state_hash(encoder)
    first, second = embed_inputs(encoder, TEXTS), embed_inputs(encoder, TEXTS)
    assert np.array_equal(first, second)
    assert encoder.training
    assert encoder.module.training
    assert state_hash(encoder) == before


def test_everything_frozen_evaluates_and_unfreezing_trains(family_folder: Folders) -> None:
    encoder = backbone(family_folder("resnet")).load(device="cpu")
    freeze(encoder, encoder.groups.names)
    encoder.train()
    assert not any(part.training for part in encoder.module.modules())
    unfreeze(encoder, ["block.3"])
    assert encoder.frozen == ("stem", "block.0", "block.1", "block.2")
    trained = {k for k, p in encoder.module.named_parameters() if p.requires_grad}
    assert trained == {k for k, _ in encoder.groups.parameters("block.3")}
    assert encoder.module.encoder.stages[3].training
    assert not encoder.module.encoder.stages[2].training
    before = state_hash(encoder, encoder.frozen)
    encoder(encoder.preprocess(pictures(3)))
    assert state_hash(encoder, encoder.frozen) == before
    with pytest.raises(BackboneError, match="Did you mean"):
        freeze(encoder, ["block.9"])


def test_each_load_is_a_copy_of_its_own(family_folder: Folders) -> None:
    source = backbone(family_folder("vit"))
    first, second = source.load(device="cpu"), source.load(device="cpu")
    with torch.no_grad():
        next(first.parameters()).add_(1)
    assert state_hash(first) != state_hash(second)


def test_settings_make_another_backbone(family_folder: Folders) -> None:
    source = backbone(family_folder("bert"))
    short = source.with_settings(max_length=8, pooling="cls")
    assert (source.max_length, source.pooling) == (40, "mean")
    assert (short.max_length, short.pooling) == (8, "cls")
    assert short.space() != source.space()
    assert short.fingerprint == source.fingerprint
    with pytest.raises(BackboneError, match="image-text"):
        source.text_encoder()


def test_a_very_long_text_is_cut_before_it_is_tokenised(family_folder: Folders) -> None:
    """What lies far behind the length that is kept changes nothing; spaces are not counted."""
    encoder = backbone(family_folder("bert"), max_length=5).load(device="cpu")
    seen: list[int] = []
    tokenizer = encoder.processor.tokenizer

    def watched(texts: list[str], **options: object) -> object:
        seen.extend(map(len, texts))
        return tokenizer(texts, **options)

    encoder.processor.tokenizer = watched
    words, spaces = "a b c d " * 10_000, " " * 50_000 + "a b c d"
    found = encoder.prepare([words, spaces, "a b c d"])
    assert found[0] == found[1] == found[2]
    assert seen == [1000, 1000, 7, 8000, len(spaces)]


def test_an_endless_word_is_read_to_a_bound_and_told(
    family_folder: Folders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processing, "_MOST", 20_000)
    encoder = backbone(family_folder("bert"), max_length=5).load(device="cpu")
    words = ["a" * 30_000, "b" * 20_000, "a b"]
    endless, ends, short = encoder.prepare(words)
    assert endless == encoder.prepare(["a" * 20_000])[0]
    assert len(ends) < 5
    assert len(short) == 4
    encoder.prepare(words)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "1 text is longer than 20,000 characters without filling 5 tokens (an endless word?): "
        "what lies beyond is not read."
    ]


def test_a_tokenizer_that_fails_names_the_cure(family_folder: Folders) -> None:
    encoder = backbone(family_folder("bert")).load(device="cpu")

    def broken(*_: object, **__: object) -> None:
        raise ValueError("Missing [UNK] token")

    encoder.processor.tokenizer = broken
    with pytest.raises(BackboneError, match=r"Missing \[UNK\] token.*tokenizer_config.json"):
        encoder.prepare(["a"])
