"""Every family: partition, depth, pooling and freezing on tiny random models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from warmstart.backbones import Encoder, backbone, embed_inputs, freeze, state_hash
from warmstart.core import UsageError

from .tiny import BLOCKS, IMAGE_FAMILIES, TEXT_FAMILIES, TEXTS, configs, pictures

Folders = Callable[[str], Path]
ALL = TEXT_FAMILIES + IMAGE_FAMILIES


def inputs_of(encoder: Encoder) -> Sequence[Any]:
    return TEXTS if encoder.modality == "text" else pictures()


def batch_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.preprocess(inputs_of(encoder))


@pytest.mark.parametrize("family", ALL)
def test_groups_are_a_partition_in_the_order_of_the_pass(
    family: str, family_folder: Folders
) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    groups = encoder.groups
    blocks = BLOCKS.get(family, 3)
    assert groups.names == ("stem", *(f"block.{i}" for i in range(blocks)))
    assert blocks == groups.L
    named = [key for name in groups.names for key, _ in groups.parameters(name)]
    assert sorted(named) == sorted(key for key, _ in encoder.module.named_parameters())
    assert len(set(named)) == len(named)
    assert (groups.shared_note is not None) == (family == "albert")
    order: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in groups.names
        for module in groups.modules(name)
        for part in module.modules()
        if any(True for _ in part.parameters(recurse=False))
    ]
    with torch.inference_mode():
        encoder(batch_of(encoder))
    for hook in hooks:
        hook.remove()
    if family not in {"mpnet", "deberta-v2", "clip"}:  # relative positions are looked up as we go
        assert list(dict.fromkeys(order)) == list(groups.names)


def _plain(encoder: Encoder, batch: dict[str, torch.Tensor]) -> Any:
    with torch.inference_mode():
        return encoder.module(**batch, output_hidden_states=True)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_default_text_pooling_equals_its_slow_twin(family: str, family_folder: Folders) -> None:
    source = backbone(family_folder(family))
    encoder = source.load(device="cpu")
    batch = batch_of(encoder)
    hidden_BTD = _plain(encoder, batch).last_hidden_state
    rows = []
    for row, mask in enumerate(batch["attention_mask"]):
        real = [hidden_BTD[row, i] for i in range(len(mask)) if mask[i] == 1]
        rows.append(real[-1] if source.pooling == "last" else sum(real) / len(real))
    with torch.inference_mode():
        vectors_BD = encoder(batch)
    assert source.pooling == ("last" if family in {"gpt2", "llama", "qwen2"} else "mean")
    torch.testing.assert_close(vectors_BD, torch.stack(rows), atol=1e-6, rtol=1e-5)
    assert source.card.dimension == encoder.dimension == vectors_BD.shape[1]


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_default_image_pooling_equals_its_slow_twin(family: str, family_folder: Folders) -> None:
    source = backbone(family_folder(family))
    encoder = source.load(device="cpu")
    batch = batch_of(encoder)
    output = _plain(encoder, batch)
    if family in {"vit", "deit", "dinov2"}:
        assert source.pooling == "cls"
        expected_BD = output.last_hidden_state[:, 0]
    elif family == "clip":
        assert source.pooling == "model"
        hidden = output.last_hidden_state[:, 0]
        with torch.inference_mode():
            expected_BD = encoder.module.vision_model.post_layernorm(hidden)
    else:
        assert source.pooling == "model"
        expected_BD = output.pooler_output.flatten(1)
    with torch.inference_mode():
        vectors_BD = encoder(batch)
    torch.testing.assert_close(vectors_BD, expected_BD, atol=1e-6, rtol=1e-5)
    assert source.card.dimension == encoder.dimension == vectors_BD.shape[1]
    assert source.card.layers == encoder.n_depths


@pytest.mark.parametrize("family", ALL)
def test_every_depth_has_vectors_and_many_depths_equal_one(
    family: str, family_folder: Folders
) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    batch = batch_of(encoder)
    depths = [*range(encoder.n_depths + 1), None]
    with torch.inference_mode():
        alone = {depth: encoder(batch, depth=depth) for depth in depths}
        together = encoder.forward_many(batch, dict.fromkeys(depths))
    for depth in depths:
        assert torch.equal(alone[depth], together[depth])
        assert alone[depth].shape == (len(alone[depth]), encoder.dimension_at(depth))
        assert torch.isfinite(alone[depth]).all()


@pytest.mark.parametrize("family", [f for f in TEXT_FAMILIES if f != "albert"])
def test_inner_depths_are_the_hidden_states_of_transformers(
    family: str, family_folder: Folders
) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    batch = batch_of(encoder)
    hidden = _plain(encoder, batch).hidden_states
    mask_BT1 = batch["attention_mask"].unsqueeze(-1)
    for depth in range(encoder.n_depths):
        expected = (hidden[depth] * mask_BT1).sum(1) / mask_BT1.sum(1)
        with torch.inference_mode():
            found = encoder(batch, depth=depth, pooling="mean")
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "clip"])
def test_mean_leaves_out_tokens_before_the_patches(family: str, family_folder: Folders) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    batch = batch_of(encoder)
    hidden_BTD = _plain(encoder, batch).last_hidden_state
    patches = (32 // 8) ** 2
    assert hidden_BTD.shape[1] - patches == encoder.prefix_tokens
    with torch.inference_mode():
        found = encoder(batch, pooling="mean")
    torch.testing.assert_close(found, hidden_BTD[:, -patches:].mean(1))


@pytest.mark.parametrize("family", ALL)
def test_a_frozen_prefix_neither_drops_nor_moves(family: str, family_folder: Folders) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    frozen = encoder.groups.names[:-1]
    freeze(encoder, frozen)
    encoder.train()
    kept = state_hash(encoder, frozen)
    inside = {id(m) for part in encoder.groups.modules(encoder.groups.names[-1])
              for m in part.modules()}  # fmt: skip
    for name, part in encoder.module.named_modules():
        if isinstance(part, nn.Dropout | nn.BatchNorm2d) and part.training:
            assert id(part) in inside, f"{name} still trains"
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    last = state_hash(encoder, encoder.groups.names[-1:])
    encoder(batch_of(encoder)).square().sum().backward()
    optimizer.step()
    assert state_hash(encoder, frozen) == kept
    assert state_hash(encoder, encoder.groups.names[-1:]) != last


@pytest.mark.parametrize("family", ALL)
def test_saving_and_reading_back_changes_nothing(
    family: str, family_folder: Folders, tmp_path: Path
) -> None:
    encoder = backbone(family_folder(family)).load(device="cpu")
    encoder.save(tmp_path / "again")
    again = backbone(tmp_path / "again").load(device="cpu")
    with torch.inference_mode():
        assert torch.equal(encoder(batch_of(encoder)), again(batch_of(again)))
    if family == "clip":
        assert again.pooling_names == encoder.pooling_names


@pytest.mark.parametrize("family", ["bert", "vit", "resnet", "albert"])
def test_random_weights_are_a_function_of_the_seed(family: str, family_folder: Folders) -> None:
    source = backbone(family_folder(family))
    state = torch.random.get_rng_state()
    first, same, other = (source.load(device="cpu", random_seed=s) for s in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    assert state_hash(first) == state_hash(same) != state_hash(other)
    assert state_hash(first) != state_hash(source.load(device="cpu"))
    assert [k for k, _ in first.named_parameters()] == [
        k for k, _ in source.load(device="cpu").named_parameters()
    ]
    first(batch_of(first))


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "clip", "swin", "resnet", "convnext"])
def test_another_image_size(family: str, family_folder: Folders) -> None:
    size = 128 if family == "swin" else 48
    encoder = backbone(family_folder(family), image_size=size).load(device="cpu")
    batch = batch_of(encoder)
    assert batch["pixel_values"].shape[-2:] == (size, size)
    with torch.inference_mode():
        assert encoder(batch).shape[0] == 3


def test_an_image_size_that_cannot_work_is_named(family_folder: Folders) -> None:
    with pytest.raises(UsageError, match="image_size 48 does not work with swin"):
        backbone(family_folder("swin"), image_size=48).load(device="cpu")


def test_unknown_family_is_divided_by_its_own_blocks(tmp_path: Path) -> None:
    from .tiny import make_folder

    config = transformers.RoFormerConfig(
        vocab_size=31, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    folder = make_folder(tmp_path, "roformer", transformers.AutoModel.from_config(config))
    encoder = backbone(folder).load(device="cpu")
    assert encoder.groups.names == ("stem", "block.0", "block.1")
    assert embed_inputs(encoder, TEXTS, depth=1).shape == (5, 32)


def test_every_listed_family_is_tested() -> None:
    from warmstart.backbones.families import FAMILIES

    same_code = {"camembert", "clip_text_model", "clip_vision_model", "convnextv2", "mistral"}
    assert set(FAMILIES) - set(configs()) - same_code == {"qwen3"}


def test_clip_has_two_towers_in_one_space(family_folder: Folders) -> None:
    folder = family_folder("clip")
    source = backbone(folder)
    assert source.modality == "image-text"
    vision, text = source.load(device="cpu"), source.text_encoder(device="cpu")
    whole = transformers.CLIPModel.from_pretrained(folder)
    with torch.inference_mode():
        pixels, words = batch_of(vision), text.preprocess(TEXTS)
        output = whole(**pixels, **{k: v for k, v in words.items() if k != "token_type_ids"})
        images = nn.functional.normalize(vision(pixels, pooling="projection"), dim=-1)
        texts = nn.functional.normalize(text(words), dim=-1)
    torch.testing.assert_close(images, output.image_embeds, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(texts, output.text_embeds, atol=1e-6, rtol=1e-5)
    scale = source.logit_scale
    assert scale == pytest.approx(float(whole.logit_scale.detach().exp()), rel=1e-5)
    assert text.groups.names == vision.groups.names
