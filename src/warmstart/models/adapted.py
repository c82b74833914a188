"""A backbone that stayed as it was, an adapter on it, and a head: the folder holds no base weights.

`adapter/` is in PEFT's own format where PEFT made the adapter, so that PEFT opens it on the same
base; `head.safetensors`, label names and preprocessing lie beside it. The base is found again
where it came from and is refused when its fingerprint is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from warmstart.backbones import Backbone, Encoder
from warmstart.backbones import backbone as open_backbone
from warmstart.core import (
    FORMAT_VERSION,
    MANIFEST,
    BackboneError,
    RunError,
    UsageError,
    pick_device,
    read_json,
    verify_manifest,
)

from .adapters import AdaptedEncoder, load_adapter, save_adapter
from .adapters_quantized import quantize
from .base import MODEL_FILE, OwnCode, fill, model_kind, read_tensors
from .encoder import HEAD_FILE, EncoderModel
from .formats import needs_code
from .heads import Head, HeadShape

__all__ = ["ADAPTER_FOLDER", "AdaptedModel"]

ADAPTER_FOLDER = "adapter"


@model_kind
class AdaptedModel(EncoderModel):
    """Frozen backbone + adapter + pooling + head.

    Args:
        backbone: The recipe of the base.
        head: Takes the default vectors of the adapted encoder.
        label_names: Names of the C classes.
        encoder: The base with its adapter.
        quantized: Whether the base was brought to 4 bits first (QLoRA).
    """

    kind = "adapted"

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        label_names: Sequence[str],
        *,
        encoder: AdaptedEncoder,
        quantized: bool = False,
    ) -> None:
        super().__init__(backbone, head, label_names, encoder=encoder, pooling=encoder.pooling)
        self.quantized = quantized

    @property
    def adapted(self) -> AdaptedEncoder:
        """The encoder with its adapter, in evaluation mode."""
        encoder = self.encoder
        assert isinstance(encoder, AdaptedEncoder)
        return encoder

    @property
    def opens_with(self) -> tuple[str, ...]:
        """Nothing opens the folder without the base; PEFT opens `adapter/` on it."""
        return ()

    @classmethod
    def from_peft(
        cls, backbone: Backbone, folder: Path | str, head: Head, label_names: Sequence[str]
    ) -> AdaptedModel:
        """A model around an adapter that PEFT saved by itself, on this backbone.

        Args:
            backbone: The base that the adapter was made on, as `AutoModel` opens it.
            folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
            head: For the adapted vectors.
            label_names: Names of the C classes.

        Raises:
            RunError: When the adapter does not fit the base or cannot be read.
        """
        return cls(backbone, head, label_names, encoder=load_adapter(Path(folder), backbone.load()))

    @classmethod
    def open(
        cls, folder: Path | str, *, base: Backbone | Path | str | None = None, device: str = "auto"
    ) -> AdaptedModel:
        """Read a model folder whose base lies elsewhere than when it was saved.

        Args:
            folder: Where the model lies.
            base: Where the base lies now; None looks where it came from.
            device: Where the model goes.

        Raises:
            RunError: As `load_model`, and when the base is another one.
        """
        folder = Path(folder)
        if (folder / MANIFEST).is_file():
            verify_manifest(folder)
        facts = read_json(folder / MODEL_FILE)
        if not isinstance(facts, dict) or facts.get("kind") != cls.kind:
            raise RunError(f"{folder} holds no adapted model. Read it with load_model.")
        if facts.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{folder / MODEL_FILE} has format version {facts.get('format_version')!r}; this "
                f"warmstart reads {FORMAT_VERSION}."
            )
        try:
            return cls._read(folder, facts, device, _base(folder, facts, base))
        except KeyError as error:
            raise RunError(f"{folder / MODEL_FILE} is damaged: {error} is missing.") from error
        except (TypeError, ValueError, UsageError) as error:
            raise RunError(f"{folder / MODEL_FILE} is damaged: {error}") from error

    def facts(self) -> dict[str, Any]:
        """What `EncoderModel` tells, and what the adapter is."""
        encoder = self.adapted
        adapter = {
            "method": encoder.method,
            "quantized": self.quantized,
            "format": "warmstart" if encoder.shape is not None else "peft",
            "parameters": sum(p.numel() for _, p in encoder.adapter_parameters()),
        }
        return {**super().facts(), "native_pooling": None, "adapter": adapter}

    def save_weights(self, folder: Path) -> None:
        """Adapter, head and preprocessing."""
        encoder = self.adapted
        source = str(self.backbone.source)
        base = source.partition(":")[2] if ":" in source and not Path(source).is_dir() else source
        save_adapter(folder / ADAPTER_FOLDER, encoder, base)
        if not needs_code(encoder):
            encoder.processor.save(folder)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE)

    @classmethod
    def load(
        cls, folder: Path, facts: dict[str, Any], device: str, own: OwnCode | None = None
    ) -> AdaptedModel:
        """Find the base, put the adapter into it and read the head."""
        base = _own_base(folder, facts, own) if own else _base(folder, facts, None)
        return cls._read(folder, facts, device, base)

    @classmethod
    def _read(
        cls, folder: Path, facts: dict[str, Any], device: str, base: Backbone
    ) -> AdaptedModel:
        _check_base(folder, facts["backbone"], base)
        shape = HeadShape.parse(facts["head"], f"{folder}: head")
        if shape.classes != len(facts["label_names"]):
            raise RunError(
                f"{folder}: the head has {shape.classes} classes, but {len(facts['label_names'])} "
                "label names are given."
            )
        head = Head(shape)
        fill(head, read_tensors(folder / HEAD_FILE), folder / HEAD_FILE)
        target = pick_device(device)
        quantized = bool(facts["adapter"]["quantized"])
        base = base.with_settings(device=str(target))
        encoder: Encoder = base.load(device="cpu")
        if quantized:
            quantize(encoder, target)
        adapted = load_adapter(folder / ADAPTER_FOLDER, encoder)
        if adapted.method != facts["adapter"]["method"]:
            raise RunError(
                f"{folder / ADAPTER_FOLDER} holds an adapter of the kind {adapted.method}, but "
                f"{MODEL_FILE} names {facts['adapter']['method']}."
            )
        model = cls(
            base, head.to(target), facts["label_names"], encoder=adapted.to(target),
            quantized=quantized,
        )  # fmt: skip
        model._origin = dict(facts["backbone"])
        return model


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    origin = facts["backbone"]
    return {
        "modality": facts["modality"],
        "image_size": origin["image_size"],
        "max_length": origin["max_length"],
        "pooling": facts["pooling"],
        "name": origin["name"],
    }


def _base(folder: Path, facts: dict[str, Any], given: Backbone | Path | str | None) -> Backbone:
    """The base, from where it came or where it is said to be."""
    settings = _settings(facts)
    origin = facts["backbone"]
    if isinstance(given, Backbone):
        keys = ("image_size", "max_length", "pooling")
        return given.with_settings(**{key: settings[key] for key in keys})
    source = str(given if given is not None else origin["source"])
    if given is None and not Path(source).is_dir():
        scheme, _, rest = source.partition(":")
        source = rest if scheme in ("package", "hub", "entry-point") else source
    try:
        return open_backbone(source, **settings)
    except BackboneError as error:
        raise RunError(
            f"{folder} holds an adapter and a head, and needs its base {origin['name']} from "
            f"{origin['source']}, which cannot be opened: {error} Where the base lies elsewhere "
            "now, read it with warmstart.models.AdaptedModel.open(folder, base=PLACE). A model "
            "that is saved merged (--set merge=true) needs no base."
        ) from error


def _own_base(folder: Path, facts: dict[str, Any], own: OwnCode) -> Backbone:
    """A user's own network, which must hold the weights that it was adapted from."""
    settings = _settings(facts)
    settings["pooling"] = None
    try:
        return open_backbone(
            module=own.module, processor=own.processor, groups=own.groups, **settings
        )
    except (TypeError, ValueError, RuntimeError, BackboneError, UsageError) as error:
        raise RunError(
            f"{folder}: the module, processor or groups given do not work: {error}"
        ) from error


def _check_base(folder: Path, origin: dict[str, Any], base: Backbone) -> None:
    if base.fingerprint == origin["fingerprint"]:
        return
    own = base.source.startswith("module:")
    what = (
        "Give the network with the weights, and the processor, that it was adapted from."
        if own
        else "Weights or preprocessing there are others than when the adapter was trained. Put "
        "the original back, or name it with AdaptedModel.open(folder, base=PLACE)."
    )
    raise RunError(
        f"{folder} belongs to the base {origin['name']} with the fingerprint "
        f"{origin['fingerprint']}, but {base.source} has {base.fingerprint}. {what}"
    )
