"""Reading a model back: what is refused, and with which words; predicting from what users have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.core import MANIFEST, BackboneError, DataError, RunError, publishing
from warmstart.data import from_inputs
from warmstart.models import (
    MODEL_FILE,
    CnnModel,
    EncoderModel,
    SmallCnn,
    TfidfModel,
    load_model,
)
from warmstart.models.tfidf import new_vectorizer

Folders = Callable[[str], Path]
Models = Callable[..., EncoderModel]


@pytest.fixture
def saved(tmp_path: Path, family_folder: Folders, make_model: Models) -> Path:
    return make_model(family_folder("bert"), tuned=True).save(tmp_path / "model")


def words_model() -> TfidfModel:
    vectorizer = new_vectorizer()
    vectorizer.fit(["good film", "bad film", "fine plot"])
    generator = np.random.default_rng(0)
    weight_CV = generator.normal(size=(2, len(vectorizer.vocabulary_)))
    return TfidfModel(vectorizer, weight_CV, generator.normal(size=2), ("bad", "good"))


def cnn_model() -> CnnModel:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, head = SmallCnn(32), torch.nn.Linear(SmallCnn.dimension, 2)
        torch.nn.init.normal_(head.weight)
        network.train()(network.preprocess(pictures(8)))  # batch-norm statistics move
    return CnnModel(network, head, ("blue", "red"))


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 255, (30 + i, 20, 3)).astype(np.uint8))
        for i in range(count)
    ]


def change(folder: Path, **values: Any) -> None:
    facts = json.loads((folder / MODEL_FILE).read_text())
    for key, value in values.items():
        facts.pop(key) if value is ... else facts.update({key: value})
    (folder / MODEL_FILE).write_text(json.dumps(facts))


def test_no_model_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"holds no warmstart model: warmstart\.json is missing"):
            load_model(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 2}, r"format version 2; this warmstart reads 1"),
        ({"format_version": ...}, r"format version None"),
        ({"kind": "encodr"}, r"unknown kind 'encodr'\. Did you mean \"encoder\"\?"),
        ({"kind": ...}, r"unknown kind 'None'"),
        ({"head": ...}, r"warmstart\.json is damaged: 'head' is missing"),
        ({"head": {"dimension": 32}}, r"is damaged: .*head\.classes is required"),
        ({"head": 7}, r"warmstart\.json is damaged"),
        ({"backbone": None}, r"warmstart\.json is damaged"),
        ({"label_names": ["a"]}, r"head has 3 classes, but 1 label names"),
    ],
)
def test_damaged_facts(saved: Path, values: dict[str, Any], message: str) -> None:
    change(saved, **values)
    with pytest.raises(RunError, match=message):
        load_model(saved, device="cpu")


@pytest.mark.parametrize("raw", [b"", b"[]", b'"x"', b"{", b"\xff"])
def test_facts_that_are_no_facts(saved: Path, raw: bytes) -> None:
    (saved / MODEL_FILE).write_bytes(raw)
    with pytest.raises(RunError, match=r"warmstart\.json"):
        load_model(saved)


def test_a_damaged_head(saved: Path) -> None:
    path = saved / "head.safetensors"
    raw = path.read_bytes()
    for damaged in (b"", raw[:-4], b"\xff" * 16 + raw[16:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"head\.safetensors is damaged"):
            load_model(saved, device="cpu")
    path.unlink()
    with pytest.raises(RunError, match=r"head\.safetensors is missing"):
        load_model(saved, device="cpu")


def test_a_head_of_another_model(saved: Path, family_folder: Folders, make_model: Models) -> None:
    other = make_model(family_folder("gpt2"), depth=1).head
    from safetensors.torch import save_file

    save_file({"output.weight": other.output.weight.detach()}, saved / "head.safetensors")
    with pytest.raises(RunError, match=r"head\.safetensors does not fit its model: .*output\.bias"):
        load_model(saved, device="cpu")


def test_damaged_weights(saved: Path) -> None:
    path = saved / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BackboneError, match="cannot be read"):
        load_model(saved, device="cpu")
    path.unlink()
    with pytest.raises(BackboneError, match=r"model\.safetensors"):
        load_model(saved, device="cpu")


def test_every_kind_refuses_a_flipped_bit_once_published(
    tmp_path: Path, family_folder: Folders, make_model: Models
) -> None:
    generator = np.random.default_rng(0)
    models = [make_model(family_folder("vit"), tuned=True), words_model(), cnn_model()]
    for model in models:
        final = tmp_path / model.kind
        with publishing(final, task_type="classify") as folder:
            model.save(folder)
        load_model(final, device="cpu")
        for path in sorted(p for p in final.rglob("*") if p.is_file()):
            raw = path.read_bytes()
            for _ in range(3):
                bit = int(generator.integers(len(raw) * 8))
                damaged = bytearray(raw)
                damaged[bit // 8] ^= 1 << bit % 8
                path.write_bytes(damaged)
                named = final if path.name == MANIFEST else path
                with pytest.raises(RunError) as caught:
                    load_model(final, device="cpu")
                assert str(named) in str(caught.value), bit
            path.write_bytes(raw)
        (final / MODEL_FILE).unlink()
        with pytest.raises(RunError, match=r"warmstart\.json is missing though the manifest"):
            load_model(final)


def test_a_save_that_fails_publishes_nothing(
    tmp_path: Path, family_folder: Folders, make_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, final = make_model(family_folder("bert")), tmp_path / "model"
    with publishing(final) as folder:
        model.save(folder)
    before = sorted(p.name for p in final.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("warmstart.models.encoder.save_file", full)
    with (
        pytest.raises(OSError, match="No space left"),
        publishing(final, replace=True) as folder,
    ):
        model.save(folder)
    assert sorted(p.name for p in final.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    load_model(final, device="cpu")


def test_predicting_texts() -> None:
    model = words_model()
    texts = ["good film", "bad", ""]
    answers = model.predict(texts)
    proba_NC = model.proba_of(texts)
    for answer, row_C in zip(answers, proba_NC, strict=True):
        assert answer.label == model.label_names[int(row_C.argmax())]
        assert answer.score == row_C.max() == answer.scores[answer.label]
        assert list(answer.scores.values()) == sorted(row_C.tolist(), reverse=True)
        assert sum(answer.scores.values()) == pytest.approx(1)
    assert model.predict("good film") == model.predict(("good film",)) == answers[:1]
    assert model.predict([]) == []
    with pytest.raises(DataError, match="Input 1 must be a text, got int"):
        model.predict(["a", 3])
    with pytest.raises(DataError, match="must be a text"):
        model.predict(Path("x.txt"))


def test_ties_go_to_the_first_class() -> None:
    answer = words_model().predictions(np.array([[0.5, 0.5]]))[0]
    assert answer.label == "bad"


def test_predicting_images(tmp_path: Path) -> None:
    model, image = cnn_model(), pictures(1)[0]
    path = tmp_path / "x.png"
    image.save(path)
    expected = model.predictions(model.proba_of([image]))
    for given in (image, path, str(path), [path], [image], (str(path),), [path.read_bytes()]):
        assert model.predict(given) == expected
    both = model.predict([image, path])
    assert [a.label for a in both] == [expected[0].label] * 2
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Input 0 \(.*x\.png\)"):
        model.predict(path)
    with pytest.raises(DataError, match=r"Input 1"):
        model.predict([image, tmp_path / "nowhere.png"])


def test_tfidf_round_trip_is_exact(tmp_path: Path) -> None:
    texts = ["अच्छी फ़िल्म है", "बहुत बुरी फ़िल्म", "good film, ünï", "bad film 2"]
    vectorizer = new_vectorizer()
    vectorizer.fit(texts)
    assert "फ़िल्म" in vectorizer.vocabulary_  # whole, with vowel sign, nukta and virama
    assert "अच्छी फ़िल्म" in vectorizer.vocabulary_
    generator = np.random.default_rng(0)
    weight_CV = generator.normal(size=(3, len(vectorizer.vocabulary_)))
    model = TfidfModel(vectorizer, weight_CV, generator.normal(size=3), ("a", "b", "c"))
    loaded = load_model(model.save(tmp_path / "model"))
    held = [*texts, "", "unseen", "फ़िल्म फ़िल्म good"]
    np.testing.assert_array_equal(loaded.proba_of(held), model.proba_of(held))
    np.testing.assert_array_equal(loaded.proba(from_inputs(held, "text")), model.proba_of(held))
    np.testing.assert_allclose(model.proba_of(held).sum(axis=1), 1)
    assert loaded.parameters == model.parameters == weight_CV.size + 3
    again = loaded.save(tmp_path / "again")
    for name in (MODEL_FILE, "vocabulary.json", "model.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


@pytest.mark.parametrize(
    "word", ["फ़िल्म", "வணக்கம்", "สวัสดี", "مُحَمَّد", "שָׁלוֹם", "မြန်မာ", "e\u0301te\u0301", "naïve", "42nd"]
)
def test_words_of_any_script_stay_whole(word: str) -> None:
    tokens = new_vectorizer().build_tokenizer()(f"{word}, {word}! _x_")
    assert tokens[:2] == [word, word]


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.json"])
def test_a_tfidf_model_whose_parts_do_not_fit(tmp_path: Path, name: str) -> None:
    folder = words_model().save(tmp_path / "model")
    vectorizer = new_vectorizer()
    vectorizer.fit(["one", "two"])
    other = TfidfModel(vectorizer, np.zeros((2, 2)), np.zeros(2), ("a", "b"))
    source = other.save(tmp_path / "other") / name
    (folder / name).write_bytes(source.read_bytes())
    with pytest.raises(RunError, match=r"model\.safetensors does not fit its model"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        load_model(folder)


def test_cnn_round_trip(tmp_path: Path) -> None:
    import torch

    model, images = cnn_model(), pictures(70)  # more than one batch
    proba_NC = model.proba_of(images)
    assert proba_NC.std(axis=0).max() > 1e-3
    before = torch.random.get_rng_state()
    loaded = load_model(model.save(tmp_path / "model"), device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(loaded, CnnModel)
    assert loaded.network.image_size == 32
    np.testing.assert_allclose(loaded.proba_of(images), proba_NC, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        loaded.proba(from_inputs(images, "image")), proba_NC, rtol=0, atol=1e-6
    )
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[key]), key
    assert loaded.proba(from_inputs([], "image")).shape == (0, 2)
    assert (
        loaded.parameters
        == model.parameters
        == sum(p.numel() for m in (model.network, model.head) for p in m.parameters())
    )
    path = tmp_path / "model" / "model.safetensors"
    change(tmp_path / "model", label_names=["a", "b", "c"])
    with pytest.raises(RunError, match=r"safetensors does not fit its model: .*head\.weight"):
        load_model(tmp_path / "model", device="cpu")
    path.unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        load_model(tmp_path / "model", device="cpu")
