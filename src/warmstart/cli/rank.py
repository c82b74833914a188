"""`warmstart rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from . import _options as o
from ._show import answer, print_json

__all__ = ["RankCommand", "rank"]

_FLAG = "--backbones"


class RankCommand(TyperCommand):
    """`--backbones` takes all words up to the next option: DATA stands before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each word after `--backbones` a flag of its own."""
        filled: list[str] = []
        taking = False
        for place, word in enumerate(args):
            if word.startswith("-"):
                taking = word == _FLAG and not _ends(args[place + 1 :])
                if not taking:
                    filled.append(word)
            else:
                filled += [_FLAG, word] if taking else [word]
        return super().parse_args(ctx, filled)


def _ends(after: list[str]) -> bool:
    """Whether no value follows, which the parser complains of by itself."""
    return not after or after[0].startswith("-")


def rank(
    data: o.Data,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            _FLAG,
            help="Hub ids, folders or installed packages: a b c, or by comma, or one a flag; "
            "settings by colon: minilm:pooling=cls:depth=4. Stands after DATA.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="Score that orders: probe, knn, log-me or h-score.")
    ] = "probe",
    metric: o.Metric = None,
    limit: Annotated[
        str, typer.Option("--limit", help="At most so many training rows, by class; or all.")
    ] = "1000",
    resamples: Annotated[
        int, typer.Option("--resamples", min=2, help="Random halves behind the intervals.")
    ] = 20,
    allow_bin: o.AllowBin = False,
    image_size: o.ImageSize = None,
    max_length: o.MaxLength = None,
    text: o.TextColumn = None,
    label: o.LabelColumn = None,
    image: o.ImageColumn = None,
    split_column: o.SplitColumn = None,
    group: o.Group = None,
    label_names: o.LabelNames = None,
    skip_bad: o.SkipBad = False,
    seed: Annotated[int, typer.Option("--seed", help="Root seed.")] = 0,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report (.html) or all of it (.json).")
    ] = None,
    json: o.Json = False,
) -> None:
    """Put backbones in order by how well their untouched vectors serve the labels.

    Looks at training rows alone: cross-validated probe and nearest neighbours, LogME, H-score, and
    LEEP and NCE where a checkpoint has classes of its own, each with an interval; beside them the
    plain list by size, licence, pretraining and time a row. A backbone that does not open is named,
    and the others go on.

    Examples:
      warmstart rank reviews.csv --backbones minilm BAAI/bge-small-en-v1.5 models/own

      warmstart rank photos/ --backbones facebook/dinov2-small,microsoft/resnet-50 --out rank.html

      warmstart rank reviews.csv --backbones minilm minilm:pooling=cls --by log-me --json
    """
    from warmstart.core import UsageError
    from warmstart.reporting import transfer_view
    from warmstart.workflow import check_rank_path, refuse_own_input, write_rank
    from warmstart.workflow import rank as verb

    if limit != "all" and not limit.isdigit():
        raise UsageError(f"--limit must be a number of rows or all, got {limit!r}.")
    if out:
        check_rank_path(out)
        refuse_own_input(out, data)
    named = [name.strip() for word in backbones or [] for name in word.split(",") if name.strip()]
    found = verb(
        data, backbones=named if backbones else None, by=by, metric=metric,
        limit=None if limit == "all" else int(limit), resamples=resamples, group=group,
        image_size=image_size, max_length=max_length, device=device, allow_bin=allow_bin,
        seed=seed, command=o.command_line(),
        **o.reading(text, label, image, split_column, label_names, skip_bad),
    )  # fmt: skip
    if out:
        write_rank(found, out)
    if json:
        print_json(found.results)
        return
    answer(transfer_view(found.results))
    if out:
        answer(f"Written: {out}")
