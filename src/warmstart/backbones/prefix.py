"""The frozen prefix: what enters the first block that trains is computed once and replayed.

A replayed pass is the network's own forward: skipped blocks stay in place and hand on placeholders
of no cost in the structure that they returned when recorded, so masks and positions are still made
by the network. The last of them hands on what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal, NoReturn, Self

import torch
from torch import Tensor, nn

from warmstart.core import BackboneError, UsageError

from .encoder import Encoder
from .pooling import as_hidden
from .prefix_blank import Blank, Maker, holds, maker_of

__all__ = [
    "ALL",
    "PREFIX",
    "PrefixCut",
    "Replay",
    "ReplayError",
    "frozen_depth",
    "precision_context",
    "prefix_groups",
    "verify_replay",
]

ALL: Final = "all"
PREFIX: Final = "prefix"
_TOLERANCE = {"no": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


class ReplayError(BackboneError):
    """A network whose frozen prefix cannot be replayed; it can be trained without.

    Attributes:
        reason: The message without its cure, for those who go on without replaying.
    """

    def __init__(self, reason: str, cure: str = "") -> None:
        """Put the reason, and a sentence that says what to do, into one message."""
        super().__init__(f"{reason} {cure}".rstrip())
        self.reason = reason


class _ReachedError(Exception):
    """The block whose input is wanted is reached: the rest of the pass is not needed."""


def frozen_depth(encoder: Encoder, frozen: Iterable[str]) -> int | Literal["all"] | None:
    """The deepest block k whose input depends on frozen groups alone.

    Args:
        encoder: Its groups, stem first.
        frozen: Names of the frozen groups.

    Returns:
        k, at least 1; `ALL` when every group is frozen; None when block 0 or what is before it
        trains, so that there is nothing to replay.

    Raises:
        ReplayError: When layers are frozen whose calls cannot be told apart.
    """
    names, wanted = encoder.groups.names, set(frozen)
    unknown = wanted - set(names)
    if unknown:
        encoder.groups.parameters(min(unknown))  # raises with the nearest names
    count = next((i for i, name in enumerate(names) if name not in wanted), len(names))
    if count == len(names):
        return ALL
    blocks = len(encoder.groups.block_paths)
    if encoder.groups.shared_note is not None and count:
        _refuse(encoder, encoder.groups.shared_note.rstrip("."))
    if count and (not blocks or len(names) - blocks not in {0, 1}):
        _refuse(encoder, "its blocks are not known")
    depth = count - (len(names) - blocks)
    return depth if depth > 0 else None


def prefix_groups(encoder: Encoder, depth: int | None) -> tuple[str, ...]:
    """Names of the groups before block `depth`; of all groups when it is None."""
    names = encoder.groups.names
    if depth is None:
        return names
    return names[: depth + len(names) - len(encoder.groups.block_paths)]


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which training computes: `no`, `bf16` or `fp16`."""
    if precision == "no":
        return nullcontext()
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=kind)


class PrefixCut:
    """Where a pass is cut, learnt from one pass over a few rows.

    Attributes:
        depth: Block whose input is kept.
        cell: Shape of a kept row without its first dimension.
        width: First dimension of a kept row of an image; tokens differ by row.
        dtype: Number format of kept rows.
    """

    def __init__(
        self, encoder: Encoder, depth: int, batch: Mapping[str, Tensor], *, precision: str = "no"
    ) -> None:
        """Run the network once over two rows or more and note what each part returns.

        Args:
            encoder: Run in evaluation mode; left as it was.
            depth: Block whose input is kept, from 1.
            batch: Preprocessed rows, on the encoder's device.
            precision: As training computes.

        Raises:
            ReplayError: When a block runs more or less than once a pass, or passes on something
                that cannot be told from the shape of the batch.
        """
        self.depth = depth
        self.precision = precision
        self._block = encoder.groups.block_paths[depth]
        seen = _Seen(encoder, depth)
        with _evaluating(encoder), torch.no_grad(), precision_context(encoder.device, precision):
            seen.run(dict(batch))
        if seen.order != list(range(len(encoder.groups.block_paths))):
            _refuse(encoder, f"its blocks ran in the order {seen.order[:20]}")
        rows = len(next(iter(batch.values())))
        mask = batch.get("attention_mask")
        if encoder.modality == "text" and (mask is None or mask.shape != seen.hidden.shape[:2]):
            _refuse(encoder, "its blocks do not work on one position a token")
        tokens = None if encoder.modality == "image" else seen.hidden.shape[1]
        self.cell = tuple(seen.hidden.shape[2:])
        self.width = int(seen.hidden.shape[1])
        self.dtype = seen.hidden.dtype
        self._text = tokens is not None
        self._makers: dict[str, Maker] = {}
        for path, value in seen.returned.items():
            maker = maker_of(value, rows, tokens, seen.hidden)
            if maker is None:
                _refuse(encoder, f"{path} returns a {type(value).__name__}")
            self._makers[path] = maker
        if not any(holds(value, seen.hidden) for value in seen.returned.values()):
            _refuse(encoder, f"something is computed between blocks {depth - 1} and {depth}")
        self._inputs = {} if self._text else {k: maker_of(v, rows, None) for k, v in batch.items()}
        self._zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def row_bytes(self) -> int:
        """Bytes of a cell of a kept row."""
        count = self.dtype.itemsize
        for size in self.cell:
            count *= size
        return count

    def run(self, encoder: Encoder, batch: Mapping[str, Tensor]) -> Tensor:
        """The input of block `depth` (B, T, D) or (B, C, H, W) for preprocessed rows.

        The encoder must be in evaluation mode; no gradient is kept.
        """
        found: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(_hidden_of(args, kwargs))
            raise _ReachedError

        block = encoder.module.get_submodule(self._block)
        handle = block.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad(), precision_context(encoder.device, self.precision):
                encoder(dict(batch))
        except _ReachedError:
            pass
        finally:
            handle.remove()
        if not found:
            _refuse(encoder, f"block {self.depth} did not run")
        return found[0]

    @contextmanager
    def replaying(
        self, encoder: Encoder, kept: Tensor, inputs: Mapping[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """Skip what is before block `depth` in the encoder's passes inside the context.

        Args:
            encoder: Its skipped parts have `forward` replaced, and put back on leaving.
            kept: Rows as `run` gives them.
            inputs: The batch's other inputs.

        Yields:
            The inputs of the pass; for images placeholders of the right shape.
        """
        blank = Blank(kept, self._zeros)
        changed: list[tuple[nn.Module, Any]] = []
        try:
            for path, maker in self._makers.items():
                module = encoder.module.get_submodule(path)
                changed.append((module, module.__dict__.get("forward")))
                module.__dict__["forward"] = _returning(maker(blank))
            made = {name: maker(blank) for name, maker in self._inputs.items() if maker is not None}
            yield {**inputs, **made}
        finally:
            for module, before in reversed(changed):
                if before is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = before


class Replay(nn.Module):
    """An encoder that takes kept rows where a batch has them, and passes others as always.

    A batch with kept rows has them under `PREFIX`. Parameters have the encoder's own names, so
    that checkpoints of replayed and of recomputed training are alike. Frozen groups stay in
    evaluation mode as they do in the encoder.
    """

    def __init__(self, encoder: Encoder, cut: PrefixCut | None) -> None:
        """Wrap an encoder.

        Args:
            encoder: Shared, not copied; usable by itself as before.
            cut: Where its passes begin; None when kept rows are the final vectors.
        """
        super().__init__()
        self.module = encoder.module
        self._shared = (encoder,)  # in a tuple: not a submodule, which would rename the parameters
        self.cut = cut
        self.training = encoder.training

    @property
    def encoder(self) -> Encoder:
        """The wrapped encoder."""
        return self._shared[0]

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for frozen groups."""
        super().train(mode)
        self.encoder.train(mode)
        return self

    def forward(
        self, inputs: Mapping[str, Tensor], *, depth: int | None = None, pooling: str | None = None
    ) -> Tensor:
        """Vectors (B, D) with the encoder's pooling.

        Args:
            inputs: From `Encoder.preprocess`, or the rest of it beside the kept rows.
            depth: As for `Encoder.forward`; above the cut for kept rows.
            pooling: As for `Encoder.forward`.

        Raises:
            UsageError: For an inner depth that is not computed in a replayed pass.
        """
        others = dict(inputs)
        kept = others.pop(PREFIX, None)
        if kept is None:
            return self._plain(others, depth, pooling)
        if self.cut is None:
            if depth is not None or pooling not in {None, self.encoder.pooling}:
                raise UsageError(
                    "kept rows are final vectors under the backbone's own pooling; another depth "
                    "or pooling needs prefix='off'."
                )
            return kept
        if depth is not None and depth <= self.cut.depth:
            raise UsageError(
                f"depth must be above {self.cut.depth}, where the kept rows begin, or unset; "
                f"got {depth}."
            )
        with self.cut.replaying(self.encoder, kept, others) as made:
            return self._plain(made, depth, pooling)

    def _plain(self, batch: dict[str, Tensor], depth: int | None, pooling: str | None) -> Tensor:
        vectors_BD: Tensor = self.encoder(batch, depth=depth, pooling=pooling)
        return vectors_BD


def verify_replay(
    replay: Replay,
    fresh: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    *,
    precision: str = "no",
) -> float:
    """Prove on real rows that a replayed pass gives what the whole network gives.

    Args:
        replay: What training will call.
        fresh: The rows preprocessed, in a batch composed otherwise than when they were recorded.
        kept: The same rows with what was kept of them.
        precision: As training computes.

    Returns:
        The largest difference in units of the largest number.

    Raises:
        ReplayError: When that is above 1e-4 (1e-2 in fp16, 5e-2 in bf16).
    """
    device = replay.encoder.device
    with _evaluating(replay), torch.no_grad(), precision_context(device, precision):
        plain_BD = replay({key: value.to(device) for key, value in fresh.items()}).float().cpu()
        again_BD = replay({key: value.to(device) for key, value in kept.items()}).float().cpu()
    same = plain_BD.shape == again_BD.shape
    scale = float(plain_BD.abs().max()) or 1.0
    error = float((plain_BD - again_BD).abs().max()) / scale if same else float("inf")
    allowed = _TOLERANCE[precision]
    if not error <= allowed:
        raise ReplayError(
            f"{type(replay.module).__name__} gives other vectors from kept rows than from whole "
            f"passes (they differ by {error:.1e} of the largest number, {allowed:.0e} is "
            "allowed): what its blocks make of a row depends on more than the row, or its "
            "weights are not those that made the kept rows."
        )
    return error


class _Seen:
    """What one whole pass shows."""

    def __init__(self, encoder: Encoder, depth: int) -> None:
        self.order: list[int] = []
        self.returned: dict[str, Any] = {}
        self._encoder = encoder
        self._depth = depth
        self._first: Tensor | None = None
        self._hidden: Tensor | None = None
        self._calls: dict[str, int] = {}

    @property
    def hidden(self) -> Tensor:
        """What entered the block at the depth."""
        if self._hidden is None:
            _refuse(self._encoder, f"block {self._depth} did not run")
        return self._hidden

    def run(self, batch: dict[str, Tensor]) -> None:
        """Pass once over the whole network, then keep what skipped parts returned."""
        encoder, paths = self._encoder, self._encoder.groups.block_paths
        prefixes = encoder.groups.prefixes
        known = {name for name, _ in encoder.module.named_modules()}
        beside = [
            path
            for name in prefix_groups(encoder, self._depth)
            for path in prefixes[name]
            if path not in paths and path in known
        ]
        handles = []
        for index, path in enumerate(paths):
            block = encoder.module.get_submodule(path)
            handles += [
                block.register_forward_pre_hook(self._before(index), with_kwargs=True),
                block.register_forward_hook(self._after(path)),
            ]
        for path in beside:
            handles.append(encoder.module.get_submodule(path).register_forward_hook(
                self._after(path)
            ))  # fmt: skip
        try:
            encoder(batch)
        finally:
            for handle in handles:
                handle.remove()
        wanted = [*paths[: self._depth], *(path for path in beside if self._idle(path))]
        self.returned = {path: self.returned[path] for path in wanted if path in self.returned}

    def _before(self, index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.order.append(index)
            if index == 0 and self._first is None:
                self._first = _hidden_of(args, kwargs)
            if index == self._depth:
                self._hidden = _hidden_of(args, kwargs)

        return hook

    def _after(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            late = self._hidden is not None
            self._calls[path] = self._calls.get(path, 0) + (2 if late else 1)
            self.returned[path] = output

        return hook

    def _idle(self, path: str) -> bool:
        """Whether a part beside the blocks only leads to what is kept, by its shape."""
        if self._calls.get(path) != 1 or self._first is None:
            return False
        try:
            made = as_hidden(self.returned[path])
        except UsageError:
            return False
        return made.shape == self._first.shape


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return as_hidden(args[0] if args else kwargs.get("hidden_states"))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _refuse(encoder: Encoder, why: str) -> NoReturn:
    raise ReplayError(
        f"the frozen prefix of {type(encoder.module).__name__} cannot be replayed: {why}.",
        "Train it uncached: prefix='off'.",
    )
