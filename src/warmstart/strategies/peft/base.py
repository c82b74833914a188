"""What all adapters share: a frozen base that is proved frozen, an adapter that is proved alive."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat
from torch import nn

from warmstart.backbones import Backbone, Encoder, embed_inputs
from warmstart.core import (
    NotApplicable,
    Run,
    RunError,
    Streams,
    UsageError,
    fingerprint,
    pick_device,
    progress,
    typical,
)
from warmstart.data import View
from warmstart.models import AdaptedEncoder, AdaptedModel, Head
from warmstart.training import History, discriminative_rates

from ..base import Fitted
from ..supervised import Job
from ..trained import Trained, fitted
from .table import Adaptation, family_in, family_of, require, works_on

__all__ = ["Adapting", "Attempt", "no_layers"]

_PROBES = 8
_ROUNDING = 1e-6  # of the largest entry: what float32 may change by itself


@dataclass
class Attempt:
    """One training of an adapter, ready to run.

    Attributes:
        backbone: The recipe of the base, with the settings that the adapter needs.
        encoder: The base with its adapter.
        head: On top of it.
        job: Trains both.
        frozen: Fingerprint of the base before training.
        start: Fingerprint of the adapter before training.
        probes: A few training inputs.
        untouched_ND: What the base alone makes of them.
    """

    backbone: Backbone
    encoder: AdaptedEncoder
    head: Head
    job: Job
    frozen: str
    start: str
    probes: list[Any]
    untouched_ND: np.ndarray


class Adapting(Trained):
    """What every adapter shares: the base is frozen, adapter and head learn.

    Attributes:
        rate: Rate of the adapter in the last backbone group.
        factor: By how much adapters in each earlier group learn more slowly; 1 for one rate.
        head_multiplier: The head's rate in units of `rate`, 1 to 10.
        dropout: Within the adapter where it has such a place, and before the head's layers, while
            training; the base has none.
        weight_decay: Decoupled, on matrices of the adapter and the head.
        batch_norm: `eval`: the base does not move at all.
    """

    rate: PositiveFloat = Field(3e-3, json_schema_extra=typical("3e-4 to 1e-2"))
    factor: float = Field(1.0, ge=1, le=100, json_schema_extra=typical("1 to 3"))
    dropout: float = Field(0.05, ge=0, lt=1, json_schema_extra=typical("0 to 0.1"))
    batch_norm: Literal["eval"] = "eval"

    _method: ClassVar[Adaptation]
    _quantized: ClassVar[bool] = False

    def check(self, backbone: Backbone, view: View) -> None:
        """Refuse rows and families that this adapter does not work on.

        Raises:
            NotApplicable: With the reason and what works.
            UsageError: For settings that are about weights of the base, which do not move here.
        """
        super().check(backbone, view)
        for setting in ("l2_sp", "ewc", "wise"):
            if getattr(self, setting):
                raise UsageError(
                    f"{self.name}.{setting} is about how far the base moves, and an adapter's base "
                    "does not move at all. Leave it out, or use finetune."
                )
        if view.train.modality not in self.modalities:
            raise NotApplicable(
                f"the rows are {view.train.modality}s, which have no tokens that learned ones "
                f"could stand before{_instead(backbone)}"
            )
        require(family_of(backbone), self._method, name=backbone.name, explicit=self._explicit)

    @property
    def _explicit(self) -> bool:
        """Whether the user names the layers."""
        return False

    def _with_room(self, backbone: Backbone, encoder: Encoder) -> Backbone:
        """The recipe with settings that leave room for the adapter; the encoder gets them too."""
        return backbone

    @abstractmethod
    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        """Put the adapter into a fresh encoder; it starts as a function of the streams."""

    def trains(self, encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
        """The adapter's parameters, after putting it in.

        Raises:
            NotApplicable: For a family that this adapter does not work on.
        """
        require(family_in(encoder), self._method, explicit=self._explicit)
        return self._attach(encoder, Streams(0)).adapter_parameters()

    def attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        """Put the adapter into a fresh encoder, for trainings other than `fit`.

        Args:
            encoder: Its network is changed in place.
            streams: The adapter starts as a function of them.

        Raises:
            NotApplicable: For a family that this adapter does not work on.
        """
        require(family_in(encoder), self._method, explicit=self._explicit)
        return self._attach(encoder, streams)

    def learning(
        self, encoder: AdaptedEncoder, head: nn.Module
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Ordered parameter groups (frozen base, adapter by layer group, head) and their rates."""
        return self._groups(encoder, head)

    def _groups(
        self, encoder: AdaptedEncoder, head: nn.Module
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ordered parameter groups and their rates: frozen base, adapter by layer group, head."""
        names = encoder.groups.names
        layered = discriminative_rates(
            [*names, "head"], self.rate, self.factor, self.head_multiplier
        )
        own = encoder.adapter_parameters()
        base = {id(parameter) for _, parameter in encoder.base_parameters()}
        groups: dict[str, list[Any]] = {}
        rates: dict[str, float] = {}
        beside = [(name, p) for name, p in own if name.startswith("prompt.")]
        if beside:
            groups["prompt adapter"], rates["prompt adapter"] = beside, self.rate
        for name in names:
            members = encoder.groups.parameters(name)
            groups[name] = [(key, p) for key, p in members if id(p) in base]
            rates[name] = 0.0
            for title, part, faster in self._split([m for m in members if id(m[1]) not in base]):
                groups[f"{name} {title}"] = part
                rates[f"{name} {title}"] = layered[name] * faster
        groups["head"] = [(f"head.{key}", p) for key, p in head.named_parameters()]
        rates["head"] = layered["head"]
        return groups, rates

    def _split(self, members: list[Any]) -> list[tuple[str, list[Any], float]]:
        """Parts of a group's adapter with their names and how many times faster they learn."""
        return [("adapter", members, 1.0)]

    def _attempt(self, backbone: Backbone, view: View, run: Run) -> Attempt:
        """Everything of a training but the training."""
        device = pick_device(run.device)
        encoder = backbone.load(device="cpu" if self._quantized else str(device))
        backbone = self._with_room(backbone, encoder)
        probes = list(view.train.inputs(list(range(min(_PROBES, len(view.train))))))
        if self._quantized:
            from warmstart.models import quantize

            quantize(encoder, device)
        untouched_ND = embed_inputs(encoder, probes)
        adapted = self._attach(encoder, run.streams)
        head = Head(self._shape(adapted, view), run.streams)
        groups, rates = self._groups(adapted, head)
        job = Job(
            adapted, head,
            rates=rates, groups=groups, view=view, run=run, recipe=self._recipe(backbone, view),
            name=self.title, full_epochs=self._epochs(backbone, view), lean=True,
            rules=self._rules, base=self.rate, old=self._old_task(backbone, view),
        )  # fmt: skip
        moving = [r.group for r in job.table.rows if r.group in adapted.groups.names and r.rate]
        if moving:
            raise UsageError(
                f"{self.name}.rules gives the frozen base a rate ({moving[0]}). Rules of an "
                'adapter name its own groups: "* adapter" and "head".'
            )
        return Attempt(
            backbone, adapted, head, job, adapted.base_fingerprint(), _state(adapted), probes,
            untouched_ND,
        )  # fmt: skip

    def _job(self, backbone: Backbone, view: View, run: Run) -> Job:
        return self._attempt(backbone, view, run).job

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train adapter and head on the frozen base; the best validation loss is kept.

        Raises:
            NotApplicable: As `check`.
            RunError: When the base moved, or the adapter did nothing.
        """
        self.check(backbone, view)
        attempt = self._attempt(backbone, view, run)
        if attempt.backbone.max_length != backbone.max_length:
            progress.note(
                f"{self.title}: texts are cut at {attempt.backbone.max_length} tokens instead of "
                f"{backbone.max_length}, since learned tokens take up positions too."
            )
        return self._result(attempt, attempt.job.train(), view)

    def _result(self, attempt: Attempt, history: History, view: View) -> Fitted:
        """Prove what must hold, and return the model."""
        encoder, job = attempt.encoder.eval(), attempt.job
        self._prove(attempt, history)
        model = AdaptedModel(
            attempt.backbone, attempt.head, view.label_names, encoder=encoder,
            quantized=self._quantized,
        )  # fmt: skip
        own = sum(p.numel() for _, p in encoder.adapter_parameters())
        made = fitted(attempt.backbone, job, history)
        values = {**made.values, "adapter_parameters": own, **self._chosen(encoder)}
        return replace(made, model=model, values=values)

    def _chosen(self, encoder: AdaptedEncoder) -> dict[str, Any]:
        """What of the adapter was decided on the way."""
        return {}

    def _prove(self, attempt: Attempt, history: History) -> None:
        encoder = attempt.encoder
        if encoder.base_fingerprint() != attempt.frozen:
            raise RunError(
                f"{self.name}: weights or buffers of the frozen base changed while training. "
                "Something wrote to them (a hook, a layer with a state of its own, batch-norm "
                "layers put in training mode); the result is not kept."
            )
        if not history.steps:
            return
        adapted_ND = embed_inputs(encoder, attempt.probes)
        moved = _state(encoder) != attempt.start
        within = _ROUNDING * float(np.abs(attempt.untouched_ND).max(initial=0.0))
        if not moved or np.abs(adapted_ND - attempt.untouched_ND).max(initial=0.0) <= within:
            raise RunError(
                f"{self.name}: after {history.steps} steps the adapter "
                + (
                    "is as it was at the start"
                    if not moved
                    else "changes no output of the base beyond rounding"
                )
                + ". Its layers have no part in the vectors that are used, or the rate is too "
                "small. Name other layers, or raise the rate."
            )


def _instead(backbone: Backbone) -> str:
    family = family_of(backbone)
    return "" if family is None else f". What works: {', '.join(works_on(family))}"


def _state(encoder: AdaptedEncoder) -> str:
    return fingerprint(
        "adapter",
        {name: p.detach().float().cpu().numpy() for name, p in encoder.adapter_parameters()},
    )


def no_layers(method: str, encoder: Encoder) -> UsageError:
    """What is raised where the table's layers are not in this network."""
    return UsageError(
        f"{method} finds none of its layers in {type(encoder.module).__name__}. This transformers "
        "may name them otherwise: give lora its targets by name."
    )
