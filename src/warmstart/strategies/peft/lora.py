"""LoRA: a product of two thin matrices beside each adapted layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from warmstart.backbones import Backbone, Encoder
from warmstart.core import (
    NotApplicable,
    Run,
    RunError,
    Streams,
    UsageError,
    pick_device,
    split_text,
    typical,
)
from warmstart.data import View
from warmstart.models import AdaptedEncoder, attach_peft, load_adapter, missing_for_4bit

from ..base import Cost, Fitted
from ..registry import register
from .base import Adapting, no_layers
from .merging import merge_fitted
from .search import search_rank
from .table import Adaptation, family_in
from .targets import layers_of, spell

__all__ = ["Lora", "Qlora"]

_FIRST_GUESS = 8


def _names(value: Any) -> Any:
    """`auto`, `all`, or names as a list, a `|`-separated text or a JSON list."""
    if isinstance(value, str) and value not in ("auto", "all"):
        text = value.strip()
        if text.startswith("["):
            import json

            try:
                return json.loads(text)
            except ValueError:
                return value
        return split_text(text)
    return value


class _LowRank(Adapting):
    """Settings that LoRA and QLoRA share.

    Attributes:
        rank: Of the product, at least 1, or `auto`: 1, 2, 4, ... while the validation loss gains
            more than its noise (see `search`).
        alpha: The product is scaled by alpha / rank; None for twice the rank.
        targets: `auto` for query and value (or what makes them), `all` for every linear layer and
            convolution of the blocks, or names of layers.
        rslora: Whether to scale by alpha / √rank instead (Kalajdzievski 2023).
        dora: Whether direction and length learn apart (Liu et al. 2024).
        plus_ratio: How many times faster B learns than A (LoRA+, Hayou et al. 2024); at least 1.
    """

    rank: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        8, json_schema_extra=typical("4 to 64")
    )
    alpha: PositiveFloat | None = Field(None, json_schema_extra=typical("once to twice the rank"))
    targets: Annotated[
        Literal["auto", "all"] | Annotated[tuple[str, ...], Field(min_length=1)],
        BeforeValidator(_names),
    ] = Field("auto", json_schema_extra=typical("auto, all, query|value"))
    rslora: bool = False
    dora: bool = False
    plus_ratio: float = Field(1.0, ge=1, json_schema_extra=typical("1, or 4 to 16"))

    @property
    def _explicit(self) -> bool:
        return not isinstance(self.targets, str)

    @property
    def counted_rank(self) -> int:
        """The rank, or the one that is counted and timed while it is still to be found."""
        return _FIRST_GUESS if self.rank == "auto" else self.rank

    @property
    def _searches(self) -> bool:
        return self.rank == "auto" and getattr(self, "start", None) is None

    def _config(self, encoder: Encoder) -> Any:
        from peft import LoraConfig

        paths = layers_of(encoder, self.targets, family_in(encoder))
        if not paths:
            raise no_layers(self.name, encoder)
        rank = self.counted_rank
        kinds = {type(encoder.module.get_submodule(path)).__name__ for path in paths}
        return LoraConfig(
            task_type="FEATURE_EXTRACTION" if encoder.modality == "text" else None,
            r=rank,
            lora_alpha=2 * rank if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=spell(encoder.module, paths),
            use_rslora=self.rslora,
            use_dora=self.dora,
            bias="none",
            fan_in_fan_out=kinds == {"Conv1D"},
        )

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        return attach_peft(encoder, self._config(encoder), seed=streams.seed("adapter"))

    def _split(self, members: list[Any]) -> list[tuple[str, list[Any], float]]:
        if self.plus_ratio == 1.0:
            return super()._split(members)
        second = [member for member in members if ".lora_B." in member[0]]
        first = [member for member in members if ".lora_B." not in member[0]]
        return [("adapter", first, 1.0), ("adapter B", second, self.plus_ratio)]

    def _chosen(self, encoder: AdaptedEncoder) -> dict[str, Any]:
        config = encoder.peft_config
        layers = sum(1 for name, _ in encoder.adapter_parameters() if ".lora_A." in name)
        return {"rank": config.r, "alpha": config.lora_alpha, "adapted_layers": layers}

    def measure(self, backbone: Backbone, view: View, run: Run) -> Cost:
        """Time a few real steps; a search, timed at rank 8, trains two ranks at the least."""
        cost = super().measure(backbone, view, run)
        return replace(cost, epochs=2 * cost.epochs) if self._searches else cost

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train; with `rank="auto"` one rank after the other."""
        if self._searches:
            self.check(backbone, view)
            return search_rank(self, backbone, view, run)
        return super().fit(backbone, view, run)


@register
class Lora(_LowRank):
    """W + (alpha / rank) · B · A: the pretrained W is frozen, the thin B and A learn.

    Hu et al. 2021, LoRA. Through PEFT; batch norm and dropout of the base are always in evaluation
    mode. Settings that are not named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: fine-tuning overfits, does not fit into memory, or many
    tasks share one base.

    Attributes:
        rate: Rate of the adapter, several times that of fine-tuning.
        start: Folder of a LoRA adapter of PEFT to go on from; rank, alpha, targets and the like
            are then the adapter's own.
        merge: Whether the fitted model is merged: a model of its own that needs no base.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    cost_is_bound: ClassVar[bool] = True
    start: Path | None = None
    merge: bool = False

    _method: ClassVar[Adaptation] = "lora"

    @property
    def _explicit(self) -> bool:
        return super()._explicit or self.start is not None

    def _attach(self, encoder: Encoder, streams: Streams) -> AdaptedEncoder:
        if self.start is None:
            return super()._attach(encoder, streams)
        try:
            adapted = load_adapter(self.start, encoder)
        except RunError as error:
            raise UsageError(f"{self.name}.start: {error}") from error
        if adapted.method != "lora":
            raise NotApplicable(f"{self.start} holds an adapter of the kind {adapted.method}")
        for _, parameter in adapted.adapter_parameters():
            parameter.requires_grad_(True)
        return adapted

    def cost_by(self, full: Cost, backbone: Backbone, view: View) -> Cost | None:
        """At most that of fine-tuning's steps: frozen weights need no gradient of their own."""
        if self.dora or self.rank == "auto" or not self._steps_as(full, backbone, view):
            return None
        return replace(full, epochs=self._epochs(backbone, view))

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Train; merge where that is asked for."""
        fitted = super().fit(backbone, view, run)
        return merge_fitted(fitted, view) if self.merge else fitted


@register
class Qlora(_LowRank):
    """LoRA on a base of four bits a weight (NF4, double quantisation), by bitsandbytes.

    Dettmers et al. 2023, QLoRA. Runs on CUDA, and on a CPU, where it saves memory and no time.
    Settings that are not named here are those of LoRA.

    Needs: bitsandbytes, and a device that it computes on. Pick when: the base in 16 or 32 bits does
    not fit.

    Attributes:
        rate: Rate of the adapter.
    """

    name: ClassVar[str] = "qlora"
    title: ClassVar[str] = "QLoRA"

    _method: ClassVar[Adaptation] = "qlora"
    _quantized: ClassVar[bool] = True

    def check(self, backbone: Backbone, view: View) -> None:
        """Also refuse a machine that cannot compute with four bits.

        Raises:
            NotApplicable: Naming exactly what is missing.
        """
        super().check(backbone, view)
        self._check_machine(None)

    def _attempt(self, backbone: Backbone, view: View, run: Run) -> Any:
        self._check_machine(run.device)
        return super()._attempt(backbone, view, run)

    def _check_machine(self, device: str | None) -> None:
        lacks = missing_for_4bit(None if device is None else pick_device(device))
        if lacks is not None:
            raise NotApplicable(
                f"qlora needs {lacks}; lora trains the same adapter on the base as it is"
            )
