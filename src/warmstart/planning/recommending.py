"""Baselines and tracks under one cut in time and one budget: chosen on validation, judged on test.

Every contender is treated alike. Its settings (a baseline's grid, a tower's number of epochs) are
chosen on the validation events; then it is fitted anew on training and validation events together,
and asked the test questions once. Which model is kept is decided on validation as well. With
several training seeds a trained track goes that whole way once a seed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.core import (
    NotApplicable,
    OutOfMemory,
    Run,
    fingerprint,
    progress,
    read_json,
    tells_out_of_memory,
    write_json,
)
from warmstart.evaluation import (
    KS,
    RankedPair,
    RankingTask,
    Recommender,
    compare_recommenders,
    measure_ranking,
    rank_targets,
    score_ranking,
)
from warmstart.retrieval import (
    Baseline,
    Content,
    ContentSettings,
    HistoryMean,
    Popularity,
    RecentPopularity,
    TwoTower,
    TwoTowerModel,
    make_baseline,
    tune,
)
from warmstart.training import Diverged, History

from .budget import divide
from .recommending_contenders import Contender
from .recommending_task import Contest, ContestTask, Entry, SeedFit

__all__ = ["run_contest"]

_SHOWN = ("HR@10", "HR@100", "NDCG@10", "MRR")
_WATCHED = ("HR@10", "HR@100", "MRR")  # what towers can be watched by
_TUNING = 0.1  # of the time left, for the settings of one baseline
_SEARCH = 0.45  # of a tower's time, to find its number of epochs
# Chosen on validation and kept for the fit on all events; what a search of before did not choose.
_CONTENT = ContentSettings(0.0)._asdict()
_LEAVES_OUT = (NotApplicable, Diverged, OutOfMemory)


def run_contest(contenders: Sequence[Contender], task: ContestTask) -> Contest:
    """Tune, fit and rank all contenders, then compare them.

    Baselines and what needs no training go first; the trained tracks share what time is left. The
    first seed of every track runs before any second seed, and further seeds run only while they
    fit into the budget.

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
    _more_seeds([entries[one.name] for one in trained], task)
    ordered = [entries[one.name] for one in contenders]
    for entry in ordered:
        _score(entry, task)
    judged = [entry for entry in ordered if entry.judged]
    best = _best(judged, task)
    kept = _best([one for one in judged if isinstance(one.recommender, TwoTowerModel)], task)
    baseline = _best([one for one in judged if one.contender.role == "control"], task)
    lifts = []
    if baseline is not None:
        arms = [one for one in judged if one.contender.role == "arm"]
        lifts = [(one.name, baseline.name, _pair(one, baseline, task)) for one in arms]
    return Contest(ordered, best, kept, baseline, lifts, _cold_lifts(judged, task))


def _pair(a: Entry, b: Entry, task: ContestTask, only: Sequence[bool] | None = None) -> RankedPair:
    return compare_recommenders(
        a.ranks["next_item"], b.ranks["next_item"], task.next_item, task.primary,
        only=only, seed=task.seed,
    )  # fmt: skip


def _cold_lifts(judged: Sequence[Entry], task: ContestTask) -> list[tuple[str, str, RankedPair]]:
    """What reads the items against what ranks by content or popularity alone, on new items."""
    if not any(task.cold_P) or task.primary.startswith("debiased"):  # which gives them no weight
        return []
    readers = [one for one in judged if _reads(one.contender.settings, task.content)]
    plain = (HistoryMean, Popularity, RecentPopularity)
    beside = [one for one in judged if isinstance(one.contender.settings, plain)]
    return [(a.name, b.name, _pair(a, b, task, task.cold_P)) for a in readers for b in beside]


def _reads(settings: object, content: Content) -> bool:
    """Whether a trained track reads texts or pictures that are there."""
    return isinstance(settings, TwoTower) and (
        (settings.use_text and content.text_IE is not None)
        or (settings.use_images and content.image_IE is not None)
    )


def _best(entries: Sequence[Entry], task: ContestTask) -> Entry | None:
    """The best on validation; of equals the first."""
    return max(entries, key=lambda one: one.validation[task.primary], default=None)


def _attempt(one: Contender, task: ContestTask, seconds: float | None) -> Entry:
    """One contender from tuning to ranks; what cannot work is told and left out."""
    progress.note(f"{one.title} ...")
    entry = Entry(one)
    try:
        fit = _fitted(entry, task, task.seed, seconds)
    except _LEAVES_OUT as error:
        entry.status = "not applicable" if isinstance(error, NotApplicable) else "failed"
        entry.reason = str(error)
        progress.note(f"{one.title} is left out: {error}")
        return entry
    entry.fits.append(fit)
    entry.status, entry.reason = fit.status, fit.reason
    return entry


def _fitted(entry: Entry, task: ContestTask, seed: int, seconds: float | None) -> SeedFit:
    """One seed of a contender from tuning to ranks."""
    one, fit = entry.contender, SeedFit(seed)
    start = time.monotonic()
    with tells_out_of_memory(one.title):
        if isinstance(one.settings, Baseline):
            _baseline(fit, entry, task)
        elif isinstance(one.settings, HistoryMean):
            _mean(fit, entry, task)
        else:
            _tower(fit, entry, task, seconds)
        fit.seconds = fit.seconds or time.monotonic() - start
        if fit.recommender is not None:
            for kind, questions in _questions(task):
                fit.ranks[kind] = rank_targets(
                    fit.recommender, questions, task.n_items, block=task.block, ks=KS
                )
    return fit


def _questions(task: ContestTask) -> Iterator[tuple[str, RankingTask]]:
    yield "next_item", task.next_item
    yield "all_future", task.all_future


def _more_seeds(entries: Sequence[Entry], task: ContestTask) -> None:
    """Second and later seeds, while what the longest one took still fits into the time left."""
    for number in range(1, task.seeds):
        for entry in entries:
            if entry.status not in ("done", "shortened") or len(entry.fits) < number:
                continue
            longest = max(fit.seconds for fit in entry.fits)
            left = task.left * 0.9 if task.limited else None
            if left is not None and 1.3 * longest > left:
                continue
            title, seed = entry.contender.title, task.seed + number
            progress.note(f"{title}, seed {seed} ...")
            try:
                fit = _fitted(entry, task, seed, left)
            except _LEAVES_OUT as error:
                progress.note(f"{title}, seed {seed}, is left out: {error}")
                continue
            if fit.status == "cut":
                progress.note(f"{title}, seed {seed}: too slow, left out.")
                continue
            entry.fits.append(fit)
            _keep_best(entry, task)


def _keep_best(entry: Entry, task: ContestTask) -> None:
    """Give up the recommenders of all seeds but the best on validation."""
    best = max(entry.fits, key=lambda fit: fit.validation[task.primary])
    for fit in entry.fits:
        if fit is not best:
            fit.recommender = None


def _score(entry: Entry, task: ContestTask) -> None:
    """Scores on the test questions, over all seeds."""
    for kind, ranks in entry.ranks.items():
        first = kind == "next_item"
        entry.scores[kind] = score_ranking(
            ranks, task.next_item if first else task.all_future,
            primary=task.primary if first else None,
            slices=task.slices if first else None, seed=task.seed,
        )  # fmt: skip


def _folder(entry: Entry, task: ContestTask) -> Path:
    """Where a contender keeps what it has done."""
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "_", entry.name)[:80]
    mark = "" if plain == entry.name else f"-{fingerprint(entry.name)[:8]}"
    return task.folder / "arms" / f"{plain}{mark}"


def _run(
    entry: Entry,
    task: ContestTask,
    part: str,
    seconds: float | None = None,
    seed: int | None = None,
) -> Run:
    deadline = None if seconds is None else time.monotonic() + seconds
    place, wanted = _folder(entry, task), task.seed if seed is None else seed
    if wanted != task.seed:
        place /= f"seed-{wanted}"
    return Run(
        place / part, seed=wanted, device=task.device, deadline=deadline, trackers=task.trackers
    )


def _measured(task: ContestTask, recommender: Recommender) -> dict[str, float]:
    ranks = rank_targets(recommender, task.validation_task, task.n_items, block=task.block, ks=())
    names = dict.fromkeys([*_SHOWN, task.primary])
    return measure_ranking(ranks, task.validation_task, list(names))


def _baseline(fit: SeedFit, entry: Entry, task: ContestTask) -> None:
    """Settings by validation, which a repeated comparison reads back, and a fit on all events."""
    one = entry.contender
    assert isinstance(one.settings, Baseline)
    most = max(0.0, task.left) * _TUNING if task.limited else None
    run = _run(entry, task, "tuning", most)
    kept = run.folder / "tuned.json"
    start = time.monotonic()
    if kept.is_file():
        known = read_json(kept)
        chosen = make_baseline(one.settings.name, known["settings"])
        fit.tried, fit.validation = known["tried"], known["validation"]
        earlier = float(known["seconds"])
    else:
        chosen, earlier = one.settings, 0.0
        if one.tuned:
            chosen, fit.tried = tune(
                type(one.settings), task.split, task.primary, run=run, block=task.block
            )
        fit.validation = _measured(task, chosen.fit(task.split.train, run))
        values = {
            "settings": chosen.model_dump(mode="json"), "tried": fit.tried,
            "validation": fit.validation, "seconds": time.monotonic() - start,
        }  # fmt: skip
        write_json(kept, values)
    fit.settings = chosen.model_dump(mode="json")
    fit.recommender = chosen.fit(task.split.fitted, run)
    fit.seconds = earlier + time.monotonic() - start


def _mean(fit: SeedFit, entry: Entry, task: ContestTask) -> None:
    one = entry.contender
    assert isinstance(one.settings, HistoryMean)
    grid = HistoryMean.grid() if one.tuned else (one.settings,)
    found = []
    for settings in grid:
        try:
            mean = settings.recommender(task.content, task.split.train)
        except NotApplicable:
            if settings is grid[0]:
                raise
            continue
        values = _measured(task, mean)
        found.append((values[task.primary], settings, values))
    best = max(found, key=lambda row: row[0])
    fit.tried = [
        {**settings.model_dump(), task.primary: value, "chosen": settings is best[1]}
        for value, settings, _ in found
    ]
    fit.settings, fit.validation = best[1].model_dump(mode="json"), best[2]
    fit.recommender = best[1].recommender(task.content, task.split.fitted)
    fit.trainable = 0


def _tower(fit: SeedFit, entry: Entry, task: ContestTask, seconds: float | None) -> None:
    """The number of epochs is found on validation, then all events up to the test are learned."""
    settings = entry.contender.settings
    assert isinstance(settings, TwoTower)
    if not (settings.use_ids or _reads(settings, task.content)):
        raise NotApplicable(
            f"{settings.title} needs texts or pictures of the items, and there are none"
        )
    if task.primary in _WATCHED and "metric" not in settings.model_fields_set:
        settings = settings.model_copy(update={"metric": task.primary})
    end = None if seconds is None else time.monotonic() + seconds
    search = _run(entry, task, "search", None if seconds is None else _SEARCH * seconds, fit.seed)
    found = _searched(search, settings, task)
    history = History.parse(found["history"], "history")
    fit.history = [dict(one) for one in history.epochs]
    fit.validation, fit.seconds = found["validation"], history.seconds
    chosen = history.best_epoch or len(history.epochs)
    counts = {name: found.get(name, value) for name, value in _CONTENT.items()}
    fit.settings = settings.model_dump(mode="json") | {
        "epochs_chosen": chosen,
        **{f"{name}_chosen": value for name, value in counts.items()},
    }
    if history.cut and not chosen:
        fit.status, fit.reason = "cut", "the budget ended within its first epoch"
        return
    if history.cut:
        fit.status = "shortened"
        fit.reason = f"the budget ended the search for its number of epochs after {chosen}"
    left = None if end is None else max(1.0, end - time.monotonic())
    stages = found.get("stages") or []
    fit.notes = [_stage_note(stage) for stage in stages]
    chose = counts | {"popularity": found["popularity"]}
    last = settings.refit(history, stages).model_copy(update=chose)
    run = _run(entry, task, "final", left, fit.seed)
    final = last.fit(task.split.fitted, run, **_given(task))
    done = History.parse(final.facts["history"], "history")
    fit.seconds += done.seconds
    if done.cut:
        fit.status, fit.reason = "cut", "the budget ended before it had learned all events"
        return
    if final.teller is not None:
        for _, questions in _questions(task):
            final.teller.read_ahead(questions.queries, run)
    fit.recommender = final
    fit.trainable = sum(p.numel() for p in final.towers.parameters())
    if final.text_weights is not None:
        fit.trainable += sum(value.numel() for value in final.text_weights.values())
    fit.notes += final.facts.get("notes", ())


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


def _searched(run: Run, settings: TwoTower, task: ContestTask) -> dict[str, Any]:
    """Record and validation of the fit on training events; a repeated comparison reads it back."""
    kept = run.folder / "found.json"
    if not kept.is_file():
        first = settings.fit(task.split.train, run, validation=task.validation_task, **_given(task))
        values = {
            "history": first.facts["history"], "stages": first.facts.get("stages", []),
            "validation": _measured(task, first), "popularity": first.popularity,
            **{name: first.facts[name] for name in _CONTENT},
        }  # fmt: skip
        write_json(kept, values)
    found: dict[str, Any] = read_json(kept)
    return found
