"""A network of one's own as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from warmstart.backbones import Backbone, backbone, embed_inputs, state_hash
from warmstart.core import BackboneError, NotApplicable, UsageError

from .tiny import pictures

GROUPS = {"stem": ["stem"], "middle": ["first"], "top": ["second", "norm"]}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4)
        self.first = nn.Conv2d(4, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.second(self.first(self.stem(pixels)).relu()))
        return hidden


def pixels_of(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    arrays = [np.asarray(image.resize((16, 16)), np.float32) / 255 for image in images]
    return {"pixels": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}


def make(module: nn.Module | None = None, **changes: object) -> Backbone:
    settings: dict[str, object] = {
        "module": module or Net(), "processor": pixels_of, "groups": GROUPS, "modality": "image",
    }  # fmt: skip
    return backbone(**{**settings, **changes})


def test_vectors_depths_and_card() -> None:
    network = Net().eval()
    source = make(network)
    encoder = source.load(device="cpu")
    images = pictures(3)
    with torch.inference_mode():
        expected_BD = network(**pixels_of(images)).mean((2, 3)).numpy()
        inner_BD = network.first(network.stem(pixels_of(images)["pixels"])).relu()
        inner_BD = inner_BD.mean((2, 3)).numpy()
    np.testing.assert_allclose(embed_inputs(encoder, images), expected_BD, atol=1e-6)
    np.testing.assert_allclose(embed_inputs(encoder, images, depth=1), inner_BD, atol=1e-6)
    assert encoder.groups.names == ("stem", "middle", "top")
    assert source.card.dimension == 8
    assert source.card.family == source.name == "Net"
    assert source.card.parameters == sum(p.numel() for p in network.parameters())


def test_the_callers_network_is_never_changed() -> None:
    network = Net()
    before = state_hash(network)
    encoder = make(network).load(device="cpu")
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    encoder.train()(encoder.preprocess(pictures(2)))
    assert state_hash(network) == before


def test_the_fingerprint_sees_weights_and_processor() -> None:
    network = Net()

    def brighter(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {"pixels": pixels_of(images)["pixels"] + 1}

    first = make(network)
    assert first.fingerprint == make(network).fingerprint
    assert first.fingerprint != make(Net()).fingerprint
    assert first.fingerprint != make(network, processor=brighter).fingerprint


def test_random_weights() -> None:
    source = make()
    state = torch.random.get_rng_state()
    first, same, other = (source.load(device="cpu", random_seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert state_hash(first) == state_hash(same) != state_hash(other)

    class Token(Net):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1))

    groups = {**GROUPS, "stem": ["stem", "token"]}
    with pytest.raises(NotApplicable, match="token"):
        make(Token(), groups=groups).load(device="cpu", random_seed=1)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"stem": ["stem"], "top": ["second", "norm"]}, r"2 parameters belong to no.*first\.w"),
        ({**GROUPS, "more": ["norm"]}, r"belong to several layer groups: norm\.weight \(top, more"),
        ({**GROUPS, "more": ["nrm"]}, r"'nrm', which matches no.*Did you mean \"norm\""),
    ],
)  # fmt: skip
def test_groups_that_are_no_partition(groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        make(groups=groups)


def test_without_groups_there_must_be_one_list_of_blocks() -> None:
    with pytest.raises(BackboneError, match="no list of repeated blocks"):
        make(groups=None)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(2, 4)
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.embed(x)
            for layer in self.layers:
                hidden = layer(hidden)
            return {"last_hidden_state": self.norm(hidden), "pooler_output": hidden[:, 0] * 2}

    def numbers(texts: Sequence[str]) -> dict[str, Tensor]:
        return {"x": torch.tensor([[[len(t), 1.0], [t.count("a"), 2.0]] for t in texts])}

    source = make(Stack(), groups=None, processor=numbers, modality="text")
    encoder = source.load(device="cpu")
    assert encoder.groups.names == ("stem", "block.0", "block.1", "block.2")
    assert (source.pooling, encoder.n_depths) == ("model", 3)
    assert embed_inputs(encoder, ["a", "bb"], depth=2).shape == (2, 4)
    assert embed_inputs(encoder, ["a", "bb"], pooling="cls").shape == (2, 4)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match="also needs processor="):
        backbone(module=Net(), groups=GROUPS)
    with pytest.raises(UsageError, match="not both"):
        backbone("x", module=Net(), processor=pixels_of, modality="image")
    with pytest.raises(UsageError, match="must return a dict of tensors"):
        make(processor=lambda images: [1]).load(device="cpu")
    with pytest.raises(UsageError, match="processor must be"):
        make(processor=3).load(device="cpu")
    with pytest.raises(BackboneError, match="no transformers model"):
        make().load(device="cpu").save(Path("nowhere"))


def test_a_transformers_model_given_as_a_module_knows_its_family(tmp_path: object) -> None:
    import transformers

    from .tiny import configs

    network = transformers.AutoModel.from_config(configs()["vit"])

    def process(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        arrays = [np.asarray(image.resize((32, 32)), np.float32) / 255 for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}

    encoder = make(network, processor=process, groups=None).load(device="cpu")
    assert encoder.groups.names == ("stem", "block.0", "block.1", "block.2")
    assert encoder.pooling == "cls"


def test_blocks_that_run_out_of_order_are_noticed() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed(self.layers):
                x = layer(x)
            return x

    def numbers(texts: Sequence[str]) -> dict[str, Tensor]:
        return {"x": torch.ones(len(texts), 2)}

    source = make(Backwards(), groups=None, processor=numbers, modality="text")
    with pytest.raises(BackboneError, match=r"in the order \[2, 1, 0\]"):
        source.load(device="cpu")
