"""WiSE-FT on tiny models: the ends, the curve, what decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import NotApplicable, UsageError
from warmstart.evaluation import measure
from warmstart.models import EncoderModel, load_model
from warmstart.strategies import Finetune, Probe, interpolate


@pytest.fixture(scope="module", params=["text", "image"])
def case(request: Any, opened: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from warmstart.core import Run

    source = request.getfixturevalue({"text": "tiny_text", "image": "tiny_resnet"}[request.param])
    view, _ = request.getfixturevalue(f"{request.param}_view")
    backbone = opened(source)
    run = Run(tmp_path_factory.mktemp("run"), device="cpu")
    probe = Probe(l2=0.01).fit(backbone, view, run).model
    tuned = Finetune(epochs=2, rate=1e-3).fit(backbone, view, run).model
    return backbone, view, probe, tuned


def test_the_ends_are_the_probe_and_the_tuned_model(case: Any) -> None:
    backbone, view, probe, tuned = case
    before = tuned.proba(view.validation)
    _, curve = interpolate(backbone, probe.head, tuned, view, shares=[0, 0.5, 1])
    assert [point["share"] for point in curve] == [0, 0.5, 1]
    for point, model in ((curve[0], probe), (curve[2], tuned)):
        found = measure(model.proba(view.validation), view.validation.labels_N)
        assert point["validation_loss"] == pytest.approx(found["log_loss"], rel=1e-5)
        assert point["validation_accuracy"] == found["accuracy"]
    assert np.array_equal(tuned.proba(view.validation), before)  # the tuned model is as it was


def test_the_kept_model_is_that_of_its_point(case: Any, tmp_path: Path) -> None:
    backbone, view, probe, tuned = case
    model, curve = interpolate(backbone, probe.head, tuned, view, shares=[0.2, 0.5, 0.7])
    chosen = [point for point in curve if point["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["validation_loss"] == min(p["validation_loss"] for p in curve)
    share = chosen[0]["share"]
    slow = backbone.load(device="cpu")
    theirs = dict(tuned.encoder.named_parameters())
    with torch.no_grad():
        for name, parameter in slow.named_parameters():
            parameter.copy_((1 - share) * parameter + share * theirs[name])
        for name, buffer in slow.named_buffers():
            other = dict(tuned.encoder.named_buffers())[name]
            buffer.copy_((1 - share) * buffer + share * other)
    weight = (1 - share) * probe.head.output.weight + share * tuned.head.output.weight
    bias = (1 - share) * probe.head.output.bias + share * tuned.head.output.bias
    head = type(probe.head).linear(weight.detach().numpy(), bias.detach().numpy())
    twin = EncoderModel(backbone, head, view.label_names, encoder=slow.eval())
    rows = view.validation
    np.testing.assert_allclose(model.proba(rows), twin.proba(rows), atol=1e-6)
    assert measure(model.proba(rows), rows.labels_N)["log_loss"] == pytest.approx(
        chosen[0]["validation_loss"], rel=1e-6
    )
    loaded = load_model(model.save(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.proba(rows), model.proba(rows), atol=1e-6)


def test_ends_that_are_chosen_are_the_models_themselves(case: Any) -> None:
    backbone, view, probe, tuned = case
    kept, _ = interpolate(backbone, probe.head, tuned, view, shares=[1])
    assert kept is tuned
    untouched, _ = interpolate(backbone, probe.head, tuned, view, shares=[0])
    assert not untouched.tuned
    np.testing.assert_allclose(
        untouched.proba(view.validation), probe.proba(view.validation), atol=1e-7
    )


def test_of_equal_points_the_smaller_share_is_kept_and_judges_only_tell(case: Any) -> None:
    backbone, view, probe, tuned = case
    seen: list[float] = []

    def judge(model: EncoderModel) -> float:
        seen.append(float(model.head.output.weight.detach().sum()))
        return -seen[-1]

    _, curve = interpolate(
        backbone, probe.head, tuned, view, shares=[0.3, 0.31], metric="accuracy",
        judges={"old_accuracy": judge},
    )  # fmt: skip
    assert [point["old_accuracy"] for point in curve] == [-value for value in seen]
    best = max(point["validation_accuracy"] for point in curve)
    first = next(point for point in curve if point["validation_accuracy"] == best)
    assert first["chosen"]


def test_refusals(case: Any, make_run: Any) -> None:
    backbone, view, probe, tuned = case
    with pytest.raises(UsageError, match=r"shares must be numbers in \[0, 1\]"):
        interpolate(backbone, probe.head, tuned, view, shares=[2.0])
    other = Probe(head="mlp", hidden=4).fit(backbone, view, make_run()).model
    with pytest.raises(NotApplicable, match="two heads of one form"):
        interpolate(backbone, other.head, tuned, view)
