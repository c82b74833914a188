"""A loaded backbone: inputs to vectors, from any depth, with a stated pooling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from warmstart.core import BackboneError, UsageError, nearest

from .groups import LayerGroups, batch_norms
from .pooling import TOKEN_POOLINGS, as_hidden, choose_pooling, pool_hidden, pool_output
from .processing import ImageProcessor, Processor, TextProcessor
from .sentence import write_sentence_settings

__all__ = ["Encoder"]


_TOWERS = (
    ("vision_model", "visual_projection", "image_embeds"),
    ("text_model", "text_projection", "text_embeds"),
)


class _EnoughError(Exception):
    """The wanted depth is reached: the rest of the pass is not needed."""


class Encoder(nn.Module):
    """A network with its preprocessing, layer groups and pooling.

    Depth counts finished blocks: d is what enters the block after the d-th (0: the stem's output),
    and n what the last of n blocks puts out. Depth None is the network's own last output, with its
    final norm. At inner depths the blocks above are not run.

    Attributes:
        module: The network.
        processor: Its preprocessing.
        groups: Its layer groups.
        modality: `text` or `image`.
        pooling: Default pooling of the last output.
        pooling_names: Poolings the last output allows.
        normalize: Whether the default vectors are scaled to unit length (a sentence-transformers
            folder that ends in Normalize).
        n_depths: Blocks that a pass runs; the largest depth.
        frozen: Names of the groups that `freeze` froze.
        batch_norm: `train`, or `eval` where batch normalisation keeps its statistics while its
            group learns.
        virtual_tokens: Learned tokens before the text's own, which are no part of its vector.
    """

    virtual_tokens: int = 0

    def __init__(
        self,
        module: nn.Module,
        processor: Processor,
        groups: LayerGroups,
        *,
        modality: Literal["text", "image"],
        pooling: str,
        inner_pooling: str,
        pooling_names: Sequence[str],
        prefix_tokens: int = 0,
        normalize: bool = False,
        n_depths: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.processor = processor
        self.groups = groups
        self.modality = modality
        self.pooling = pooling
        self.inner_pooling = inner_pooling
        self.pooling_names = tuple(pooling_names)
        self.prefix_tokens = prefix_tokens
        self.normalize = normalize
        self.n_depths = n_depths
        self.frozen: tuple[str, ...] = ()
        self.batch_norm: Literal["train", "eval"] = "train"
        self._extra = extra or {}
        self._dimensions: dict[tuple[int | None, str], int] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """How it is read, beside network, preprocessing and groups: for another encoder like it."""
        return {
            "modality": self.modality,
            "pooling": self.pooling,
            "inner_pooling": self.inner_pooling,
            "pooling_names": self.pooling_names,
            "prefix_tokens": self.prefix_tokens,
            "normalize": self.normalize,
            "n_depths": self.n_depths,
            "extra": self._extra,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found = next(self.module.parameters(), None)
        return found.device if found is not None else torch.device("cpu")

    @property
    def dimension(self) -> int:
        """D of the default vectors."""
        return self.dimension_at(None)

    def preprocess(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Texts or RGB images to a batch, padded to its longest row, on the CPU."""
        return self.collate(self.prepare(inputs))

    def prepare(self, inputs: Sequence[Any]) -> list[Any]:
        """Treat each row alone (tokens, pixels); `collate` makes batches of these."""
        return self.processor.prepare(inputs)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """A batch of prepared rows."""
        return self.processor.collate(items)

    def lengths(self, inputs: Sequence[Any]) -> list[int]:
        """Cost of each row: tokens of a text; images cost the same."""
        if self.modality == "image":
            return [1] * len(inputs)
        return [self.processor.length(item) for item in self.prepare(inputs)]

    def item_length(self, item: Any) -> int:
        """Cost of a prepared row."""
        return self.processor.length(item)

    def resolve_pooling(self, depth: int | None, pooling: str | None) -> str:
        """The pooling that a depth and a wish lead to.

        Raises:
            UsageError: For a depth or pooling that this backbone does not have.
        """
        self._check_depth(depth)
        chosen = choose_pooling(depth, pooling, default=self.pooling, inner=self.inner_pooling)
        allowed = self.pooling_names
        if depth is not None:
            allowed = tuple(name for name in TOKEN_POOLINGS if name in allowed)
            allowed = allowed or (self.inner_pooling,)
        if chosen not in allowed:
            where = "" if depth is None else f" at depth {depth}"
            raise UsageError(
                f"pooling {chosen!r} is not available{where} for this backbone."
                f"{nearest(chosen, allowed)}"
            )
        return chosen

    def forward(
        self, batch: dict[str, Tensor], *, depth: int | None = None, pooling: str | None = None
    ) -> Tensor:
        """Vectors (B, D).

        Args:
            batch: From `preprocess`, on the encoder's device.
            depth: Finished blocks, None for the last output.
            pooling: One of `pooling_names`, None for the backbone's own.

        Raises:
            UsageError: For a depth or pooling that this backbone does not have.
        """
        return self.forward_many(batch, {depth: pooling})[depth]

    def forward_many(
        self, batch: dict[str, Tensor], wanted: Mapping[int | None, str | None]
    ) -> dict[int | None, Tensor]:
        """Vectors (B, D) of several depths in one pass, which ends at the deepest.

        Args:
            batch: As for `forward`.
            wanted: Pooling by depth.

        Raises:
            UsageError: For a depth or pooling that this backbone does not have.
        """
        poolings = {depth: self.resolve_pooling(depth, name) for depth, name in wanted.items()}
        inner = {depth: name for depth, name in poolings.items() if depth is not None}
        mask = batch.get("attention_mask")
        vectors: dict[int | None, Tensor] = {}
        if inner:
            output, found = self._inner(batch, inner, stop=None not in poolings)
            vectors.update(dict(found.items()))
        else:
            output = self._run(batch)
        if None in poolings:
            last_BD = pool_output(output, mask, poolings[None], self.prefix_tokens)
            if self.normalize and poolings[None] == self.pooling:
                last_BD = nn.functional.normalize(last_BD, dim=-1)
            vectors[None] = last_BD
        return vectors

    def dimension_at(self, depth: int | None, pooling: str | None = None) -> int:
        """D at a depth, found by one pass over a tiny input."""
        key = (depth, self.resolve_pooling(depth, pooling))
        if key not in self._dimensions:
            batch = {k: v.to(self.device) for k, v in self.preprocess([self._sample()]).items()}
            training = self.training
            self.eval()
            with torch.inference_mode():
                self._dimensions[key] = int(self(batch, depth=depth, pooling=pooling).shape[-1])
            self.train(training)
        return self._dimensions[key]

    def check_order(self) -> None:
        """Prove by one pass that every block runs once, in the order of the groups.

        For networks of no known family, whose blocks were found and not looked up.

        Raises:
            BackboneError: When blocks run in another order, not at all, or several times.
        """
        blocks = self.groups.blocks()
        ran: list[int] = []
        handles = [
            block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
            for index, block in enumerate(blocks)
        ]
        try:
            self._dimensions.clear()
            self.dimension_at(None)
        finally:
            for handle in handles:
                handle.remove()
        if ran != list(range(len(blocks))):
            raise BackboneError(
                f"{type(self.module).__name__}: its blocks ran in the order {ran[:20]}, but layer "
                "groups need each to run once, first to last. Give groups={name: [parameter "
                "prefixes]} for a module of your own."
            )

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for frozen groups and held statistics: these stay evaluating."""
        super().train(mode)
        if mode and self.batch_norm == "eval":
            for _, norm in batch_norms(self.module):
                norm.eval()
        if mode and self.frozen:
            if set(self.frozen) >= set(self.groups.names):
                self.module.eval()
            for name in self.frozen:
                for part in self.groups.modules(name):
                    part.eval()
        return self

    def save(self, folder: Path) -> None:
        """Write network and preprocessing as transformers reads them.

        Raises:
            BackboneError: For a network that is not one of transformers'.
        """
        from .quiet import quiet_transformers

        write: Any = getattr(self.module, "save_pretrained", None)
        if write is None:
            raise BackboneError(
                f"{type(self.module).__name__} is no transformers model, so it cannot be saved as "
                "one. Save its state_dict() with safetensors yourself."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            write(folder)
            self.processor.save(folder)

    def save_sentence_transformer(self, folder: Path, *, normalize: bool | None = None) -> None:
        """Write a folder that SentenceTransformer opens with the same vectors.

        Args:
            folder: Where.
            normalize: Whether it ends in Normalize; None keeps this encoder's own.

        Raises:
            BackboneError: When the pooling has no form there, or for images.
        """
        if not isinstance(self.processor, TextProcessor):
            raise BackboneError("only text backbones can be saved for sentence-transformers.")
        self.save(folder)
        write_sentence_settings(
            folder,
            pooling=self.pooling,
            normalize=self.normalize if normalize is None else normalize,
            dimension=self.dimension,
            max_length=self.processor.max_length,
        )

    def _run(self, batch: dict[str, Tensor]) -> Any:
        """The network's output; CLIP's towers with both their pooled and projected vectors."""
        for tower, projection, name in _TOWERS:
            network = getattr(self.module, tower, None)
            project = getattr(self.module, projection, None)
            if isinstance(network, nn.Module) and isinstance(project, nn.Module):
                output = network(**batch, **self._extra)
                return {
                    "last_hidden_state": output.last_hidden_state,
                    "pooler_output": output.pooler_output,
                    name: project(output.pooler_output),
                }
        return self.module(**batch, **self._extra)

    def _inner(
        self, batch: dict[str, Tensor], wanted: Mapping[int, str], *, stop: bool
    ) -> tuple[Any, dict[int, Tensor]]:
        """The output (None when the pass was stopped at the deepest) and the inner vectors."""
        found: dict[int, Tensor] = {}
        mask = batch.get("attention_mask")
        deepest = max(wanted)
        calls = 0

        def keep(value: Any) -> None:
            hidden = as_hidden(value)[:, self.virtual_tokens :]
            found[calls] = pool_hidden(hidden, mask, wanted[calls], self.prefix_tokens)
            if stop and calls == deepest:
                raise _EnoughError

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if calls in wanted and calls not in found:
                keep(args[0] if args else kwargs.get("hidden_states"))

        def after(_: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == self.n_depths and calls in wanted:
                keep(output)

        handles = []
        for block in self.groups.blocks():
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(after))
        output = None
        try:
            output = self._run(batch)
        except _EnoughError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise BackboneError(
                f"{type(self.module).__name__} ran {calls} blocks, so depth {missing[0]} was not "
                f"reached; {self.n_depths} were expected. Check the order of its layer groups."
            )
        return output, found

    def _check_depth(self, depth: int | None) -> None:
        if depth is None:
            return
        if self.n_depths == 0:
            raise UsageError(
                "depth cannot be used: the blocks of this network are not known. Give groups= with "
                "one module a group, or leave depth unset."
            )
        if not 0 <= depth <= self.n_depths:
            raise UsageError(
                f"depth must be between 0 and {self.n_depths} for this backbone, got {depth}. "
                "Leave it unset for the last output."
            )

    def _sample(self) -> Any:
        return sample_input(self.modality)


def sample_input(modality: str) -> Any:
    """A tiny input: a word, or a grey image of 64 by 64 pixels."""
    if modality == "text":
        return "one"
    from PIL import Image

    return Image.new("RGB", (64, 64), (120, 130, 140))


def forward_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that a network's forward takes."""
    return tuple(inspect.signature(module.forward).parameters)


def image_extra(module: nn.Module, processor: Processor) -> dict[str, Any]:
    """Arguments that let a network take images of another size than it was trained on."""
    if not isinstance(processor, ImageProcessor) or processor.image_size is None:
        return {}
    own = getattr(getattr(module, "config", None), "image_size", None)
    own = own[0] if isinstance(own, list | tuple) else own
    if own == processor.image_size:
        return {}
    if "interpolate_pos_encoding" in forward_names(module):
        return {"interpolate_pos_encoding": True}
    return {}
