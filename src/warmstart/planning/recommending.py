"""Baselines and tracks under one cut in time and one budget: chosen on validation, judged on test.

Every contender is treated alike. Its settings (a baseline's grid, a tower's number of epochs) are
chosen on the validation events; then it is fitted anew on training and validation events together,
and asked the test questions once. Which model is kept is decided on validation as well.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from warmstart.core import (
    NotApplicable,
    OutOfMemory,
    Run,
    UsageError,
    fingerprint,
    nearest,
    progress,
    read_json,
    tells_out_of_memory,
    write_json,
)
from warmstart.data import Interactions, TimeSplit
from warmstart.evaluation import (
    KS,
    RankedPair,
    RankingScores,
    RankingTask,
    Ranks,
    Recommender,
    all_future_task,
    compare_recommenders,
    measure_ranking,
    next_item_task,
    rank_targets,
    ranking_metric,
    score_ranking,
    standard_slices,
)
from warmstart.retrieval import (
    BASELINES,
    TRACKS,
    Baseline,
    Content,
    HistoryMean,
    TwoTower,
    TwoTowerModel,
    make_baseline,
    make_track,
    tune,
)
from warmstart.training import Diverged, History

from .budget import Budgeted, divide

__all__ = [
    "Contender",
    "Contest",
    "ContestTask",
    "Entry",
    "check_deciding",
    "parse_contenders",
    "run_contest",
    "usual_metric",
]

_SHOWN = ("HR@10", "HR@100", "NDCG@10", "MRR")
_WATCHED = ("HR@10", "HR@100", "MRR")  # what towers can be watched by
_TUNING = 0.1  # of the time left, for the settings of one baseline
_SEARCH = 0.45  # of a tower's time, to find its number of epochs
_LEAVES_OUT = (NotApplicable, Diverged, OutOfMemory)


@dataclass(frozen=True)
class Contender:
    """A baseline or a track.

    Attributes:
        name: As the user wrote it, settings included.
        settings: The value.
        tuned: Whether a baseline's grid is tried; not where the user set something.
    """

    name: str
    settings: Baseline | HistoryMean | TwoTower
    tuned: bool = True

    @property
    def role(self) -> Literal["arm", "control"]:
        """A baseline is a control; a track is an arm."""
        return "control" if isinstance(self.settings, Baseline) else "arm"

    @property
    def title(self) -> str:
        """How tables call it."""
        told = self.settings.model_dump(include=set(self.settings.model_fields_set))
        if not told:
            return self.settings.title
        return f"{self.settings.title} ({', '.join(f'{k} {v}' for k, v in told.items())})"


def parse_contenders(texts: Sequence[str]) -> list[Contender]:
    """Read contenders such as `ease`, `item-knn:last=20` or `two-tower:width=64`.

    Raises:
        UsageError: For an unknown name or setting, or the same contender twice.
    """
    found: list[Contender] = []
    for text in texts:
        name, *parts = text.strip().split(":")
        values: dict[str, Any] = {}
        for part in parts:
            key, sign, value = part.partition("=")
            if not sign:
                raise UsageError(f"arm {text!r}: {part!r} is not a setting; write key=value.")
            values[key] = None if value.lower() == "none" else value
        if name not in BASELINES and name not in TRACKS:
            raise UsageError(
                f"There is no arm {name!r} for interactions." + nearest(name, [*TRACKS, *BASELINES])
            )
        made = make_baseline(name, values) if name in BASELINES else make_track(name, values)
        found.append(Contender(text.strip(), made, tuned=not values))
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"An arm was named twice: {', '.join(twice)}.")
    return found


def usual_metric(n_items: int) -> str:
    """HR@100, or HR at the longest list that holds at most half of a small catalogue."""
    return f"HR@{max((k for k in KS if 2 * k <= n_items), default=1)}"


def check_deciding(metric: str, n_items: int) -> None:
    """Refuse a metric that cannot decide which arm is best.

    Args:
        metric: HR, Recall, NDCG or debiased_recall at one of the list lengths of tables, or MRR.
        n_items: I.

    Raises:
        UsageError: For another one, or a list that would hold the whole catalogue.
    """
    family, length = ranking_metric(metric, "metric")
    if family in ("coverage", "median_rank") or (length is not None and length not in KS):
        raise UsageError(
            f"metric {metric!r} cannot decide. Take HR, Recall, NDCG or debiased_recall at "
            f"{', '.join(map(str, KS))}, such as HR@10, or MRR."
        )
    if length is not None and length >= n_items:
        raise UsageError(
            f"metric {metric!r} is met by every list, for there are {n_items} items. Take a "
            "shorter one, such as HR@10, or MRR."
        )


@dataclass(frozen=True)
class ContestTask(Budgeted):
    """What all contenders share.

    Attributes:
        split: Training and validation events.
        test: Events after the test cut, which only the questions at the end are made of.
        content: Texts, images and attributes.
        folder: The run's folder.
        primary: The metric that decides.
        budget: Seconds for everything.
        started: `time.monotonic()` at the start, less what earlier sessions took.
        seed: Root of every draw.
        device: Device name.
        block: Queries that are scored at once.
        trackers: Experiment trackers.
    """

    split: TimeSplit
    test: Interactions
    content: Content
    folder: Path
    primary: str = "HR@100"
    budget: float = float("inf")
    started: float = field(default_factory=time.monotonic)
    seed: int = 0
    device: str = "auto"
    block: int = 512
    trackers: tuple[str, ...] = ()

    @property
    def n_items(self) -> int:
        """I."""
        return self.split.train.n_items

    @cached_property
    def validation_task(self) -> RankingTask:
        """The next item, asked of the validation events."""
        return next_item_task(self.split.train, self.split.validation)

    @cached_property
    def next_item(self) -> RankingTask:
        """The next item, asked of the test events."""
        return next_item_task(self.split.fitted, self.test)

    @cached_property
    def all_future(self) -> RankingTask:
        """All later items, asked once a user at the test cut."""
        return all_future_task(self.split.fitted, self.test)

    @cached_property
    def slices(self) -> dict[str, list[str]]:
        """Slices of the next-item questions."""
        return standard_slices(self.next_item, self.split.fitted)


@dataclass
class Entry:
    """What became of a contender.

    Attributes:
        contender: Which.
        status: done; shortened: the budget ended its search for the number of epochs early; cut:
            the budget ended before it had learned all events; failed; not applicable.
        reason: Why it was left out.
        settings: As they were chosen.
        tried: A row for each setting that validation chose from.
        validation: Metrics on validation.
        ranks: Of the test questions, by kind.
        scores: By kind.
        recommender: What was ranked with.
        seconds: Of tuning and fitting.
        trainable: Weights that were learned.
        history: One dictionary an epoch.
        notes: Sentences for the reader.
    """

    contender: Contender
    status: Literal["done", "shortened", "cut", "failed", "not applicable"] = "done"
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, Ranks] = field(default_factory=dict)
    scores: dict[str, RankingScores] = field(default_factory=dict)
    recommender: Recommender | None = None
    seconds: float = 0.0
    trainable: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.contender.name

    @property
    def judged(self) -> bool:
        """Whether it has scores that count."""
        return self.status in ("done", "shortened") and bool(self.scores)


@dataclass
class Contest:
    """The outcome.

    Attributes:
        entries: In the order in which they were named.
        best: The entry that is best on validation.
        kept: The trained model that is best on validation, which can be indexed and served.
        baseline: The best baseline on validation.
        lifts: Each arm minus that baseline, on the test questions.
    """

    entries: list[Entry]
    best: Entry | None
    kept: Entry | None
    baseline: Entry | None
    lifts: list[tuple[str, str, RankedPair]]


def run_contest(contenders: Sequence[Contender], task: ContestTask) -> Contest:
    """Tune, fit and rank all contenders, then compare them.

    Baselines and what needs no training go first; the trained tracks share what time is left.

    Raises:
        DataError: When nothing can be asked.
    """
    _ = task.next_item, task.validation_task  # bad cuts are told before any work
    entries: dict[str, Entry] = {}
    trained = [one for one in contenders if isinstance(one.settings, TwoTower)]
    for one in contenders:
        if one not in trained:
            entries[one.name] = _attempt(one, task, None)
    for place, one in enumerate(trained):
        share = None
        if task.limited:
            waiting = {other.name: float("inf") for other in trained[place:]}
            share = divide(waiting, max(0.0, task.left * 0.9))[one.name]
        entries[one.name] = _attempt(one, task, share)
    ordered = [entries[one.name] for one in contenders]
    judged = [entry for entry in ordered if entry.judged]
    best = _best(judged, task)
    kept = _best([one for one in judged if isinstance(one.recommender, TwoTowerModel)], task)
    baseline = _best([one for one in judged if one.contender.role == "control"], task)
    lifts = []
    if baseline is not None:
        for entry in judged:
            if entry.contender.role == "arm":
                pair = compare_recommenders(
                    entry.ranks["next_item"], baseline.ranks["next_item"], task.next_item,
                    task.primary, seed=task.seed,
                )  # fmt: skip
                lifts.append((entry.name, baseline.name, pair))
    return Contest(ordered, best, kept, baseline, lifts)


def _best(entries: Sequence[Entry], task: ContestTask) -> Entry | None:
    """The best on validation; of equals the first."""
    return max(entries, key=lambda one: one.validation[task.primary], default=None)


def _attempt(one: Contender, task: ContestTask, seconds: float | None) -> Entry:
    """One contender from tuning to ranks; what cannot work is told and left out."""
    progress.note(f"{one.title} ...")
    entry = Entry(one)
    start = time.monotonic()
    try:
        with tells_out_of_memory(one.title):
            if isinstance(one.settings, Baseline):
                _baseline(entry, one, task)
            elif isinstance(one.settings, HistoryMean):
                _mean(entry, one, task)
            else:
                _tower(entry, one.settings, task, seconds)
            entry.seconds = entry.seconds or time.monotonic() - start
            if entry.recommender is not None:
                _judge(entry, task)
    except _LEAVES_OUT as error:
        entry.status = "not applicable" if isinstance(error, NotApplicable) else "failed"
        entry.reason = str(error)
        entry.scores, entry.ranks, entry.recommender = {}, {}, None
        progress.note(f"{one.title} is left out: {error}")
    return entry


def _folder(entry: Entry, task: ContestTask) -> Path:
    """Where a contender keeps what it has done."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "_", entry.name)[:80]
    mark = "" if plain == entry.name else f"-{fingerprint(entry.name)[:8]}"
    return task.folder / "arms" / f"{plain}{mark}"


def _run(entry: Entry, task: ContestTask, part: str, seconds: float | None = None) -> Run:
    deadline = None if seconds is None else time.monotonic() + seconds
    return Run(
        _folder(entry, task) / part, seed=task.seed, device=task.device, deadline=deadline,
        trackers=task.trackers,
    )  # fmt: skip


def _measured(task: ContestTask, recommender: Recommender) -> dict[str, float]:
    ranks = rank_targets(recommender, task.validation_task, task.n_items, block=task.block, ks=())
    names = dict.fromkeys([*_SHOWN, task.primary])
    return measure_ranking(ranks, task.validation_task, list(names))


def _baseline(entry: Entry, one: Contender, task: ContestTask) -> None:
    """Settings by validation, which a repeated comparison reads back, and a fit on all events."""
    assert isinstance(one.settings, Baseline)
    most = max(0.0, task.left) * _TUNING if task.limited else None
    run = _run(entry, task, "tuning", most)
    kept = run.folder / "tuned.json"
    start = time.monotonic()
    if kept.is_file():
        known = read_json(kept)
        chosen = make_baseline(one.settings.name, known["settings"])
        entry.tried, entry.validation = known["tried"], known["validation"]
        earlier = float(known["seconds"])
    else:
        chosen, earlier = one.settings, 0.0
        if one.tuned:
            chosen, entry.tried = tune(
                type(one.settings), task.split, task.primary, run=run, block=task.block
            )
        entry.validation = _measured(task, chosen.fit(task.split.train, run))
        values = {
            "settings": chosen.model_dump(mode="json"), "tried": entry.tried,
            "validation": entry.validation, "seconds": time.monotonic() - start,
        }  # fmt: skip
        write_json(kept, values)
    entry.settings = chosen.model_dump(mode="json")
    entry.recommender = chosen.fit(task.split.fitted, run)
    entry.seconds = earlier + time.monotonic() - start


def _mean(entry: Entry, one: Contender, task: ContestTask) -> None:
    assert isinstance(one.settings, HistoryMean)
    grid = HistoryMean.grid() if one.tuned else (one.settings,)
    found = []
    for settings in grid:
        values = _measured(task, settings.recommender(task.content))
        found.append((values[task.primary], settings, values))
    best = max(found, key=lambda row: row[0])
    entry.tried = [
        {**settings.model_dump(), task.primary: value, "chosen": settings is best[1]}
        for value, settings, _ in found
    ]
    entry.settings, entry.validation = best[1].model_dump(mode="json"), best[2]
    entry.recommender = best[1].recommender(task.content)
    entry.trainable = 0


def _tower(entry: Entry, settings: TwoTower, task: ContestTask, seconds: float | None) -> None:
    """The number of epochs is found on validation, then all events up to the test are learned."""
    content = task.content
    reads = (settings.use_text and content.text_IE is not None) or (
        settings.use_images and content.image_IE is not None
    )
    if not (settings.use_ids or reads):
        raise NotApplicable(
            f"{settings.title} needs texts or pictures of the items, and there are none"
        )
    if task.primary in _WATCHED and "metric" not in settings.model_fields_set:
        settings = settings.model_copy(update={"metric": task.primary})
    end = None if seconds is None else time.monotonic() + seconds
    found = _searched(entry, settings, task, None if seconds is None else _SEARCH * seconds)
    history = History.parse(found["history"], "history")
    entry.history = [dict(one) for one in history.epochs]
    entry.validation, entry.seconds = found["validation"], history.seconds
    chosen = history.best_epoch or len(history.epochs)
    entry.settings = settings.model_dump(mode="json") | {"epochs_chosen": chosen}
    if history.cut and not chosen:
        entry.status, entry.reason = "cut", "the budget ended within its first epoch"
        return
    if history.cut:
        entry.status = "shortened"
        entry.reason = f"the budget ended the search for its number of epochs after {chosen}"
    left = None if end is None else max(1.0, end - time.monotonic())
    stages = found.get("stages") or []
    entry.notes = [_stage_note(stage) for stage in stages]
    last = settings.refit(history, stages).model_copy(update={"popularity": found["popularity"]})
    final = last.fit(task.split.fitted, _run(entry, task, "final", left), **_given(task))
    done = History.parse(final.facts["history"], "history")
    entry.seconds += done.seconds
    if done.cut:
        entry.status, entry.reason = "cut", "the budget ended before it had learned all events"
        return
    entry.recommender = final
    entry.trainable = sum(p.numel() for p in final.towers.parameters())
    if final.text_weights is not None:
        entry.trainable += sum(value.numel() for value in final.text_weights.values())
    entry.notes += final.facts.get("notes", ())


def _stage_note(stage: Mapping[str, Any]) -> str:
    """What a stage of a track did, in a sentence."""
    what = ", ".join(stage["learns"]) or "what is above the text encoder"
    done, best = stage["epochs"], stage["best_epoch"]
    found = f"best after {best}" if best else "none was better than the start, which is kept"
    return f"Stage {stage['stage']} ({what}): {done} epochs, {found}."


def _given(task: ContestTask) -> dict[str, Any]:
    content = task.content
    return {
        "text_IE": content.text_IE, "image_IE": content.image_IE, "tags": content.tags,
        "users": content.users, "item_ids": content.item_ids, "texts": content.texts,
    }  # fmt: skip


def _searched(
    entry: Entry, settings: TwoTower, task: ContestTask, seconds: float | None
) -> dict[str, Any]:
    """Record and validation of the fit on training events; a repeated comparison reads it back."""
    run = _run(entry, task, "search", seconds)
    kept = run.folder / "found.json"
    if not kept.is_file():
        first = settings.fit(task.split.train, run, validation=task.validation_task, **_given(task))
        values = {
            "history": first.facts["history"], "stages": first.facts.get("stages", []),
            "validation": _measured(task, first), "popularity": first.popularity,
        }  # fmt: skip
        write_json(kept, values)
    found: dict[str, Any] = read_json(kept)
    return found


def _judge(entry: Entry, task: ContestTask) -> None:
    """Ranks and scores on the test questions."""
    assert entry.recommender is not None
    for kind, questions, slices in (
        ("next_item", task.next_item, task.slices),
        ("all_future", task.all_future, None),
    ):
        ranks = rank_targets(entry.recommender, questions, task.n_items, block=task.block, ks=KS)
        entry.ranks[kind] = ranks
        entry.scores[kind] = score_ranking(
            ranks, questions,
            primary=task.primary if kind == "next_item" else None,
            slices=slices, seed=task.seed,
        )  # fmt: skip
