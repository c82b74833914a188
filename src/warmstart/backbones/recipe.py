"""Recipes: everything needed to make an encoder, as often as asked, without touching the caller's.

`FolderRecipe` reads a transformers or sentence-transformers folder; `own.ModuleRecipe` copies a
user's network. Both give fresh encoders and describe themselves without loading weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from warmstart.core import BackboneError, UsageError
from warmstart.data import Modality

from .card import Card, folder_card
from .encoder import Encoder, forward_names, image_extra
from .families import FAMILIES, Family
from .files import (
    check_weights,
    folder_fingerprint,
    has_weights_under,
    model_length_limit,
    read_config,
    read_scalar,
)
from .groups import LayerGroups, batch_norms, find_groups, groups_of_family
from .loading import (
    empty_model,
    load_image_processor,
    load_model,
    load_tokenizer,
    network_class,
    random_model,
)
from .processing import ImageProcessor, Processor, TextProcessor
from .sentence import SentenceSettings, read_sentence_settings

__all__ = ["FolderRecipe", "Recipe", "Settings"]

_TOKEN_CAP = 512


@dataclass(frozen=True)
class Settings:
    """What a user may set on a backbone; None keeps its own.

    Attributes:
        image_size: Pixels on a side.
        max_length: Tokens at most.
        pooling: Default pooling.
    """

    image_size: int | None = None
    max_length: int | None = None
    pooling: str | None = None


class Recipe(ABC):
    """How to make encoders of one pretrained network.

    Attributes:
        name: Short name.
        source: Where it comes from.
        modality: What it reads.
    """

    name: str
    source: str
    modality: Literal["text", "image", "image-text"]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names weights and preprocessing."""

    @property
    def code(self) -> dict[str, Any]:
        """`module`, `processor` and `groups` of a user's own network; empty for all others."""
        return {}

    @property
    @abstractmethod
    def card(self) -> Card:
        """What is known about the network."""

    @property
    @abstractmethod
    def group_names(self) -> tuple[str, ...]:
        """Names of the layer groups, without loading weights."""

    @property
    @abstractmethod
    def has_batch_norm(self) -> bool:
        """Whether the network has batch normalisation."""

    @abstractmethod
    def pooling(self, tower: Modality) -> str:
        """Default pooling of a tower."""

    @abstractmethod
    def inner_pooling(self, tower: Modality) -> str:
        """Default pooling of a tower at inner depths, where its own cannot be used there."""

    @property
    def normalizes(self) -> bool:
        """Whether default vectors are scaled to unit length."""
        return False

    @abstractmethod
    def max_length(self, wanted: int | None) -> int | None:
        """Tokens at most, checked against what the network takes; None for images."""

    @abstractmethod
    def encoder(
        self, tower: Modality, settings: Settings, *, random_seed: int | None = None
    ) -> Encoder:
        """A fresh encoder on the CPU, in evaluation mode."""

    def scalar(self, name: str) -> float | None:
        """A single number among the weights (CLIP's logit_scale), None where there is none."""
        return None


class FolderRecipe(Recipe):
    """A folder as transformers or sentence-transformers writes it."""

    def __init__(self, folder: Path, *, name: str, source: str, allow_bin: bool = False) -> None:
        """Read the configuration and check that safe weights are there.

        Raises:
            BackboneError: When the folder is no such folder, or its weights are pickled.
        """
        self.name = name
        self.source = source
        self.root = folder
        self.sentence: SentenceSettings | None = read_sentence_settings(folder)
        self.folder = folder / (self.sentence.path if self.sentence else "")
        self.config: Any = read_config(self.folder)
        self.weights = check_weights(self.folder, allow_bin=allow_bin)
        self._bin = self.weights[0].suffix == ".bin"
        self.family: Family | None = FAMILIES.get(str(self.config.model_type))
        self.modality = self._find_modality()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of configuration, weights, tokenizer and processor files."""
        return folder_fingerprint(self.root, self.weights)

    @cached_property
    def card(self) -> Card:
        """Facts from the configuration and README.md."""
        tower = self._main_tower
        network: Any = empty_model(self.config, tower)
        if not self._bin and not has_weights_under(self.weights, "pooler"):
            network.pooler = None
        passes, dimension = self._passes(network, tower), self._dimension(tower)
        return folder_card(
            self.root,
            name=self.name,
            source=self.source,
            config=self.config,
            family=self.family,
            modality=self.modality,
            network=network,
            layers=passes,
            dimension=dimension,
            weights=self.weights,
        )

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """Names of the layer groups."""
        network = empty_model(self.config, self._main_tower)
        return self._groups(network, self._main_tower).names

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether the network has batch normalisation, seen without weights."""
        return bool(batch_norms(empty_model(self.config, self._main_tower)))

    def pooling(self, tower: Modality) -> str:
        """The folder's own pooling, else the family's, else mean."""
        if self.sentence is not None and tower == "text":
            return self.sentence.pooling
        if self.modality == "image-text" and tower == "text":
            return "projection"
        family = self._tower_family(tower)
        if family is not None:
            return family.pooling
        return "model" if tower == "image" else "mean"

    def inner_pooling(self, tower: Modality) -> str:
        """The family's, else mean."""
        family = self._tower_family(tower)
        return family.inner_pooling if family else "mean"

    @property
    def normalizes(self) -> bool:
        """Whether the folder's own modules end in Normalize."""
        return self.sentence is not None and self.sentence.normalize

    def max_length(self, wanted: int | None) -> int | None:
        """The folder's own limit, else the model's but at most 512."""
        if self.modality == "image":
            if wanted is not None:
                raise UsageError(f"max_length belongs to text; {self.name} reads images.")
            return None
        limit = model_length_limit(self.folder, self.config)
        if wanted is None:
            own = self.sentence.max_length if self.sentence else None
            return min(limit, own or _TOKEN_CAP)
        if not 3 <= wanted <= limit:
            raise UsageError(
                f"max_length must be between 3 and {limit} for {self.name}, got {wanted}."
            )
        return wanted

    def encoder(
        self, tower: Modality, settings: Settings, *, random_seed: int | None = None
    ) -> Encoder:
        """A fresh encoder of one tower."""
        if self.modality not in {tower, "image-text"}:
            raise BackboneError(f"backbone {self.name} reads {self.modality}, not {tower}.")
        network, pooler_is_trained = load_model(self.folder, self.config, tower, use_bin=self._bin)
        if random_seed is not None:
            network = random_model(self.config, tower, random_seed, like=network)
        processor = self.processor(tower, settings, network)
        family, own = self._tower_family(tower), self.pooling(tower)
        pooling = (settings.pooling if tower == self._main_tower else None) or own
        names = self._pooling_names(tower, network, pooler_is_trained)
        if pooling not in names:
            raise UsageError(
                f"pooling {pooling!r} is not available for {self.name}; it has {', '.join(names)}."
            )
        encoder = Encoder(
            network,
            processor,
            self._groups(network, tower),
            modality=tower,
            pooling=pooling,
            inner_pooling=self.inner_pooling(tower),
            pooling_names=names,
            prefix_tokens=self._prefix_tokens(tower),
            normalize=self.normalizes and pooling == own,
            n_depths=self._passes(network, tower),
            extra=image_extra(network, processor),
        )
        if family is None:
            encoder.check_order()
        _check_image_size(encoder, self.name, settings.image_size)
        return encoder.eval()

    def processor(self, tower: Modality, settings: Settings, network: nn.Module) -> Processor:
        """Preprocessing of a tower, for a network that reads what it gives."""
        if tower == "image":
            return ImageProcessor(load_image_processor(self.folder), settings.image_size)
        if settings.image_size is not None and self.modality == "text":
            raise UsageError(f"image_size belongs to images; {self.name} reads text.")
        length = self.max_length(settings.max_length)
        lower = bool(self.sentence and self.sentence.lower_case)
        tokenizer = load_tokenizer(self.folder)
        accepts = forward_names(network)
        return TextProcessor(
            tokenizer, length or _TOKEN_CAP, accepts=accepts, lower_case=lower,
            known=_known_ids(network),
        )  # fmt: skip

    def scalar(self, name: str) -> float | None:
        """A single number among the safetensors weights."""
        return None if self._bin else read_scalar(self.weights, name)

    @property
    def _main_tower(self) -> Modality:
        return "text" if self.modality == "text" else "image"

    def _find_modality(self) -> Literal["text", "image", "image-text"]:
        if self.family is not None:
            both = str(self.config.model_type) == "clip"
            return "image-text" if both else self.family.modality
        if getattr(self.config, "is_encoder_decoder", False):
            raise BackboneError(
                f"backbone {self.name}: {self.config.model_type} is an encoder-decoder; an encoder "
                "(BERT, ViT, ...) or a decoder (GPT-2, Llama, ...) is needed."
            )
        takes = getattr(empty_model(self.config, "text"), "main_input_name", "")
        kinds: dict[str, Modality] = {"input_ids": "text", "pixel_values": "image"}
        if takes not in kinds:
            raise BackboneError(
                f"backbone {self.name}: {self.config.model_type} takes {takes!r}; only networks "
                "for text (input_ids) or images (pixel_values) can be used."
            )
        return kinds[takes]

    def _tower_family(self, tower: Modality) -> Family | None:
        if self.modality == "image-text":
            return FAMILIES["clip_text_model" if tower == "text" else "clip_vision_model"]
        return self.family

    def _groups(self, network: nn.Module, tower: Modality) -> LayerGroups:
        family = self._tower_family(tower)
        return groups_of_family(network, family) if family else find_groups(network)

    def _passes(self, network: nn.Module, tower: Modality) -> int:
        groups = self._groups(network, tower)
        if groups.shared_note is not None:
            return int(self.config.num_hidden_layers)
        return len(groups.blocks())

    def _prefix_tokens(self, tower: Modality) -> int:
        family = self._tower_family(tower)
        extra = int(getattr(self.config, "num_register_tokens", 0) or 0)
        return (family.prefix_tokens + extra) if family else 0

    def _pooling_names(
        self, tower: Modality, network: nn.Module, pooler_is_trained: bool
    ) -> tuple[str, ...]:
        family = self._tower_family(tower)
        if family is not None and family.pooling == "model" and family.inner_pooling == "mean":
            return ("model", "mean")
        names = ["cls", "mean"] if tower == "image" else ["mean", "cls", "last"]
        projects = network_class(self.config, tower).endswith("WithProjection")
        clip = str(self.config.model_type).startswith("clip")
        has_pooler = getattr(network, "pooler", None) is not None and pooler_is_trained
        if has_pooler or clip or self.config.model_type == "dinov2" or self.family is None:
            names.append("model")
        return (*names, "projection") if projects else tuple(names)

    def _dimension(self, tower: Modality) -> int | None:
        """D of the default vectors, from the configuration or a pass without weights."""
        config = self.config
        if tower == "text":
            return int(config.hidden_size)
        network = empty_model(config, tower).eval()
        size = getattr(getattr(config, "vision_config", config), "image_size", None) or 64
        size = size if isinstance(size, int) else size[0]
        try:
            with torch.inference_mode():
                output = network(pixel_values=torch.zeros(1, 3, size, size, device="meta"))
            return int(output.last_hidden_state.shape[1 if output[0].ndim == 4 else -1])
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return int(config.hidden_size) if hasattr(config, "hidden_size") else None


def _known_ids(network: Any) -> int | None:
    """How many token ids it has a vector for; None where it does not say."""
    try:
        return getattr(network.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def _check_image_size(encoder: Encoder, name: str, image_size: int | None) -> None:
    """Try one image of a size that is not the network's own."""
    if image_size is None or encoder.modality == "text":
        return
    try:
        encoder.dimension_at(None)
    except (RuntimeError, ValueError) as error:
        own = getattr(getattr(encoder.module, "config", None), "image_size", None)
        hint = f" Its own is {own}." if own else ""
        raise UsageError(
            f"image_size {image_size} does not work with {name} "
            f"({(str(error).splitlines() or [''])[0]}).{hint} Larger or smaller sizes may."
        ) from error
