"""Settings that every training strategy has: rules, balance, mixup, augmentation, pulls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, state_hash
from warmstart.core import Run, UsageError, progress
from warmstart.data import View
from warmstart.strategies import Finetune, Partial, Probe, ProbeThenFinetune, make, old_task


@pytest.fixture
def text(text_view: Any, tiny_text: Path, opened: Any) -> tuple[Backbone, View, Any]:
    view, test = text_view
    return opened(tiny_text), view, test


@pytest.fixture
def image(image_view: Any, tiny_resnet: Path, opened: Any) -> tuple[Backbone, View, Any]:
    view, test = image_view
    return opened(tiny_resnet), view, test


def rates(fitted: Any) -> dict[str, float]:
    return {row["group"]: row["rate"] for row in fitted.rates}


def test_a_table_of_rates_by_name(image: Any, make_run: Callable[..., Run]) -> None:
    """The table of a practitioner: absolute rates by stage, the stem frozen, a share, the head."""
    source, view, _ = image
    table = "stem=frozen, block.0=1e-6, block.*=x0.1, head=1e-3"
    fitted = Finetune(rules=table, epochs=1, rate=1e-3).fit(source, view, make_run())
    found = rates(fitted)
    assert found["stem"] == 0
    assert (found["block.0"], found["head"]) == (1e-6, 1e-3)
    assert found[source.group_names[-1]] == pytest.approx(1e-4)
    untouched = source.load(device="cpu")
    assert state_hash(fitted.model.encoder, ["stem"]) == state_hash(untouched, ["stem"])


def test_a_rule_that_freezes_part_of_a_group(text: Any, make_run: Callable[..., Run]) -> None:
    source, view, _ = text
    fitted = Finetune(rules="*LayerNorm*=frozen", epochs=1).fit(source, view, make_run())
    tuned, untouched = fitted.model.encoder.module, source.load(device="cpu").module
    for (name, mine), theirs in zip(tuned.named_parameters(), untouched.parameters(), strict=True):
        if "LayerNorm" in name:
            assert torch.equal(mine, theirs), name
    assert state_hash(tuned) != state_hash(untouched)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("finetune", {"rules": "blok.0=frozen"}, 'Did you mean "block.0"'),
        ("finetune", {"rules": "stem"}, '"stem" is no rule'),
        ("finetune", {"augment": "flip"}, "finetune.augment changes images; these rows are text"),
        ("partial", {"augment": "filp"}, "filp"),
        ("finetune", {"ewc": 10}, "finetune.ewc needs rows of the task"),
        ("finetune", {"wise": True, "head": "mlp"}, "finetune.wise needs a linear head"),
        ("scratch", {"wise": True}, "scratch.wise would hold random weights"),
        ("unfreeze", {"l2_sp": -1}, "unfreeze.l2_sp must be at least 0"),
        ("lp-ft", {"oversample": 2}, "lp-ft.oversample must be at least 0 and at most 1"),
        (
            "finetune",
            {"epochs": 1_000_000},
            "epochs must be at least 1 and at most 10,000 or",
        ),
        (
            "unfreeze",
            {"stage_epochs": 99_999},
            "at least 1 and at most 10,000 or",
        ),
        (
            "maml",
            {"tasks": 1_000_000},
            "maml.tasks must be at least 1 and at most 1,000, got",
        ),
        ("maml", {"queries": 0}, "maml.queries must be at least 1 and at most 1,000, got 0"),
        ("prefix", {"tokens": 10**9}, "prefix.tokens must be at least 1 and at most 4,096"),
        ("lora", {"rank": 10**9}, "lora.rank must be at least 1 and at most 65,536 or"),
        ("adapter", {"width": 10**9}, "adapter.width must be at least 1 and at most 65,536"),
        ("finetune", {"schedule": "steps"}, "finetune.schedule must be .*plateau"),
    ],
)
def test_settings_that_cannot_work(
    name: str, settings: dict[str, Any], message: str, text: Any, make_run: Callable[..., Run]
) -> None:
    source, view, _ = text
    with pytest.raises(UsageError, match=message):
        make(name, settings).fit(source, view, make_run())


def test_a_pull_to_the_start_keeps_the_weights_near(
    text: Any, make_run: Callable[..., Run]
) -> None:
    source, view, _ = text
    start = torch.cat([p.flatten() for p in source.load(device="cpu").module.parameters()])

    def moved(**settings: Any) -> float:
        strategy = Finetune(rate=5e-3, epochs=4, patience=9, schedule="constant", **settings)
        fitted = strategy.fit(source, view, make_run())
        now = torch.cat([p.flatten() for p in fitted.model.encoder.module.parameters()])
        return float((now - start).detach().norm())

    free, held = moved(), moved(l2_sp=10.0)
    assert held < free / 2


def test_the_old_task_is_watched_and_held(text: Any, make_run: Callable[..., Run]) -> None:
    source, view, _ = text
    view = View(view.train, view.validation, retain=View(view.train, view.validation))
    fitted = Finetune(rate=0.05, epochs=4, patience=9, schedule="constant").fit(
        source, view, make_run()
    )
    assert all("retained_accuracy" in record for record in fitted.history)
    before = old_task(source, view.retain).before
    strict = Finetune(rate=0.05, epochs=4, patience=9, schedule="constant")
    kept = strict.fit(source, view, make_run(max_forgetting=0.0))
    best = int(kept.values["best_epoch"])
    drops = [100 * (before - record["retained_accuracy"]) for record in kept.history]
    if min(drops) <= 1e-9:
        assert drops[best - 1] <= 1e-9
    else:
        assert drops[best - 1] == min(drops)
    held = Finetune(rate=5e-3, epochs=2, ewc=1e4).fit(source, view, make_run())
    assert np.isfinite(held.history[-1]["train_loss_penalty"])


def test_wise_goes_part_of_the_way(text: Any, make_run: Callable[..., Run]) -> None:
    source, view, _ = text
    fitted = ProbeThenFinetune(rate=1e-2, epochs=2, wise=True).fit(source, view, make_run())
    curve = fitted.values["wise_curve"]
    assert [point["share"] for point in curve] == pytest.approx([i / 10 for i in range(11)])
    chosen = [point for point in curve if point["chosen"]]
    assert [point["share"] for point in chosen] == [fitted.values["wise_share"]]
    assert chosen[0]["validation_loss"] == min(point["validation_loss"] for point in curve)
    probe = Probe().fit(source, view, make_run()).model
    held = view.validation.without_labels()
    start = -np.log(probe.proba(held)[np.arange(len(held)), view.validation.labels_N]).mean()
    assert curve[0]["validation_loss"] == pytest.approx(start, rel=1e-3)


def test_plateau_lowers_the_rates(text: Any, make_run: Callable[..., Run]) -> None:
    source, view, _ = text
    strategy = Finetune(rate=0.3, epochs=8, patience=6, schedule="plateau", warmup=0.0)
    history = strategy.fit(source, view, make_run()).history
    assert history[-1]["rate"] < history[0]["rate"]


def test_rare_classes_are_brought_up(
    as_text: Any, topics: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    texts, labels = topics(48)
    few = [i for i, label in enumerate(labels) if label == labels[0]][:4]
    many = [i for i, label in enumerate(labels) if label != labels[0]]
    rows = as_text([texts[i] for i in few + many], [labels[i] for i in few + many])
    view = View(rows, rows)
    source = opened(tiny_text)
    plain = Finetune(epochs=1, batch_size=4).fit(source, view, make_run())
    over = Finetune(epochs=1, batch_size=4, oversample=1.0).fit(source, view, make_run())
    assert plain.history[-1]["step"] == -(-len(rows) // 4)
    assert over.history[-1]["step"] == 2 * len(many) // 4
    assert over.epochs == pytest.approx(1.0)
    heavy = Finetune(epochs=1, batch_size=4, class_weights="balanced").fit(source, view, make_run())
    assert heavy.history[-1]["train_loss"] != plain.history[-1]["train_loss"]


def test_a_prefix_that_is_not_kept_is_told(
    tiny_text: Path, text_view: Any, opened: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "note", said.append)
    view, _ = text_view
    make("partial", {"epochs": 1, "oversample": 1.0}).fit(opened(tiny_text), view, make_run())
    assert any("recomputed at every step: oversample needs whole passes" in text for text in said)


@pytest.mark.parametrize("settings", [{"augment": "crop,flip"}, {"mixup": 0.3}])
def test_augmentation_and_mixup_with_and_without_replay(
    settings: dict[str, Any], image: Any, text: Any, make_run: Callable[..., Run]
) -> None:
    source, view, test = image
    for strategy in (Finetune(epochs=2, **settings), Partial(epochs=2, views=2, **settings)):
        one, two = (strategy.fit(source, view, make_run(seed=1)) for _ in range(2))
        np.testing.assert_array_equal(one.model.proba(test), two.model.proba(test))
        plain = type(strategy)(epochs=2).fit(source, view, make_run(seed=1))
        assert one.history[-1]["train_loss"] != plain.history[-1]["train_loss"]
    if "mixup" in settings:
        source, view, test = text
        fitted = Partial(epochs=2, **settings).fit(source, view, make_run())
        assert np.isfinite(fitted.history[-1]["train_loss"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("probe", {"l2": "inf"}, "probe.l2 must be a finite number"),
        ("probe", {"l2": 1e308}, "probe.l2 must be above 0 and at most 1e"),
        ("lp-ft", {"rate": float("inf")}, "lp-ft.rate must be a finite number"),
        ("tfidf", {"strengths": "1|1e999"}, "must be a finite number"),
        ("finetune", {"factor": 1e308}, "finetune.factor must be at least 1 and at most 100"),
        ("maml", {"hidden": 10**20}, "maml.hidden must be at least 1 and at most"),
        ("cnn", {"image_size": 1}, "cnn.image_size must be at least 16"),
        ("finetune", {"rules": {"a": 1}}, "finetune.rules must be text"),
        ("zero-shot", {"templates": "no braces"}, r"must have \{\} where the class name goes, got"),
    ],
)
def test_numbers_out_of_all_bounds(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, settings)


def test_a_gradient_that_overflows_is_kept_as_no_number() -> None:
    """JSON has no infinity: a run must not be lost at its end for one."""
    from warmstart.planning.arms import _finite

    assert _finite({"grad_norm": float("inf"), "epoch": 1.0}) == {"grad_norm": None, "epoch": 1.0}
