"""The noun `Backbone`: a pretrained model that describes itself and is loaded when needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from warmstart.core import BackboneError, UsageError, nearest, pick_device
from warmstart.data import Dataset, Modality

from .cache import FeatureCache
from .card import Card
from .encoder import Encoder
from .features import features_of
from .own import ModuleRecipe
from .pooling import POOLINGS, choose_pooling
from .quiet import check_torchvision
from .recipe import FolderRecipe, Recipe, Settings
from .source_classes import SourceClassifier, source_classifier
from .sources import resolve
from .space import Features, Space

__all__ = ["Backbone", "backbone"]


class Backbone:
    """A recipe for encoders: cheap to hold, never changed by what is done with it.

    Attributes:
        cache: Where `features` keeps vectors, or None.
        device: Where encoders go unless a call says otherwise; `auto` picks the best there is.
    """

    device: str = "auto"

    def __init__(self, recipe: Recipe, settings: Settings, cache: FeatureCache | None) -> None:
        self._recipe = recipe
        self._settings = settings
        self.cache = cache

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, {self.modality}, from {self.source})"

    @property
    def name(self) -> str:
        """Short name for tables."""
        return self._recipe.name

    @property
    def source(self) -> str:
        """Folder, `package:NAME`, `hub:ID` or `module:CLASS`."""
        return self._recipe.source

    @property
    def code(self) -> dict[str, Any]:
        """`module`, `processor` and `groups` of a user's own network; empty for all others."""
        return self._recipe.code

    @property
    def modality(self) -> Literal["text", "image", "image-text"]:
        """What it reads."""
        return self._recipe.modality

    @property
    def card(self) -> Card:
        """Sizes, licence, pretraining objective and data."""
        return self._recipe.card

    @property
    def fingerprint(self) -> str:
        """Names weights and preprocessing: equal for equal bytes wherever they lie."""
        return self._recipe.fingerprint

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the layer groups, first to run first, without loading weights."""
        return self._recipe.group_names

    @property
    def has_batch_norm(self) -> bool:
        """Whether its network has batch normalisation, without loading weights."""
        return self._recipe.has_batch_norm

    @property
    def pooling(self) -> str:
        """Default pooling of the last output."""
        return self._settings.pooling or self._recipe.pooling(self._tower())

    @property
    def image_size(self) -> int | None:
        """Pixels on a side where it was set; None for the backbone's own."""
        return self._settings.image_size

    @property
    def max_length(self) -> int | None:
        """Tokens at most; None for images."""
        return self._recipe.max_length(self._settings.max_length)

    @property
    def logit_scale(self) -> float | None:
        """What CLIP multiplies cosines with before the softmax; None for other models."""
        raw = self._recipe.scalar("logit_scale")
        return None if raw is None else float(torch.tensor(raw).exp())

    def with_settings(
        self,
        *,
        image_size: int | None = None,
        max_length: int | None = None,
        pooling: str | None = None,
        cache: FeatureCache | None = None,
        device: str | None = None,
    ) -> Backbone:
        """The same backbone with some settings changed; None leaves a setting as it is.

        Raises:
            UsageError: For a value that this backbone does not take.
        """
        given = {"image_size": image_size, "max_length": max_length, "pooling": pooling}
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        changed = copy.copy(self)
        changed._settings = replace(self._settings, **changes)
        changed.cache = cache or self.cache
        changed.device = device or self.device
        _check_settings(changed._recipe, changed._settings)
        return changed

    def load(
        self, *, device: str | torch.device | None = None, random_seed: int | None = None
    ) -> Encoder:
        """A fresh encoder of one's own, in evaluation mode; CLIP gives its vision tower.

        Args:
            device: Where to put it; None for the backbone's own device.
            random_seed: Fresh random weights of the same architecture, a function of this number.

        Raises:
            BackboneError: When files are damaged or weights are missing.
            NotApplicable: When a user's own network cannot be started from random weights.
        """
        return self._load(self._tower(), device, random_seed)

    def text_encoder(self, *, device: str | torch.device | None = None) -> Encoder:
        """CLIP's text tower, whose default pooling is the space shared with its images.

        Raises:
            BackboneError: For a backbone without two towers.
        """
        if self.modality != "image-text":
            raise BackboneError(
                f"backbone {self.name} reads {self.modality}: a text tower beside an image tower "
                "needs an image-text model such as CLIP."
            )
        return self._load("text", device, None)

    def source_classifier(self, *, device: str | torch.device | None = None) -> SourceClassifier:
        """The network with the classification head of its checkpoint.

        Raises:
            NotApplicable: Where the checkpoint has none.
            BackboneError: For files that cannot be read.
        """
        place = pick_device(self.device if device is None else str(device))
        return source_classifier(self._recipe, self._settings, place)

    def space(
        self,
        *,
        depth: int | None = None,
        pooling: str | None = None,
        modality: Modality | None = None,
    ) -> Space:
        """The space that `features` with the same arguments live in."""
        tower = modality or self._tower()
        own = self._recipe.pooling(tower)
        default = self.pooling if tower == self._tower() else own
        inner = self._recipe.inner_pooling(tower)
        chosen = choose_pooling(depth, pooling, default=default, inner=inner)
        normalizes = self._recipe.normalizes and depth is None
        return Space(
            backbone=self.fingerprint,
            modality=tower,
            depth=depth,
            pooling=chosen,
            normalize=normalizes and chosen == default == own,
            max_length=self.max_length if tower == "text" else None,
            image_size=self.image_size if tower == "image" else None,
        )

    def in_space(self, space: Space) -> Backbone:
        """The same files, set so that features come in `space` again.

        Args:
            space: The last output of one tower, as `space` told it.

        Raises:
            BackboneError: When it is the space of other files, or of settings that cannot be had.
        """
        tower = space.modality
        if self.space(modality=tower) == space:
            return self
        changed = self.with_settings(
            max_length=space.max_length,
            image_size=space.image_size,
            pooling=space.pooling if tower == self.modality else None,
        )
        found = changed.space(modality=tower)
        if found != space:
            raise BackboneError(
                f"backbone {self.name} cannot be set as it was: {found.differences(space)}. "
                "Give it with these settings."
            )
        return changed

    def features(
        self,
        dataset: Dataset,
        *,
        depth: int | None = None,
        pooling: str | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> Features:
        """Vectors of a dataset's rows, from the cache where they are there.

        Args:
            dataset: Rows of this backbone's modality (either of them for CLIP).
            depth: Finished blocks, None for the last output.
            pooling: None for the backbone's own.
            batch_size: Rows of about 64 tokens in a batch; shorter ones go in larger batches.
            device: Where to compute.

        Raises:
            BackboneError: For data of another modality, or a vector that is not finite.
            UsageError: For a depth or pooling that this backbone does not have.
        """
        made = self.features_at(
            dataset, [depth], pooling=pooling, batch_size=batch_size, device=device
        )
        return made[depth]

    def features_at(
        self,
        dataset: Dataset,
        depths: Sequence[int | None],
        *,
        pooling: str | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> dict[int | None, Features]:
        """Vectors at several depths; the inner ones share one pass through the network.

        Raises:
            BackboneError: As `features`.
            UsageError: As `features`.
        """
        tower = self._tower(dataset.modality)
        spaces = {
            depth: self.space(depth=depth, pooling=pooling, modality=tower) for depth in depths
        }

        def make() -> Encoder:
            return self._load(tower, device, None)

        return features_of(
            dataset,
            spaces,
            cache=self.cache,
            make_encoder=make,
            batch_size=batch_size,
            label=self.name,
        )

    def _load(
        self, tower: Modality, device: str | torch.device | None, random_seed: int | None
    ) -> Encoder:
        encoder = self._recipe.encoder(tower, self._settings, random_seed=random_seed)
        return encoder.to(pick_device(self.device if device is None else str(device)))

    def _tower(self, modality: Modality | None = None) -> Modality:
        if self.modality == "image-text":
            return modality or "image"
        if modality is not None and modality != self.modality:
            raise BackboneError(
                f"backbone {self.name} reads {self.modality}, but the data is {modality}. Name a "
                f"backbone for {modality}."
            )
        return self.modality


def backbone(
    source: str | Path | None = None,
    *,
    modality: Modality | None = None,
    module: nn.Module | None = None,
    processor: Any = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    revision: str | None = None,
    allow_bin: bool = False,
    image_size: int | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    cache: FeatureCache | None = None,
    name: str | None = None,
) -> Backbone:
    """Find a pretrained model, or take a network of one's own.

    Args:
        source: A folder, an installed package's name, or a hub id. None takes all-MiniLM-L6-v2 for
            text and DINOv2-small for images.
        modality: `text` or `image`; needed with `module`, and for the default without `source`.
        module: A network of one's own; goes with `processor` and `groups`.
        processor: A function from a list of inputs to a dict of tensors, or a transformers
            tokenizer or image processor.
        groups: Layer groups: name to parameter prefixes, first to run first.
        revision: Branch, tag or commit of a hub id.
        allow_bin: Whether pickled weights may be read (with weights_only).
        image_size: Pixels on a side, for families that take any size.
        max_length: Tokens at most.
        pooling: Default pooling instead of the backbone's own.
        cache: Where features are kept.
        name: Short name for tables.

    Raises:
        BackboneError: When nothing usable is found, naming the cures.
        UsageError: For arguments that do not go together.
    """
    check_torchvision()
    settings = Settings(image_size=image_size, max_length=max_length, pooling=pooling)
    recipe: Recipe
    if module is not None:
        if source is not None:
            raise UsageError("backbone takes a source or module=, not both.")
        if processor is None or modality is None:
            raise UsageError(
                "backbone(module=...) also needs processor= (a function from a list of inputs to a "
                "dict of tensors) and modality='text' or 'image'."
            )
        recipe = ModuleRecipe(module, processor, groups, modality=modality, name=name)
    else:
        if processor is not None or groups is not None:
            raise UsageError("processor= and groups= belong to module=; they were given without.")
        found = resolve(source, modality=modality, revision=revision, allow_bin=allow_bin)
        recipe = FolderRecipe(
            found.folder, name=name or found.name, source=found.origin, allow_bin=allow_bin
        )
        if modality is not None and recipe.modality not in {modality, "image-text"}:
            raise BackboneError(
                f"backbone {recipe.name} reads {recipe.modality}s, but {modality}s are wanted. "
                f"Name a backbone for {modality}s."
            )
    _check_settings(recipe, settings)
    return Backbone(recipe, settings, cache)


def _check_settings(recipe: Recipe, settings: Settings) -> None:
    recipe.max_length(settings.max_length)
    if settings.image_size is not None:
        if recipe.modality == "text":
            raise UsageError(f"image_size belongs to images; {recipe.name} reads text.")
        if not 8 <= settings.image_size <= 4096:
            raise UsageError(
                f"image_size must be between 8 and 4096 pixels, got {settings.image_size}."
            )
    if settings.pooling is not None and settings.pooling not in POOLINGS:
        raise UsageError(f"pooling {settings.pooling!r}:{nearest(settings.pooling, POOLINGS)}")
