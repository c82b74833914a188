"""The text encoder of the item tower while it learns: what is frozen of it is computed once.

Item vectors lie in a table. A step encodes a few items anew, with gradient; all others are read
from the table, which is made again after each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.backbones import Backbone, Encoder, embed_inputs, freeze, state_hash, unfreeze
from warmstart.backbones.prefix import (
    ALL,
    PREFIX,
    PrefixCut,
    Replay,
    ReplayError,
    frozen_depth,
    precision_context,
    prefix_groups,
    verify_replay,
)
from warmstart.backbones.prefix_record import Part, record
from warmstart.backbones.prefix_store import KeptRows, PrefixSpace
from warmstart.core import BackboneError, NotApplicable, UsageError, fingerprint, progress
from warmstart.data import Dataset, from_inputs
from warmstart.training import pick_precision

__all__ = ["ItemTexts", "TextTable", "TextTower", "apply_text_weights", "load_text_encoder"]

_BLOCK = 64
_PROBED = 4


@dataclass(frozen=True)
class ItemTexts:
    """The items' texts and the encoder that reads them.

    Attributes:
        backbone: A text encoder, or CLIP.
        texts: Of each item, blank where it has none.
        titles: Of each item, for what tells users by them; may be left out.
    """

    backbone: Backbone
    texts: Sequence[str]
    titles: Sequence[str] = ()

    @property
    def told(self) -> list[int]:
        """Codes of the items that have a text."""
        return [code for code, text in enumerate(self.texts) if text and text.strip()]

    @property
    def fingerprint(self) -> str:
        """Of encoder and texts."""
        return fingerprint("item texts", self.backbone.fingerprint, list(self.texts))


class TextTable(nn.Module):
    """The items' given vectors among the modules of a fit, so that checkpoints keep them."""

    features_IF: Tensor

    def __init__(self, features_IF: Tensor) -> None:
        """Take the vectors; the tensor is shared, not copied."""
        super().__init__()
        self.register_buffer("features_IF", features_IF)


class TextTower:
    """A text encoder that learns from some group on, over the items' texts.

    Attributes:
        encoder: Its weights learn.
        told_I: True for items that have a text, on the CPU.
        fresh: What the table was last made at; see `refresh`.
    """

    def __init__(self, texts: ItemTexts, features_IF: Tensor) -> None:
        """Load the encoder and prepare the texts.

        Args:
            texts: Of all items.
            features_IF: The items' given vectors, text first; their text part is made anew in
                place by `refresh`.

        Raises:
            NotApplicable: When no item has a text, or the encoder's layers cannot be told apart.
            UsageError: When the given vectors are too short to be the encoder's.
        """
        codes = texts.told
        if not codes:
            raise NotApplicable("both towers need texts of the items, and there are none")
        self._texts = texts
        self._features_IF = features_IF
        self.encoder = load_text_encoder(texts.backbone, features_IF.device)
        if self.encoder.groups.shared_note is not None:
            raise NotApplicable(
                f"{texts.backbone.name} cannot be tuned group by group: "
                f"{self.encoder.groups.shared_note}"
            )
        if self.encoder.dimension > features_IF.shape[1]:
            raise UsageError(
                f"the items' vectors have {features_IF.shape[1]} numbers, but "
                f"{texts.backbone.name} gives {self.encoder.dimension} for a text alone. Give the "
                "vectors of that encoder."
            )
        self.told_I = torch.zeros(len(texts.texts), dtype=torch.bool)
        self.told_I[codes] = True
        self._row_I = torch.full((len(texts.texts),), -1, dtype=torch.int64)
        self._row_I[codes] = torch.arange(len(codes))
        self._inputs = [texts.texts[code] for code in codes]
        self._items = self.encoder.prepare(self._inputs)
        self._lengths = torch.tensor([self.encoder.item_length(item) for item in self._items])
        self._codes_N = torch.tensor(codes)
        self._precision = pick_precision("auto", self.encoder.device)
        self._kept: KeptRows | None = None
        self.replay = Replay(self.encoder, None)
        self.fresh: object = None

    @property
    def width(self) -> int:
        """Length E of a text's vector."""
        return self.encoder.dimension

    def learn(self, names: Sequence[str]) -> None:
        """Let these groups learn and no others, and compute what lies before them once.

        Where it cannot be kept or replayed, whole passes are made, and that is said.
        """
        groups = self.encoder.groups.names
        unfreeze(self.encoder, names)
        freeze(self.encoder, [name for name in groups if name not in set(names)])
        self._kept, self.replay = None, Replay(self.encoder, None)
        try:
            self._record()
        except ReplayError as error:
            self._kept, self.replay = None, Replay(self.encoder, None)
            progress.note(f"The frozen prefix is recomputed at every step: {error.reason}")

    def encode(self, codes_C: Tensor) -> Tensor:
        """Vectors (C, E) of items that have a text, with gradient where one is asked for."""
        rows = self._row_I[codes_C.cpu()].tolist()
        tensors = self._batch(rows)
        vectors_CE: Tensor = self.replay(tensors)
        return vectors_CE

    def by_length(self, codes_C: Tensor, size: int) -> list[Tensor]:
        """Places among these codes, `size` at a time, texts of like length together."""
        lengths_C = self._lengths[self._row_I[codes_C.cpu()]]
        return list(torch.split(torch.argsort(lengths_C, stable=True), size))

    @torch.no_grad()
    def refresh(self, mark: object = None) -> None:
        """Make the table's text vectors by the encoder as it is.

        Args:
            mark: Stands for this state of the weights: nothing is done where the table was last
                made at the same one. None always makes it.
        """
        if mark is not None and mark == self.fresh:
            return
        training = self.replay.training
        self.replay.eval()
        try:
            with precision_context(self.encoder.device, self._precision):
                for places in self.by_length(self._codes_N, _BLOCK):
                    codes = self._codes_N[places]
                    self._put(codes, self.encode(codes))
        finally:
            self.replay.train(training)
        self.fresh = mark

    @torch.no_grad()
    def finish(self) -> None:
        """Make the table as new items will be encoded: by whole passes in full precision."""
        vectors_NE = embed_inputs(self.encoder, self._inputs)
        self._put(self._codes_N, torch.from_numpy(vectors_NE))

    def weights(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Copies of the weights and buffers of these groups, by their names in the network."""
        groups = self.encoder.groups
        return {
            key: value.detach().cpu().clone()
            for name in names
            for key, value in [*groups.parameters(name), *groups.buffers(name)]
        }

    def _put(self, codes_C: Tensor, vectors_CE: Tensor) -> None:
        table = self._features_IF
        if not bool(torch.isfinite(vectors_CE).all()):
            raise BackboneError(
                "a text vector of the tuned encoder is not finite. Set a lower text_rate."
            )
        found = vectors_CE.to(table.device, table.dtype)
        table[codes_C.to(table.device), : found.shape[1]] = found

    def _batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        tensors = self.encoder.collate([self._items[row] for row in rows])
        if self._kept is not None:
            kept = self._kept.batch(rows, tensors["attention_mask"])
            tensors = {**tensors, PREFIX: kept}
        return {key: value.to(self.encoder.device) for key, value in tensors.items()}

    def _record(self) -> None:
        """Keep what enters the first learning block for every text, and prove it by a few."""
        depth = frozen_depth(self.encoder, self.encoder.frozen)
        if depth is None or depth == ALL:
            return
        rows = sorted({0, len(self._items) - 1, *self._lengths.argsort()[:_PROBED].tolist()})
        fresh = self._batch(rows if len(rows) > 1 else [0, 0])
        cut = PrefixCut(self.encoder, depth, fresh, precision=self._precision)
        texts: Dataset = from_inputs(self._inputs, "text")
        cache = self._texts.backbone.cache
        kept = record(self.encoder, cut, [Part(texts, self._space(cut))], cache=cache)
        if kept is None:
            return
        fresh = self._batch(rows)
        self._kept, self.replay = kept[0], Replay(self.encoder, cut)
        verify_replay(self.replay, fresh, self._batch(rows), precision=self._precision)

    def _space(self, cut: PrefixCut) -> PrefixSpace:
        backbone = self._texts.backbone
        return PrefixSpace(
            backbone=backbone.fingerprint,
            weights=state_hash(self.encoder, prefix_groups(self.encoder, cut.depth)),
            modality="text", depth=cut.depth, precision=self._precision,
            max_length=backbone.max_length,
        )  # fmt: skip


def load_text_encoder(backbone: Backbone, device: Any = None) -> Encoder:
    """A fresh encoder of texts; of CLIP its text tower."""
    if backbone.modality == "image-text":
        return backbone.text_encoder(device=device)
    return backbone.load(device=device)


def apply_text_weights(encoder: Encoder, weights: Mapping[str, Tensor]) -> Encoder:
    """Put tuned weights into an encoder of the backbone that they were tuned from.

    Raises:
        BackboneError: When it has no such weights, or of another shape.
    """
    own = encoder.module.state_dict()
    for key, value in weights.items():
        if key not in own or own[key].shape != value.shape:
            raise BackboneError(
                f"the tuned weight {key} does not fit this {type(encoder.module).__name__}. Name "
                "the encoder that the towers were trained with."
            )
    encoder.module.load_state_dict(dict(weights), strict=False)
    return encoder.eval()
