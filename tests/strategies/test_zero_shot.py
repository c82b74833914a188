"""Classifying by names: when it is refused, and against slow twins when it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone
from warmstart.core import BackboneError, NotApplicable, Run, UsageError
from warmstart.data import View
from warmstart.models import load_model
from warmstart.models.nli import entailment_label
from warmstart.strategies import ZeroShot, make, speaking_names
from warmstart.strategies.zero_shot import IMAGE_TEMPLATES, _words

TOPICS = {
    "sports": ["The striker scored twice in the final.", "He won the tennis match in three sets.",
               "The team lost the basketball game.", "She broke the marathon record."],
    "cooking": ["Simmer the onions in butter.", "Bake the bread for forty minutes.",
                "Add salt and garlic to the soup.", "Whisk the eggs with sugar."],
    "astronomy": ["The telescope found a distant galaxy.", "Jupiter has many moons.",
                  "A star collapsed into a black hole.", "The comet orbits the sun."],
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "speak"),
    [
        (["0", "1"], False), (["LABEL_0", "LABEL_1"], False), (["class 3", "class-12"], False),
        (["a", "b"], False), (["good", "1"], False), (["", "good"], False), (["?!", "..."], False),
        (["y1", "target2"], False), (["positive", "negative"], True), (["cat", "dog"], True),
        (["Casual_Shoes", "T-Shirt"], True), (["label", "classic"], True), (["अच्छा", "बुरा"], True),
        (["好", "坏"], True), (["5G", "4K"], True),
    ],
)  # fmt: skip
def test_names_that_speak(names: list[str], speak: bool) -> None:
    assert speaking_names(names) is speak


def test_names_become_words() -> None:
    assert [_words(n) for n in ("Casual_Shoes", "casualShoes", "card-arrival", " NEW ")] == [
        "casual shoes", "casual shoes", "card arrival", "new",
    ]  # fmt: skip


def view_of(data: Any) -> View:
    return View(data, data)


def test_silent_names_are_refused_with_the_cure(
    as_text: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    data = as_text(["apple", "car", "pear", "truck"], ["0", "1", "0", "1"])
    with pytest.raises(NotApplicable, match=r"\('0', '1'\) say nothing.*--label-names"):
        ZeroShot().fit(opened(tiny_text), view_of(data), make_run())


def test_images_need_a_model_that_reads_text_too(
    image_view: Any, opened: Any, tiny_resnet: Path, make_run: Callable[..., Run]
) -> None:
    view, _ = image_view
    with pytest.raises(NotApplicable, match=r"tiny-resnet does not embed text.*CLIP"):
        ZeroShot().fit(opened(tiny_resnet), view, make_run())


def test_an_nli_model_reads_no_images(image_view: Any, opened: Any, tiny_clip: Path) -> None:
    with pytest.raises(NotApplicable, match="an NLI model reads text"):
        ZeroShot(nli="x").check(opened(tiny_clip), image_view[0])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("templates", ("{}", "no place")), ("templates", "{}|no place"), ("hypothesis", "no place")],
)
def test_templates_need_a_place_for_the_name(setting: str, value: Any) -> None:
    with pytest.raises(
        UsageError, match=rf"zero-shot\.{setting}\S* must have {{}} where.*no place"
    ):
        make("zero-shot", {setting: value})


def test_templates_come_as_text_too() -> None:
    given = make("zero-shot", {"templates": "a {}|this is {}"})
    assert given == ZeroShot(templates=("a {}", "this is {}"))


@pytest.mark.parametrize("setting", ["templates", "hypothesis"])
def test_a_json_list_is_taken_and_a_broken_one_is_told(setting: str) -> None:
    given = make("zero-shot", {setting: '["a photo of a {}, big", "{}"]'})
    assert getattr(given, setting) == ("a photo of a {}, big", "{}")
    for wrong in ("[a photo of {}]", "[1", "["):
        with pytest.raises(UsageError, match=rf"zero-shot.{setting} must be a list in JSON"):
            make("zero-shot", {setting: wrong})
    with pytest.raises(UsageError, match=rf"zero-shot.{setting}"):
        make("zero-shot", {setting: "[]"})


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (["contradiction", "neutral", "ENTAILMENT"], 2), (["entailment", "neutral", "x"], 0),
        (["not_entailment", "entailment"], 1), (["entailment", "non-entailment"], 0),
        (["Contradiction", "Entailment", "Neutral"], 1), (["0: entailment", "1: other"], 0),
        (["is_entailed", "is_contradicted"], 0), (["E", "N", "C"], 0), (["c", "n", "e"], 2),
        (["NotEntailment", "Entailment"], 1), (["LABEL_0", "LABEL_1"], None), (["no", "yes"], 1),
        (["not entailed", "neutral"], None), (["entailment a", "entailment b"], None),
    ],
)  # fmt: skip
def test_the_entailment_label_is_found_in_any_order(names: list[str], place: int | None) -> None:
    assert entailment_label(dict(enumerate(names))) == place


@pytest.mark.parametrize(
    ("names", "place"),
    [(["entailment", "not_entailment"], 0), (["Neutral", "Entailment", "Contradiction"], 1)],
)
def test_nli_with_other_labels_and_several_hypotheses(
    names: list[str], place: int, text_view: Any, opened: Any, tiny_text: Path, tiny_nli: Path,
    make_run: Any, tmp_path: Path,
) -> None:  # fmt: skip
    """The logits of each wording are averaged, then the classes share by softmax."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertForSequenceClassification,
    )

    config = AutoModelForSequenceClassification.from_pretrained(tiny_nli).config
    config.id2label, config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_nli / name).read_bytes())
    view, test = text_view
    wordings = ["this text is about {}.", "a photo of {}"]
    strategy = make("zero-shot", {"nli": str(tmp_path), "hypothesis": "|".join(wordings)})
    fitted = strategy.fit(opened(tiny_text), view, make_run())
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found_NC = fitted.model.proba(test)
    for text, scores_C in zip(test.inputs(), found_NC, strict=True):
        logits = np.zeros(2)
        for column, name in enumerate(view.label_names):
            for wording in wordings:
                pair = tokenizer(text, wording.format(name), return_tensors="pt")
                with torch.inference_mode():
                    logits[column] += float(network(**pair).logits[0, place]) / 2
        np.testing.assert_allclose(scores_C, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    loaded = load_model(fitted.model.save(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(loaded.proba(test), found_NC, atol=1e-6)


def test_other_braces_are_words(
    text_view: Any, opened: Any, tiny_text: Path, tiny_nli: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    bone = opened(tiny_text)
    given = "{name} {0} { {}"
    shown = ZeroShot(templates=(given,)).fit(bone, view, make_run())
    assert np.isfinite(shown.model.proba(test)).all()
    nli = ZeroShot(nli=str(tiny_nli), hypothesis=given).fit(bone, view, make_run()).model
    assert nli.hypotheses == tuple(f"{{name}} {{0}} {{ {name}" for name in view.label_names)


def test_an_nli_model_stands_on_no_features() -> None:
    assert ZeroShot().uses_features is True
    assert ZeroShot(nli="x").uses_features is False
    assert make("probe").uses_features is True
    assert make("finetune").uses_features is False


def test_minilm_knows_obvious_topics(
    minilm: str, as_text: Any, opened: Any, make_run: Callable[..., Run]
) -> None:
    texts = [(text, name) for name, found in TOPICS.items() for text in found]
    data = as_text([t for t, _ in texts], [n for _, n in texts])
    fitted = ZeroShot().fit(opened(minilm), view_of(data), make_run())
    assert fitted.trainable_parameters == 0
    right = fitted.model.proba(data.without_labels()).argmax(axis=1) == data.labels_N
    assert right.mean() > 0.8


def test_text_against_a_slow_twin(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    source: Backbone = opened(tiny_text)
    templates = ("{}", "a text about {}")
    fitted = ZeroShot(templates=templates).fit(source, view, make_run())
    encoder = source.load(device="cpu")

    def vector(text: str) -> np.ndarray:
        with torch.inference_mode():
            found = encoder(encoder.preprocess([text]))[0].double().numpy()
        return found / np.linalg.norm(found)

    for text, scores_C in zip(test.inputs(), fitted.model.proba(test), strict=True):
        logits = []
        for name in view.label_names:
            anchor = sum(vector(template.format(name)) for template in templates)
            logits.append(20.0 * float(vector(text) @ (anchor / np.linalg.norm(anchor))))
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(scores_C, expected, atol=1e-5)


def test_clip_against_a_slow_twin(
    image_view: Any, opened: Any, tiny_clip: Path, make_run: Callable[..., Run]
) -> None:
    """transformers' own CLIP: normalised embeddings, cosine, exp(logit_scale)."""
    from transformers import AutoTokenizer, CLIPModel

    view, test = image_view
    source: Backbone = opened(tiny_clip)
    fitted = ZeroShot().fit(source, view, make_run())
    clip = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_clip)
    encoder = source.load(device="cpu")
    anchors = []
    with torch.inference_mode():
        for name in view.label_names:
            total = torch.zeros(12)
            for template in IMAGE_TEMPLATES:
                tokens = tokenizer([template.format(name)], return_tensors="pt")
                tokens.pop("token_type_ids", None)
                hidden = clip.text_model(**tokens).pooler_output
                embedded = clip.text_projection(hidden)[0]
                total += embedded / embedded.norm()
            anchors.append(total / total.norm())
        scale = float(clip.logit_scale.exp())
        for image, scores_C in zip(test.inputs(), fitted.model.proba(test), strict=True):
            pixels = encoder.preprocess([image])["pixel_values"]
            embedded = clip.visual_projection(clip.vision_model(pixels).pooler_output)[0]
            embedded = embedded / embedded.norm()
            logits = torch.stack([scale * (embedded @ anchor) for anchor in anchors])
            np.testing.assert_allclose(scores_C, torch.softmax(logits, 0).numpy(), atol=1e-5)


def test_nli_against_a_slow_twin(
    text_view: Any, opened: Any, tiny_text: Path, tiny_nli: Path, make_run: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    view, test = text_view
    strategy = ZeroShot(nli=str(tiny_nli), hypothesis="this text is about {}.")
    fitted = strategy.fit(opened(tiny_text), view, make_run())
    network = AutoModelForSequenceClassification.from_pretrained(tiny_nli).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_nli)
    found_NC = fitted.model.proba(test)
    for text, scores_C in zip(test.inputs(), found_NC, strict=True):
        logits = []
        for name in view.label_names:
            pair = tokenizer(text, f"this text is about {name}.", return_tensors="pt")
            with torch.inference_mode():
                logits.append(float(network(**pair).logits[0, 2]))
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(scores_C, expected, atol=1e-5)
    loaded = load_model(fitted.model.save(tmp_path / "nli"), device="cpu")
    np.testing.assert_allclose(loaded.proba(test), found_NC, atol=1e-6)


def test_an_nli_model_needs_an_entailment_label(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Any, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_text / name).read_bytes())
    with pytest.raises(BackboneError, match="no entailment label, only label_0, label_1"):
        ZeroShot(nli=str(tmp_path)).fit(opened(tiny_text), text_view[0], make_run())
