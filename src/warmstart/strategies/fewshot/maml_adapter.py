"""MAML over adapters: one job from rows to a model, in the course that `Maml` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.backbones import Backbone
from warmstart.core import Run, RunError, pick_device
from warmstart.data import View
from warmstart.models import AdaptedModel, Head, HeadShape
from warmstart.training import LoopState, RateTable, StepOutput, make_optimizer, rate_table

from ..peft.adapter import Adapter
from .meta import EpisodeBatch, Start
from .meta_adapter import MetaAdapter, RowEpisodes

__all__ = ["AdapterJob", "adapter_job"]

_GRID = (0, 1, 2, 3, 5, 10)


@dataclass(frozen=True)
class AdapterJob:
    """One meta-learning of adapters: the learner, its rows, and the way to the final model.

    Attributes:
        learner: Base, adapters and inner rates.
        table: Who learns how fast in the outer loop.
        parts: What the loop and the measurement both take.
        backbone: The base's recipe.
        view: Training and validation rows.
        way: Classes an episode.
        shots: Support rows a class.
        inner_steps: Gradient steps on the support.
        frozen: Fingerprint of the base before training.
    """

    learner: MetaAdapter
    table: RateTable
    parts: dict[str, Any]
    backbone: Backbone
    view: View
    way: int
    shots: int
    inner_steps: int
    frozen: str

    def judge(self) -> None:
        """One adaptation to all rows, as it is made after every pass."""
        self._best(self.learner, (self.inner_steps,), lambda: None)

    def evaluate(self, state: LoopState) -> Mapping[str, float]:
        """What the start is worth: validation metrics after the inner steps on all rows."""
        learner = state.plain["model"]
        assert isinstance(learner, MetaAdapter)
        return self._best(learner, (self.inner_steps,), state.pause_point)[2]

    def model(self) -> tuple[AdaptedModel, int]:
        """The start adapted to all training rows, by the steps that validation likes best.

        Raises:
            RunError: When the frozen base moved.
        """
        encoder = self.learner.encoder.eval()
        grid = _GRID if len(self.view.validation) else (self.inner_steps,)
        steps, now, _ = self._best(self.learner, grid, lambda: None)
        with torch.no_grad():
            for name, parameter in encoder.adapter_parameters():
                parameter.copy_(now[name])
        if encoder.base_fingerprint() != self.frozen:
            raise RunError(
                "maml: weights or buffers of the frozen base changed while training; the result "
                "is not kept."
            )
        head = self._head(now).to(encoder.device)
        return AdaptedModel(self.backbone, head, self.view.label_names, encoder=encoder), steps

    def _best(
        self, learner: MetaAdapter, grid: tuple[int, ...], pause: Any
    ) -> tuple[int, dict[str, Tensor], dict[str, float]]:
        held, classes = self.view.validation, len(self.view.label_names)
        truth_M = torch.as_tensor(np.array(held.labels_N)).to(learner.log_scale.device)
        found: tuple[int, dict[str, Tensor], dict[str, float]] | None = None
        for steps, now in learner.path(self.view.train, classes, grid, pause):
            loss = hits = 0.0
            for batch, places in learner.chunks(held, pause):
                with torch.no_grad():
                    logits_BC = learner.logits(now, batch)
                loss += float(functional.cross_entropy(logits_BC, truth_M[places], reduction="sum"))
                hits += float((logits_BC.argmax(dim=1) == truth_M[places]).sum())
            rows = max(1, len(held))
            metrics = {"validation_loss": loss / rows, "validation_accuracy": hits / rows}
            if found is None or metrics["validation_loss"] < found[2]["validation_loss"]:
                found = steps, now, metrics
        assert found is not None
        return found

    def _head(self, now: dict[str, Tensor]) -> Head:
        """A linear head that reads raw vectors: W' = W / s, b' = b - W'·mean."""
        weight_CD, bias_C = (now[f"output.{part}"].cpu() for part in ("weight", "bias"))
        head = Head(HeadShape(dimension=weight_CD.shape[1], classes=weight_CD.shape[0]))
        mean_D, scale = self.learner.mean_D, self.learner.scale
        assert isinstance(mean_D, Tensor)
        assert isinstance(scale, Tensor)
        with torch.no_grad():
            head.output.weight.copy_(weight_CD / scale.cpu())
            head.output.bias.copy_(bias_C - head.output.weight @ mean_D.cpu())
        return head.eval()


def adapter_job(
    backbone: Backbone,
    view: View,
    run: Run,
    *,
    rows_by_class: dict[int, np.ndarray],
    width: int,
    way: int,
    shots: int,
    queries: int,
    tasks: int,
    start: Start,
    inner_steps: int,
    inner_rate: float,
    second: bool,
    learn_rates: bool,
    rate: float,
    steps: int,
) -> AdapterJob:
    """Everything of a meta-learning of adapters but the learning; settings are those of `Maml`."""
    vectors_ND = torch.as_tensor(np.array(backbone.features(view.train).vectors_ND))
    mean_D = vectors_ND.mean(dim=0)
    scale = (vectors_ND - mean_D).square().mean().sqrt().clamp(min=1e-6)
    encoder = Adapter(width=width, dropout=0.0)._attach(
        backbone.load(device=str(pick_device(run.device))), run.streams
    )
    learner = MetaAdapter(
        encoder, mean_D=mean_D, scale=scale, start=start, steps=inner_steps, rate=inner_rate,
        second=second, learn_rates=learn_rates,
    )  # fmt: skip
    own = {id(p) for _, p in encoder.adapter_parameters()}
    groups: dict[str, list[Any]] = {}
    for name in encoder.groups.names:
        members = encoder.groups.parameters(name)
        groups[name] = [member for member in members if id(member[1]) not in own]
        groups[f"{name} adapter"] = [member for member in members if id(member[1]) in own]
    beside = [(n, p) for n, p in learner.named_parameters(recurse=False) if p.requires_grad]
    groups["head"] = beside  # its start's scale, and the inner rates of all
    groups = {name: members for name, members in groups.items() if members}
    rates = {name: 0.0 if name in encoder.groups.names else rate for name in groups}
    table = rate_table(groups, 1.0, rates=rates)
    loader = RowEpisodes(
        view.train, rows_by_class, encoder.preprocess, way=way, shots=shots, queries=queries,
        tasks=tasks, steps=steps, streams=run.streams,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "step": _step,
        "modules": {"model": learner},
        "optimizers": make_optimizer(table, weight_decay=0.0),
        "loaders": loader,
        "run": run,
        "clip": 1.0,
        "mixed_precision": "no",  # gradients are differentiated themselves
    }
    return AdapterJob(
        learner, table, parts, backbone, view, way, shots, inner_steps, encoder.base_fingerprint()
    )


def _step(batch: EpisodeBatch, state: LoopState) -> StepOutput:
    """Each task's gradient on its own, so that one task's graph is held at a time."""
    learner, count = state.modules["model"], len(batch.tasks)
    losses, hits = [], []
    for place, task in enumerate(batch.tasks):
        one = EpisodeBatch([task], batch.numbers_T[place : place + 1])
        loss, accuracy = learner(one)
        state.backward(loss / count)
        losses.append(loss.detach())
        hits.append(accuracy)
    return StepOutput(
        torch.stack(losses).mean(), {"accuracy": torch.stack(hits).mean()}, manual=True
    )
