"""How good the towers are while they train: ranks on a validation task, or the loss held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from warmstart.evaluation import measure_ranking, rank_targets
from warmstart.objectives import full_softmax, info_nce, mutual_information_bound
from warmstart.training import EvaluateFunction, LoopState

from .fitting import Catalogue, item_table
from .fitting_average import judged_towers
from .sequences import WindowRows
from .towers import Towers

if TYPE_CHECKING:
    from warmstart.evaluation import Queries, RankingTask, Ranks

    from .two_tower_model import TwoTowerModel

__all__ = [
    "WATCHED",
    "Judge",
    "best_popularity",
    "held_out_loss",
    "information",
    "task_metrics",
]

WATCHED = ("HR@10", "HR@100", "MRR")
_STRENGTHS = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5)
_BLOCKS, _ROWS = 32, 32


def task_metrics(
    task: RankingTask,
    model: Callable[[Towers], TwoTowerModel],
    *,
    every: int = 1,
    block: int = 512,
) -> EvaluateFunction:
    """An evaluation function for the loop: `validation_HR@10`, `validation_HR@100` and so on.

    Beside them `validation_information` and `validation_information_most`, see `information`.

    Args:
        task: What is asked.
        model: The recommender that these towers make.
        every: Epochs between two rankings; the epochs between repeat the last metrics. The last
            epoch is always ranked.
        block: Queries ranked at once.
    """

    def evaluate(state: LoopState) -> Mapping[str, float]:
        due = (state.epoch + 1) % every == 0 or state.epoch + 1 >= state.epochs
        if state.metrics and not due:
            return state.metrics
        made = model(judged_towers(state))
        ranks = rank_targets(made, task, task.n_items, block=block, ks=())
        nats, most = information(made, task)
        found = measure_ranking(ranks, task, WATCHED)
        found |= {"information": nats, "information_most": most}
        return {f"validation_{key}": value for key, value in found.items()}

    return evaluate


@torch.inference_mode()
def information(model: TwoTowerModel, task: RankingTask) -> tuple[float, float]:
    """Nats that user vectors and the vectors of what came next tell of one another, at the least.

    `log(K + 1) - loss`, the loss being InfoNCE among up to 1,024 queries from all over the task,
    each against the K others. Below 0 it tells nothing.

    Returns:
        The bound, and log(K + 1), above which it cannot show anything: 6.93 for 1,024 queries.

    Source: see `mutual_information_bound`.
    """
    starts = np.unique(np.linspace(0, max(0, len(task) - _ROWS), _BLOCKS).astype(np.int64))
    users, items = [], []
    taken = 0
    for start in starts.tolist():
        first, stop = max(start, taken), min(start + _ROWS, len(task))
        users.append(torch.from_numpy(model.user_vectors(task.block(first, stop))))
        offsets = task.targets.offsets_Q1[first:stop]
        items.append(torch.from_numpy(task.targets.items[offsets].astype(np.int64)))
        taken = stop
    users_BD, items_B = torch.cat(users), torch.cat(items)
    vectors_BD = torch.from_numpy(model.item_vectors())[items_B]
    temperature = model.towers.temperature().item()
    loss = info_nce(users_BD, vectors_BD, temperature=temperature)
    others = len(users_BD) - 1
    return mutual_information_bound(float(loss), others), mutual_information_bound(0.0, others)


def held_out_loss(
    rows: WindowRows, catalogue: Catalogue, *, most: int = 512, block: int = 1024
) -> EvaluateFunction:
    """An evaluation function for the loop: the mean loss at held-out events, `validation_loss`.

    The loss is the exact softmax over the items that training has seen.

    Args:
        rows: Windows in which the held-out events are foretold.
        catalogue: The items.
        most: Windows that are looked at, from all over the rows.
        block: Positions whose scores are held at once.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))

    @torch.inference_mode()
    def evaluate(state: LoopState) -> Mapping[str, float]:
        towers = judged_towers(state)
        here = catalogue.to(state.device)
        items_ID = item_table(towers, here)
        place_I = torch.cumsum(here.known_I, dim=0) - 1
        total, count = 0.0, 0
        for start in range(0, len(chosen), 64):
            state.pause_point()
            windows = rows.batch(chosen[start : start + 64].tolist(), 0).to(state.device)
            users_ND = towers.user_vectors(windows, items_ID, here.profile_UP)
            loss = full_softmax(
                users_ND / towers.temperature(), items_ID[here.known_I],
                place_I[windows.targets_N], block=block,
            )  # fmt: skip
            total += float(loss) * len(windows.targets_N)
            count += len(windows.targets_N)
        return {"validation_loss": total / count}

    return evaluate


class Judge:
    """Ranks a validation task by versions of a model that differ in what stands beside its towers.

    What the user tower says of the questions is the same for all of them and computed once.

    Attributes:
        metric: What decides, one of `WATCHED`.
        new_P: Which targets the model has not learned from.
    """

    def __init__(
        self, model: TwoTowerModel, task: RankingTask, metric: str, *, block: int = 512
    ) -> None:
        self.metric = metric
        self.new_P = (~model.known_I.cpu().numpy())[task.targets.items]
        self._task, self._block, self._model = task, block, model
        self._learned: list[Tensor] = []

    @property
    def new(self) -> int:
        """How many targets the model has not learned from."""
        return int(self.new_P.sum())

    def __call__(self, model: TwoTowerModel) -> float:
        """The metric."""
        return measure_ranking(self._ranks(model), self._task, (self.metric,))[self.metric]

    def of_new(self, model: TwoTowerModel) -> tuple[float, float]:
        """The metric, and what it is over the new targets alone."""
        ranks = self._ranks(model)
        rank_C = ranks.rank_P[self.new_P]
        if self.metric == "MRR":
            part = float(np.mean(1 / rank_C))
        else:
            part = float(np.mean(rank_C <= int(self.metric.removeprefix("HR@"))))
        return measure_ranking(ranks, self._task, (self.metric,))[self.metric], part

    def _ranks(self, model: TwoTowerModel) -> Ranks:
        task, size = self._task, self._block
        if not self._learned:
            for start in range(0, len(task), size):
                queries = task.block(start, min(start + size, len(task)))
                self._learned.append(self._model.learned_vectors(queries))
        again = _Again(model, iter(self._learned))
        return rank_targets(again, task, task.n_items, block=size, ks=())


class _Again:
    """A recommender that is asked for one block of known queries after another."""

    def __init__(self, model: TwoTowerModel, learned: Iterator[Tensor]) -> None:
        self.name = model.name
        self._model, self._learned = model, learned

    def scores(self, queries: Queries) -> Tensor:
        return self._model.scores_of(next(self._learned), queries)


def best_popularity(model: Callable[[float], TwoTowerModel], judge: Judge) -> float:
    """The strength of the popularity calibration that ranks best on a validation task.

    Args:
        model: The model with a strength.
        judge: Of these models.
    """
    scored = {strength: judge(model(strength)) for strength in _STRENGTHS}
    best = max(scored.values())
    return min((strength for strength in scored if scored[strength] == best), key=abs)
