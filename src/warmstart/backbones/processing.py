"""Preprocessing that comes with the weights: texts or images to a batch of tensors.

It works in two steps, so that rows can be prepared once and batched by length: `prepare` treats
each row alone, `collate` pads rows into a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from warmstart.core import BackboneError, UsageError

__all__ = ["CallableProcessor", "ImageProcessor", "Processor", "TextProcessor", "as_processor"]


# A tokenizer reads a text to its end before it cuts, some 4 s a megabyte. What lies beyond so many
# characters for each token that is kept is left out beforehand; a text whose beginning does not
# fill the length (one endless word, blanks) is read further, but never beyond `_MOST` characters.
_HEAD, _FURTHER, _MOST = 200, 8, 1_000_000
_log = logging.getLogger(__name__)


class Processor(Protocol):
    """Turns inputs into a batch."""

    def prepare(self, inputs: Sequence[Any]) -> list[Any]:
        """Treat each row alone."""

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Make a batch of prepared rows."""

    def length(self, item: Any) -> int:
        """Cost of a prepared row: tokens of a text, 1 for an image."""

    def save(self, folder: Path) -> None:
        """Write what transformers reads back."""


class TextProcessor:
    """A tokenizer with right padding to the longest row of a batch.

    Attributes:
        tokenizer: transformers' tokenizer.
        max_length: Tokens at most, special tokens among them.
        known: How many token ids the network has a vector for, where that is known.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, *, accepts: Sequence[str],
        lower_case: bool = False, known: int | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.known = known
        self._lower = lower_case
        self._told = False
        self._type_ids = "token_type_ids" in accepts and (
            "token_type_ids" in tokenizer.model_input_names
        )
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
        given = (int(token) for token in special if token is not None)
        self._pad = next(token for token in given if known is None or token < known)
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = "right"

    def prepare(self, inputs: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at `max_length`."""
        if not len(inputs):
            return []
        texts = [text.lower().strip() for text in inputs] if self._lower else list(inputs)
        head = _HEAD * self.max_length
        most = max(head, _MOST)
        rows = self._encode([text[:head] for text in texts])
        while short := [
            i for i, row in enumerate(rows)
            if len(texts[i]) > head and len(row) < self.max_length
        ]:  # fmt: skip
            if head == most:
                self._tell_unread(len(short), most)
                break
            head = min(head * _FURTHER, most)
            for i, row in zip(short, self._encode([texts[i][:head] for i in short]), strict=True):
                rows[i] = row
        return rows

    def _tell_unread(self, count: int, most: int) -> None:
        """Say once that texts go on beyond what is read of them."""
        if not self._told:
            self._told = True
            _log.warning(
                "%d text%s longer than %s characters without filling %d tokens (an endless word?): "
                "what lies beyond is not read.",
                count, " is" if count == 1 else "s are", f"{most:,}", self.max_length,
            )  # fmt: skip

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            encoded = self.tokenizer(
                texts,
                truncation=True,
                max_length=self.max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        except Exception as error:  # a vocabulary that does not fit, from within tokenizers
            raise BackboneError(
                f"the backbone's tokenizer cannot read these texts ({error}). Take its files, "
                "tokenizer_config.json among them, from the model's own repository."
            ) from error
        rows: list[list[int]] = encoded["input_ids"]
        self._refuse_unknown(rows)
        return rows

    def _refuse_unknown(self, rows: list[list[int]]) -> None:
        """Refuse ids that the network has no vector for."""
        if self.known is None:
            return
        highest = max((max(row, default=0) for row in rows), default=0)
        if highest >= self.known:
            raise BackboneError(
                f"the backbone's tokenizer gives token id {highest} "
                f"({self.tokenizer.convert_ids_to_tokens(highest)!r}), but its network knows ids "
                f"below {self.known}: they do not belong together. Take both from the model's own "
                "repository."
            )

    def collate(self, items: Sequence[list[int]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (B, T); `token_type_ids` where the model takes them.

        A text without any token becomes one padding token that counts as real, so that its
        vector is defined.
        """
        width = max(1, *(len(item) for item in items))
        ids_BT = np.full((len(items), width), self._pad, dtype=np.int64)
        mask_BT = np.zeros((len(items), width), dtype=np.int64)
        for row, item in enumerate(items):
            ids_BT[row, : len(item)] = item
            mask_BT[row, : max(1, len(item))] = 1
        batch = {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT)}
        if self._type_ids:
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
        return batch

    def length(self, item: list[int]) -> int:
        """Tokens."""
        return max(1, len(item))

    def save(self, folder: Path) -> None:
        """Write the tokenizer, with the padding and the lower-casing that are in use."""
        if self.tokenizer.pad_token is None and self.tokenizer.eos_token is not None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self._lower:
            self._lower_in_tokenizer()
        if self.tokenizer.is_fast:  # what the last call set is no part of the tokenizer
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder)

    def _lower_in_tokenizer(self) -> None:
        """A sentence-transformers setting that a plain tokenizer folder has no place for."""
        from tokenizers import normalizers

        backend = self.tokenizer.backend_tokenizer
        own = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.Strip(), *own]
        )
        self._lower = False


class ImageProcessor:
    """A Pillow image processor, optionally at another size than its own.

    Attributes:
        processor: transformers' image processor.
        image_size: Pixels on a side of the network's input, None for the processor's own.
    """

    def __init__(self, processor: Any, image_size: int | None = None) -> None:
        self.processor = processor
        self.image_size = image_size
        self._sizes = _sizes(processor, image_size) if image_size is not None else {}

    def prepare(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Pixels (3, H, W) of each image, resized and normalised."""
        return [
            np.asarray(
                self.processor(image, return_tensors="np", **self._sizes)["pixel_values"][0],
                dtype=np.float32,
            )
            for image in inputs
        ]

    def collate(self, items: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """`pixel_values` (B, 3, H, W).

        Raises:
            BackboneError: When the processor leaves images at different sizes.
        """
        shapes = {item.shape for item in items}
        if len(shapes) > 1:
            shown = ", ".join(str(shape[-2:]) for shape in sorted(shapes)[:3])
            raise BackboneError(
                f"{type(self.processor).__name__} leaves images at different sizes ({shown}); a "
                "batch needs one. Use a backbone whose preprocessor_config.json crops or resizes "
                "to a fixed height and width."
            )
        return {"pixel_values": torch.from_numpy(np.stack(items))}

    def length(self, item: np.ndarray) -> int:
        """Images of one size cost the same."""
        return 1

    def save(self, folder: Path) -> None:
        """Write the image processor, with the size in use."""
        own = {name: getattr(self.processor, name) for name in self._sizes}
        try:
            for name, value in self._sizes.items():
                setattr(self.processor, name, value)
            self.processor.save_pretrained(folder)
        finally:
            for name, value in own.items():
                setattr(self.processor, name, value)


class CallableProcessor:
    """A user's own function from a list of inputs to a dict of tensors."""

    def __init__(self, function: Callable[[Sequence[Any]], Mapping[str, Tensor]]) -> None:
        self.function = function

    def prepare(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs as they are: the function sees whole batches."""
        return list(inputs)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the function returns.

        Raises:
            UsageError: When that is no mapping from names to tensors.
        """
        batch = self.function(list(items))
        if not isinstance(batch, Mapping) or not all(
            isinstance(value, Tensor) for value in batch.values()
        ):
            raise UsageError(
                "processor must return a dict of tensors, the keyword arguments of the module's "
                f"forward; got {type(batch).__name__}."
            )
        return dict(batch)

    def length(self, item: Any) -> int:
        """Characters of a text, 1 for an image."""
        return max(1, len(item)) if isinstance(item, str) else 1

    def save(self, folder: Path) -> None:
        """Code cannot be saved.

        Raises:
            BackboneError: Always.
        """
        raise BackboneError(
            "a backbone with a processor of your own cannot be saved as a transformers folder: "
            "code is never stored. Save module.state_dict() yourself, or give a transformers "
            "tokenizer or image processor."
        )


def as_processor(
    value: Any, *, max_length: int | None, image_size: int | None, accepts: Sequence[str]
) -> Processor:
    """Wrap what a user gave as `processor`.

    Raises:
        UsageError: When it is neither callable nor one of transformers' processors.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor

    if isinstance(value, PreTrainedTokenizerBase):
        own = int(value.model_max_length)
        return TextProcessor(value, max_length or min(own, 512), accepts=accepts)
    if isinstance(value, BaseImageProcessor):
        return ImageProcessor(value, image_size)
    if callable(value):
        return CallableProcessor(value)
    raise UsageError(
        "processor must be a transformers tokenizer or image processor, or a function from a list "
        f"of inputs to a dict of tensors; got {type(value).__name__}."
    )


def _sizes(processor: Any, image_size: int) -> dict[str, dict[str, int]]:
    """`size` and `crop_size` that end in `image_size` pixels, in the processor's own terms."""
    size = dict(getattr(processor, "size", None) or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    crops = bool(getattr(processor, "do_center_crop", False)) and crop
    final = int(crop.get("height", 0) or crop.get("shortest_edge", 0)) if crops else 0
    ratio = image_size / final if final else 1.0
    known = [key for key in ("shortest_edge", "height", "width") if size.get(key)]
    if not known:
        raise UsageError(
            f"image_size cannot be set for {type(processor).__name__}: its size is {size!r}. "
            "Leave image_size unset."
        )
    sizes = {"size": {k: round(size[k] * ratio) if final else image_size for k in known}}
    if crops:
        sizes["crop_size"] = {"height": image_size, "width": image_size}
    return sizes
