"""`evaluate` on a retrieval run: the kept model and popularity, asked events that came later.

The model is asked as it was trained: it learns nothing from the new events. They are history as
they pass, as the run's own test events are: the model did not learn those either. Popularity is
counted on what the model learned, so that both know the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from warmstart.core import FORMAT_VERSION, Config, DataError, RunError
from warmstart.data import Interactions, read_interactions
from warmstart.evaluation import (
    KS,
    FairnessGap,
    RankedPair,
    RankingScores,
    RankingTask,
    Ranks,
    Recommender,
    all_future_task,
    compare_recommenders,
    next_item_task,
    popularity,
    rank_targets,
    score_ranking,
    standard_slices,
)
from warmstart.planning import check_deciding, metric_in_words
from warmstart.retrieval import Popularity, RecentPopularity

from .recommending import RetrievalRun
from .retrieval_groups import group_gaps
from .retrieval_results import pair_json
from .run_index import as_served

__all__ = ["RankedArm", "RetrievalEvaluation", "evaluate_later"]


class RankedArm(Config):
    """One recommender on later events.

    Attributes:
        name: Of the arm.
        label: How tables call it.
        role: `arm` for the run's model, `control` for what stands beside it.
        next_item: Scores of the next-item questions, with slices.
        all_future: Scores of one question a user.
    """

    name: str
    label: str
    role: Literal["arm", "control"]
    next_item: RankingScores
    all_future: RankingScores


class RetrievalEvaluation(Config):
    """A retrieval run's model on events that came after what it learned.

    Attributes:
        run: Folder of the run.
        source: The events, as they were named.
        since: The moment in seconds since 1970 from which on events are asked: the run's test cut.
        events: Counts of positive events: `asked` as questions or left out as already seen;
            `unknown item`: left out, since the run does not know their item; `history only`: of
            before the cut and not in the run; `learned`: of before the cut and in the run;
            `of the run's test`: asked there already. And `new users`.
        arms: The kept model, then popularity and recent popularity.
        lifts: (arm, control, difference): the model minus each control on the same questions.
        gaps: (attribute or tag, gap) between groups, of the model.
    """

    run: str
    source: str
    since: int
    events: dict[str, int]
    arms: tuple[RankedArm, ...]
    lifts: tuple[tuple[str, str, RankedPair], ...]
    gaps: tuple[tuple[str, FairnessGap], ...]

    @property
    def scores(self) -> RankingScores:
        """The model's scores of the next-item questions."""
        return self.arms[0].next_item

    def to_json(self) -> dict[str, Any]:
        """In the form of a run's results.json, which tables and reports are drawn from."""
        return {
            "format_version": FORMAT_VERSION,
            "task_type": "retrieve",
            "run": self.run,
            "data": {"source": self.source, "since": _day(self.since), "events": self.events},
            "settings": {"primary": self.scores.primary},
            "arms": [_arm_json(one) for one in self.arms],
            "lifts": [pair_json(*lift) for lift in self.lifts],
            "fairness": [{"by": by, **gap.model_dump(mode="json")} for by, gap in self.gaps],
            "kept": self.arms[0].name,
            "verdict": {"best": None, "sentences": list(self.sentences), "next": []},
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """What came out, in words."""
        scores, main = self.scores, self.scores.main
        within = ""
        if main.low is not None and main.high is not None:
            low, high = (metric_in_words(scores.primary, value) for value in (main.low, main.high))
            within = f" (95 % interval {low} to {high})"
        told = [
            f"{self.arms[0].label} reaches {scores.primary} "
            f"{metric_in_words(scores.primary, main.value)}{within} on {scores.n:,} questions of "
            f"{scores.n_users:,} users since {_day(self.since)}."
        ]
        left = [f"{count:,} {words}" for words, count in _left_out(self) if count]
        if left:
            told.append(f"Events left out: {'; '.join(left)}.")
        beside = [f"{self.events[key]:,} {words}" for key, words in _BESIDE if self.events[key]]
        if beside:
            told.append(f"Of the events, {'; '.join(beside)}.")
        return tuple(told)


_BESIDE = (
    ("of the run's test", "of the run's own test, asked there too"),
    ("learned", "that the model learned, as history alone"),
    ("history only", "of before that moment and new to the run, as history alone"),
)


def _left_out(found: RetrievalEvaluation) -> list[tuple[str, int]]:
    return [
        ("with an item that the run does not know", found.events["unknown item"]),
        ("with an item that the user had already", found.scores.left_out.get("already seen", 0)),
    ]


def _arm_json(one: RankedArm) -> dict[str, Any]:
    return {
        "name": one.name, "label": one.label, "role": one.role, "status": "done",
        "next_item": {"test": one.next_item.model_dump(mode="json")},
        "all_future": {"test": one.all_future.model_dump(mode="json")},
    }  # fmt: skip


def _day(second: int) -> str:
    return f"{datetime.datetime.fromtimestamp(second, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def evaluate_later(
    run: RetrievalRun,
    data: str | Path,
    *,
    metric: str | None = None,
    block: int = 512,
    **reading: Any,
) -> RetrievalEvaluation:
    """Ask a run's model what came next in events after its test cut.

    Args:
        run: A retrieval run.
        data: Folder or file of interactions with the run's ids. It may hold the run's own events:
            what the model learned is history, and its test events are asked again.
        metric: What decides; the run's own otherwise.
        block: Queries that are scored at once.
        **reading: Passed to `read_interactions`; what is not given is as it was for the run.

    Raises:
        DataError: When the events cannot be read, or none of them can be asked.
        RunError: When the run kept no model, or its events were divided at random.
        UsageError: For a metric that cannot decide.
    """
    since = _since(run)
    run = as_served(run)
    towers = run.towers
    primary = metric or str(run.results["settings"]["primary"])
    check_deciding(primary, run.items.height)
    known = (run.results.get("data") or {}).get("reading") or {}
    log = _log(run, read_interactions(data, **{**known, **reading}), since)
    tasks = (_asked(log, next_item_task), _asked(log, all_future_task))
    seed = int(run.results["settings"].get("seed") or 0)
    slices = standard_slices(tasks[0], log.learned)
    named = run.results["kept"]
    label = str(run.arm(named)["label"])
    arms, ranked = [], []
    for name, words, role, recommender in (
        (str(named), label, "arm", towers),
        *_controls(run, log.learned),
    ):
        ranks = [
            rank_targets(recommender, task, task.n_items, block=block, ks=KS) for task in tasks
        ]
        scores = [
            score_ranking(
                one, task, primary=primary if place == 0 else None,
                slices=slices if place == 0 else None, seed=seed,
            )
            for place, (one, task) in enumerate(zip(ranks, tasks, strict=True))
        ]  # fmt: skip
        arms.append(RankedArm.parse(
            {"name": name, "label": words, "role": role, "next_item": scores[0],
             "all_future": scores[1]}, "evaluate",
        ))  # fmt: skip
        ranked.append(ranks[0])
    return RetrievalEvaluation(
        run=str(run.folder),
        source=str(data),
        since=log.since,
        events=log.counts,
        arms=tuple(arms),
        lifts=_lifts(arms, ranked, tasks[0], primary, seed),
        gaps=tuple(group_gaps(
            ranked[0], tasks[0], primary, users=_attributes(run, log), tags=_tags(run)
        )),
    )  # fmt: skip


def _lifts(
    arms: Sequence[RankedArm], ranked: Sequence[Ranks], task: RankingTask, primary: str, seed: int
) -> tuple[tuple[str, str, RankedPair], ...]:
    """The model minus each control."""
    return tuple(
        (arms[0].name, one.name, compare_recommenders(ranked[0], ranks, task, primary, seed=seed))
        for one, ranks in zip(arms[1:], ranked[1:], strict=True)
    )


def _controls(
    run: RetrievalRun, learned: _Events
) -> list[tuple[str, str, Literal["control"], Recommender]]:
    """Popularity and recent popularity, with the settings that the run chose."""
    newest = RecentPopularity()
    for arm in run.results["arms"]:
        if arm["name"] == RecentPopularity.name and arm.get("settings"):
            newest = RecentPopularity.parse(arm["settings"], RecentPopularity.name)
    made = (Popularity(), newest)
    return [(one.name, one.title, "control", one.fit(learned)) for one in made]


def _asked(log: _Log, make: Any) -> RankingTask:
    """Questions whose items are new or popular by what the model learned."""
    task: RankingTask = make(log.past, log.future)
    left_out = {**task.left_out, "unknown item": log.counts["unknown item"]}
    return replace(task, popularity_I=popularity(log.learned), left_out=left_out)


def _attributes(run: RetrievalRun, log: _Log) -> pl.DataFrame | None:
    """The users' attributes as the run knows them; nothing is known of new users."""
    users = pl.read_parquet(run.folder / "users.parquet")
    if len(users.columns) == 1:
        return None
    added = pl.DataFrame(
        {"user_id": [None] * log.counts["new users"]}, schema={"user_id": pl.String}
    )
    return pl.concat([users, added], how="diagonal")


def _tags(run: RetrievalRun) -> list[list[str]] | None:
    tags = [list(found or ()) for found in run.items["tags"].to_list()]
    return tags if any(tags) else None


# --- the run's events and the new ones -----------------------------------------------------------


@dataclass(frozen=True)
class _Events:
    """Positive events in the codes of a run; see `evaluation.Events`."""

    user_N: np.ndarray
    item_N: np.ndarray
    time_N: np.ndarray
    n_users: int
    n_items: int

    @property
    def positive_N(self) -> np.ndarray:
        return np.ones(len(self.user_N), dtype=bool)


@dataclass(frozen=True)
class _Log:
    """What the model learned, all that lies before a question, and what is asked."""

    learned: _Events
    past: _Events
    future: _Events
    since: int
    counts: dict[str, int]


_KEY = ("user", "item", "time")


def _since(run: RetrievalRun) -> int:
    """The moment from which the run's test runs.

    Raises:
        RunError: When it has none.
    """
    cuts = run.results["settings"].get("cuts")
    if not cuts:
        raise RunError(
            f"{run.folder} has no time from which its test runs: its events were divided at "
            "random. Fit it again without random_split."
        )
    return int(cuts[1])


def _log(run: RetrievalRun, data: Interactions, since: int) -> _Log:
    """Join new events to a run's own.

    Raises:
        DataError: When nothing new can be asked.
    """
    given, users, unknown = _coded(run, data, since)
    old = run.events.select(pl.col(name).cast(pl.Int64) for name in _KEY)
    late = given.filter(pl.col("time") >= since)
    if not late.height:
        tail = f", and {unknown:,} with items that it does not know" if unknown else ""
        raise DataError(
            f"{data.source} has no positive event since {_day(since)}, where the test of "
            f"{run.folder} begins, with an item that the run knows{tail}."
        )
    early = given.filter(pl.col("time") < since)
    older = early.join(old, on=_KEY, how="anti", maintain_order="left")
    again = old.join(late.unique(), on=_KEY, how="semi", maintain_order="left")
    rest = old.join(late.unique(), on=_KEY, how="anti", maintain_order="left")
    counts = {
        "asked": late.height,
        "unknown item": unknown,
        "history only": older.height,
        "learned": early.height - older.height,
        "of the run's test": again.height,
        "new users": users - len(run.user_codes),
    }
    sizes = (users, run.items.height)
    past = pl.concat([rest, older]).sort("time", maintain_order=True)
    return _Log(
        learned=_events(old.filter(pl.col("time") < since), sizes),
        past=_events(past, sizes),
        future=_events(late, sizes),
        since=since,
        counts=counts,
    )


def _coded(run: RetrievalRun, data: Interactions, since: int) -> tuple[pl.DataFrame, int, int]:
    """Positive events in the run's codes, how many users there are, and unknown items' events.

    Users that the run does not know get the codes after its own.
    """
    codes = dict(run.user_codes)
    keep_N = np.asarray(data.positive_N)
    user_N, item_N, time_N = data.user_N[keep_N], data.item_N[keep_N], data.time_N[keep_N]
    user_of = np.full(data.n_users, -1, dtype=np.int64)
    item_of = np.array([run.item_codes.get(name, -1) for name in data.item_ids], dtype=np.int64)
    known_N = item_of[item_N] >= 0
    for user in np.unique(user_N[known_N]):
        user_of[user] = codes.setdefault(data.user_ids[user], len(codes))
    unknown = int((~known_N & (time_N >= since)).sum())
    frame = pl.DataFrame(
        {
            "user": user_of[user_N[known_N]],
            "item": item_of[item_N[known_N]],
            "time": time_N[known_N].astype(np.int64),
        }
    )
    return frame, len(codes), unknown


def _events(frame: pl.DataFrame, sizes: tuple[int, int]) -> _Events:
    columns = [frame[name].to_numpy() for name in _KEY]
    return _Events(columns[0], columns[1], columns[2], *sizes)
