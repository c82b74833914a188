"""Memory and time to read 25 million interactions, beside a plain pandas script.

A file of MovieLens-25M's shape is made up (162,541 users with 20 events or more, grouped by user as
there, 59,047 items, a few of which have most of the events), as CSV and as Parquet. Each side
reads it in a process of its own. Ours checks every row and numbers and orders the events; then also
the cut in time and every user's history. The peer does what scripts commonly do: `read_csv`,
`factorize`, a stable sort by time, and checks nothing.

Linux only: the peak is the system's own account.

    python benchmarks/reading.py [--events 25000000] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from retrieval import workplace
from warmstart.core import FORMAT_VERSION, Streams, describe_machine, write_json
from warmstart.data import read_interactions, time_split

USERS, ITEMS = 162_541, 59_047
LIMIT = 8.0  # GiB
HERE = Path(__file__).resolve().parent


def make(folder: Path, events: int) -> None:
    """Write the same events as `csv/interactions.csv` and `parquet/interactions.parquet`."""
    draw = Streams(0).numpy("reading benchmark")
    users = min(USERS, max(1, events // 20))
    weight_U = draw.lognormal(0.0, 1.2, users)
    extra_U = draw.multinomial(events - 20 * users, weight_U / weight_U.sum())
    user_N = np.repeat(np.arange(1, users + 1, dtype=np.int32), 20 + extra_U)
    share_I = 1.0 / (np.arange(ITEMS) + 20.0)
    item_N = draw.choice(ITEMS, len(user_N), p=share_I / share_I.sum()).astype(np.int32) + 1
    table = pl.DataFrame(
        {
            "userId": user_N,
            "movieId": item_N,
            "rating": draw.integers(1, 11, len(user_N)) / 2,
            "timestamp": draw.integers(789_652_009, 1_574_327_703, len(user_N)),
        }
    ).unique(["userId", "movieId", "timestamp"], maintain_order=True)
    made = folder.with_name(f"{folder.name}.partial")
    for kind in ("csv", "parquet"):
        (made / kind).mkdir(parents=True, exist_ok=True)
    table.write_csv(made / "csv" / "interactions.csv")
    table.write_parquet(made / "parquet" / "interactions.parquet")
    made.rename(folder)


def read_csv(folder: Path) -> int:
    """The CSV, as every verb reads it."""
    return len(read_interactions(folder / "csv"))


def read_parquet(folder: Path) -> int:
    """The Parquet file, as every verb reads it."""
    return len(read_interactions(folder / "parquet"))


def read_and_split(folder: Path) -> int:
    """The CSV, cut in time, and every user's history before the cut."""
    data = read_interactions(folder / "csv")
    parts = time_split(data)
    return len(data) if len(parts.fitted.histories().items_N) else 0


def pandas_script(folder: Path) -> int:
    """The CSV as a plain script reads it."""
    import pandas as pd

    frame = pd.read_csv(folder / "csv" / "interactions.csv")
    frame["user"] = pd.factorize(frame["userId"])[0]
    frame["item"] = pd.factorize(frame["movieId"])[0]
    return len(frame.sort_values("timestamp", kind="stable"))


SIDES: Mapping[str, Callable[[Path], int]] = {
    "csv": read_csv,
    "parquet": read_parquet,
    "csv, split and histories": read_and_split,
    "csv by pandas": pandas_script,
}


def measured(side: str, folder: Path) -> dict[str, Any]:
    """Seconds, peak memory in GiB (libraries included) and events of a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--work", str(folder)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def run_side(side: str, folder: Path) -> None:
    """What `measured` starts: one side, its numbers as JSON."""
    start = time.perf_counter()
    events = SIDES[side](folder)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # of this program alone, not of who started it
    gibibytes = int(status.split("VmHWM:")[1].split()[0]) / 2**20
    print(json.dumps({"seconds": seconds, "gibibytes": gibibytes, "events": events}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every side, print one table, keep the results; 1 when the limit was passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--events", type=int, default=25_000_000)
    parser.add_argument("--work", type=Path, help="where the files are made, and stay")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "reading.json")
    options = parser.parse_args(arguments)
    if options.side:
        run_side(options.side, options.work)
        return 0
    with workplace(options.work) as place:
        folder = place / f"events-{options.events}"
        if not folder.is_dir():
            make(folder, options.events)
        sides = {side: measured(side, folder) for side in SIDES}
    if len({found["events"] for found in sides.values()}) != 1:
        raise SystemExit("The sides disagree on the number of events.")
    table = Table(title=f"{sides['csv']['events']:,} events")
    for heading in ("read", "seconds", "peak memory"):
        table.add_column(heading)
    for side, found in sides.items():
        table.add_row(side, f"{found['seconds']:.1f}", f"{found['gibibytes']:.2f} GiB")
    console = Console()
    console.print(table)
    ours = max(found["gibibytes"] for side, found in sides.items() if side != "csv by pandas")
    reached = ours <= LIMIT
    console.print(
        f"At most {ours:.2f} GiB of {LIMIT:g}: {'reached' if reached else 'not reached'}."
    )
    write_json(
        options.out,
        {"format_version": FORMAT_VERSION, "benchmark": "reading", "machine": describe_machine(),
         "limit_gibibytes": LIMIT, "sides": sides, "reached": reached},
    )  # fmt: skip
    console.print(f"Kept in {options.out}")
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
