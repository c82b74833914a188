"""`compare` and `fit` on interactions: from a folder of events to a run that recommends."""

from __future__ import annotations

import datetime
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from warmstart._version import __version__
from warmstart.backbones import Backbone
from warmstart.core import (
    FORMAT_VERSION,
    DataError,
    NotApplicable,
    UsageError,
    describe_machine,
    fingerprint,
    nearest,
    pick_device,
    progress,
    write_json,
)
from warmstart.data import (
    Interactions,
    TimeSplit,
    held_out_events,
    is_interactions,
    read_interactions,
    time_split,
)
from warmstart.evaluation import (
    FairnessGap,
    RankingTask,
    fairness,
    item_labels,
    user_labels,
)
from warmstart.planning import (
    Contender,
    Contest,
    ContestTask,
    Entry,
    Plan,
    check_deciding,
    elapsed_clock,
    judge_contest,
    parse_contenders,
    parse_duration,
    plan_interactions,
    run_contest,
    usual_metric,
)
from warmstart.reporting import ranking_markdown, write_ranking_report
from warmstart.retrieval import TRACKS, Content, HistoryMean, make_track
from warmstart.training import check_trackers

from .content import read_content
from .folders import default_folder, run_folder
from .prepare import as_backbone, refuse_reading
from .recommending import RetrievalRun, open_retrieval

__all__ = [
    "RETRIEVAL_ARMS",
    "compare_interactions",
    "fit_interactions",
    "interaction_options",
    "named_contenders",
    "plan_for_interactions",
]

RETRIEVAL_ARMS = (
    "zero-shot", "frozen", "user-tower", "two-tower", "both-towers", "scratch",
    "random", "popularity", "recent-popularity", "item-knn", "ease", "als",
)  # fmt: skip
_CONTROLS = ("popularity", "recent-popularity", "item-knn", "ease")
_READING = ("user", "item", "time", "event", "positive", "limit_users")
_OWN = (*_READING, "test_from", "validation_from", "image_backbone")
_GROUPS = 12
_ATTRIBUTES = 6


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
    given = {name: value for name, value in own.items() if value is not None}
    if not is_interactions(data):
        if given:
            names = ", ".join(f"{name}=" for name in given)
            raise UsageError(
                f"{names} belong to interactions, and {data} does not look like any: a folder or "
                "file with columns for user, item and time."
            )
        return None
    skip_bad = {"skip_bad": reading.pop("skip_bad")} if "skip_bad" in reading else {}
    refuse_reading({**reading, **others}, f"the interactions {data}", " Leave it out.")
    return given | skip_bad


@dataclass(frozen=True)
class _Material:
    """What a run is made of."""

    data: Interactions
    split: TimeSplit
    content: Content
    backbone: Backbone | None
    images: Backbone | None


def compare_interactions(
    data: str | Path,
    *,
    strategies: Sequence[str | Contender] | None = None,
    backbone: Backbone | str | Path | None = None,
    image_backbone: Backbone | str | Path | None = None,
    budget: str | float = "15m",
    metric: str | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    test_from: str | int | None = None,
    validation_from: str | int | None = None,
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
        strategies: Arms such as `two-tower`, `ease` or `item-knn:last=20`; all of them otherwise.
        backbone: Text encoder for the items; the default for text otherwise.
        image_backbone: Image encoder for items with a picture; without, pictures are read only
            where the text encoder is CLIP.
        budget: Time for everything: 15m, 1h, none.
        metric: What decides; HR@100 otherwise, at a shorter list where there are few items.
        seed: Root of every draw.
        fractions: Shares of training, validation and test events.
        test_from: First moment of the test instead of its share.
        validation_from: The same for validation.
        out: Folder for the run; `runs/compare-NAME` otherwise.
        replace: Whether a run of that name may be replaced.
        device: `auto`, `cpu`, `cuda`, `mps`.
        trackers: Experiment trackers to report to.
        allow_bin: Whether backbones may have pickled weights.
        command: The command line, for the report.
        verb: For the default folder.
        **reading: Passed to `read_interactions`: user=, item=, time=, event=, positive=,
            skip_bad=, limit_users=.

    Returns:
        The finished run.

    Raises:
        DataError: When the events cannot be read or divided.
        UsageError: For settings that make no sense.
    """
    check_trackers(trackers)
    if device != "auto":
        pick_device(device)
    named = list(strategies or RETRIEVAL_ARMS)
    contenders = parse_contenders([one for one in named if isinstance(one, str)])
    given = [one for one in named if not isinstance(one, str)]
    contenders = [*given, *contenders]
    started = time.monotonic()
    seconds = float("inf") if str(budget) == "none" else parse_duration(budget)
    interactions = read_interactions(data, **reading)
    primary = metric or usual_metric(interactions.n_items)
    check_deciding(primary, interactions.n_items)
    split = time_split(
        interactions, fractions=fractions, test_from=test_from, validation_from=validation_from
    )
    reads = any(_reads_text(one) for one in contenders)
    text = None
    if reads:
        text = as_backbone(backbone, "text", {"device": device}, allow_bin=allow_bin)
    images = None
    if image_backbone is not None:
        images = as_backbone(image_backbone, "image", {"device": device}, allow_bin=allow_bin)
    elif text is not None and text.modality == "image-text" and _pictures(interactions):
        images = text
        progress.note(f"Pictures of items are read by {text.name} too.")
    settings = _settings(interactions, split, contenders, text, images, seconds, primary, seed)
    final = Path(out) if out else default_folder(verb, data, settings)
    progress.note(
        f"{len(split.train):,} training, {len(split.validation):,} validation and "
        f"{len(interactions) - len(split.train) - len(split.validation):,} test events of "
        f"{interactions.n_users:,} users with {interactions.n_items:,} items"
        f"{f'; backbone {text.name}' if text else ''}."
    )
    for line in (*interactions.notes, *split.notes):
        progress.note(line)
    with (
        run_folder(final, settings, replace=replace, task_type="retrieve") as folder,
        elapsed_clock(folder, started) as begun,
    ):
        content = read_content(interactions, text, images)
        material = _Material(interactions, split, content, text, images)
        task = ContestTask(
            split=split, test=held_out_events(interactions, split), content=content, folder=folder,
            primary=primary, budget=seconds, started=begun, seed=seed, device=device,
            trackers=tuple(trackers),
        )  # fmt: skip
        contest = run_contest(contenders, task)
        gaps = _fairness(contest, task, material)
        results = _results(contest, task, material, settings, gaps)
        results["command"] = command or f"warmstart {verb} {data}"
        _write(folder, results, contest, interactions, final.name)
    return open_retrieval(final)


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
            f"{entry['label']} was not fitted: {entry['reason']}. What else was run is in "
            f"{run.folder}."
        )
    return run


def plan_for_interactions(
    data: str | Path, backbone: Backbone | str | Path | None = None, **reading: Any
) -> Plan:
    """Recommend a track for a folder of interactions.

    Args:
        data: Folder or file of interactions.
        backbone: What the command that follows the plan should name.
        **reading: Passed to `read_interactions`, and test_from=, validation_from=.
    """
    cuts = {name: reading.pop(name, None) for name in ("test_from", "validation_from")}
    reading.pop("image_backbone", None)
    interactions = read_interactions(data, **reading)
    split = time_split(interactions, **cuts)
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
    images: Backbone | None, seconds: float, primary: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What decides the result; a partial run is continued only under the same settings."""
    values = {
        "arms": {one.name: one.settings.model_dump(mode="json") for one in contenders},
        "budget_seconds": None if seconds == float("inf") else seconds,
        "metric": primary,
        "seed": seed,
        "cuts": [split.validation_cut, split.test_cut],
        "backbone": None if text is None else text.fingerprint,
        "image_backbone": None if images is None else images.fingerprint,
        "data": data.fingerprint,
    }
    return values | {"fingerprint": fingerprint(values)}


def _fairness(
    contest: Contest, task: ContestTask, material: _Material
) -> list[tuple[str, FairnessGap]]:
    """Gaps of the kept model by attributes of users and by tags of items.

    What has too few users to be judged is left out, and that is said.
    """
    entry = contest.kept or contest.best
    if entry is None:
        return []
    ranks, questions = entry.ranks["next_item"], task.next_item
    labelled = [
        (name, user_labels(questions, values)) for name, values in _attributes(material.data)
    ]
    if material.content.tags is not None:
        labelled.append(("tag", _tag_labels(material.content.tags, questions)))
    found = []
    for name, labels in labelled:
        try:
            found.append((name, fairness(ranks, questions, labels, task.primary)))
        except DataError as error:
            progress.note(f"Whether groups by {name} are served alike is not told: {error}")
    return found


def _tag_labels(tags: Sequence[Sequence[str]], questions: RankingTask) -> list[object]:
    """The commonest tags of each target's item."""
    counts = Counter(tag for item in questions.targets.items for tag in tags[item])
    common = {tag for tag, _ in counts.most_common(_GROUPS)}
    return item_labels(
        questions, [tuple(tag for tag in row if tag in common) or None for row in tags]
    )


def _attributes(data: Interactions) -> list[tuple[str, list[object]]]:
    """User attributes with few values; numbers are cut into quarters."""
    if data.users is None:
        return []
    found: list[tuple[str, list[object]]] = []
    for name in data.users.columns:
        if name == "user_id":
            continue
        column = data.users[name]
        if column.dtype.is_numeric() and column.n_unique() > _GROUPS:
            edges = np.unique(np.nanquantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
            values = [None if v is None else _quarter(float(v), edges) for v in column.to_list()]
        elif column.n_unique() <= 2 * _GROUPS:
            values = [None if v is None else str(v) for v in column.to_list()]
        else:
            continue
        found.append((name, list(values)))
        if len(found) == _ATTRIBUTES:
            break
    return found


def _quarter(value: float, edges: np.ndarray) -> str:
    place = int(np.searchsorted(edges, value, side="right"))
    if place == 0:
        return f"under {edges[0]:g}"
    if place == len(edges):
        return f"{edges[-1]:g} and over"
    return f"{edges[place - 1]:g} to {edges[place]:g}"


def _results(
    contest: Contest, task: ContestTask, material: _Material, settings: Mapping[str, Any],
    gaps: Sequence[tuple[str, FairnessGap]],
) -> dict[str, Any]:  # fmt: skip
    """The whole run as JSON values; reports and tables are drawn from this alone."""
    data, split = material.data, task.split
    return {
        "format_version": FORMAT_VERSION,
        "task_type": "retrieve",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "warmstart": __version__,
        "machine": describe_machine(),
        "data": {
            "source": data.source,
            "name": Path(data.source).name or data.source,
            "events": len(data),
            "users": data.n_users,
            "items": data.n_items,
            "skipped": data.n_skipped,
            "notes": [*data.notes, *split.notes],
            "split": {
                "training events": len(split.train),
                "validation events": len(split.validation),
                "test events": len(task.test),
                "test questions": len(task.next_item),
                "left out": dict(task.next_item.left_out),
                **{f"cold {what}": _cold(split.audit, what) for what in ("users", "items")},
            },
            "audit": dict(split.audit),
            "fingerprint": data.fingerprint,
            "images": _pictures(data),
        },
        "backbone": _card(material.backbone),
        "image_backbone": _card(material.images),
        "settings": dict(settings) | {"primary": task.primary},
        "arms": [_arm(entry) for entry in contest.entries],
        "lifts": [
            {"a": a, "b": b, "significant": pair.significant, **pair.model_dump(mode="json")}
            for a, b, pair in contest.lifts
        ],
        "fairness": [{"by": name, **gap.model_dump(mode="json")} for name, gap in gaps],
        "verdict": judge_contest(contest, task).model_dump(mode="json"),
        "kept": contest.kept.name if contest.kept else None,
    }


def _card(backbone: Backbone | None) -> dict[str, Any] | None:
    return None if backbone is None else backbone.card.model_dump(mode="json")


def _pictures(data: Interactions) -> str | None:
    """The folder that pictures of items lie in; None where no item has one."""
    if data.folder is None or data.items["image"].null_count() == data.n_items:
        return None
    return str(data.folder.resolve())


def _cold(audit: Mapping[str, Any], what: str) -> Any:
    return (audit.get("test") or {}).get(f"cold_{what}")


def _arm(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": entry.name,
        "label": entry.contender.title,
        "role": entry.contender.role,
        "status": entry.status,
        "reason": entry.reason,
        "settings": entry.settings,
        "tried": entry.tried,
        "seconds": entry.seconds,
        "trainable_parameters": entry.trainable,
        "history": [entry.history] if entry.history else [],
        "notes": entry.notes,
    }
    for kind, scores in entry.scores.items():
        values[kind] = {"test": scores.model_dump(mode="json")}
    if entry.validation:
        values.setdefault("next_item", {})["validation"] = entry.validation
    return values


def _write(
    folder: Path, results: Mapping[str, Any], contest: Contest, data: Interactions, name: str
) -> None:
    """Everything that a finished folder holds."""
    for kind in ("next_item", "all_future"):
        tables = []
        for entry in contest.entries:
            if kind in entry.ranks:
                columns = entry.ranks[kind].columns()
                tables.append(pl.DataFrame(columns).with_columns(pl.lit(entry.name).alias("arm")))
        if tables:
            pl.concat(tables).write_parquet(folder / f"ranks_{kind}.parquet")
    data.items.write_parquet(folder / "items.parquet")
    positive_N = data.positive_N
    pl.DataFrame(
        {
            "user": data.user_N[positive_N], "item": data.item_N[positive_N],
            "time": data.time_N[positive_N],
        }
    ).write_parquet(folder / "events.parquet")  # fmt: skip
    pl.DataFrame({"user_id": list(data.user_ids)}).write_parquet(folder / "users.parquet")
    if contest.kept is not None:
        contest.kept.recommender.save(folder / "model", replace=True)  # type: ignore[union-attr]
    write_json(folder / "results.json", results)
    write_ranking_report(results, folder / "report.html")
    (folder / "README.md").write_text(ranking_markdown(results, name=name), encoding="utf-8")
    for spent in (folder / "arms").glob("*/*/checkpoints"):
        shutil.rmtree(spent, ignore_errors=True)
