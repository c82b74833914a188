"""The callbacks inside real Trainer runs on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from warmstart.core import UsageError, WarmstartError
from warmstart.integrations.transformers import (
    FrozenIsFrozen,
    ProgressiveUnfreezing,
    discriminative_optimizer,
    layer_groups,
    parameter_groups,
)
from warmstart.training import parse_rules


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config)


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.ResNetForImageClassification(config)


def rows(kind: str = "text") -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    if kind == "image":
        return [
            {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": i % 2}
            for i in range(16)
        ]
    return [
        {"input_ids": torch.randint(5, 30, (8,), generator=generator), "labels": i % 2}
        for i in range(16)
    ]


class Spy(TrainerCallback):
    """What was trained and what was resting in each step."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, ...]] = []
        self.modes: list[tuple[bool, bool]] = []
        self.handles: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        dropout = model.get_submodule("bert.embeddings.dropout") if hasattr(model, "bert") else None
        if dropout is not None:
            self.handles.append(dropout.register_forward_hook(
                lambda m, *_: self.modes.append((m.training, model.training))
            ))  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = layer_groups(kwargs["model"])
        self.trained.append(tuple(
            name for name, members in groups.items() if any(p.requires_grad for _, p in members)
        ))  # fmt: skip


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trainer]:
    def make(model: Any, callbacks: list[Any], *, optimizer: Any = None, resume: Any = None,
             kind: str = "text", **settings: Any) -> Trainer:  # fmt: skip
        arguments = TrainingArguments(
            str(tmp_path / "out"), per_device_train_batch_size=8, use_cpu=True, report_to=[],
            disable_tqdm=True, dataloader_pin_memory=False, logging_strategy="no", seed=3,
            **({"num_train_epochs": 5, "save_strategy": "no", "learning_rate": 1e-2} | settings),
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=rows(kind), callbacks=callbacks,
            optimizers=(optimizer, None),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return make


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_groups_and_rates_are_the_designs() -> None:
    model = bert()
    groups = layer_groups(model)
    assert list(groups) == ["stem", "block.0", "block.1", "block.2", "head"]
    names = [name for members in groups.values() for name, _ in members]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert [name for name, _ in groups["head"]] == ["classifier.weight", "classifier.bias"]
    assert any(name.startswith("bert.pooler") for name, _ in groups["block.2"])
    _, table = discriminative_optimizer(model, 3e-3)
    rates = [row.rate for row in table.rows]
    assert rates == pytest.approx([3e-3 / 2.6**3, 3e-3 / 2.6**2, 3e-3 / 2.6, 3e-3, 9e-3])
    made = parameter_groups(model, 3e-3, rules=parse_rules("bert.encoder.layer.1=1e-5"))
    assert {group["lr"] for group in made if group["name"] == "block.1"} == {1e-5}
    torch.optim.SGD(made)
    assert list(layer_groups(resnet())) == ["stem", "block.0", "block.1", "head"]
    base = transformers.BertModel(bert().config)
    assert list(layer_groups(base)) == ["stem", "block.0", "block.1", "block.2"]


def test_progressive_unfreezing_in_a_real_run(train: Any) -> None:
    model = bert()
    optimizer, _ = discriminative_optimizer(model, 1e-2, weight_decay=0.1)
    frozen, spy = FrozenIsFrozen(), Spy()
    seen: list[dict[str, torch.Tensor]] = [state(model)]

    class Keep(TrainerCallback):
        def on_epoch_end(self, args: Any, state_: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state(kwargs["model"]))

    train(model, [ProgressiveUnfreezing(), frozen, spy, Keep()], optimizer=optimizer)
    order = ["stem", "block.0", "block.1", "block.2", "head"]
    assert spy.trained == [tuple(order[4 - epoch :]) for epoch in range(5) for _ in range(2)]
    groups = {name: [n for n, _ in members] for name, members in layer_groups(model).items()}
    for epoch in range(5):
        for place, name in enumerate(order):
            moved = any(not torch.equal(seen[epoch][n], seen[epoch + 1][n]) for n in groups[name])
            assert moved == (place >= 4 - epoch), (epoch, name)
    # The stem's dropout rested while it was frozen, though the Trainer had the model in training.
    assert spy.modes == [(False, True)] * 8 + [(True, True)] * 2
    assert not model._forward_pre_hooks


def test_two_epochs_a_stage_and_explicit_schedules() -> None:
    names = ["stem", "block.0", "block.1", "head"]
    stages = [ProgressiveUnfreezing(2).frozen_at(epoch, names) for epoch in range(8)]
    whole, two, one, none = ("stem", "block.0", "block.1"), ("stem", "block.0"), ("stem",), ()
    assert stages == [whole, whole, two, two, one, one, none, none]
    explicit = ProgressiveUnfreezing(schedule={0: ["stem"], 3: []})
    assert [explicit.frozen_at(e, names) for e in (0, 2, 3, 9)] == [("stem",), ("stem",), (), ()]
    with pytest.raises(UsageError, match="from epoch 0 on"):
        ProgressiveUnfreezing(schedule={1: []})
    with pytest.raises(UsageError, match="at least 1, got 0"):
        ProgressiveUnfreezing(0)


def test_a_resumed_trainer_goes_on_in_the_right_stage(train: Any, tmp_path: Path) -> None:
    def parts() -> tuple[Any, Any, Spy]:
        model = bert()
        return model, discriminative_optimizer(model, 1e-2)[0], Spy()

    model, optimizer, spy = parts()
    settings = {"save_strategy": "epoch", "num_train_epochs": 3}
    train(model, [ProgressiveUnfreezing(), spy], optimizer=optimizer, **settings)
    again, optimizer, second = parts()
    train(again, [ProgressiveUnfreezing(), FrozenIsFrozen(), second], optimizer=optimizer,
          resume=str(tmp_path / "out" / "checkpoint-4"), **settings)  # fmt: skip
    assert second.trained == spy.trained[4:]
    assert second.trained[0] == ("block.1", "block.2", "head")


def test_frozen_batch_norm_stays_only_with_the_callback(train: Any) -> None:
    moved = {}
    for kept in (False, True):
        model = resnet()
        optimizer, table = discriminative_optimizer(
            model, 1e-2, rules=parse_rules("stem=frozen,block.0=frozen")
        )
        assert table.rows[0].batch_norm == "eval"
        before = state(model)
        callback = FrozenIsFrozen()
        train(model, [callback] if kept else [], optimizer=optimizer, kind="image",
              num_train_epochs=2)  # fmt: skip
        after = model.state_dict()
        inner = [key for key in before if "embedder" in key or "stages.0" in key]
        moved[kept] = [key for key in inner if not torch.equal(before[key], after[key])]
        last = [key for key in before if "stages.1" in key and "running" in key]
        assert all(not torch.equal(before[key], after[key]) for key in last)
        if kept:
            assert callback.checked == len(inner)
    assert moved[True] == []
    assert any("running_mean" in key for key in moved[False])


def test_a_frozen_tensor_that_moves_is_an_error(train: Any) -> None:
    class Meddler(TrainerCallback):
        def on_step_end(self, args: Any, state_: Any, control: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                kwargs["model"].bert.embeddings.LayerNorm.bias.add_(1e-3)

    model = bert()
    optimizer, _ = discriminative_optimizer(model, rules=parse_rules("stem=frozen"))
    with pytest.raises(WarmstartError, match=r"bert\.embeddings\.LayerNorm\.bias is frozen, but"):
        train(model, [FrozenIsFrozen(), Meddler()], optimizer=optimizer)
    assert not model._forward_pre_hooks


def test_what_would_never_be_learned_is_refused(train: Any) -> None:
    model = bert()
    optimizer, _ = discriminative_optimizer(model, rules=parse_rules("stem=frozen"))
    with pytest.raises(UsageError, match="the optimiser lacks 5 parameters"):
        train(model, [ProgressiveUnfreezing()], optimizer=optimizer)
    with pytest.raises(UsageError, match=r'called "block\.9"'):
        train(bert(), [ProgressiveUnfreezing(schedule={0: ["block.9"]})])


def test_with_the_trainers_own_optimiser(train: Any) -> None:
    model, spy = bert(), Spy()
    train(model, [ProgressiveUnfreezing(), FrozenIsFrozen(), spy], num_train_epochs=2)
    assert spy.trained[0] == ("head",)
    assert spy.trained[-1] == ("block.2", "head")
