"""`warmstart rates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["rates"]


def rates(
    data: o.Data,
    strategy: Annotated[str, typer.Option("--strategy", help="One that trains.")] = "finetune",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy: factor=1"),
    ] = None,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="Also each layer group on its own.")
    ] = False,
    steps: Annotated[
        int, typer.Option("--steps", min=10, max=10_000, help="Steps of a sweep.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Training seed.")] = 0,
    backbone: o.Backbone = None,
    allow_bin: o.AllowBin = False,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    split_column: o.SplitColumn = None,
    label_names: o.LabelNames = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Draw the sweeps: rates.svg")] = None,
    json: o.Json = False,
) -> None:
    """Find the learning rates that a strategy bears: raise them and watch the loss.

    Nothing is kept of the training. The steepest fall is a good rate to begin with.

    Examples:
      warmstart rates reviews.csv --out rates.svg

      warmstart rates photos/ --strategy partial --by-group --steps 60
    """
    from warmstart.workflow import check_plot_path, write_rates
    from warmstart.workflow import rates as verb

    if out:
        check_plot_path(out)
    found = verb(
        data, strategy=strategy, settings=o.parse_settings(set_), backbone=backbone,
        by_group=by_group, steps=steps, seed=seed, limit=limit, image_size=image_size,
        max_length=max_length, device=device, allow_bin=allow_bin,
        **o.reading(text, label, image, split_column, label_names, skip_bad),
    )  # fmt: skip
    if out:
        write_rates(found, out)
    if json:
        print_json({"sweeps": [sweep.to_dict() for sweep in found], "out": out})
        return
    for sweep in found:
        answer(_line(sweep))
    if out:
        answer(f"Drawn: {out}")


def _line(sweep: Any) -> str:
    """A sweep in a sentence."""
    who = "All groups" if sweep.group is None else sweep.group
    if sweep.steepest is None or sweep.tenth is None:
        return f"{who}: the loss never falls; try more --steps or other data."
    end = f"; runs away at {sweep.rates[len(sweep.losses) - 1]:.1e}" if sweep.diverged else ""
    return (
        f"{who}: the loss falls steepest at {sweep.steepest:.1e}; a tenth of the rate where it is "
        f"lowest is {sweep.tenth:.1e}{end}."
    )
