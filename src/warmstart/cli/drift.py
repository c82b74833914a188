"""`warmstart drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["drift"]

DRIFT_FOUND = 8


def drift(
    run: o.RunFolder,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="New rows; labels are optional.", show_default=False),
    ],
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms",
            help="Share of rows like the training rows that may be called unfamiliar; 0.01 "
            "otherwise.",
        ),
    ] = None,
    familiarity: Annotated[
        str, typer.Option("--familiarity", help="Distance: mahalanobis or knn.")
    ] = "mahalanobis",
    level: Annotated[
        float, typer.Option("--level", help="Chance of an alarm where nothing changed.")
    ] = 0.05,
    fail_on_drift: Annotated[
        bool,
        typer.Option("--fail-on-drift", help=f"Leave with exit code {DRIFT_FOUND} on drift."),
    ] = False,
    limit: o.Limit = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    date: Annotated[
        str | None, typer.Option("--date", help="Column of DATA with times: stretch by stretch.")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=2, help="Stretches of time.")] = 5,
    permutations: Annotated[
        int, typer.Option("--permutations", min=99, help="Of each test by permutations.")
    ] = 999,
    seed: Annotated[int, typer.Option("--seed", help="Root seed.")] = 0,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report (.html) or all of it (.json).")
    ] = None,
    json: o.Json = False,
) -> None:
    """Tell whether new rows are still of the kind that a run was trained and tested on.

    Rows, unfamiliar rows, answers and confidence are held against those of the run, and accuracy
    where the new rows are labelled.

    Examples:
      warmstart drift runs/reviews new.csv --out drift.html

      warmstart drift runs/reviews /data/last-week.csv --fail-on-drift --level 0.01 --json
    """
    from warmstart.reporting import drift_view
    from warmstart.workflow import check_shift_path, refuse_own_input, write_drift
    from warmstart.workflow import drift as verb

    if out:
        check_shift_path(out)
        refuse_own_input(out, data)
    found = verb(
        run, data, false_alarms=false_alarms, familiarity=cast("Any", familiarity), level=level,
        permutations=permutations, date=date, windows=windows, seed=seed, limit=limit,
        device=device, command=o.command_line(),
        **o.reading(text, label, image, None, None, skip_bad),
    )  # fmt: skip
    if out:
        write_drift(found, out)
    if json:
        print_json(found.results)
    else:
        answer(drift_view(found.results))
        if out:
            answer(f"Written: {out}")
    if fail_on_drift and found.found:
        raise SystemExit(DRIFT_FOUND)
