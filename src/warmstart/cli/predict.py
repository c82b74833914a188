"""`warmstart predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["predict"]

_SHOWN = 20


def predict(
    run: o.RunFolder,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="A table, an image, or a folder; no labels needed."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="A text or the path of an image; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write .csv, .jsonl, .json or .parquet.")
    ] = None,
    flag_unfamiliar: Annotated[
        bool,
        typer.Option("--flag-unfamiliar", help="Flag rows far from the training rows."),
    ] = False,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms",
            help="Share of rows like the training rows that may be flagged; 0.01 otherwise.",
        ),
    ] = None,
    familiarity: Annotated[
        str, typer.Option("--familiarity", help="Distance: mahalanobis or knn.")
    ] = "mahalanobis",
    text: o.TextColumn = None,
    image: o.ImageColumn = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Classify new rows with a finished run's model.

    Examples:
      warmstart predict runs/reviews new.csv --out answers.csv

      warmstart predict runs/reviews --input "Works as promised." --input "Broke at once."

      warmstart predict runs/reviews new.csv --flag-unfamiliar --out answers.csv
    """
    from rich.table import Table

    from warmstart.core import UsageError
    from warmstart.workflow import check_predictions_path, refuse_own_input, write_predictions
    from warmstart.workflow import predict as verb

    if (data is None) == (not inputs):
        raise UsageError("predict wants either DATA or one or more --input, and not both.")
    if any(not one.strip() for one in inputs or ()):
        raise UsageError("predict --input is empty. Give a text, or the path of an image.")
    if out:
        check_predictions_path(out)
        refuse_own_input(out, data)
    found = verb(
        run, list(inputs) if inputs else data, unfamiliar=flag_unfamiliar,
        false_alarms=false_alarms, familiarity=cast("Any", familiarity), text=text, image=image,
        skip_bad=skip_bad, device=device,
    )  # fmt: skip
    if out:
        write_predictions(found, out)
    if json:
        rows = zip(found.ids, found.inputs, found.answers, strict=True)
        told = found.unfamiliar
        more = (
            [
                {"unfamiliar_score": score, "unfamiliar": flagged}
                for score, flagged in zip(told.scores, told.flags, strict=True)
            ]
            if told
            else [{}] * len(found.ids)
        )
        both = zip(rows, more, strict=True)
        print_json([{"id": i, "input": x, **a.model_dump(), **m} for (i, x, a), m in both])
        return
    titles = ("input", "label", "score") + (("unfamiliar",) if found.unfamiliar else ())
    table = Table(*titles, box=None, pad_edge=False)
    for at, (shown, one) in enumerate(list(zip(found.inputs, found.answers, strict=True))[:_SHOWN]):
        flagged = [_mark(found.unfamiliar, at)] if found.unfamiliar else []
        table.add_row(_plain(shown), _plain(one.label), f"{one.score:.3f}", *flagged)
    answer(table)
    if len(found.answers) > _SHOWN:
        answer(f"... {len(found.answers) - _SHOWN} more; --out FILE writes them all.")
    if found.unfamiliar:
        answer(found.unfamiliar.sentence)
    if out:
        answer(f"Written: {out} ({len(found.answers)} rows)")


def _mark(found: Any, at: int) -> str:
    return f"{found.scores[at]:.3g}{' !' if found.flags[at] else ''}"


def _plain(value: str) -> str:
    from rich.markup import escape

    short = value if len(value) <= 80 else value[:77] + "..."
    return escape(" ".join(short.split()))
