"""A user's own network as a backbone: copied for each use, described by running it once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.core import BackboneError, NotApplicable, UsageError, fingerprint
from warmstart.data import Modality

from .card import Card, module_card
from .encoder import Encoder, forward_names, image_extra, sample_input
from .families import FAMILIES, Family
from .freezing import state_hash
from .groups import LayerGroups, batch_norms, find_groups, groups_of_family
from .pooling import POOLINGS
from .processing import as_processor
from .recipe import Recipe, Settings

__all__ = ["ModuleRecipe"]


class ModuleRecipe(Recipe):
    """A `torch.nn.Module` with its processor and layer groups."""

    def __init__(
        self,
        module: nn.Module,
        processor: Any,
        groups: Mapping[str, Sequence[str]] | None,
        *,
        modality: Modality,
        name: str | None = None,
    ) -> None:
        """Take a private copy of `module`.

        Args:
            module: Called as `module(**batch)`; puts out (B, D), (B, T, D), (B, C, H, W), or an
                object or dict with `last_hidden_state` or `pooler_output`.
            processor: A function from a list of texts or RGB images to a dict of tensors, or a
                transformers tokenizer or image processor.
            groups: Name to parameter prefixes, first to run first; None where the family is known
                or the network has one list of repeated blocks.
            modality: What it reads.
            name: Short name; the class's when None.
        """
        self._module = copy.deepcopy(module).cpu().eval()
        self._given = processor
        self._spec = {key: list(value) for key, value in groups.items()} if groups else None
        self._tower: Modality = modality
        self.modality = modality
        self.name = name or type(module).__name__
        self.source = f"module:{type(module).__name__}"
        kind = str(getattr(getattr(module, "config", None), "model_type", ""))
        self._family: Family | None = FAMILIES.get(kind) if self._spec is None else None
        self._layout = self._groups(self._module)

    @property
    def code(self) -> dict[str, Any]:
        """What `backbone(module=...)` was given and no folder keeps."""
        return {"module": self._module, "processor": self._given, "groups": self._spec}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of structure, weights and of what probe inputs become.

        The processor is code, so it is named by its source and by what it makes of probe inputs.
        """
        encoder = self.encoder(self._tower, Settings())
        inputs = ["A probe: Text, 1 & 2!", "a"] if self.modality == "text" else _probe_images()
        batch = encoder.preprocess(inputs)
        with torch.inference_mode():
            vectors = encoder(batch)
        parts = {key: value.cpu().numpy() for key, value in batch.items()}
        return fingerprint(
            "module", repr(self._module), state_hash(self._module), parts,
            vectors.float().numpy(), _source_of(self._given), _source_of(type(self._module)),
        )  # fmt: skip

    @cached_property
    def card(self) -> Card:
        """Sizes; the rest is unknown."""
        encoder = self.encoder(self._tower, Settings())
        return module_card(
            self._module,
            name=self.name,
            modality=self.modality,
            layers=encoder.n_depths or len(self._layout) - 1,
            dimension=encoder.dimension,
        )

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the layer groups."""
        return self._layout.names

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network has batch normalisation."""
        return bool(batch_norms(self._module))

    def pooling(self, tower: Modality) -> str:
        """What the output allows: the network's own pooling, else mean."""
        if self._family is not None:
            return self._family.pooling
        return self._output_kind[0]

    def inner_pooling(self, tower: Modality) -> str:
        """The family's where it is known, else mean."""
        return self._family.inner_pooling if self._family else "mean"

    def max_length(self, wanted: int | None) -> int | None:
        """As wanted; a function of the user's own decides by itself."""
        return wanted

    def encoder(
        self, tower: Modality, settings: Settings, *, random_seed: int | None = None
    ) -> Encoder:
        """An encoder around a copy of the network."""
        if tower != self.modality:
            raise BackboneError(f"backbone {self.name} reads {self.modality}, not {tower}.")
        module = copy.deepcopy(self._module)
        if random_seed is not None:
            _reset(module, random_seed, self.name)
        processor = self._processor(settings)
        pooling = settings.pooling or self.pooling(tower)
        names = self._output_kind[1]
        if pooling not in names:
            raise UsageError(
                f"pooling {pooling!r} is not available for {self.name}; it has {', '.join(names)}."
            )
        layout = self._groups(module)
        config: Any = getattr(module, "config", None)
        shared = layout.shared_note is not None
        family = self._family
        encoder = Encoder(
            module,
            processor,
            layout,
            modality=tower,
            pooling=pooling,
            inner_pooling=self.inner_pooling(tower),
            pooling_names=names,
            prefix_tokens=family.prefix_tokens if family else 0,
            n_depths=int(config.num_hidden_layers) if shared else len(layout.blocks()),
            extra=image_extra(module, processor),
        ).eval()
        if self._spec is None and self._family is None:
            encoder.check_order()
        return encoder

    @cached_property
    def _output_kind(self) -> tuple[str, tuple[str, ...]]:
        """Default pooling and allowed poolings, from one pass over a tiny input."""
        batch = self._processor(Settings())
        items = batch.prepare([sample_input(self.modality)])
        with torch.inference_mode():
            output = self._module(**batch.collate(items))
        tokens = ("mean", "cls", "last") if self.modality == "text" else ("mean", "cls")
        hidden, pooled = output, None
        if not isinstance(output, Tensor):
            as_dict = dict(output) if isinstance(output, Mapping) else vars(output)
            hidden, pooled = as_dict.get("last_hidden_state"), as_dict.get("pooler_output")
        names: list[str] = []
        if isinstance(hidden, Tensor):
            names += {2: (), 3: tokens, 4: ("mean",)}.get(hidden.ndim, ())
        if isinstance(pooled, Tensor) or (isinstance(hidden, Tensor) and hidden.ndim in {2, 4}):
            names.insert(0, "model")
        if not names:
            raise BackboneError(
                f"{self.name} must put out a tensor (B, D), (B, T, D) or (B, C, H, W), or an "
                "object with last_hidden_state or pooler_output; got "
                f"{type(output).__name__}. Wrap it so that it does."
            )
        return names[0], tuple(name for name in POOLINGS if name in names)

    def _processor(self, settings: Settings) -> Any:
        return as_processor(
            self._given,
            max_length=settings.max_length,
            image_size=settings.image_size,
            accepts=forward_names(self._module),
        )

    def _groups(self, module: nn.Module) -> LayerGroups:
        if self._spec is not None:
            return LayerGroups(module, self._spec, blocks=_blocks(module, self._spec))
        if self._family is not None:
            return groups_of_family(module, self._family)
        return find_groups(module)


def _blocks(module: nn.Module, spec: Mapping[str, Sequence[str]]) -> list[str]:
    """The first path of every group but the first, where each is a module; else none."""
    known = {name for name, _ in module.named_modules()}
    paths = [next(iter(prefixes)) for prefixes in list(spec.values())[1:]]
    return paths if paths and all(path in known for path in paths) else []


def _reset(module: nn.Module, seed: int, name: str) -> None:
    """Draw fresh weights in place by each layer's own `reset_parameters`."""
    fresh: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed % (1 << 63))
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None) or getattr(
                part, "_reset_parameters", None
            )
            if callable(reset):
                reset()
                fresh |= {id(p) for p in part.parameters(recurse=False)}
    left = [key for key, value in module.named_parameters() if id(value) not in fresh]
    if left:
        raise NotApplicable(
            f"{name} cannot be started from random weights: {', '.join(left[:5])} belong to no "
            "layer with reset_parameters(). Give that layer such a method."
        )


def _probe_images() -> list[Any]:
    import numpy as np
    from PIL import Image

    ramp = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3) * 37 % 256
    return [Image.fromarray(ramp.astype(np.uint8))]


def _source_of(value: Any) -> str:
    named = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    try:
        return inspect.getsource(named)
    except (OSError, TypeError):
        return f"{named.__module__}.{named.__qualname__}"
