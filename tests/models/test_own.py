"""A network of the user's own: its weights are kept, its code is given again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.backbones import Backbone, backbone
from warmstart.core import RunError, UsageError, publishing
from warmstart.data import from_inputs
from warmstart.models import EncoderModel, Head, load_model

GROUPS = {"stem": ["one"], "block": ["two", "tied"]}


class Net(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.one = nn.Linear(3, width)
        self.two = nn.Linear(width, width)
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.two.weight
        self.register_buffer("share", torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.tied(self.two(self.one(x)).tanh()) * self.share
        return found


def colours(images: Any) -> dict[str, Tensor]:
    pixels = [torch.tensor(i.resize((1, 1)).getpixel((0, 0))) / 255.0 for i in images]
    return {"x": torch.stack(pixels)}


def own(network: nn.Module | None = None) -> Backbone:
    return backbone(module=network or Net(), processor=colours, modality="image", groups=GROUPS)


def model_of(bone: Backbone, *, tuned: bool = False, depth: int | None = None) -> EncoderModel:
    encoder = None
    if tuned:
        encoder = bone.load(device="cpu")
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1)
    head = Head.linear(np.arange(10.0).reshape(2, 5), np.array([0.0, 1.0]))
    return EncoderModel(bone, head, ("a", "b"), encoder=encoder, depth=depth)


@pytest.mark.parametrize(("tuned", "depth"), [(False, None), (True, None), (True, 1)])
def test_it_is_saved_and_loaded_with_its_code(
    tuned: bool, depth: int | None, tmp_path: Path, tiny: Any
) -> None:
    model = model_of(own(), tuned=tuned, depth=depth)
    images = tiny.pictures(4)
    expected_NC = model.proba_of(images)
    folder = tmp_path / "model"
    with publishing(folder, task_type="classify") as temporary:
        model.save(temporary)
    facts = json.loads((folder / "warmstart.json").read_text())
    assert facts["module"]["class"].endswith("Net")
    assert facts["module"]["groups"] == GROUPS
    assert facts["opens_with"] == []
    assert (folder / "module.safetensors").is_file()

    fresh = Net()  # other weights
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    loaded = load_model(folder, device="cpu", module=fresh, processor=colours, groups=GROUPS)
    np.testing.assert_allclose(loaded.proba_of(images), expected_NC, atol=1e-6)
    np.testing.assert_allclose(loaded.proba(from_inputs(images, "image")), expected_NC, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())
    assert loaded.opens_with == ()
    again = loaded.save(tmp_path / "again")
    for name in ("warmstart.json", "module.safetensors", "head.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_without_its_code_the_call_is_told(tmp_path: Path) -> None:
    folder = model_of(own()).save(tmp_path / "model")
    call = f"load_model({str(folder)!r}, module=Net(...), processor=..., groups=...)"
    for given in ({}, {"module": Net()}, {"processor": colours}):
        with pytest.raises(RunError) as caught:
            load_model(folder, device="cpu", **given)
        assert call in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": Net(width=4)}, r"module\.safetensors does not fit its model: .*one\.weight"),
        ({"groups": {"all": ["one", "two", "tied"]}}, r"groups are others.*\{'stem': \['one'\]"),
        ({"groups": {"stem": ["one"]}}, r"saved with groups=\{'stem': \['one'\]"),
        ({"processor": lambda _: 3}, r"module, processor or groups given do not work: .*dict of"),
    ],
)
def test_other_code_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = model_of(own()).save(tmp_path / "model")
    given = {"module": Net(), "processor": colours, "groups": GROUPS, **changes}
    with pytest.raises(RunError, match=message):
        load_model(folder, device="cpu", **given)


def test_a_folder_that_holds_its_network_takes_no_code(
    tmp_path: Path, family_folder: Callable[[str], Path], make_model: Any
) -> None:
    folder = make_model(family_folder("vit")).save(tmp_path / "model")
    with pytest.raises(UsageError, match="needs no code of yours"):
        load_model(folder, device="cpu", module=Net(), processor=colours)


def test_a_known_network_with_a_processor_of_ones_own(
    tmp_path: Path, family_folder: Callable[[str], Path], tiny: Any
) -> None:
    import transformers

    def make() -> Any:
        return transformers.AutoModel.from_pretrained(family_folder("vit")).eval()

    def pixels(images: Any) -> dict[str, Tensor]:
        arrays = [np.asarray(i.resize((32, 32)), np.float32) / 255 for i in images]
        return {"pixel_values": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}

    bone = backbone(module=make(), processor=pixels, modality="image")
    width = bone.card.dimension
    assert width is not None
    head = Head.linear(np.ones((2, width)) * [[1.0], [2.0]], np.zeros(2))
    model = EncoderModel(bone, head, ("a", "b"))
    assert model.opens_with == ()
    folder = model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu", module=make(), processor=pixels)
    images = tiny.pictures(3)
    np.testing.assert_allclose(loaded.proba_of(images), model.proba_of(images), atol=1e-6)


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(Net):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    with pytest.raises(RunError, match=r"Odd keeps more than tensors .*_extra_state"):
        model_of(own(Odd())).save(tmp_path / "model")
