"""Rows to vectors, fast: rows of like length together, the next batch prepared meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from warmstart.core import BackboneError

from .encoder import Encoder

__all__ = ["Job", "embed_inputs", "iterate_vectors", "prepared_batches"]

_CHUNK = 4096
_TOKENS_A_ROW = 64
_MOST_ROWS = 4
_AHEAD = 2


@dataclass(frozen=True)
class Job:
    """What is asked of an encoder.

    Attributes:
        wanted: Pooling by depth; several depths are made in one pass.
        batch_size: Rows of about 64 tokens in a batch; shorter rows go in larger batches.
    """

    wanted: Mapping[int | None, str | None]
    batch_size: int = 32


def embed_inputs(
    encoder: Encoder,
    inputs: Sequence[Any],
    *,
    depth: int | None = None,
    pooling: str | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Vectors (N, D), float32, of texts or RGB images, in their order.

    Nothing is cached: for encoders whose weights have moved, or inputs that are seen once.

    Raises:
        BackboneError: When a vector is not finite, naming the row by its position.
    """
    job = Job({depth: pooling}, batch_size)
    if not len(inputs):
        return np.zeros((0, encoder.dimension_at(depth, pooling)), dtype=np.float32)
    vectors_ND: np.ndarray | None = None
    names = [f"at position {index}" for index in range(len(inputs))]
    rows = range(len(inputs))
    for chosen, found in iterate_vectors(
        encoder, rows, lambda wanted: [inputs[index] for index in wanted], names.__getitem__, job
    ):
        if vectors_ND is None:
            vectors_ND = np.empty((len(inputs), found[depth].shape[1]), dtype=np.float32)
        vectors_ND[chosen] = found[depth]
    assert vectors_ND is not None
    return vectors_ND


def iterate_vectors(
    encoder: Encoder,
    rows: Sequence[int],
    fetch: Callable[[Sequence[int]], Sequence[Any]],
    name: Callable[[int], str],
    job: Job,
) -> Iterator[tuple[list[int], dict[int | None, np.ndarray]]]:
    """Yield (rows, vectors by depth) batch by batch, in no particular order.

    Args:
        encoder: Put into evaluation mode while it works, and back afterwards.
        rows: Row numbers to embed.
        fetch: From row numbers to inputs; called from another thread for images.
        name: From a row number to how a message should call the row.
        job: Depths, pooling and batch size.

    Raises:
        BackboneError: When a vector is not finite, naming the row.
    """
    training = encoder.training
    encoder.eval()
    try:
        for chosen, items in prepared_batches(encoder, rows, fetch, job.batch_size):
            batch = {k: v.to(encoder.device) for k, v in encoder.collate(items).items()}
            yield chosen, _vectors(encoder, batch, chosen, name, job)
    finally:
        encoder.train(training)


@torch.inference_mode()
def _vectors(
    encoder: Encoder,
    batch: dict[str, torch.Tensor],
    chosen: Sequence[int],
    name: Callable[[int], str],
    job: Job,
) -> dict[int | None, np.ndarray]:
    tensors = encoder.forward_many(batch, job.wanted)
    found = {depth: value.float().cpu().numpy() for depth, value in tensors.items()}
    for vectors_BD in found.values():
        good_B = np.isfinite(vectors_BD).all(axis=1)
        if not good_B.all():
            row = chosen[int(np.flatnonzero(~good_B)[0])]
            raise BackboneError(
                f"the vector of row {name(row)} is not finite. The input or the weights are out "
                "of range: look at that row, or use another backbone."
            )
    return found


def prepared_batches(
    encoder: Encoder,
    rows: Sequence[int],
    fetch: Callable[[Sequence[int]], Sequence[Any]],
    batch_size: int,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Rows and their prepared inputs, batch by batch, for `Encoder.collate`.

    Texts of like length share a batch, within a budget of tokens; images are decoded ahead by
    threads. The arguments are those of `iterate_vectors` and `Job`.
    """
    if encoder.modality == "text":
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            items = encoder.prepare(fetch(chunk))
            yield from _by_length(encoder, chunk, items, batch_size)
        return
    yield from _ahead(encoder, rows, fetch, batch_size)


def _by_length(
    encoder: Encoder, chunk: Sequence[int], items: Sequence[Any], batch_size: int
) -> Iterator[tuple[list[int], list[Any]]]:
    """Batches of rows of like length, within a budget of tokens, longest first."""
    lengths = [encoder.item_length(item) for item in items]
    order = sorted(range(len(items)), key=lambda position: -lengths[position])
    budget = batch_size * _TOKENS_A_ROW
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        count = max(1, min(budget // longest, batch_size * _MOST_ROWS))
        picked = order[start : start + count]
        yield [chunk[position] for position in picked], [items[position] for position in picked]
        start += count


def _ahead(
    encoder: Encoder,
    rows: Sequence[int],
    fetch: Callable[[Sequence[int]], Sequence[Any]],
    batch_size: int,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Batches of images, decoded and resized by threads while the network works."""
    parts = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]

    def load(part: list[int]) -> list[Any]:
        return encoder.prepare(fetch(part))

    waiting: deque[tuple[list[int], Future[list[Any]]]] = deque()
    with ThreadPoolExecutor(max_workers=_AHEAD, thread_name_prefix="warmstart-images") as pool:
        try:
            for part in parts:
                waiting.append((part, pool.submit(load, part)))
                if len(waiting) > _AHEAD:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
