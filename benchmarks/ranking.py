"""Ranking evaluation beside a full sort, measured in one run.

10,000 queries on 1,682 items, from towers of width 128: scores, seen items left out, the rank of
each target, the metrics. The peer is what evaluation scripts commonly do: all scores at once, a
loop that masks each user's seen items, a full argsort, and a loop that looks up each target. Both
sides make the same scores by the same product, on the same threads; both get the same ranks, which
is checked.

(a) end to end; (b) the same with catalogue coverage at 100, whose lists the peer's argsort holds
already and we have to select: shown beside, without a goal; (c) peak memory over what was there
before, in a process of its own, and again with four times the queries.

    python benchmarks/ranking.py [--queries 10000] [--items 1682] [--pairs 7]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from peers import Ratio
from warmstart.core import FORMAT_VERSION, Streams, describe_machine, write_json
from warmstart.evaluation import Queries, RankingTask, measure_ranking, next_item_task, rank_targets

WIDTH = 128
HISTORY = 100  # events of a user before the cut, on average, as in MovieLens-100K
ASKED = 25  # queries of a user
METRICS = ["HR@1", "HR@5", "HR@10", "HR@50", "HR@100", "NDCG@10", "NDCG@100", "MRR", "median_rank"]
TARGETS = {"end_to_end": 5.0, "seconds": 10.0, "memory_growth": 1.5}
HERE = Path(__file__).resolve().parent


# --- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Towers:
    """A recommender whose scores are the product of user and item vectors."""

    user_UD: torch.Tensor
    item_ID: torch.Tensor
    name: str = "towers"

    def scores(self, queries: Queries) -> torch.Tensor:
        """Scores (Q, I)."""
        user_QD = self.user_UD[torch.from_numpy(queries.user_Q.astype(np.int64))]
        return user_QD @ self.item_ID.T


def make_task(n_queries: int, n_items: int) -> tuple[RankingTask, Towers]:
    """Users with long histories and a running future, each item once; and random towers."""
    generator = Streams(0).numpy("ranking benchmark")
    n_users = -(-n_queries // ASKED)
    past: list[tuple[int, int]] = []
    future: list[tuple[int, int]] = []
    for user in range(n_users):
        length = int(np.clip(generator.lognormal(np.log(HISTORY) - 0.5, 1.0), 1, n_items - ASKED))
        items = generator.choice(n_items, length + ASKED, replace=False).tolist()
        past += [(user, item) for item in items[:length]]
        future += [(user, item) for item in items[length:]]
    vectors = Streams(0).torch("ranking benchmark")
    towers = Towers(
        torch.randn(n_users, WIDTH, generator=vectors),
        torch.randn(n_items, WIDTH, generator=vectors),
    )
    sizes = {"n_users": n_users, "n_items": n_items}
    return next_item_task(
        _events(past, 0, sizes), _events(future[:n_queries], 10**6, sizes)
    ), towers


def _events(rows: Sequence[tuple[int, int]], start: int, sizes: Mapping[str, int]) -> Any:
    table = np.array(rows, dtype=np.int32)
    return SimpleNamespace(
        user_N=table[:, 0],
        item_N=table[:, 1],
        time_N=start + np.arange(len(table), dtype=np.int64),
        positive_N=np.ones(len(table), dtype=bool),
        **sizes,
    )


# --- the two sides -------------------------------------------------------------------------------


def ours(task: RankingTask, towers: Towers, lists: bool) -> tuple[np.ndarray, dict[str, float]]:
    """Ranks and metrics by this package."""
    ranks = rank_targets(towers, task, task.n_items, ks=(100,) if lists else ())
    names = [*METRICS, "coverage@100"] if lists else METRICS
    return ranks.rank_P, measure_ranking(ranks, task, names)


def peer(task: RankingTask, towers: Towers, lists: bool) -> tuple[np.ndarray, dict[str, float]]:
    """The same by a full argsort and two loops."""
    queries = task.queries
    scores_QI = towers.scores(queries).numpy()
    for q in range(len(queries)):
        seen = queries.items_H[queries.offsets_Q1[q] : queries.offsets_Q1[q + 1]]
        scores_QI[q, seen] = -np.inf
    order_QI = np.argsort(-scores_QI, axis=1)
    target_Q = task.targets.items
    rank_Q = np.empty(len(queries), dtype=np.int64)
    for q in range(len(queries)):
        rank_Q[q] = np.where(order_QI[q] == target_Q[q])[0][0] + 1
    found = {}
    for name in METRICS:
        family, _, k = name.partition("@")
        if family == "HR":
            found[name] = float((rank_Q <= int(k)).mean())
        elif family == "NDCG":
            found[name] = float(np.where(rank_Q <= int(k), 1 / np.log2(1 + rank_Q), 0).mean())
    found["MRR"] = float((1 / rank_Q).mean())
    found["median_rank"] = float(np.median(rank_Q))
    if lists:
        found["coverage@100"] = len(np.unique(order_QI[:, :100])) / task.n_items
    return rank_Q, found


SIDES: Mapping[str, Callable[..., tuple[np.ndarray, dict[str, float]]]] = {
    "ours": ours,
    "peer": peer,
}


# --- measurements --------------------------------------------------------------------------------


def measure_time(task: RankingTask, towers: Towers, lists: bool, pairs: int) -> dict[str, Any]:
    """Seconds of both sides in turn, in the reverse order every other time."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    answers = {name: side(task, towers, lists) for name, side in SIDES.items()}  # and warm up
    if not np.array_equal(answers["ours"][0], answers["peer"][0]):
        raise SystemExit("The two sides disagree on ranks.")
    for name, value in answers["peer"][1].items():
        if abs(answers["ours"][1][name] - value) > 1e-9:
            raise SystemExit(f"The two sides disagree on {name}.")
    for pair in range(pairs):
        turns = list(SIDES) if pair % 2 == 0 else list(SIDES)[::-1]
        for name in turns:
            gc.collect()
            start = time.perf_counter()
            SIDES[name](task, towers, lists)
            seconds[name].append(time.perf_counter() - start)
    ratio = Ratio(tuple(p / o for p, o in zip(seconds["peer"], seconds["ours"], strict=True)))
    return {"seconds": seconds, "ratio": ratio.to_json()}


def peak_bytes(work: Callable[[], Any]) -> int:
    """Largest resident size while `work` runs, over that before it, looked at every millisecond."""
    process, stop = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peaks = [before]

    def watch() -> None:
        while not stop.wait(0.001):
            peaks.append(max(peaks[-1], process.memory_info().rss))

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    stop.set()
    watcher.join()
    return int(max(peaks) - before)


def memory_of(side: str, queries: int, items: int) -> int:
    """`peak_bytes` in a fresh process, so that one side's freed memory does not serve the other."""
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", side]
    sizes = ["--queries", str(queries), "--items", str(items)]
    answer = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)
    return int(json.loads(answer.stdout)["bytes"])


def measure_memory(queries: int, items: int) -> dict[str, dict[str, int]]:
    """Bytes of both sides, at the given number of queries and at four times as many."""
    sizes = (queries, 4 * queries)
    return {side: {str(size): memory_of(side, size, items) for size in sizes} for side in SIDES}


# --- reporting -----------------------------------------------------------------------------------


def growth(memory: Mapping[str, int]) -> float:
    """By what the memory is multiplied when the queries are by four."""
    small, large = memory.values()
    return large / small


def verdicts(results: Mapping[str, Any]) -> dict[str, bool]:
    """Each goal and whether it was reached."""
    whole = results["end_to_end"]
    return {
        "end_to_end": whole["ratio"]["median"] >= TARGETS["end_to_end"],
        "seconds": statistics.median(whole["seconds"]["ours"]) <= TARGETS["seconds"],
        "memory_growth": growth(results["memory"]["ours"]) <= TARGETS["memory_growth"],
    }


def show(console: Console, results: Mapping[str, Any], reached: Mapping[str, bool]) -> None:
    """One table, a line a goal."""
    sizes = results["data"]
    table = Table(title=f"{sizes['queries']:,} queries on {sizes['items']:,} items")
    for heading in ("measured", "ours", "full argsort", "ratio", "goal", "reached"):
        table.add_column(heading)

    def mark(name: str) -> str:
        done = reached[name] and (name != "end_to_end" or reached["seconds"])
        return "[green]yes" if done else "[red]no"

    for name, title in (("end_to_end", "end to end"), ("with_coverage", "with coverage@100")):
        part = results[name]
        low, middle, high = (part["ratio"][key] for key in ("low", "median", "high"))
        goal = f"at least {TARGETS['end_to_end']:g}x, within {TARGETS['seconds']:g} s"
        table.add_row(
            title,
            f"{statistics.median(part['seconds']['ours']):.3f} s",
            f"{statistics.median(part['seconds']['peer']):.3f} s",
            f"{middle:.1f}x ({low:.1f} to {high:.1f})",
            goal if name in TARGETS else "shown beside",
            mark(name) if name in TARGETS else "",
        )
    memory = results["memory"]
    for size in memory["ours"]:
        mine, theirs = (memory[side][size] / 2**20 for side in ("ours", "peer"))
        last = size == list(memory["ours"])[-1]
        table.add_row(
            f"peak memory, {int(size):,} queries",
            f"{mine:.0f} MiB",
            f"{theirs:.0f} MiB",
            f"{theirs / mine:.1f}x",
            f"at most {TARGETS['memory_growth']:g}x the line above" if last else "",
            mark("memory_growth") if last else "",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table, keep the results; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=1_682)
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ranking.json")
    options = parser.parse_args(arguments)
    if options.memory_of:
        small, towers = make_task(50, options.items)
        SIDES[options.memory_of](small, towers, True)  # what the libraries load is there then
        task, towers = make_task(options.queries, options.items)
        gc.collect()
        found = peak_bytes(lambda: SIDES[options.memory_of](task, towers, True))
        print(json.dumps({"bytes": found}))
        return 0
    task, towers = make_task(options.queries, options.items)
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "benchmark": "ranking",
        "data": {
            "queries": len(task),
            "items": task.n_items,
            "users": task.n_users,
            "width": WIDTH,
            "history_events_per_query": float(task.history_lengths_Q.mean()),
        },
        "settings": {"pairs": options.pairs, "metrics": METRICS},
        "machine": describe_machine(),
        "targets": TARGETS,
        "end_to_end": measure_time(task, towers, False, options.pairs),
        "with_coverage": measure_time(task, towers, True, options.pairs),
        "memory": measure_memory(options.queries, options.items),
    }
    reached = verdicts(results)
    results["reached"] = reached
    console = Console()
    show(console, results, reached)
    write_json(options.out, results)
    console.print(f"Kept in {options.out}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
