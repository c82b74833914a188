"""`compare` and `fit` on interactions: from a folder of events to a run that recommends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from warmstart.backbones import Backbone
from warmstart.core import (
    NotApplicable,
    UsageError,
    fingerprint,
    nearest,
    pick_device,
    progress,
)
from warmstart.data import (
    FRACTIONS,
    Interactions,
    Modality,
    TimeSplit,
    check_cuts,
    held_out_events,
    is_interactions,
    read_interactions,
    time_split,
)
from warmstart.planning import (
    Contender,
    ContestTask,
    Plan,
    check_deciding,
    elapsed_clock,
    parse_contenders,
    parse_duration,
    plan_interactions,
    run_contest,
    usual_metric,
)
from warmstart.retrieval import TRACKS, HistoryMean, make_track
from warmstart.training import check_trackers

from .content import read_content
from .folders import default_folder, run_folder
from .prepare import as_backbone, refuse_reading
from .recommending import RetrievalRun, open_retrieval
from .retrieval_groups import group_gaps
from .retrieval_results import contest_json, pictures_folder, write_contest

__all__ = [
    "COLUMNS_READ",
    "RETRIEVAL_ARMS",
    "USUAL_ARMS",
    "compare_interactions",
    "fit_interactions",
    "interaction_options",
    "named_contenders",
    "plan_for_interactions",
]

RETRIEVAL_ARMS = (
    "zero-shot", "frozen", "user-tower", "two-tower", "both-towers", "text-history", "scratch",
    "random", "popularity", "recent-popularity", "item-knn", "ease", "als",
)  # fmt: skip
USUAL_ARMS = tuple(name for name in RETRIEVAL_ARMS if name != "text-history")
"""What `compare` tries unasked: all but what reads tens of thousands of texts."""
_CONTROLS = ("popularity", "recent-popularity", "item-knn", "ease")
COLUMNS_READ = ("user", "item", "time", "event", "rating", "weight", "positive")
_T = TypeVar("_T", Interactions, TimeSplit)
_CUTS = ("fractions", "test_from", "validation_from", "random_split")
_OWN = (*COLUMNS_READ, "limit_users", *_CUTS, "image_backbone")


def interaction_options(
    data: object, reading: dict[str, Any], **others: Any
) -> dict[str, Any] | None:
    """What the verbs for interactions take of the options given; None where data is none.

    Args:
        data: What the user named.
        reading: Options for reading; those for interactions are taken out of it.
        others: Further options, which cannot apply to interactions.

    Raises:
        UsageError: For options that belong to the other kind of data.
    """
    own = {name: reading.pop(name) for name in _OWN if name in reading}
    given = {name: value for name, value in own.items() if value is not None and value is not False}
    if not is_interactions(data, **{name: given.get(name) for name in ("user", "item", "time")}):
        if given:
            names = ", ".join(f"{name}=" for name in given)
            raise UsageError(
                f"{names} belong to interactions, and {data} does not look like any: a folder or "
                "file with columns for user, item and time. Say which these are with user=, item= "
                "and time= (--user, --item, --time) where their names do not tell."
            )
        return None
    skip_bad = {"skip_bad": reading.pop("skip_bad")} if "skip_bad" in reading else {}
    refuse_reading({**reading, **others}, f"the interactions {data}", " Leave it out.")
    return given | skip_bad


def compare_interactions(
    data: str | Path,
    *,
    strategies: Sequence[str | Contender] | None = None,
    backbone: Backbone | str | Path | None = None,
    image_backbone: Backbone | str | Path | None = None,
    budget: str | float = "15m",
    metric: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    fractions: tuple[float, float, float] | None = None,
    test_from: str | int | None = None,
    validation_from: str | int | None = None,
    random_split: bool = False,
    out: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    trackers: Sequence[str] = (),
    allow_bin: bool = False,
    command: str | None = None,
    verb: str = "compare",
    **reading: Any,
) -> RetrievalRun:
    """Try tracks and baselines on one cut in time, and say which was worth it.

    Args:
        data: Folder or file of interactions; see `data.read_interactions`.
        strategies: Arms such as `two-tower`, `ease` or `item-knn:last=20`; `USUAL_ARMS` otherwise.
        backbone: Text encoder for the items; the default for text otherwise.
        image_backbone: Image encoder for items with a picture; without, pictures are read only
            where the text encoder is CLIP.
        budget: Time for everything: 15m, 1h, none.
        metric: What decides; HR@100 otherwise, at a shorter list where there are few items.
        seed: Root of every draw, and the first training seed.
        seeds: Training seeds of each trained track, as far as the budget allows; the cut stays.
        fractions: Shares of training, validation and test events; 0.8, 0.1, 0.1 otherwise. They
            do not go with dates.
        test_from: First moment of the test instead of its share.
        validation_from: The same for validation.
        random_split: Divide events at random, which shows training what came after the test.
        out: Folder for the run; `runs/compare-NAME` otherwise.
        replace: Whether a run of that name may be replaced.
        device: `auto`, `cpu`, `cuda`, `mps`.
        trackers: Experiment trackers to report to.
        allow_bin: Whether backbones may have pickled weights.
        command: The command line, for the report.
        verb: For the default folder.
        **reading: Passed to `read_interactions`: user=, item=, time=, event=, rating=, weight=,
            positive=, skip_bad=, limit_users=.

    Returns:
        The finished run.

    Raises:
        DataError: When the events cannot be read or divided.
        UsageError: For settings that make no sense.
    """
    check_trackers(trackers)
    shares = _shares(fractions, test_from, validation_from, random_split)
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}. Typical values: 1 to 5.")
    if device != "auto":
        pick_device(device)
    named = list(strategies or USUAL_ARMS)
    contenders = parse_contenders([one for one in named if isinstance(one, str)])
    given = [one for one in named if not isinstance(one, str)]
    contenders = [*given, *contenders]
    started = time.monotonic()
    seconds = float("inf") if str(budget) == "none" else parse_duration(budget)
    interactions = _telling(read_interactions, data, **reading)
    split = _telling(
        time_split, interactions, fractions=shares, test_from=test_from,
        validation_from=validation_from, random=random_split, seed=seed,
    )  # fmt: skip
    primary = metric or usual_metric(interactions.n_items)
    check_deciding(primary, interactions.n_items)
    reads = any(_reads_text(one) for one in contenders)
    text = None
    if reads:
        text = as_backbone(backbone, "text", {"device": device}, allow_bin=allow_bin)
    images = None
    if image_backbone is not None:
        images = as_backbone(image_backbone, "image", {"device": device}, allow_bin=allow_bin)
    elif text is not None and text.modality == "image-text" and pictures_folder(interactions):
        images = text
        progress.note(f"Pictures of items are read by {text.name} too.")
    settings = _settings(
        interactions, split, contenders, text, images, seconds, primary, seed, seeds
    )
    final = Path(out) if out else default_folder(verb, data, settings)
    progress.note(
        f"{len(split.train):,} training, {len(split.validation):,} validation and "
        f"{len(interactions) - len(split.train) - len(split.validation):,} test events of "
        f"{interactions.n_users:,} users with {interactions.n_items:,} items"
        f"{f'; backbone {text.name}' if text else ''}."
    )
    with (
        run_folder(final, settings, replace=replace, task_type="retrieve") as folder,
        elapsed_clock(folder, started) as begun,
    ):
        content = read_content(interactions, text, images)
        task = ContestTask(
            split=split, test=held_out_events(interactions, split), content=content, folder=folder,
            primary=primary, budget=seconds, started=begun, seed=seed, device=device,
            trackers=tuple(trackers), seeds=seeds,
        )  # fmt: skip
        contest = run_contest(contenders, task)
        told = contest.kept or contest.best
        fit = None if told is None else told.kept
        gaps = [] if fit is None else group_gaps(
            fit.ranks["next_item"], task.next_item, primary,
            users=interactions.users, tags=content.tags,
        )  # fmt: skip
        kept = {name: reading[name] for name in COLUMNS_READ if reading.get(name) is not None}
        results = contest_json(
            contest, task, interactions,
            backbone=text, images=images, settings=settings, reading=kept, gaps=gaps,
        )  # fmt: skip
        results["command"] = command or f"warmstart {verb} {data}"
        write_contest(folder, results, contest, interactions, final.name)
    return open_retrieval(final, allow_bin=allow_bin)


def _shares(
    fractions: tuple[float, float, float] | None,
    test_from: str | int | None,
    validation_from: str | int | None,
    random: bool,
) -> tuple[float, float, float]:
    """The shares of the parts.

    Raises:
        UsageError: For shares that cannot be, or beside a date.
    """
    dates = {"test_from": test_from, "validation_from": validation_from}
    given = " and ".join(f"{name}=" for name, value in dates.items() if value is not None)
    if fractions is not None and given:
        raise UsageError(
            f"fractions= does not go with {given}: divide by shares (--fractions 0.8,0.1,0.1) or "
            "by dates."
        )
    shares = FRACTIONS if fractions is None else fractions
    check_cuts(shares, validation_from, test_from, random)
    return shares


def _telling(make: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """What `make` gives; all of its notes are told, and once."""
    with progress.muted():
        found = make(*arguments, **options)
    for line in found.notes:
        progress.note(line)
    return found


def named_contenders(strategies: Sequence[Any] | None) -> list[str] | None:
    """The arms as they were named, with `all` written out; None for the usual ones.

    Raises:
        UsageError: For no arm at all, or what is no name.
    """
    if strategies is None:
        return None
    if not strategies:
        raise UsageError("strategies names no arm. Leave it out for the usual ones, or say all.")
    wrong = [one for one in strategies if not isinstance(one, str)]
    if wrong:
        raise UsageError(f"arms for interactions are given by name, got {wrong[0]!r}.")
    if "all" not in strategies:
        return list(strategies)
    told = [one for one in strategies if one != "all"]
    return [*told, *(name for name in RETRIEVAL_ARMS if name not in told)]


def fit_interactions(
    data: str | Path,
    *,
    strategy: str | None = None,
    settings: Mapping[str, Any] | None = None,
    controls: str = "cheap",
    **options: Any,
) -> RetrievalRun:
    """Train one track, judge it against the baselines, and write a run that recommends.

    Args:
        data: Folder or file of interactions.
        strategy: A track; `two-tower` otherwise.
        settings: Of the track.
        controls: `cheap`: popularity, item-kNN and EASE; `full`: also ids alone; `none`.
            They take the time that they need: there is no budget unless one is given.
        **options: See `compare_interactions`.
    """  # fmt: skip
    name = strategy or "two-tower"
    if name not in TRACKS:
        raise UsageError(f"fit trains a track on interactions; there is no track {name!r}."
                         + nearest(name, TRACKS))  # fmt: skip
    if controls not in ("cheap", "full", "none"):
        raise UsageError(f"controls must be cheap, full or none, got {controls!r}.")
    told = ":".join([name, *(f"{key}={value}" for key, value in (settings or {}).items())])
    asked = Contender(told, make_track(name, settings), tuned=not settings)
    arms: list[str | Contender] = [asked]
    if controls != "none":
        arms += _CONTROLS
    if controls == "full" and name != "scratch":
        arms.append("scratch")
    run = compare_interactions(data, strategies=arms, verb="fit", **({"budget": "none"} | options))
    entry = run.arm(told)
    if entry["status"] in ("failed", "not applicable"):
        raise NotApplicable(
            f"{entry['label']} was not fitted: {entry['reason'].rstrip('.')}."
            + (f" What else was run is in {run.folder}." if arms[1:] else "")
        )
    return run


def plan_for_interactions(
    data: str | Path, backbone: Backbone | str | Path | None = None, **reading: Any
) -> Plan:
    """Recommend a track for a folder of interactions.

    Args:
        data: Folder or file of interactions.
        backbone: What the command that follows the plan should name.
        **reading: Passed to `read_interactions`, and fractions=, test_from=, validation_from=,
            random_split=.
    """
    cuts = {name: reading.pop(name, None) for name in _CUTS}
    random = bool(cuts["random_split"])
    shares = _shares(cuts["fractions"], cuts["test_from"], cuts["validation_from"], random)
    reading.pop("image_backbone", None)
    interactions = _telling(read_interactions, data, **reading)
    with progress.muted():  # a random split is among the plan's warnings
        split = time_split(
            interactions, fractions=shares, test_from=cuts["test_from"],
            validation_from=cuts["validation_from"], random=random,
        )  # fmt: skip
    if cuts["fractions"] is not None:
        cuts["fractions"] = ",".join(map(str, shares))
    options = [
        part
        for name, value in {**reading, **cuts, "backbone": backbone}.items()
        if value not in (None, False)
        for part in _option(name, value)
    ]
    return plan_interactions(interactions, split, options=options)


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if isinstance(value, list | tuple):
        return [part for one in value for part in (flag, str(one))]
    return [flag, str(value)]


def _reads_text(one: Contender) -> bool:
    """Whether an arm reads the items' texts."""
    return isinstance(one.settings, HistoryMean) or getattr(one.settings, "use_text", False)


def _settings(
    data: Interactions, split: TimeSplit, contenders: Sequence[Contender], text: Backbone | None,
    images: Backbone | None, seconds: float, primary: str, seed: int, seeds: int,
) -> dict[str, Any]:  # fmt: skip
    """What decides the result; a partial run is continued only under the same settings."""
    values = {
        "arms": {one.name: one.settings.model_dump(mode="json") for one in contenders},
        "budget_seconds": None if seconds == float("inf") else seconds,
        "metric": primary,
        "seed": seed,
        "cuts": None if split.random else [split.validation_cut, split.test_cut],
        "backbone": None if text is None else text.fingerprint,
        "image_backbone": None if images is None else images.fingerprint,
        "spaces": {
            "backbone": _space(text, "text"),
            "image_backbone": _space(images, "image"),
        },
        "data": data.fingerprint,
        **({"seeds": seeds} if seeds > 1 else {}),
        **({"random_split": [len(split.train), len(split.validation)]} if split.random else {}),
    }
    return values | {"fingerprint": fingerprint(values)}


def _space(backbone: Backbone | None, tower: Modality) -> dict[str, Any] | None:
    """What its vectors depend on, for whoever encodes more rows later."""
    return None if backbone is None else backbone.space(modality=tower).model_dump(mode="json")
