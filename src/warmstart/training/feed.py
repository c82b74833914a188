"""One optimiser step's batches at a time, and the position in the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .loaders import Loader, as_loaders
from .state import batch_size

__all__ = ["Feed", "Window"]

Position = tuple[int, int]  # epoch, batches taken in it (over all processes)


@dataclass(frozen=True)
class Window:
    """The batches of one optimiser step.

    Attributes:
        batches: One a micro-step: the loader's batch, or batches by loader name.
        weights: Rows (or another weight) of each; 0 for a stand-in that only keeps step.
        after: Positions once the step is done.
    """

    batches: list[Any]
    weights: list[float]
    after: dict[str, Position]


class Feed:
    """Reads one or several loaders in step.

    The first loader's length is the epoch; the others begin again when they run out and go on
    where they were in the next epoch.
    """

    def __init__(
        self,
        loaders: Loader | Sequence[Any] | Mapping[str, Loader | Sequence[Any]],
        *,
        accumulate: int = 1,
        weigh: Callable[[Any], float] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.loaders = as_loaders(loaders)
        self.positions: dict[str, Position] = dict.fromkeys(self.loaders, (0, 0))
        self._single = not isinstance(loaders, Mapping)
        self._accumulate = accumulate
        self._weigh = weigh or (lambda batch: float(batch_size(batch)))
        self._rank, self._world = rank, world
        self._first = next(iter(self.loaders))

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return -(-len(self.loaders[self._first]) // (self._accumulate * self._world))

    def describe(self) -> list[Any]:
        """What a resumed fit must find unchanged."""
        return [
            [name, len(loader), getattr(loader, "fingerprint", "")]
            for name, loader in self.loaders.items()
        ] + [self._accumulate, self._world]

    def windows(self, epoch: int) -> Iterator[Window]:
        """The optimiser steps of an epoch that are still to do.

        Call `commit` after each step; a window that is not committed is given again.
        """
        started, taken = self.positions[self._first]
        if started != epoch:
            self.positions[self._first], taken = (epoch, 0), 0
        size = len(self.loaders[self._first])
        stride = self._accumulate * self._world
        main = self.loaders[self._first].batches(epoch, taken, self._rank, self._world)
        others = {
            name: _endless(loader, *self.positions[name], self._rank, self._world)
            for name, loader in self.loaders.items()
            if name != self._first
        }
        last: Any = None
        for begin in range(taken, size, stride):
            mine = range(begin + self._rank, min(begin + stride, size), self._world)
            batches, weights = [next(main) for _ in mine], []
            after = {self._first: (epoch, min(begin + stride, size))}
            if batches:
                weights = [self._weigh(batch) for batch in batches]
                last = batches[-1]
            else:  # the data ran out one process early: keep step without weight
                if last is None:
                    last = next(self.loaders[self._first].batches(epoch))
                batches, weights = [last], [0.0]
            mixed: list[dict[str, Any]] = [{self._first: batch} for batch in batches]
            for name, stream in others.items():
                for place in range(self._accumulate):
                    after[name], batch = next(stream)
                    if place < len(mixed):
                        mixed[place][name] = batch
            yield Window(batches if self._single else list(mixed), weights, after)

    def commit(self, window: Window) -> None:
        """Note that the step of this window is done."""
        self.positions.update(window.after)

    def state_dict(self) -> dict[str, Any]:
        """The positions, for a checkpoint."""
        return {name: list(position) for name, position in self.positions.items()}

    def load_state_dict(self, values: Mapping[str, Sequence[int]]) -> None:
        """Go to saved positions."""
        self.positions = {name: (int(at[0]), int(at[1])) for name, at in values.items()}


def _endless(
    loader: Loader, epoch: int, taken: int, rank: int, world: int
) -> Iterator[tuple[Position, Any]]:
    """Batches without end, each with the position after it (rounded up to whole turns)."""
    while True:
        for batch in loader.batches(epoch, taken, rank, world):
            taken += world
            yield (epoch, taken), batch
        if taken == 0 and len(loader) < world:  # fewer batches than processes: all read the same
            yield (epoch, world), next(loader.batches(epoch))
        epoch, taken = epoch + 1, 0
