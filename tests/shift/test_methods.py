"""What every adaptation method must keep, and what each is there for."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from warmstart.core import Interrupted, Run, UsageError, fingerprint
from warmstart.models import Head
from warmstart.objectives import mmd_loss
from warmstart.shift import (
    AdaptationMethod,
    Adapted,
    Cdan,
    Coral,
    Dann,
    DomainVectors,
    Mmd,
    NamedMethod,
    Reweight,
    Snapshot,
    SourceOnly,
    make_method,
    method_class,
    method_names,
    parse_methods,
    register_method,
)
from warmstart.shift.adapt_train import TrainedMethod
from warmstart.shift.dann import Discriminator
from warmstart.shift.validators import bottleneck_features
from warmstart.training import Callback, LoopState, StepOutput

from .domains import domains

SMALL = {"width": 16, "epochs": 6, "batch_size": 32, "rate": 1e-2}
NAMES = [
    "source-only", "mmd", "coral", "dann", "cdan", "reweight", "label-shift", "self-training",
]  # fmt: skip


def accuracy(adapted: Adapted, rows: DomainVectors, truth: np.ndarray) -> float:
    return float((adapted.snapshots[-1].head.proba(rows.target_UD).argmax(1) == truth).mean())


def test_the_registry_holds_them_in_order() -> None:
    assert method_names() == NAMES


def test_a_batch_that_was_not_set_is_told_apart_from_one_that_was() -> None:
    """What settings.json says is what is done: 64 rows here, 32 where the encoder learns."""
    free, fixed = Mmd().model_dump(mode="json"), Mmd(batch_size=64).model_dump(mode="json")
    assert (free["batch_size"], fixed["batch_size"]) == ("auto", 64)
    assert fingerprint(free) != fingerprint(fixed)
    assert make_method("mmd", {"batch_size": "16"}) == Mmd(batch_size=16)
    assert make_method("mmd", {"batch_size": "auto"}) == Mmd()


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_needs_and_is_a_frozen_value(name: str) -> None:
    kind = method_class(name)
    text = " ".join((kind.__doc__ or "").split())
    for word in ("Needs:", "Equals:", "Pick when:"):
        assert word in text, word
    if name != "source-only":
        assert "Source: " in text
    assert re.search(r"Attributes:", kind.__doc__ or "") or name == "source-only"
    method = make_method(name)
    with pytest.raises(Exception, match="frozen"):
        method.width = 3
    with pytest.raises(UsageError, match=f"{name} has no setting `wdith`"):
        make_method(name, {"wdith": 3})
    with pytest.raises(UsageError, match=f"{name}.rate must be above 0"):
        make_method(name, {"rate": 0})
    with pytest.raises(UsageError, match=f"{name}.batch_size must be at least 2"):
        make_method(name, {"batch_size": 1})


@pytest.mark.parametrize("name", NAMES)
def test_a_method_fits_without_touching_its_input(name: str, tmp_path: Path) -> None:
    rows, _ = domains(seed=3, move=1.0)
    before = (rows.train_ND.copy(), rows.labels_N.copy(), rows.target_UD.copy())
    torch.manual_seed(5)
    drawn_before = torch.get_rng_state()
    method = make_method(name, SMALL)
    found = method.fit(rows, Run(tmp_path / "one", device="cpu"))
    assert torch.equal(torch.get_rng_state(), drawn_before), "no global random state is used"
    for old, new in zip(before, (rows.train_ND, rows.labels_N, rows.target_UD), strict=True):
        np.testing.assert_array_equal(old, new)
    assert found.snapshots
    epochs = [snapshot.epoch for snapshot in found.snapshots]
    assert epochs == sorted(set(epochs))
    assert 1 <= epochs[0] <= epochs[-1] <= 6
    assert found.trainable_parameters == 16 * 6 + 16 + 2 * 16 + 2
    for snapshot in found.snapshots:
        proba = snapshot.head.proba(rows.target_UD)
        assert proba.shape == (200, 2)
        np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-6)
    held = found.snapshots[-1].head.proba(rows.validation_MD).argmax(1)
    assert (held == rows.labels_M).mean() > 0.8, "the source is still served"
    assert all(np.isfinite(record["train_loss"]) for record in found.history)
    again = method.fit(rows, Run(tmp_path / "two", device="cpu"))
    for one, other in zip(found.snapshots, again.snapshots, strict=True):
        for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True):
            assert torch.equal(a, b), "the same seed gives the same bits"
    moved = method.fit(rows, Run(tmp_path / "three", seed=1, device="cpu"))
    assert not torch.equal(
        moved.snapshots[-1].head.output.weight, found.snapshots[-1].head.output.weight
    )


@pytest.mark.parametrize("name", ["mmd", "coral", "dann", "cdan", "self-training"])
def test_at_weight_zero_it_is_source_only(name: str, tmp_path: Path) -> None:
    """The same weights after the same steps, whatever the target."""
    rows, _ = domains(seed=4)
    far, _ = domains(seed=4, move=30.0)
    settings = {**SMALL, "snapshots": 1, "dropout": 0.0}
    if name == "self-training":
        settings["threshold"] = 1.0  # no row is sure enough
    found = [
        make_method(name, {**settings, "weight": 0.0}).fit(
            one, Run(tmp_path / str(k), device="cpu")
        )
        for k, one in enumerate((rows, far))
    ]
    plain = _Late(**{k: v for k, v in settings.items() if k != "threshold"}).fit(
        rows, Run(tmp_path / "plain", device="cpu")
    )
    if name in ("dann", "cdan"):  # gradients are clipped over all networks together
        expected = found[0].snapshots[0].head.output.weight
        torch.testing.assert_close(
            expected, plain.snapshots[0].head.output.weight, atol=0.02, rtol=0.0
        )
        return
    for one in found:
        torch.testing.assert_close(
            one.snapshots[0].head.output.weight, plain.snapshots[0].head.output.weight,
            atol=1e-5, rtol=1e-4,
        )  # fmt: skip


class _Late(TrainedMethod):
    """Source-only that keeps its last epoch."""

    name: ClassVar[str] = "late"
    title: ClassVar[str] = "Late"


@pytest.mark.parametrize("method", [Mmd, Coral, Dann, Cdan])
def test_an_aligning_method_brings_the_features_together(
    method: type[TrainedMethod], tmp_path: Path
) -> None:
    """Target clusters turned by 60 degrees: aligned features carry the source's boundary along."""
    rows, truth = domains(400, 400, seed=6, turn=np.pi / 3)
    settings: dict[str, Any] = {"width": 32, "epochs": 40, "rate": 1e-2}
    plain = SourceOnly(**settings).fit(rows, Run(tmp_path / "a", device="cpu"))
    found = method(**settings).fit(rows, Run(tmp_path / "b", device="cpu"))
    assert accuracy(plain, rows, truth) < 0.95
    assert accuracy(found, rows, truth) > accuracy(plain, rows, truth) + 0.03
    assert mmd_between(found.snapshots[-1].head, rows) < mmd_between(plain.snapshots[-1].head, rows)


def mmd_between(head: Head, rows: DomainVectors) -> float:
    source = torch.from_numpy(bottleneck_features(head, rows.train_ND))
    target = torch.from_numpy(bottleneck_features(head, rows.target_UD))
    return float(mmd_loss(source, target))


@pytest.mark.parametrize("ratio", ["discriminator", "kliep", "kmm"])
def test_reweighting_moves_the_boundary_to_where_the_target_lies(
    ratio: str, tmp_path: Path
) -> None:
    """Two kinds of source rows with contrary labels; the target is of the rarer kind."""
    drawn = np.random.default_rng(8)
    kind = drawn.uniform(size=600) < 0.2
    vectors = drawn.normal(size=(600, 4)).astype(np.float32)
    vectors[:, 0] = np.where(kind, 2.0, -2.0) + 0.7 * drawn.normal(size=600)
    labels = np.where(kind, vectors[:, 1] > 0, vectors[:, 1] < 0).astype(int)
    target = drawn.normal(size=(200, 4)).astype(np.float32)
    target[:, 0] = 2.0 + 0.7 * drawn.normal(size=200)
    base, _ = domains(seed=9)
    rows = DomainVectors(
        vectors[:500], labels[:500], tuple(f"s{i}" for i in range(500)), vectors[500:],
        labels[500:], target, tuple(f"t{i}" for i in range(200)), ("a", "b"), base.space,
    )  # fmt: skip
    method = Reweight(ratio=ratio, width=2, epochs=30, rate=1e-2)
    found = method.fit(rows, Run(tmp_path, device="cpu"))
    assert 0 < found.values["effective_rows"] <= 500
    assert found.values["effective_rows"] < 400, "the target is of one kind"
    assert "importance weights leave" in found.notes[0]
    plain = SourceOnly(width=2, epochs=30, rate=1e-2).fit(rows, Run(tmp_path / "p", device="cpu"))
    right, before = (
        (one.snapshots[-1].head.proba(target).argmax(1) == (target[:, 1] > 0)).mean()
        for one in (found, plain)
    )
    assert right > before + 0.3, "most source rows say the contrary"


def test_snapshots_are_epochs_of_one_training(tmp_path: Path) -> None:
    rows, _ = domains(seed=10)
    found = Mmd(**{**SMALL, "epochs": 10}, snapshots=5).fit(rows, Run(tmp_path / "a", device="cpu"))
    assert [snapshot.epoch for snapshot in found.snapshots] == [2, 4, 6, 8, 10]
    cut = Run(tmp_path / "b", device="cpu", max_steps=3)
    short = Mmd(**{**SMALL, "epochs": 10}).fit(rows, cut)
    assert short.stopped == "max_steps"
    assert len(short.snapshots) == 1


class _Kill(Callback):
    """Raises once at a given step."""

    at: ClassVar[int] = 0

    def on_step(self, state: LoopState, output: StepOutput) -> None:
        if state.step == type(self).at:
            type(self).at = 0
            raise Interrupted("killed by the test")


@pytest.mark.parametrize("name", ["source-only", "dann", "cdan", "self-training"])
def test_a_fit_that_was_killed_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed from a checkpoint: the same heads, rounds and snapshots, bit for bit."""
    from warmstart.shift import adapt_train
    from warmstart.training import Checkpoints

    rows, _ = domains(seed=11, move=0.5)
    method = make_method(name, {**SMALL, "epochs": 12})
    monkeypatch.setattr(adapt_train, "Checkpoints", lambda **of: Checkpoints(every_steps=4, **of))
    real = adapt_train.fit_loop

    def watched(**parts: Any) -> Any:
        parts["callbacks"] = [*parts["callbacks"], _Kill()]
        return real(**parts)

    monkeypatch.setattr(adapt_train, "fit_loop", watched)
    whole = method.fit(rows, Run(tmp_path / "whole", device="cpu"))
    _Kill.at = 50
    with pytest.raises(Interrupted):
        method.fit(rows, Run(tmp_path / "cut", device="cpu"))
    resumed = method.fit(rows, Run(tmp_path / "cut", device="cpu"))
    assert [s.epoch for s in resumed.snapshots] == [s.epoch for s in whole.snapshots]
    for one, other in zip(whole.snapshots, resumed.snapshots, strict=True):
        for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True):
            assert torch.equal(a, b)
    assert resumed.values == whole.values


def test_parsing_methods() -> None:
    found = parse_methods(["dann", "reweight:ratio=kmm:highest=5"])
    assert [one.name for one in found] == ["source-only", "dann", "reweight:ratio=kmm:highest=5"]
    assert isinstance(found[0], NamedMethod)
    assert found[2].title == "Importance weighting (ratio kmm, highest 5.0)"
    assert [one.name for one in parse_methods(None)] == NAMES
    valued = parse_methods([Dann(weight=0.5), SourceOnly(width=8)])
    assert [one.name for one in valued] == ["source-only:width=8", "dann:weight=0.5"]
    for wrong, message in (
        (["dnan"], 'Did you mean "dann"'),
        (["dann", "dann"], "named twice: dann"),
        (["dann:weight"], "is not a setting; write key=value"),
        (["dann:wieght=1"], 'Did you mean "weight"'),
        ([], "methods names none"),
        (["reweight:ratio=guess"], "reweight.ratio must be"),
        (["self-training:threshold=2"], "self-training.threshold must be at least 0 and at most 1"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_methods(wrong)


def test_a_name_is_taken_once() -> None:
    class Other(AdaptationMethod):
        name: ClassVar[str] = "dann"
        title: ClassVar[str] = "Another"

        def fit(self, rows: DomainVectors, run: Run) -> Adapted:
            return Adapted((Snapshot(1, Head.linear(np.eye(2), np.zeros(2))),), 0)

    with pytest.raises(UsageError, match="'dann' is already registered"):
        register_method(Other)
    assert method_class("dann") is Dann


def test_the_discriminator_starts_from_its_stream() -> None:
    from warmstart.core import Streams

    one, other = Discriminator(5, 7, Streams(1)), Discriminator(5, 7, Streams(1))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one(torch.zeros(3, 5)).shape == (3,)
    assert not torch.equal(
        next(one.parameters()), next(Discriminator(5, 7, Streams(2)).parameters())
    )


def test_cdan_takes_random_maps_where_the_product_is_wide(tmp_path: Path) -> None:
    rows, _ = domains(120, 80, seed=12, shares=tuple([0.125] * 8))
    found = Cdan(width=600, epochs=2, batch_size=32).fit(rows, Run(tmp_path, device="cpu"))
    assert found.snapshots[-1].head.proba(rows.target_UD).shape == (80, 8)


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 100), (64 * 9, 89), (64 * 9 + 63, 89), (64 * 10, 80), (64 * 800, 10)]
)
def test_passes_are_counted_by_whole_batches(rows: int, epochs: int) -> None:
    """About 800 steps: the loader leaves a smaller last batch out."""
    kept: Any = SimpleNamespace(ids_N=range(rows))
    assert Mmd()._epochs(kept) == epochs
    assert Mmd(epochs=7)._epochs(kept) == 7
