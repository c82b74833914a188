"""What opens a saved model, family by family, with those libraries themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from warmstart.backbones import backbone, embed_inputs
from warmstart.backbones.loading import load_image_processor
from warmstart.models import EncoderModel, Head, HeadShape, formats, load_model

IMAGES = "transformers.AutoModelForImageClassification"
TEXTS = "transformers.AutoModelForSequenceClassification"
SENTENCES = "sentence_transformers.SentenceTransformer"
PLAIN = "transformers.AutoModel"

# (family, pooling or None for its own) -> the fullest class that opens the saved folder
OPENS = {
    ("albert", None): SENTENCES,
    ("albert", "model"): TEXTS,
    ("bert", None): SENTENCES,
    ("bert", "cls"): SENTENCES,
    ("bert", "model"): TEXTS,
    ("clip", None): PLAIN,
    ("clip", "projection"): PLAIN,
    ("convnext", None): IMAGES,
    ("deberta-v2", None): SENTENCES,
    ("deit", None): IMAGES,
    ("deit", "mean"): PLAIN,
    ("dinov2", None): PLAIN,
    ("dinov2", "model"): PLAIN,
    ("distilbert", None): SENTENCES,
    ("efficientnet", None): IMAGES,
    ("electra", None): SENTENCES,
    ("gpt2", None): SENTENCES,
    ("llama", None): SENTENCES,
    ("mobilenet_v1", None): IMAGES,
    ("mobilenet_v2", None): IMAGES,
    ("modernbert", None): SENTENCES,
    ("mpnet", None): SENTENCES,
    ("qwen2", None): SENTENCES,
    ("resnet", None): IMAGES,
    ("roberta", None): SENTENCES,
    ("roberta", "model"): PLAIN,
    ("swin", None): IMAGES,
    ("vit", None): IMAGES,
    ("vit", "model"): PLAIN,
    ("xlm-roberta", None): SENTENCES,
}

Folders = Callable[[str], Path]
Models = Callable[..., EncoderModel]


def open_native(folder: Path, name: str) -> Any:
    """Open with one of transformers' Auto classes and expect nothing missing and nothing over."""
    network, report = getattr(transformers, name.rpartition(".")[2]).from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    return network.eval()


def inputs_of(model: EncoderModel, tiny: Any) -> list[Any]:
    return list(tiny.TEXTS) if model.modality == "text" else list(tiny.pictures(4))


def batch_with_transformers(folder: Path, model: EncoderModel, inputs: list[Any]) -> Any:
    if model.modality == "text":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        limit = model.backbone.max_length
        return tokenizer(
            inputs, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
    return load_image_processor(folder)(inputs, return_tensors="pt")


@torch.inference_mode()
def logits_of(model: EncoderModel, inputs: list[Any]) -> torch.Tensor:
    return model.head(torch.from_numpy(embed_inputs(model.encoder, inputs, pooling=model.pooling)))


def check_native(folder: Path, name: str, model: EncoderModel, inputs: list[Any]) -> None:
    network = open_native(folder, name)
    assert tuple(network.config.id2label.values()) == model.label_names
    assert network.config.num_labels == len(model.label_names)
    with torch.inference_mode():
        theirs = network(**batch_with_transformers(folder, model, inputs)).logits
    torch.testing.assert_close(theirs, logits_of(model, inputs), rtol=1e-4, atol=1e-4)


def check_sentences(folder: Path, model: EncoderModel, inputs: list[Any]) -> None:
    from sentence_transformers import SentenceTransformer

    opened = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    theirs_ND = opened.encode(inputs, batch_size=2)
    ours_ND = embed_inputs(model.encoder, inputs)
    np.testing.assert_allclose(theirs_ND, ours_ND, rtol=0, atol=1e-5)
    head = load_file(folder / "head.safetensors")
    logits = theirs_ND @ head["output.weight"].T + head["output.bias"]
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba /= proba.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, model.proba_of(inputs), rtol=0, atol=1e-5)


@torch.inference_mode()
def check_plain(folder: Path, model: EncoderModel, inputs: list[Any]) -> None:
    network, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert all(key.startswith("pooler.") for key in report["missing_keys"]), report
    batch = batch_with_transformers(folder, model, inputs)
    theirs = network.eval()(**batch).last_hidden_state
    module: Any = model.encoder.module
    ours = module(**batch).last_hidden_state
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tuned", [False, True], ids=["untouched", "tuned"])
@pytest.mark.parametrize(("family", "pooling"), OPENS, ids=[f"{f}-{p or 'own'}" for f, p in OPENS])
def test_what_opens_it(
    family: str, pooling: str | None, tuned: bool, tmp_path: Path,
    family_folder: Folders, make_model: Models, rows: Any, tiny: Any,
) -> None:  # fmt: skip
    bone = backbone(family_folder(family), pooling=pooling)
    model = make_model(bone, tuned=tuned)
    fullest = OPENS[family, pooling]
    names = (PLAIN,) if fullest == PLAIN else (fullest, PLAIN)
    assert model.opens_with == names
    dataset = rows(model.backbone)
    proba_NC = model.proba(dataset)
    assert proba_NC.std(axis=0).max() > 1e-3  # rows differ, so that equality says something
    folder = model.save(tmp_path / "model")

    loaded = load_model(folder, device="cpu")
    assert isinstance(loaded, EncoderModel)
    np.testing.assert_allclose(loaded.proba(dataset), proba_NC, rtol=0, atol=1e-6)
    np.testing.assert_allclose(loaded.proba_of(dataset.inputs()), proba_NC, rtol=0, atol=1e-6)
    assert loaded.opens_with == names
    assert (loaded.tuned, loaded.pooling, loaded.depth) == (tuned, model.pooling, None)

    inputs = inputs_of(model, tiny)
    if fullest in {IMAGES, TEXTS}:
        check_native(folder, fullest, model, inputs)
    elif fullest == SENTENCES:
        check_sentences(folder, model, inputs)
    check_plain(folder, model, inputs)


def test_a_distilled_deit_is_saved_with_one_head(
    tmp_path: Path, family_folder: Folders, make_model: Models, tiny: Any
) -> None:
    config = tiny.configs()["deit"]
    config.architectures = ["DeiTForImageClassificationWithTeacher"]
    source = transformers.DeiTForImageClassificationWithTeacher(config)
    model = make_model(tiny.make_folder(tmp_path, "deit", source))
    folder = model.save(tmp_path / "model")
    check_native(folder, IMAGES, model, inputs_of(model, tiny))
    assert load_model(folder, device="cpu").opens_with == (IMAGES, PLAIN)


def test_a_half_precision_checkpoint_is_saved_in_full(
    tmp_path: Path, family_folder: Folders, make_model: Models, tiny: Any
) -> None:
    half = transformers.AutoModel.from_pretrained(family_folder("vit")).half()
    model = make_model(tiny.make_folder(tmp_path, "vit", half), tuned=True)
    folder = model.save(tmp_path / "model")
    check_native(folder, IMAGES, model, inputs_of(model, tiny))
    state = load_file(folder / "model.safetensors")
    assert {value.dtype for value in state.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("family", "options", "names"),
    [
        ("vit", {"depth": 2}, (PLAIN,)),
        ("vit", {"normalize": True}, (PLAIN,)),
        ("vit", {"image_size": 64}, (PLAIN,)),
        ("resnet", {"depth": 3}, (PLAIN,)),
        ("resnet", {"image_size": 64}, (IMAGES, PLAIN)),
        ("clip", {"depth": 1}, (PLAIN,)),
        ("bert", {"depth": 0}, (PLAIN,)),
        ("bert", {"normalize": True}, (SENTENCES, PLAIN)),
        ("bert", {"max_length": 7}, (SENTENCES, PLAIN)),
        ("gpt2", {"depth": 2}, (PLAIN,)),
        ("bert", {"pooling": "cls"}, (PLAIN,)),
    ],
)
def test_other_depths_heads_and_sizes(
    family: str, options: dict[str, Any], names: tuple[str, ...], tmp_path: Path,
    family_folder: Folders, make_model: Models, rows: Any, tiny: Any,
) -> None:  # fmt: skip
    model = make_model(family_folder(family), tuned=True, **options)
    dataset = rows(model.backbone)
    proba_NC = model.proba(dataset)
    assert model.opens_with == names
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    np.testing.assert_allclose(loaded.proba(dataset), proba_NC, rtol=0, atol=1e-6)
    inputs = inputs_of(model, tiny)
    if names[0] == IMAGES:
        check_native(folder, IMAGES, model, inputs)
    if names[0] == SENTENCES and not options.get("normalize"):
        check_sentences(folder, model, inputs)


def test_an_mlp_head_lies_beside_the_encoder(
    tmp_path: Path, family_folder: Folders, rows: Any, tiny: Any
) -> None:
    bone = backbone(family_folder("vit"))
    head = Head(HeadShape(dimension=32, classes=2, hidden=5, dropout=0.1))
    model = EncoderModel(bone, head, ("a", "b"))
    assert model.opens_with == (PLAIN,)
    dataset = rows(bone)
    proba_NC = model.proba(dataset)
    loaded = load_model(model.save(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.proba(dataset), proba_NC, rtol=0, atol=1e-6)


def test_a_sentence_folder_that_lower_cases_and_normalises(
    tmp_path: Path, family_folder: Folders, make_model: Models, tiny: Any
) -> None:
    source = make_model(family_folder("bert")).encoder
    source.save_sentence_transformer(tmp_path / "source", normalize=True)
    settings = tmp_path / "source" / "sentence_bert_config.json"
    settings.write_text('{"max_seq_length": 12, "do_lower_case": true}')
    model = make_model(tmp_path / "source", tuned=True)
    assert model.encoder.normalize
    inputs = ["A B C", "a b c", "X", "a B c D e F g H i J k L m N o P"]
    proba_NC = model.proba_of(inputs)
    np.testing.assert_allclose(proba_NC[0], proba_NC[1], rtol=0, atol=1e-6)
    folder = model.save(tmp_path / "model")
    assert model.opens_with == (SENTENCES, PLAIN)
    check_sentences(folder, model, inputs)
    np.testing.assert_allclose(
        load_model(folder, device="cpu").proba_of(inputs), proba_NC, rtol=0, atol=1e-6
    )
    inner = make_model(tmp_path / "source", depth=1)  # no sentence folder, the same tokens
    proba_NC = inner.proba_of(inputs)
    loaded = load_model(inner.save(tmp_path / "inner"), device="cpu")
    np.testing.assert_allclose(loaded.proba_of(inputs), proba_NC, rtol=0, atol=1e-6)


def test_a_decoder_without_a_padding_token(
    tmp_path: Path, family_folder: Folders, make_model: Models, tiny: Any
) -> None:
    source = tmp_path / "gpt2"
    source = tiny.make_folder(
        tmp_path, "gpt2", transformers.AutoModel.from_pretrained(family_folder("gpt2"))
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(source)
    assert transformers.AutoTokenizer.from_pretrained(source).pad_token is None
    model = make_model(source, tuned=True)
    folder = model.save(tmp_path / "model")
    check_sentences(folder, model, list(tiny.TEXTS))


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_classifier_that_answers_otherwise_gives_way_to_the_next_form(
    family: str,
    tmp_path: Path,
    family_folder: Folders,
    make_model: Models,
    rows: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pooling = {"vit": "cls", "bert": "model"}[family]
    model = make_model(family_folder(family), tuned=True, pooling=pooling)
    assert "Classification" in model.opens_with[0]
    real = formats._native

    def turned(*given: Any) -> Any:
        native = real(*given)
        with torch.no_grad():
            native.classifier.bias.add_(torch.tensor([1.0, 0.0, 0.0]))
        return native

    monkeypatch.setattr(formats, "_native", turned)
    notes: list[str] = []
    monkeypatch.setattr(formats.progress, "note", notes.append)
    folder = model.save(tmp_path / "model")
    assert len(notes) == 1
    assert "other logits" in notes[0]
    assert model.opens_with == ("transformers.AutoModel",)
    assert json.loads((folder / "warmstart.json").read_text())["opens_with"] == [*model.opens_with]
    loaded = load_model(folder, device="cpu")
    assert loaded.opens_with == model.opens_with
    data = rows(model.backbone)
    np.testing.assert_allclose(loaded.proba(data), model.proba(data), atol=1e-6)


def test_the_check_of_a_classifier_runs_in_float32(
    tmp_path: Path, family_folder: Folders, make_model: Models, rows: Any
) -> None:
    """As on a GPU, what the encoder computes in is coarser than what is saved."""
    model = make_model(family_folder("vit"), tuned=True)
    model.encoder.double()
    model.head.double()
    formats._check_same(
        formats._native(model.encoder, model.head, model.label_names), model.encoder, model.head
    )
    assert next(model.encoder.parameters()).dtype == torch.float64


def test_saving_leaves_the_global_generator_and_the_model_alone(
    tmp_path: Path, family_folder: Folders, make_model: Models, rows: Any
) -> None:
    model = make_model(family_folder("vit"), tuned=True)
    dataset = rows(model.backbone)
    before, proba_NC = torch.random.get_rng_state(), model.proba(dataset)
    folder = model.save(tmp_path / "model")
    load_model(folder, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(model.proba(dataset), proba_NC)
