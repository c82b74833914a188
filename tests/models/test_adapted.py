"""Adapted models on disk: PEFT opens them, they find their base, they refuse another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from warmstart.backbones import Backbone, backbone, embed_inputs
from warmstart.core import RunError
from warmstart.models import (
    AdaptedModel,
    BottleneckShape,
    Head,
    HeadShape,
    attach_bottlenecks,
    attach_peft,
    load_model,
)

# PEFT itself reads a property that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
NAMES = ("one", "two", "three")
LORA = {"r": 2, "target_modules": ["query", "value"], "task_type": "FEATURE_EXTRACTION"}


def moved(encoder: Any) -> Any:
    """An adapter that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in encoder.adapter_parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


def build(source: Backbone, config: Any) -> AdaptedModel:
    encoder = source.load(device="cpu")
    if isinstance(config, BottleneckShape):
        encoder = attach_bottlenecks(encoder, config)
    else:
        encoder = attach_peft(encoder, config, seed=1)
    head = Head(HeadShape(dimension=encoder.dimension, classes=3))
    return AdaptedModel(source, head, NAMES, encoder=moved(encoder))


@pytest.fixture
def bert(family_folder: Callable[[str], Path]) -> Backbone:
    return backbone(str(family_folder("bert")))


def configs() -> dict[str, Any]:
    places = {f"encoder.layer.{i}.output.dense": 32 for i in range(3)}
    common = {"task_type": "FEATURE_EXTRACTION"}
    return {
        "lora": LoraConfig(**LORA),
        "ia3": IA3Config(target_modules=["key", "value"], feedforward_modules=[], **common),
        "prompt": PromptTuningConfig(num_virtual_tokens=3, **common),
        "adapter": BottleneckShape(places=places, width=4),
    }


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt", "adapter"])
def test_save_and_load_give_the_same(
    method: str, bert: Backbone, rows: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = build(bert, configs()[method])
    data = rows(bert)
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    assert isinstance(loaded, AdaptedModel)
    np.testing.assert_array_equal(loaded.proba(data), model.proba(data))
    assert loaded.label_names == NAMES
    assert loaded.parameters == model.parameters
    assert loaded.adapted.method == method
    assert loaded.opens_with == () == model.opens_with
    assert loaded.facts() == model.facts()
    vectors_ND = embed_inputs(loaded.encoder, data.inputs())  # usable for embedding, inside too
    np.testing.assert_array_equal(vectors_ND, embed_inputs(model.encoder, data.inputs()))
    inner_ND = embed_inputs(loaded.encoder, data.inputs(), depth=2)
    assert inner_ND.shape == vectors_ND.shape
    assert np.abs(inner_ND - embed_inputs(bert.load(), data.inputs(), depth=2)).max() > 1e-3
    found = {path.name for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")}
    assert not found
    assert (folder / "head.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()
    again = loaded.save(tmp_path / "again")
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt"])
@pytest.mark.parametrize("family", ["bert", "vit", "clip", "resnet"])
def test_peft_opens_what_was_saved(
    method: str, family: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    if method == "prompt" and family != "bert":
        return
    names = {
        "bert": ["query", "value"], "vit": ["q_proj", "v_proj"],
        "clip": r"(?:vision_model\.encoder\.layers\.1\.self_attn\.q_proj)",
        "resnet": ["0.convolution"],
    }[family]  # fmt: skip
    config = {
        "lora": lambda: LoraConfig(r=2, target_modules=names),
        "ia3": lambda: IA3Config(target_modules=names, feedforward_modules=[]),
        "prompt": lambda: configs()["prompt"],
    }[method]()
    source = backbone(str(family_folder(family)))
    model = build(source, config)
    folder = model.save(tmp_path / "model")
    network = AutoModel.from_pretrained(family_folder(family))
    opened = PeftModel.from_pretrained(network, str(folder / "adapter")).eval()
    inputs = ["a b c", "d e"] if family == "bert" else _pictures()
    batch = model.encoder.preprocess(inputs)
    batch.pop("token_type_ids", None)
    with torch.inference_mode():
        if family == "clip":
            inside = opened.base_model.model.vision_model
            theirs = inside(**batch).last_hidden_state
            ours = model.encoder.module.vision_model(**batch).last_hidden_state
        elif method == "prompt":
            theirs = opened(**batch).last_hidden_state[:, 3:]
            ours = model.encoder._run(batch)["last_hidden_state"]
        else:
            theirs = opened(**batch).last_hidden_state
            ours = model.encoder.module(**batch).last_hidden_state
        assert torch.equal(theirs, ours)
        plain = AutoModel.from_pretrained(family_folder(family)).eval()
        untouched = (plain.vision_model if family == "clip" else plain)(**batch).last_hidden_state
    assert not torch.allclose(theirs, untouched, atol=1e-3)


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"target_modules": "all-linear"}],
    ids=str,
)  # fmt: skip
def test_what_peft_saved_by_itself_is_taken(
    settings: dict[str, Any], bert: Backbone, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    network = AutoModel.from_pretrained(family_folder("bert"))
    theirs = get_peft_model(network, LoraConfig(**{**LORA, **settings})).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    head = Head(HeadShape(dimension=32, classes=3))
    model = AdaptedModel.from_peft(bert, tmp_path / "theirs", head, NAMES)
    batch = model.encoder.preprocess(["a b c d", "e"])
    batch.pop("token_type_ids", None)
    with torch.inference_mode():
        wanted = theirs(**batch).last_hidden_state
        assert torch.equal(model.encoder.module(**batch).last_hidden_state, wanted)
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    np.testing.assert_array_equal(loaded.proba_of(["a b"]), model.proba_of(["a b"]))


def test_a_base_that_moved_or_changed(bert: Backbone, tmp_path: Path) -> None:
    place = tmp_path / "base"
    shutil.copytree(bert.source, place)
    source = backbone(str(place), max_length=9)
    model = build(source, LoraConfig(**LORA))
    folder = model.save(tmp_path / "model")
    expected = model.proba_of(["a b c d e f g h i j k l"])
    shutil.move(place, tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"needs its base base from .*AdaptedModel\.open\(folder"):
        load_model(folder, device="cpu")
    for base in (tmp_path / "elsewhere", backbone(str(tmp_path / "elsewhere"))):
        found = AdaptedModel.open(folder, base=base, device="cpu")
        assert found.backbone.max_length == 9
        np.testing.assert_array_equal(found.proba_of(["a b c d e f g h i j k l"]), expected)

    weights = load_file(tmp_path / "elsewhere" / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1e-3
    place.mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        shutil.copy(path, place)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"belongs to the base base with the fingerprint [0-9a-f]+"):
        load_model(folder, device="cpu")


def test_damage_is_named(bert: Backbone, tmp_path: Path) -> None:
    folder = build(bert, LoraConfig(**LORA)).save(tmp_path / "model")
    adapter = folder / "adapter"
    tensors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"query", "value"}
    assert config["base_model_name_or_path"] == bert.source

    def broken(match: str) -> None:
        with pytest.raises(RunError, match=match):
            load_model(folder, device="cpu")

    def put(values: dict[str, torch.Tensor]) -> None:
        save_file(values, adapter / "adapter_model.safetensors")

    first = sorted(tensors)[0]
    put({key: value for key, value in tensors.items() if key != first})
    broken("1 weights of the adapter are missing")
    put({**tensors, "base_model.model.other.lora_A.weight": torch.zeros(2, 2)})
    broken("1 are unknown")
    put({**tensors, first: torch.zeros(7, 7)})
    broken("does not fit its base")
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    broken("adapter_model.safetensors is damaged")
    (adapter / "adapter_model.safetensors").unlink()
    broken("adapter_model.safetensors is missing")
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    broken("a pickle file, which is never read")
    (adapter / "adapter_model.bin").unlink()
    put(tensors)

    def say(**changes: Any) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    say(peft_type="VERA")
    broken("peft_type 'VERA' is not taken")
    say(bias="all")
    broken("bias='all' changes weights of the base itself")
    say(modules_to_save=["classifier"])
    broken("made on AutoModel and not on a model with a head")
    say(target_modules=["nowhere"])
    broken("does not fit its base")
    (adapter / "adapter_config.json").write_text("{")
    broken("adapter_config.json is damaged")
    say()
    facts = json.loads((folder / "warmstart.json").read_text())
    for key in ("adapter", "backbone", "head"):
        kept = {name: value for name, value in facts.items() if name != key}
        (folder / "warmstart.json").write_text(json.dumps(kept))
        broken(f"is damaged: '{key}' is missing")
    facts["adapter"]["method"] = "ia3"
    (folder / "warmstart.json").write_text(json.dumps(facts))
    broken("holds an adapter of the kind lora, but")


def test_damaged_bottlenecks_are_named(bert: Backbone, tmp_path: Path) -> None:
    folder = build(bert, configs()["adapter"]).save(tmp_path / "model")
    place = folder / "adapter" / "bottleneck.safetensors"
    tensors = load_file(place)
    shape = json.loads((folder / "adapter" / "bottleneck.json").read_text())

    def broken(match: str) -> None:
        with pytest.raises(RunError, match=match):
            load_model(folder, device="cpu")

    first = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != first}, place)
    broken("bottleneck.safetensors is damaged: it lacks")
    save_file({**tensors, "more": torch.zeros(1)}, place)
    broken("holds 'more'")
    save_file({**tensors, first: torch.zeros(3)}, place)
    broken("does not fit bottleneck.json")
    save_file(tensors, place)
    shape["places"] = {"encoder.layer.9.output.dense": 32}
    (folder / "adapter" / "bottleneck.json").write_text(json.dumps(shape))
    broken("has no layer 'encoder.layer.9.output.dense'")


def test_the_base_never_leaves_evaluation_mode(family_folder: Callable[[str], Path]) -> None:
    for family, names in (("bert", ["query"]), ("resnet", ["convolution"])):
        source = backbone(str(family_folder(family)))
        config = LoraConfig(r=2, target_modules=names, lora_dropout=0.5)
        encoder = attach_peft(source.load(device="cpu"), config)
        frozen = encoder.base_fingerprint()
        own = {id(part) for _, root in encoder.parts() for part in root.modules()}
        encoder.train()
        for name, part in encoder.module.named_modules():
            assert part.training == (id(part) in own), name
        inputs = ["a b c", "d"] if family == "bert" else _pictures()
        batch = encoder.preprocess(inputs)
        with torch.no_grad():
            for _, parameter in encoder.adapter_parameters():
                parameter.add_(0.5)
        torch.manual_seed(0)
        first = encoder(batch)
        assert not torch.equal(first, encoder(batch))  # the adapter's own dropout works
        encoder.eval()
        assert torch.equal(encoder(batch), encoder(batch))
        assert encoder.base_fingerprint() == frozen
        with torch.no_grad():
            next(iter(encoder.base_parameters()))[1].view(-1)[0] += 1e-3
        assert encoder.base_fingerprint() != frozen


def _pictures() -> list[Any]:
    from PIL import Image

    generator = np.random.default_rng(1)
    return [Image.fromarray(generator.integers(0, 255, (32, 32, 3)).astype(np.uint8))] * 2
