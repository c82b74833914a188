"""Every pair of family and method, for real: the listed ones work, the others are broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.backbones import Backbone, embed_inputs
from warmstart.backbones.families import FAMILIES
from warmstart.core import NotApplicable, Run
from warmstart.models import AdaptedModel, load_model
from warmstart.strategies import make
from warmstart.strategies.peft import PLACES, family_of, works_on

METHODS = ("lora", "ia3", "prefix", "prompt", "ptuning", "adapter")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "prefix": {"tokens": 3},
    "prompt": {"tokens": 3},
    "ptuning": {"tokens": 3, "width": 8},
    "adapter": {"width": 4},
}
COMMON = {"batch_size": 4, "schedule": "constant", "warmup": 0.0}
PAIRS = [(family, method) for family in PLACES for method in METHODS]
WORKING = [pair for pair in PAIRS if pair[1] in works_on(pair[0])]
REFUSED = [pair for pair in PAIRS if pair[1] not in works_on(pair[0])]


def modality(family: str) -> str:
    return "text" if FAMILIES[family].modality == "text" else "image"


def test_the_table_has_every_family() -> None:
    assert set(PLACES) == set(FAMILIES)
    assert len(WORKING) + len(REFUSED) == 6 * len(FAMILIES)


@pytest.mark.parametrize(("family", "method"), WORKING, ids=[f"{a}-{b}" for a, b in WORKING])
def test_a_listed_pair_works(
    family: str,
    method: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    backbone = family_backbone(family)
    assert family_of(backbone) == family
    view, test = views[modality(family)]
    strategy = make(method, {**COMMON, **SMALL.get(method, {})})
    fitted = strategy.fit(backbone, view, make_run(max_steps=2))
    model = fitted.model
    assert isinstance(model, AdaptedModel)
    inputs = test.inputs(list(range(4)))
    ours_ND = embed_inputs(model.encoder, inputs)
    assert np.abs(ours_ND - embed_inputs(backbone.load(device="cpu"), inputs)).max() > 1e-6
    if modality(family) == "text":  # what pads a batch is not seen
        alone_ND = np.concatenate([embed_inputs(model.encoder, [item]) for item in inputs])
        np.testing.assert_allclose(alone_ND, ours_ND, rtol=1e-4, atol=1e-4)

    scores_NC = model.proba(test)
    loaded = load_model(model.save(tmp_path / "model"), device="cpu")
    assert isinstance(loaded, AdaptedModel)
    np.testing.assert_allclose(loaded.proba(test), scores_NC, atol=1e-6)
    assert loaded.parameters >= fitted.trainable_parameters
    names = {path.name for path in (tmp_path / "model" / "adapter").iterdir()}
    ours = {"bottleneck.json", "bottleneck.safetensors"}
    assert names == (ours if method == "adapter" else PEFT_FILES)
    assert not (tmp_path / "model" / "model.safetensors").exists()


PEFT_FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(("family", "method"), REFUSED, ids=[f"{a}-{b}" for a, b in REFUSED])
def test_a_pair_outside_is_refused_and_really_broken(
    family: str,
    method: str,
    family_backbone: Callable[..., Backbone],
    views: Any,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = family_backbone(family)
    view, _ = views[modality(family)]
    strategy = make(method, {**COMMON, **SMALL.get(method, {})})
    works = ", ".join(works_on(family))
    with pytest.raises(NotApplicable, match=re.escape(works)):
        strategy.check(backbone, view)
    with pytest.raises(NotApplicable, match=re.escape(works)):
        strategy.fit(backbone, view, make_run(max_steps=2))

    # without the table: it fails in PEFT, in the network, or is found to change nothing
    monkeypatch.setattr(type(strategy), "check", lambda *_: None)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library breaks in its own way
        strategy.fit(backbone, view, make_run(max_steps=2))
    assert not isinstance(caught.value, NotApplicable)


def test_unknown_families_need_lora_with_names(
    views: Any, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    import torch
    from torch import nn

    from warmstart.backbones import backbone as open_backbone

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 6)
            self.second = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.second(torch.tanh(self.first(x)))
            return hidden

    def counts(inputs: Any) -> dict[str, torch.Tensor]:
        rows = [[float(text.count(c)) for c in "aeo"] for text in inputs]
        return {"x": torch.tensor(rows)}

    net = Net()
    groups = {"first": ["first"], "second": ["second"]}
    own = open_backbone(module=net, processor=counts, modality="text", groups=groups)
    view, test = views["text"]
    for method in METHODS:
        with pytest.raises(NotApplicable, match="lora works on any"):
            make(method).check(own, view)
    with pytest.raises(NotApplicable, match="lora works on any"):
        make("lora", {"targets": "all"}).check(own, view)
    settings = {**COMMON, "targets": "second", "rank": 2}
    model = make("lora", settings).fit(own, view, make_run(max_steps=3)).model
    folder = model.save(tmp_path / "own")
    loaded = load_model(folder, module=net, processor=counts, groups=groups, device="cpu")
    np.testing.assert_allclose(loaded.proba(test), model.proba(test), atol=1e-9)
