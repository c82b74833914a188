"""For users of transformers' Trainer: rates by depth, unfreezing by epoch, frozen is frozen.

Example:
    ```python
    optimizer, table = discriminative_optimizer(model, rate=1e-4)
    trainer = Trainer(
        model, arguments, train_dataset=rows, optimizers=(optimizer, None),
        callbacks=[ProgressiveUnfreezing(), FrozenIsFrozen()],
    )
    ```
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from warmstart.backbones import FAMILIES, find_groups, groups_of_family
from warmstart.core import UsageError, WarmstartError, nearest, progress
from warmstart.training import (
    RateTable,
    Rule,
    discriminative_rates,
    make_optimizer,
    rate_table,
    set_training,
)

__all__ = [
    "FrozenIsFrozen",
    "ProgressiveUnfreezing",
    "discriminative_optimizer",
    "layer_groups",
    "parameter_groups",
]

HEAD = "head"


def layer_groups(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """A transformers model's parameters in groups: stem, blocks in order, then the head.

    The head is everything outside the base model (`model.base_model`).

    Args:
        model: Such as `AutoModelForSequenceClassification.from_pretrained(...)` gives.

    Raises:
        BackboneError: When the base model cannot be divided.
    """
    base = getattr(model, "base_model", model)
    family = FAMILIES.get(str(getattr(getattr(base, "config", None), "model_type", "")))
    divided = groups_of_family(base, family) if family is not None else find_groups(base)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        name: [(names[id(parameter)], parameter) for _, parameter in divided.parameters(name)]
        for name in divided.names
    }
    inside = {id(parameter) for parameter in base.parameters()}
    head = [(name, p) for name, p in model.named_parameters() if id(p) not in inside]
    return groups | ({HEAD: head} if head else {})


def discriminative_optimizer(
    model: nn.Module,
    rate: float = 1e-4,
    *,
    factor: float = 2.6,
    head_multiplier: float = 3.0,
    rules: Sequence[Rule] = (),
    weight_decay: float = 0.01,
) -> tuple[Optimizer, RateTable]:
    """AdamW with `rate_l = rate / factor^(L - l)` for `Trainer(optimizers=(optimizer, None))`.

    Parameters that a rule freezes get no gradient. The table says what is learned how fast:
    `print(table.text())`.

    Args:
        model: A transformers model.
        rate: Of the last block's group.
        factor: By how much each earlier group learns more slowly.
        head_multiplier: The head's rate in units of `rate`, 1 to 10.
        rules: Exceptions, first match counts; see `warmstart.training.parse_rules`.
        weight_decay: On matrices only.

    Raises:
        UsageError: For settings outside their ranges, or a rule that matches nothing.
    """
    groups = layer_groups(model)
    rates = discriminative_rates(groups, rate, factor, head_multiplier)
    table = rate_table(groups, rate, rules=rules, rates=rates, module=model)
    return make_optimizer(table, weight_decay=weight_decay), table


def parameter_groups(
    model: nn.Module, rate: float = 1e-4, **settings: Any
) -> list[dict[str, object]]:
    """The groups of `discriminative_optimizer` for an optimiser of one's own.

    Args:
        model: A transformers model.
        rate: Of the last block's group.
        **settings: As `discriminative_optimizer` takes them.

    Returns:
        Dicts with `params`, `lr`, `weight_decay` and `name`.
    """
    optimizer, _ = discriminative_optimizer(model, rate, **settings)
    wanted = ("params", "lr", "weight_decay", "name")
    return [{key: group[key] for key in wanted} for group in optimizer.param_groups]


class ProgressiveUnfreezing(TrainerCallback):  # type: ignore[misc]
    """Train the head first, then one more group each stage, from the last block to the stem.

    What is frozen is a function of the epoch, so a Trainer that resumes from a checkpoint goes on
    in the right stage. With several processes set `ddp_find_unused_parameters=True`.

    Source: Howard and Ruder 2018, ULMFiT, section 3.3.
    """

    def __init__(
        self,
        epochs_per_stage: int = 1,
        *,
        schedule: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Choose the stages.

        Args:
            epochs_per_stage: Epochs before another group is unfrozen.
            schedule: Epoch (from 0) to the groups frozen from then on, in place of stages.
        """
        if epochs_per_stage < 1:
            raise UsageError(f"epochs_per_stage must be at least 1, got {epochs_per_stage}.")
        if schedule is not None and 0 not in schedule:
            raise UsageError(f"schedule must say what is frozen from epoch 0 on, got {schedule}.")
        self._epochs = epochs_per_stage
        self._schedule = None if schedule is None else dict(schedule)

    def frozen_at(self, epoch: int, names: Sequence[str]) -> tuple[str, ...]:
        """The groups that are frozen in an epoch.

        Args:
            epoch: From 0.
            names: All groups in order, head last.
        """
        if self._schedule is not None:
            return tuple(self._schedule[max(at for at in self._schedule if at <= epoch)])
        backbone = [name for name in names if name != HEAD]
        return tuple(backbone[: max(0, len(backbone) - epoch // self._epochs)])

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None,
        optimizer: Any = None, **_: Any,
    ) -> None:  # fmt: skip
        """Check that all will be learned that is unfrozen later, and begin the stage."""
        assert model is not None
        groups = layer_groups(model)
        for frozen in (self._schedule or {}).values():
            for name in frozen:
                if name not in groups:
                    raise UsageError(f'no layer group is called "{name}".{nearest(name, groups)}')
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [n for members in groups.values() for n, p in members if id(p) not in held]
        if missing:
            raise UsageError(
                f"the optimiser lacks {len(missing)} parameters ({missing[0]}, ...), so they would "
                "never be learned. Make it before anything is frozen, or use "
                "discriminative_optimizer."
            )
        self._begin(state, model)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Freeze and unfreeze as the epoch says."""
        assert model is not None
        self._begin(state, model)

    def _begin(self, state: Any, model: nn.Module) -> None:
        epoch = int((state.epoch or 0.0) + 1e-6)
        groups = layer_groups(model)
        frozen = set(self.frozen_at(epoch, list(groups)))
        changed = False
        for name, members in groups.items():
            for _, parameter in members:
                wanted = name not in frozen
                changed |= parameter.requires_grad != wanted
                parameter.requires_grad_(wanted)
                if not wanted:
                    parameter.grad = None
        if changed:
            learned = [name for name in groups if name not in frozen]
            progress.note(f"Epoch {epoch + 1}: training {', '.join(learned)}.")


class FrozenIsFrozen(TrainerCallback):  # type: ignore[misc]
    """Frozen parts run in evaluation mode, and nothing of them moves: proved by hash.

    The Trainer calls `model.train()` before every step, which lets dropout and batch-norm
    statistics of frozen parts go on; here every part without a trained parameter is put back into
    evaluation mode before each forward pass. Frozen weights and the buffers of frozen parts are
    hashed when they freeze and compared after every epoch and at the end.

    Put it after `ProgressiveUnfreezing`.

    Attributes:
        checked: Tensors that the last comparison found unchanged.
    """

    def __init__(self) -> None:
        self.checked = 0
        self._hashes: dict[str, str] = {}
        self._handle: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Hash what is frozen and watch the mode."""
        assert model is not None
        self._hashes = {}
        self._remember(model)
        self._let_go()
        self._handle = model.register_forward_pre_hook(_rest)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Hash what is frozen from now on."""
        assert model is not None
        self._remember(model)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Compare.

        Raises:
            WarmstartError: Naming what moved.
        """
        assert model is not None
        self._compare(model)

    def on_train_end(
        self, args: Any, state: Any, control: Any, *, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Compare for the last time.

        Raises:
            WarmstartError: Naming what moved.
        """
        assert model is not None
        self._let_go()
        self._compare(model)

    def _remember(self, model: nn.Module) -> None:
        frozen = dict(_frozen(model))
        self._hashes = {
            name: self._hashes.get(name) or _hash(tensor) for name, tensor in frozen.items()
        }

    def _compare(self, model: nn.Module) -> None:
        frozen = dict(_frozen(model))
        moved = [
            name
            for name, value in self._hashes.items()
            if name in frozen and _hash(frozen[name]) != value
        ]
        if moved:
            self._let_go()
            more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
            raise WarmstartError(
                f"{moved[0]}{more} is frozen, but it moved while training. Something else writes "
                "to it: weight tying, a moving average, or an optimiser with a parameter whose "
                "gradient was left over."
            )
        self.checked = sum(name in frozen for name in self._hashes)

    def _let_go(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _rest(module: nn.Module, _: Any) -> None:
    """Before a training pass: evaluation mode for every part that has no trained parameter."""
    if module.training:
        set_training(module)


def _frozen(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Frozen parameters, and the buffers of parts whose parameters all are frozen."""
    yield from ((name, p) for name, p in model.named_parameters() if not p.requires_grad)
    for path, part in model.named_modules():
        trained = [p.requires_grad for p in part.parameters()]
        if trained and not any(trained):
            yield from part.named_buffers(path)


def _hash(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest()
