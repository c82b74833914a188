"""A baseline's settings, chosen on validation: no claim is made against an untuned one."""

from __future__ import annotations

import time
from typing import Any, Protocol, TypeVar

from warmstart.core import NotApplicable, Run, progress
from warmstart.evaluation import (
    RANKING_METRICS,
    Events,
    Recommender,
    measure_ranking,
    next_item_task,
    rank_targets,
    ranking_metric,
)

from .baselines import Baseline

__all__ = ["tune"]

B = TypeVar("B", bound=Baseline)


class _Parts(Protocol):
    """What is fitted and what it is judged on: `data.TimeSplit`."""

    @property
    def train(self) -> Events: ...
    @property
    def validation(self) -> Events: ...


def tune(
    kind: type[B],
    split: _Parts,
    metric: str = "HR@100",
    *,
    run: Run | None = None,
    block: int = 512,
) -> tuple[B, list[dict[str, Any]]]:
    """Fit every setting of the grid on training events and keep the best on validation.

    Validation asks for the next item with the running history. Test events are out of reach; refit
    the chosen settings on training and validation together before the test.

    Args:
        kind: Which baseline.
        split: Training and validation events.
        metric: What decides; of equal settings the first of the grid, which begins with the
            default.
        run: Gives the seed, and a deadline after which no further setting is begun.
        block: Queries scored at once.

    Returns:
        The chosen settings, and a row for each that was tried: settings, metric, seconds, chosen.

    Raises:
        NotApplicable: When no setting can work on the data; a setting that cannot is left out.
        UsageError: For an unknown metric.
    """
    family, k = ranking_metric(metric, "tune.metric")
    sign = 1.0 if RANKING_METRICS[family].higher_is_better else -1.0
    ks = (k,) if k is not None and family == "coverage" else ()
    task = next_item_task(split.train, split.validation)
    settings = kind.grid()
    table: list[dict[str, Any]] = []
    best: tuple[float, int, B] | None = None
    earlier: tuple[Recommender, B] | None = None
    refusal: NotApplicable | None = None
    for number, one in enumerate(progress.track(settings, f"Tuning {kind.title}", unit="settings")):
        if earlier is not None and run is not None and run.out_of_time():
            progress.note(f"{kind.title}: time ran out after {number} of {len(settings)} settings.")
            break
        start = time.perf_counter()
        try:
            fitted = (
                one.fit_like(*earlier, split.train, run) if earlier else one.fit(split.train, run)
            )
        except NotApplicable as error:  # a setting that asks too much of this catalogue
            refusal = refusal or error
            continue
        earlier = fitted, one
        ranks = rank_targets(fitted, task, task.n_items, block=block, ks=ks)
        value = measure_ranking(ranks, task, [metric])[metric]
        seconds = time.perf_counter() - start
        table.append({**one.model_dump(), metric: value, "seconds": seconds, "chosen": False})
        if best is None or sign * value > best[0]:
            best = (sign * value, len(table) - 1, one)
    if best is None:
        raise refusal or AssertionError("a grid is never empty")
    _, row, chosen = best
    table[row]["chosen"] = True
    return chosen, table
