"""Settings are chosen on validation alone, by the metric's direction."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warmstart.core import NotApplicable, Run, UsageError
from warmstart.evaluation import measure_ranking, next_item_task, rank_targets
from warmstart.retrieval import Ease, ItemKnn, Popularity, RecentPopularity, tune

from .events import parted, tastes


@pytest.mark.parametrize("metric", ["HR@5", "MRR", "median_rank", "coverage@5"])
def test_the_best_of_the_grid_by_hand(metric: str) -> None:
    split = parted(tastes(5, n_users=60))
    best, table = tune(Ease, split, metric)
    task = next_item_task(split.train, split.validation)
    values = []
    for one in Ease.grid():
        ranks = rank_targets(one.fit(split.train), task, task.n_items, ks=(5,))
        values.append(measure_ranking(ranks, task, [metric])[metric])
    assert [row[metric] for row in table] == pytest.approx(values)
    first = values.index(min(values) if metric == "median_rank" else max(values))
    assert best == Ease.grid()[first]
    assert [row["chosen"] for row in table] == [number == first for number in range(len(values))]
    assert table[1]["l2"] == Ease.grid()[1].l2
    assert all(row["seconds"] > 0 for row in table)


def test_one_fit_serves_every_length_of_history(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[Any] = []
    plain = ItemKnn.fit

    def counted(self: ItemKnn, past: Any, run: Run | None = None) -> Any:
        fits.append(self)
        return plain(self, past, run)

    monkeypatch.setattr(ItemKnn, "fit", counted)
    tune(ItemKnn, parted(tastes()), "MRR")
    grid = ItemKnn.grid()
    assert len(fits) == len({(one.shrinkage, one.neighbours) for one in grid}) < len(grid)


def test_the_test_events_are_never_touched() -> None:
    split = parted(tastes())
    bare = SimpleNamespace(train=split.train, validation=split.validation)
    assert tune(RecentPopularity, bare, "MRR")[0] == tune(RecentPopularity, split, "MRR")[0]


def test_equal_settings_keep_the_default() -> None:
    # All 480 events lie within the newest 1,000: every setting counts the same.
    best, table = tune(RecentPopularity, parted(tastes()), "HR@5")
    assert len({row["HR@5"] for row in table}) == 1
    assert best == RecentPopularity()


def test_a_baseline_without_settings_has_one_row() -> None:
    best, table = tune(Popularity, parted(tastes()), "HR@5")
    assert best == Popularity()
    assert [row["chosen"] for row in table] == [True]


def test_a_deadline_keeps_what_was_tried(tmp_path: Path) -> None:
    late = Run(tmp_path, deadline=time.monotonic() - 1)
    best, table = tune(Ease, parted(tastes()), "HR@5", run=late)
    assert len(table) == 1
    assert best == Ease.grid()[0]


def test_a_setting_that_cannot_work_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Ease, "grid", classmethod(lambda cls: (cls(max_items=3), cls(l2=7), cls(l2=8, last=1)))
    )
    best, table = tune(Ease, parted(tastes()), "MRR")
    assert [row["l2"] for row in table] == [7, 8]
    assert best.l2 == next(row["l2"] for row in table if row["chosen"])


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"tune\.metric: there is no ranking metric 'accuracy'"):
        tune(Ease, parted(tastes()), "accuracy")
    monkeypatch.setattr(Ease, "grid", classmethod(lambda cls: (cls(max_items=3),)))
    with pytest.raises(NotApplicable, match="more than ease"):
        tune(Ease, parted(tastes()))
