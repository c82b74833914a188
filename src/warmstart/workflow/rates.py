"""`rates`: which learning rates a strategy bears on some data, found by raising them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, UsageError, write_atomic
from warmstart.reporting import rate_sweeps
from warmstart.strategies import Strategy, Trained, make, names, strategy_class
from warmstart.training import RateSweep

from .prepare import Source, prepare

__all__ = ["check_plot_path", "rates", "write_rates"]


def rates(
    data: Source,
    *,
    strategy: str | Strategy = "finetune",
    settings: Mapping[str, Any] | None = None,
    backbone: Backbone | str | Path | None = None,
    by_group: bool = False,
    steps: int = 100,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    allow_bin: bool = False,
    **reading: Any,
) -> tuple[RateSweep, ...]:
    """Raise the learning rate step by step on a copy, and see where the loss falls and runs away.

    Args:
        data: Path, hub id, Dataset or Hugging Face datasets object.
        strategy: A strategy that trains by steps: finetune, lora, adapter, ...
        settings: Of a strategy given by name.
        backbone: What to start from; the default for the modality otherwise.
        by_group: Also raise the rate of each layer group alone.
        steps: Steps of a sweep, 10 to 10,000.
        seed: Training seed.
        limit: At most so many rows, drawn by class.
        image_size: Pixels on a side.
        max_length: Tokens.
        device: `auto`, `cpu`, `cuda`, `mps`.
        allow_bin: Whether the backbone that is named may have pickled weights.
        **reading: Passed to `read`.

    Returns:
        The sweep of the whole in units of the strategy's `rate`, then one for each group in its
        own rate.

    Raises:
        NotApplicable: For a strategy that has no learning rate.
        UsageError: For settings out of their ranges.
    """
    chosen = make(strategy, settings) if isinstance(strategy, str) else strategy
    if not isinstance(chosen, Trained):
        raise NotApplicable(
            f"{chosen.name} has no learning rate to find; {_with_rates()} have one."
        )
    prepared = prepare(
        data, backbone=backbone, limit=limit, image_size=image_size, max_length=max_length,
        device=device, allow_bin=allow_bin, **reading,
    )  # fmt: skip
    view = prepared.split.view(prepared.dataset)
    chosen.check(prepared.backbone, view)
    with tempfile.TemporaryDirectory(prefix="warmstart-rates-") as folder:
        run = Run(folder, seed=seed, device=device)
        return chosen.find_rates(prepared.backbone, view, run, groups=by_group, steps=steps)


def _with_rates() -> str:
    """Names of the strategies that have a rate to find."""
    *most, last = (name for name in names() if issubclass(strategy_class(name), Trained))
    return f"{', '.join(most)} and {last}"


def check_plot_path(path: Path) -> None:
    """Refuse an ending that `write_rates` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the ending that it knows.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path} must end in .svg.")


def write_rates(sweeps: tuple[RateSweep, ...], path: Path) -> None:
    """Draw the sweeps into an SVG file.

    Raises:
        UsageError: For another ending, or sweeps too short to draw.
    """
    check_plot_path(path)
    drawn = rate_sweeps([sweep.to_dict() for sweep in sweeps])
    if drawn is None:
        raise UsageError("the sweep ended after one step, so there is nothing to draw.")
    write_atomic(path, drawn)
