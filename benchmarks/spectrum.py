"""The transfer spectrum: steps beside what is possible and beside peers, and two studies.

    python benchmarks/spectrum.py [prefix lora epoch rates never-worse] [--pairs 12] [--ready DIR]

The two studies take hours on two cores; each finished run of theirs is kept under `--cells`, so
that they go on after an interruption.

`prefix`: replayed steps against recomputed ones, as a share of the speed-up that separately
measured times of prefix and rest allow. `lora`: a LoRA step against PEFT under a bare loop.
`epoch`: one epoch of fine-tuning against transformers' Trainer. `rates`: discriminative rates
against one flat rate.
`never-worse`: the model that `fit` keeps against the best of untouched, probe and adapted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table

from peers import Task
from probe import find_data, make_task
from steps import measure_epoch, measure_lora, measure_prefix
from study import never_worse, rates_study
from warmstart.backbones import FeatureCache, backbone
from warmstart.core import FORMAT_VERSION, describe_machine, read_json, write_json
from warmstart.data import read, split

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
PARTS = ("prefix", "lora", "epoch", "rates", "never-worse")
TARGETS = {"prefix": 0.85, "lora": 1.05, "epoch": 1.0}
DOMAINS = "sentiment_domains"
RATE_SETS = ("trec", "customer_reviews.csv", "subjectivity.csv", f"{DOMAINS}/product_reviews.csv")
NEVER_SETS = (*RATE_SETS, "movie_reviews.csv", "sst2", f"{DOMAINS}/tweets.csv",
              f"{DOMAINS}/nyt_editorials.csv")  # fmt: skip


def measure(part: str, options: argparse.Namespace, scratch: Path) -> Any:
    """One part's results."""
    recipe = backbone(modality="text", cache=FeatureCache(scratch / "features"))
    if part in ("rates", "never-worse"):
        names = RATE_SETS if part == "rates" else NEVER_SETS
        paths = [options.ready / name for name in names]
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            return {"skipped": f"not here: {', '.join(missing)}"}
        if part == "rates":
            return rates_study(
                recipe, paths, rows=options.rows, test_rows=600, seeds=3, cells=options.cells
            )
        return never_worse(
            recipe, paths, labels=options.labels, test_rows=1000, cells=options.cells
        )
    task = make_task(find_data(None, scratch), 1000, 500)
    if part == "lora":
        return measure_lora(recipe, task, pairs=options.pairs)
    if part == "epoch":
        return measure_epoch(recipe, task, pairs=max(3, options.pairs // 3), rows=512)
    few = Task(task.name, task.view.__class__(task.view.train.select(range(512)),
                                              task.view.validation.select(range(64))),
               task.test)  # fmt: skip
    found = [measure_prefix(recipe, few, depth, rounds=1) for depth in (3, 4, 5)]
    weights, photos = SHARED / "weights" / "resnet50-imagenet", options.ready / "eurosat"
    if weights.is_dir() and photos.is_dir():
        rows = read(photos, limit=400)
        view = split(rows).view(rows)
        images = Task("eurosat", view, view.validation)
        seen = backbone(str(weights), image_size=64)
        found += [
            measure_prefix(seen, images, depth, rounds=1) | {"data": "eurosat"} for depth in (2, 3)
        ]
    return found


def show(console: Console, part: str, found: Any) -> None:
    """A part's table."""
    if isinstance(found, dict) and "skipped" in found:
        console.print(f"{part}: {found['skipped']}")
        return
    table = Table(title=part)
    if part == "prefix":
        for name in ("blocks frozen", "recomputed", "replayed", "speed-up", "allowed", "share"):
            table.add_column(name)
        for row in found:
            times = row["milliseconds"]
            table.add_row(
                f"{row['depth']} of {row['of']} {row.get('data', '')}",
                f"{times['recomputed']:.1f} ms", f"{times['replayed']:.1f} ms",
                f"{row['speed_up']:.2f}x", f"{row['allowed']:.2f}x",
                f"{row['share_of_time']:.0%} (of the gain {row['share_of_gain']:.0%})",
            )  # fmt: skip
    elif part in ("lora", "epoch"):
        for name in ("ours / peer", "interval", "pairs"):
            table.add_column(name)
        ratio = found["ratio"]
        table.add_row(f"{ratio['median']:.3f}", f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                      str(len(ratio["pairs"])))  # fmt: skip
    elif part == "rates":
        for name in ("data", "discriminative", "flat", "difference, points"):
            table.add_column(name)
        for row in found:
            gap = row["difference"]
            sides = [f"{row[s]['accuracy']:.1%} at {row[s]['rate']:.0e}"
                     for s in ("discriminative", "flat")]  # fmt: skip
            table.add_row(row["data"], *sides, f"{100 * gap['difference']:+.1f} "
                          f"({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})")  # fmt: skip
    else:
        for name in ("data", "labels", "kept", "finetune", "probe", "regret"):
            table.add_column(name)
        for run in found["runs"]:
            seen = run["accuracy"]
            table.add_row(run["data"], str(run["labels"]), run["kept"], f"{seen['finetune']:.1%}",
                          f"{seen['probe']:.1%}", f"{100 * run['regret']:+.1f}")  # fmt: skip
        table.caption = (
            f"mean regret {100 * found['mean_regret']:.2f} points, more than a point in "
            f"{found['worse_by_a_point']:.0%} of the runs"
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are named (all otherwise), print tables, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure")
    parser.add_argument("--pairs", type=int, default=12, help="interleaved pairs")
    parser.add_argument("--rows", type=int, default=64, help="training rows of the rates study")
    parser.add_argument("--labels", type=int, nargs="+", default=[64, 512], help="of never-worse")
    parser.add_argument(
        "--cells", type=Path, default=HERE / "cells", help="finished runs of studies"
    )
    parser.add_argument("--ready", type=Path, default=SHARED / "ready", help="data of the studies")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "spectrum.json")
    options = parser.parse_args(arguments)
    console = Console()
    transformers.utils.logging.disable_progress_bar()
    kept: dict[str, Any] = read_json(options.out) if options.out.is_file() else {}
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
            found = measure(part, options, Path(name))
        show(console, part, found)
        kept |= {"format_version": FORMAT_VERSION, "benchmark": "spectrum", "targets": TARGETS}
        kept[part] = {"machine": describe_machine(), "results": found}
        write_json(options.out, kept)
        console.print(f"Kept in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
