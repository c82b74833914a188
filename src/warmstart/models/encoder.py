"""A pretrained encoder with a head: the model that most strategies return."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from warmstart.backbones import Backbone, Encoder, count_weights, embed_inputs
from warmstart.backbones import backbone as open_backbone
from warmstart.core import BackboneError, RunError, UsageError, pick_device
from warmstart.data import Dataset

from .base import Model, OwnCode, fill, model_kind, read_tensors
from .formats import MODULE_FILE, native_pooling, needs_code, opens_with, save_encoder
from .heads import Head, HeadShape

__all__ = ["HEAD_FILE", "EncoderModel", "RowInputs"]

HEAD_FILE = "head.safetensors"


class RowInputs(Sequence[Any]):
    """A dataset's inputs, each read when it is asked for: images are not all held in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._texts = dataset.inputs() if dataset.modality == "text" else None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if self._texts is not None:
            return self._texts[index]
        return self._dataset.inputs([index])[0]


@model_kind
class EncoderModel(Model):
    """Backbone + pooling + head.

    Without an encoder of its own the model is the untouched backbone under a head: its vectors
    come from the feature cache where they are there already, and it is loaded on the backbone's
    device when it must run. The head follows the encoder.

    Args:
        backbone: The recipe that it came from.
        head: Takes the vectors at `depth` under `pooling`.
        label_names: Names of the C classes.
        encoder: The adapted encoder; None when the backbone was left as it is.
        depth: Layers that are used, None for all (see `Encoder.forward`).
        pooling: How positions become one vector; None for the backbone's own.
    """

    kind = "encoder"
    has_vectors = True

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        label_names: Sequence[str],
        *,
        encoder: Encoder | None = None,
        depth: int | None = None,
        pooling: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.head = head.eval()
        self.label_names = tuple(label_names)
        self.modality = "text" if backbone.modality == "text" else "image"
        self.depth = depth
        own = backbone.pooling if depth is None else backbone.space(depth=depth).pooling
        self.pooling = pooling or own
        self._tuned = encoder
        self._loaded: Encoder | None = None
        self._origin: dict[str, Any] | None = None
        self._opens: tuple[str, ...] | None = None  # as saved; None before that

    @property
    def tuned(self) -> bool:
        """Whether the encoder's weights differ from the backbone's."""
        return self._tuned is not None

    @property
    def encoder(self) -> Encoder:
        """The encoder in evaluation mode; an untouched one is loaded on first use."""
        if self._tuned is not None:
            return self._tuned.eval()
        if self._loaded is None:
            self._loaded = self.backbone.load().eval()
        return self._loaded

    @property
    def parameters(self) -> int:
        """Weights of encoder and head."""
        encoder = self._tuned or self._loaded
        inside = (
            sum(count_weights(p) for p in encoder.parameters())
            if encoder
            else self.backbone.card.parameters
        )
        return int(inside) + sum(p.numel() for p in self.head.parameters())

    @property
    def opens_with(self) -> tuple[str, ...]:
        """What else opens the saved folder (see `models.formats`)."""
        if self._opens is not None:
            return self._opens
        return opens_with(self.encoder, self.head.shape, depth=self.depth, pooling=self.pooling)

    def proba(self, dataset: Dataset) -> np.ndarray:
        """Class probabilities (N, C)."""
        return self.proba_and_vectors(dataset)[0]

    def proba_and_vectors(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities (N, C), and the head's inputs (N, D)."""
        if self._tuned is None and (self._loaded is None or self.backbone.cache is not None):
            features = self.backbone.features(dataset, depth=self.depth, pooling=self.pooling)
            return self.head.proba(features.vectors_ND), features.vectors_ND
        return self._answer(RowInputs(dataset))

    def proba_of(self, inputs: Sequence[Any]) -> np.ndarray:
        """Class probabilities (N, C) for texts or images."""
        return self._answer(inputs)[0]

    def _answer(self, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        encoder = self.encoder
        vectors_ND = embed_inputs(encoder, inputs, depth=self.depth, pooling=self.pooling)
        return self.head.to(encoder.device).proba(vectors_ND), vectors_ND

    def facts(self) -> dict[str, Any]:
        """Pooling, depth, head and where the backbone came from; the class of a user's network."""
        encoder = self.encoder
        own = {"module": _describe_code(encoder)} if needs_code(encoder) else {}
        return {
            **own,
            "pooling": self.pooling,
            "depth": self.depth,
            "tuned": self.tuned,
            "head": self.head.shape.model_dump(),
            "native_pooling": native_pooling(encoder),
            "backbone": self._origin or self._describe(),
        }

    def _describe(self) -> dict[str, Any]:
        """Where the backbone came from, and its settings."""
        return {
            "name": self.backbone.name,
            "source": str(self.backbone.source),
            "fingerprint": self.backbone.fingerprint,
            "image_size": self.backbone.image_size,
            "max_length": self.backbone.max_length if self.modality == "text" else None,
            "license": self.backbone.card.license,
        }

    def save_weights(self, folder: Path) -> None:
        """Encoder with its preprocessing, and the head."""
        self._opens = save_encoder(
            folder,
            self.encoder,
            self.head,
            self.label_names,
            depth=self.depth,
            pooling=self.pooling,
        )
        self._save_head(folder / HEAD_FILE)

    def _save_head(self, path: Path) -> None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        save_file(tensors, path)

    @classmethod
    def _read_head(cls, folder: Path, facts: dict[str, Any], shape: HeadShape) -> Head:
        head = Head(shape)
        fill(head, read_tensors(folder / HEAD_FILE), folder / HEAD_FILE)
        return head

    @classmethod
    def load(
        cls, folder: Path, facts: dict[str, Any], device: str, own: OwnCode | None = None
    ) -> EncoderModel:
        """Read encoder and head back."""
        origin = facts["backbone"]
        recipe = _own_recipe(folder, facts, own) if own else _folder_recipe(folder, facts)
        shape = HeadShape.parse(facts["head"], f"{folder}: head")
        if shape.classes != len(facts["label_names"]):
            raise RunError(
                f"{folder}: the head has {shape.classes} classes, but {len(facts['label_names'])} "
                "label names are given."
            )
        head = cls._read_head(folder, facts, shape)
        target = pick_device(device)
        recipe = recipe.with_settings(device=str(target))
        encoder = recipe.load()
        model = cls(
            recipe,
            head.to(target),
            facts["label_names"],
            encoder=encoder if facts["tuned"] else None,
            depth=facts["depth"],
            pooling=facts["pooling"],
        )
        model._loaded = encoder
        model._origin = dict(origin)
        model._opens = tuple(facts["opens_with"])
        return model


def _describe_code(encoder: Encoder) -> dict[str, Any]:
    """Class and layer groups of a user's network, to be compared when it is given again."""
    kind = type(encoder.module)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "groups": {name: list(paths) for name, paths in encoder.groups.prefixes.items()},
    }


def _folder_recipe(folder: Path, facts: dict[str, Any]) -> Backbone:
    """The backbone that the folder holds."""
    origin = facts["backbone"]
    return open_backbone(
        str(folder),
        modality=facts["modality"],
        image_size=origin["image_size"],
        max_length=origin["max_length"],
        pooling=facts["pooling"],
        name=origin["name"],
    )


def _own_recipe(folder: Path, facts: dict[str, Any], own: OwnCode) -> Backbone:
    """A backbone around the user's network with the saved weights in a copy of it.

    Raises:
        RunError: When weights or layer groups do not fit, or the network does not run.
    """
    path = folder / MODULE_FILE
    network = copy.deepcopy(own.module).cpu()
    fill(network, read_tensors(path), path)
    origin, saved = facts["backbone"], facts["module"]["groups"]
    try:
        recipe = open_backbone(
            module=network,
            processor=own.processor,
            groups=own.groups,
            modality=facts["modality"],
            image_size=origin["image_size"],
            max_length=origin["max_length"],
            pooling=facts["pooling"] if facts["depth"] is None else None,
            name=origin["name"],
        )
        found = _describe_code(recipe.load(device="cpu"))
    except (TypeError, ValueError, RuntimeError, BackboneError, UsageError) as error:
        raise RunError(
            f"{folder}: the module, processor or groups given do not work: {error} The model was "
            f"saved with groups={saved!r}."
        ) from error
    if found["groups"] != saved:
        raise RunError(
            f"{folder}: the layer groups are others than when the model was saved. "
            f"Give groups={saved!r}."
        )
    return recipe
