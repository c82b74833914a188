"""LoRA as a strategy: where it goes, what it refuses, what is proved after training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, state_hash
from warmstart.core import Run, RunError, UsageError, progress
from warmstart.models import AdaptedModel
from warmstart.models.adapters import network_fingerprint
from warmstart.strategies import Lora, make
from warmstart.strategies.peft.targets import layers_of, spell

QUICK = {"batch_size": 4, "schedule": "constant", "warmup": 0.0}


def fit(backbone: Backbone, views: Any, run: Run, name: str = "lora", **settings: Any) -> Any:
    kind = "text" if backbone.modality == "text" else "image"
    return make(name, {**QUICK, **settings}).fit(backbone, views[kind][0], run)


def test_rates_and_counts_are_shown_before_training(
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """r · (d + k) = 4 · (32 + 32) = 256 for each of 3 · 2 layers, and 2 · 32 + 2 for the head."""
    said: list[str] = []
    monkeypatch.setattr(progress, "note", said.append)
    fitted = fit(
        family_backbone("bert"), views, make_run(max_steps=1), rank=4, rate=2e-3, plus_ratio=4.0
    )
    assert fitted.trainable_parameters == 6 * 256 + 66
    assert fitted.values["adapter_parameters"] == 6 * 256
    assert fitted.values["adapted_layers"] == 6
    rows = {row["group"]: row for row in fitted.rates}
    for group in ("stem", "block.0", "block.1", "block.2"):
        assert rows[group]["frozen"]
        assert rows[group]["rate"] == 0
    for block in ("block.0", "block.1", "block.2"):
        assert rows[f"{block} adapter"]["parameters"] == 256  # two A of 4 × 32
        assert rows[f"{block} adapter"]["rate"] == pytest.approx(2e-3)
        assert rows[f"{block} adapter B"]["rate"] == pytest.approx(8e-3)
    assert rows["head"]["rate"] == pytest.approx(6e-3)
    base = sum(row["parameters"] for row in fitted.rates if row["frozen"])
    assert base == family_backbone("bert").card.parameters
    table = next(text for text in said if text.startswith("Training 1,602 of"))
    assert "block.0 adapter B" in table
    assert not any("usually destroys" in text for text in said)  # that is said of base weights


def test_rates_may_fall_by_layer(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    fitted = fit(family_backbone("bert"), views, make_run(max_steps=1), rate=4e-3, factor=2.0)
    rows = {row["group"]: row["rate"] for row in fitted.rates}
    shown = [rows[f"block.{i} adapter"] for i in range(3)]
    assert shown == pytest.approx([1e-3, 2e-3, 4e-3])


@pytest.mark.parametrize(
    ("family", "targets", "count"),
    [
        ("bert", "auto", 6),
        ("bert", "all", 18),
        ("bert", ["key"], 3),
        ("bert", ["attention.output.dense", "layer.0.intermediate.dense"], 4),
        ("gpt2", "auto", 3),
        ("gpt2", "all", 12),
        ("modernbert", "auto", 3),
        ("vit", "auto", 6),
        ("swin", "auto", 8),
        ("resnet", "auto", 15),
        ("resnet", "all", 18),
        ("convnext", "all", 13),  # without the depthwise convolutions
        ("clip", "auto", 6),
    ],
)
def test_targets(
    family: str, targets: Any, count: int, family_backbone: Callable[..., Backbone]
) -> None:
    from warmstart.strategies.peft import family_of

    backbone = family_backbone(family)
    encoder = backbone.load(device="cpu")
    paths = layers_of(encoder, targets, family_of(backbone))
    assert len(paths) == count == len(set(paths))
    for path in paths:
        assert any(path.startswith(f"{block}.") for block in encoder.groups.block_paths)
    spelled = spell(encoder.module, paths)

    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(
        LoraConfig(r=1, target_modules=spelled, fan_in_fan_out=family == "gpt2"), encoder.module
    )
    hit = [name for name, part in encoder.module.named_modules() if hasattr(part, "lora_A")]
    assert sorted(hit) == sorted(paths)


def test_targets_on_the_command_line() -> None:
    assert Lora.parse({"targets": "query|value"}, "lora").targets == ("query", "value")
    assert Lora.parse({"targets": '["query", "value"]'}, "lora").targets == ("query", "value")
    assert Lora.parse({"targets": ["query"]}, "lora").targets == ("query",)
    assert Lora.parse({"targets": "all"}, "lora").targets == "all"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rank": 0}, r"lora\.rank must be at least 1 and .*got 0\. Typical values: 4 to 64\."),
        ({"alpha": 0.0}, r"lora\.alpha.*above 0"),
        ({"dropout": 1.0}, r"lora\.dropout must be at least 0 and below 1"),
        ({"plus_ratio": 0.5}, r"lora\.plus_ratio must be at least 1"),
        (
            {"targets": []},
            r"lora\.targets must be .* or a list of 1 or more, got \[\]",
        ),
        ({"rate": 0}, r"lora\.rate must be above 0"),
        ({"head_multiplier": 11}, r"lora\.head_multiplier must be at least 1 and at most 10"),
        ({"ranks": 4}, r"lora has no setting `ranks`.*rank"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make("lora", settings)


def test_a_target_that_matches_nothing_names_the_nearest(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    backbone = family_backbone("bert")
    with pytest.raises(UsageError, match=r"'querry' matches no layer.*Did you mean \"query\""):
        fit(backbone, views, make_run(), targets=["querry"])
    with pytest.raises(UsageError, match="'LayerNorm' is a LayerNorm; linear layers and"):
        fit(backbone, views, make_run(), targets=["LayerNorm"])


def test_an_adapter_without_effect_is_an_error(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    """BERT's pooler has no part in the mean over tokens."""
    with pytest.raises(RunError, match="after 2 steps the adapter is as it was at the start"):
        fit(family_backbone("bert"), views, make_run(max_steps=2), targets=["pooler.dense"])


def test_an_adapter_that_moves_but_changes_nothing_is_an_error(
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "warmstart.strategies.peft.base.embed_inputs",
        lambda encoder, inputs: np.ones((len(inputs), 3)),
    )
    with pytest.raises(RunError, match="changes no output of the base"):
        fit(family_backbone("bert"), views, make_run(max_steps=2))


def test_a_change_within_rounding_is_none(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    with pytest.raises(RunError, match="changes no output of the base beyond rounding"):
        fit(family_backbone("bert"), views, make_run(max_steps=2), rate=1e-12)


@pytest.mark.parametrize("what", ["weight", "buffer"])
def test_a_base_that_moves_is_an_error(
    what: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from warmstart.strategies.supervised import Job

    real = Job.train

    def train(self: Job) -> Any:
        history = real(self)
        values = dict(self.encoder.module.named_buffers())
        if what == "weight":
            values = dict(self.encoder.base_parameters())
        with torch.no_grad():
            next(v for v in values.values() if v.is_floating_point()).view(-1)[0] += 1e-6
        return history

    monkeypatch.setattr(Job, "train", train)
    with pytest.raises(RunError, match="weights or buffers of the frozen base changed"):
        fit(family_backbone("resnet"), views, make_run(max_steps=1))


@pytest.mark.parametrize("family", ["bert", "resnet", "vit"])
def test_the_base_is_bit_identical_and_batch_norm_stays(
    family: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
) -> None:
    backbone = family_backbone(family)
    fitted = fit(backbone, views, make_run(), epochs=2, targets="all")
    untouched = backbone.load(device="cpu")
    assert fitted.model.adapted.base_fingerprint() == network_fingerprint(untouched.module)
    assert state_hash(backbone.load(device="cpu")) == state_hash(untouched)
    norms = [row["batch_norm"] for row in fitted.rates]
    assert "train" not in norms
    assert ("eval" in norms) == (family == "resnet")


def test_lora_goes_on_from_an_adapter_of_peft(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    backbone = family_backbone("bert")
    run = make_run(max_steps=3)
    first = fit(backbone, views, run, rank=3, targets=["key"]).model
    folder = first.save(run.folder / "first")
    late = make_run(deadline=0.0)  # no step: what is left is the start
    again = fit(backbone, views, late, start=str(folder / "adapter"))
    assert again.values["rank"] == 3
    ours, theirs = (dict(m.adapted.adapter_parameters()) for m in (again.model, first))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    more = fit(backbone, views, make_run(max_steps=3), start=str(folder / "adapter"))
    assert more.trainable_parameters == 3 * 3 * 64 + 66
    assert not torch.equal(
        dict(more.model.adapted.adapter_parameters())[next(iter(ours))], next(iter(ours.values()))
    )


def test_a_start_that_is_no_adapter_is_refused(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    with pytest.raises(UsageError, match=r"lora\.start: .*nope holds no adapter.*save_pretrained"):
        fit(family_backbone("bert"), views, make_run(), start="no/such/nope")


def test_a_killed_fit_resumes_exactly_and_keeps_no_base(
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safetensors import safe_open

    from warmstart.training import Checkpoints, loop

    class Killed(BaseException):
        """As abrupt as a SIGKILL: nothing is written after it."""

    backbone = family_backbone("roberta")
    settings = {"epochs": 4, "dropout": 0.2, "rank": 2}
    test = views["text"][1]
    whole = fit(backbone, views, make_run(seed=3), **settings).model.proba(test)

    monkeypatch.setattr(
        "warmstart.strategies.supervised.Checkpoints",
        lambda **values: Checkpoints(every_steps=2, **values),
    )
    real, count = loop.Engine.optimise, 0

    def optimise(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            raise Killed
        return real(self, *arguments)

    run = make_run(seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Engine, "optimise", optimise)
        with pytest.raises(Killed):
            fit(backbone, views, run, **settings)
    newest = sorted(run.folder.rglob("step-*/tensors.safetensors"))[-1]
    assert newest.parent.name == "step-00000010"
    with safe_open(newest, framework="pt") as file:
        kept = list(file.keys())
    assert any("lora_A" in key for key in kept), kept
    assert not any(key.endswith("base_layer.weight") for key in kept)
    resumed = fit(backbone, views, Run(run.folder, seed=3, device="cpu"), **settings)
    np.testing.assert_array_equal(resumed.model.proba(test), whole)


def test_settings_reach_peft(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    run = make_run(max_steps=1)
    fitted = fit(
        family_backbone("bert"), views, run,
        rank=4, rslora=True, dora=True, dropout=0.3, targets=["query"],
    )  # fmt: skip
    model = fitted.model
    assert isinstance(model, AdaptedModel)
    model.save(run.folder / "m")
    config = json.loads(Path(run.folder / "m" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["lora_alpha"] == 8
    assert config["use_rslora"] is config["use_dora"] is True
    assert config["lora_dropout"] == 0.3
    assert config["target_modules"] == ["query"]
    layer: Any = model.adapted.module.get_submodule("encoder.layer.0.attention.self.query")
    assert layer.scaling["default"] == pytest.approx(8 / 2)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"rank": 4, "targets": ["query", "value"]}),
        ("lora", {"dora": True}),
        ("qlora", {}),
        ("ia3", {}),
        ("prefix", {}),
        ("prompt", {}),
        ("ptuning", {}),
        ("adapter", {}),
    ],
)
def test_what_would_be_learned_is_counted_without_weights(
    method: str, settings: dict[str, Any], family_backbone: Callable[..., Backbone]
) -> None:
    """On torch's meta device, as `info --strategy` does; LoRA: 6 layers of 4 · (32 + 32)."""
    encoder = family_backbone("bert").load(device="cpu")
    encoder.module.to("meta")
    learned = make(method, settings).trains(encoder)
    count = sum(parameter.numel() for _, parameter in learned)
    width = 48
    assert (
        count
        == {
            "lora": 6 * 4 * 64 if "rank" in settings else 6 * (8 * 64 + 32),
            "qlora": 6 * 8 * 64,
            "ia3": 3 * (32 + 32 + 48),
            "prefix": 10 * 3 * 2 * 32,
            "prompt": 10 * 32,
            "ptuning": 10 * 32 + (32 + 1) * 128 + 129 * 128 + 129 * 32,
            "adapter": 6 * (2 * 32 * width + 32 + width),
        }[method]
    )
    assert all(parameter.device.type == "meta" for _, parameter in learned)


def test_counting_refuses_what_does_not_work(family_backbone: Callable[..., Backbone]) -> None:
    from warmstart.core import NotApplicable

    encoder = family_backbone("vit").load(device="cpu")
    with pytest.raises(NotApplicable, match="prompt does not work on ViT"):
        make("prompt").trains(encoder)
    learned = make("adapter").trains(family_backbone("resnet").load(device="cpu"))
    assert len(learned) == 4 * 4


def test_settings_about_the_bases_own_weights_are_refused(
    family_backbone: Callable[..., Backbone], views: Any, make_run: Callable[..., Run]
) -> None:
    backbone = family_backbone("bert")
    for settings in ({"l2_sp": 0.1}, {"wise": True}):
        with pytest.raises(UsageError, match="an adapter's base does not move at all"):
            fit(backbone, views, make_run(), **settings)
    with pytest.raises(UsageError, match=r"gives the frozen base a rate \(block\.0\)"):
        fit(backbone, views, make_run(), rules="block.0 = 1")
    fitted = fit(backbone, views, make_run(max_steps=1), rules="block.0 adapter = 2e-3")
    rows = {row["group"]: row["rate"] for row in fitted.rates}
    assert rows["block.0 adapter"] == pytest.approx(2e-3)
    assert rows["block.1 adapter"] == pytest.approx(Lora().rate)
