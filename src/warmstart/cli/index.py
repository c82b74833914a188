"""`warmstart index`."""

from __future__ import annotations

from . import _options as o
from ._show import answer, print_json

__all__ = ["index"]


def index(
    run: o.RunFolder,
    recall: o.IndexRecall = 0.95,
    p99: o.IndexTime = "5ms",
    engine: o.IndexEngine = "auto",
    backbone: o.RunEncoder = None,
    allow_bin: o.AllowBin = False,
    device: o.Device = "auto",
    json: o.Json = False,
) -> None:
    """Index the items of a retrieval run for fast answers.

    The engine is chosen by measurement: the exact one where it is fast enough, else the fastest
    that finds the stated share of the exact answer. The index lies beside the run, and `serve`
    takes the newest. Its report draws recall against latency for every engine and effort.

    Examples:
      warmstart index runs/films

      warmstart index runs/films --recall 0.99 --p99 2ms
    """
    from warmstart.reporting import index_view
    from warmstart.workflow import build_run_index

    found = build_run_index(
        run,
        recall=recall,
        p99_ms=o.milliseconds(p99),
        engine=engine,
        device=device,
        backbone=backbone,
        allow_bin=allow_bin,
    )
    if json:
        print_json(found.to_json())
        return
    answer(index_view(found.to_json()))
    answer(f"Report: {found.report.resolve()}")
