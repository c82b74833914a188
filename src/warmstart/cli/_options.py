"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from warmstart.core import UsageError

__all__ = [
    "STRATEGIES",
    "AllowBin",
    "Backbone",
    "Data",
    "Device",
    "EventColumn",
    "Fractions",
    "Group",
    "ImageBackbone",
    "ImageColumn",
    "ImageSize",
    "IndexEngine",
    "IndexRecall",
    "IndexTime",
    "ItemColumn",
    "Json",
    "LabelColumn",
    "LabelNames",
    "Limit",
    "LimitUsers",
    "MaxLength",
    "Metric",
    "Out",
    "Positive",
    "RatingColumn",
    "Replace",
    "RunEncoder",
    "RunFolder",
    "SkipBad",
    "SplitColumn",
    "TestFrom",
    "TextColumn",
    "TimeColumn",
    "Tracker",
    "UserColumn",
    "ValidationFrom",
    "WeightColumn",
    "command_line",
    "interactions",
    "milliseconds",
    "parse_settings",
    "reading",
]

STRATEGIES = (
    "zero-shot, prototypes, knn, maml, probe, prompt, ptuning, prefix, ia3, lora, qlora, adapter, "
    "partial, setfit, lp-ft, unfreeze, finetune, scratch, tfidf, cnn"
)  # strategies.SPECTRUM, which is not imported before a command runs; a test holds them equal
ARMS = (
    "zero-shot, frozen, user-tower, two-tower, both-towers, text-history, scratch, random, "
    "popularity, recent-popularity, item-knn, ease, als"
)  # workflow.RETRIEVAL_ARMS, likewise

_READ, _SIZE, _RUN = "Reading the data", "Backbone and input size", "The run"
_EVENTS = "Interactions (users, items, times)"

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A table (CSV, TSV, JSONL, Parquet), a folder of images by class, a folder with "
        "train and test, a hub id; or a folder of interactions (users, items, times).",
        show_default=False,
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")]
TextColumn = Annotated[
    str | None, typer.Option("--text", help="Text column.", rich_help_panel=_READ)
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", help="Label column.", rich_help_panel=_READ)
]
ImageColumn = Annotated[
    str | None, typer.Option("--image", help="Column of image paths.", rich_help_panel=_READ)
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        "--split-column", help="Column that says train, validation or test.", rich_help_panel=_READ
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Column kept whole in the split (a customer, a site); accuracy is shown by it.",
        rich_help_panel=_READ,
    ),
]
LabelNames = Annotated[
    str | None,
    typer.Option(
        "--label-names",
        help="Names for the classes, in the order of the sorted values: bad,good",
        rich_help_panel=_READ,
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Count and skip unreadable rows instead of stopping.",
        rich_help_panel=_READ,
    ),
]  # fmt: skip
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=2, help="At most so many rows, by class.", rich_help_panel=_READ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Hub id, folder, or installed package; all-MiniLM-L6-v2 for text otherwise.",
        rich_help_panel=_SIZE,
    ),
]
AllowBin = Annotated[
    bool,
    typer.Option(
        "--allow-bin",
        help="Also read pickled weights (pytorch_model.bin), with weights_only.",
        rich_help_panel=_SIZE,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", min=8, help="Pixels on a side.", rich_help_panel=_SIZE),
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=4, help="Tokens.", rich_help_panel=_SIZE)
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="Primary metric: accuracy, macro_f1, balanced_accuracy, ...",
        rich_help_panel=_RUN,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or mps.", rich_help_panel=_RUN)
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for the run.", rich_help_panel=_RUN)
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace a run of that name.", rich_help_panel=_RUN),
]
Tracker = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker", help="Also report to tensorboard, wandb or mlflow.", rich_help_panel=_RUN
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _events(flag: str, words: str) -> Any:
    return typer.Option(flag, help=words, rich_help_panel=_EVENTS)


UserColumn = Annotated[str | None, _events("--user", "Column of users.")]
ItemColumn = Annotated[str | None, _events("--item", "Column of items.")]
TimeColumn = Annotated[str | None, _events("--time", "Column of times.")]
EventColumn = Annotated[str | None, _events("--event", "Column that says what happened.")]
RatingColumn = Annotated[str | None, _events("--rating", "Column of ratings, for --positive.")]
WeightColumn = Annotated[str | None, _events("--weight", "Column of weights, for --positive.")]
Positive = Annotated[
    list[str] | None,
    _events("--positive", "Which events count: a kind (complete) or 'rating>=4'; may be repeated."),
]
LimitUsers = Annotated[
    int | None,
    typer.Option(
        "--limit-users", min=2, help="At most so many users, with all of their events.",
        rich_help_panel=_EVENTS,
    ),
]  # fmt: skip
Fractions = Annotated[
    str | None,
    _events(
        "--fractions", "Shares of training, validation and test, in time order: 0.8,0.1,0.1 "
        "otherwise. Not with dates.",
    ),
]  # fmt: skip
TestFrom = Annotated[
    str | None, _events("--test-from", "Date on which the test begins; the newest 10 % otherwise.")
]
ValidationFrom = Annotated[
    str | None, _events("--validation-from", "The same for validation, which comes before it.")
]
RandomSplit = Annotated[
    bool,
    _events(
        "--random-split", "Divide at random, though training then sees what came after the test."
    ),
]
ImageBackbone = Annotated[
    str | None, _events("--image-backbone", "Encoder for pictures of the items.")
]


RunEncoder = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="The run's text encoder, where its own name no longer finds it; for runs whose user "
        "tower reads texts.",
    ),
]
IndexRecall = Annotated[
    float,
    typer.Option(
        "--recall", min=0.01, max=1.0, help="Share of the exact 100 nearest that must be found."
    ),
]
IndexTime = Annotated[
    str, typer.Option("--p99", help="Time that 99 of 100 searches may take: 5ms.")
]
IndexEngine = Annotated[str, typer.Option("--engine", help="auto, flat, hnsw, ivf-flat or ivf-pq.")]


def ids(text: str | None) -> list[str] | None:
    """Ids by comma; an empty text is an empty list."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def milliseconds(text: str) -> float:
    """Milliseconds in `5ms`, `0.2s` or `5`.

    Raises:
        UsageError: For anything else, or no time at all.
    """
    import re

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", text.strip().lower())
    value = float(found[1]) * (1000 if found[2] == "s" else 1) if found else 0.0
    if not 0 < value <= 600_000:
        raise UsageError(f"{text!r} is no time such as 5ms or 0.2s.")
    return value


def interactions(
    user: str | None,
    item: str | None,
    time: str | None,
    event: str | None,
    rating: str | None,
    weight: str | None,
    positive: list[str] | None,
    limit_users: int | None = None,
    fractions: str | None = None,
    test_from: str | None = None,
    validation_from: str | None = None,
    random_split: bool = False,
) -> dict[str, Any]:
    """Options for interactions, as the verbs take them; what was not given is left out."""
    given = {
        "user": user, "item": item, "time": time, "event": event, "rating": rating,
        "weight": weight, "positive": positive or None, "limit_users": limit_users,
        "fractions": None if fractions is None else _shares(fractions),
        "test_from": test_from, "validation_from": validation_from,
        "random_split": random_split or None,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def _shares(text: str) -> tuple[float, ...]:
    """The numbers of `0.8,0.1,0.1`; how many there must be is checked where they are used.

    Raises:
        UsageError: For what is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--fractions takes three numbers such as 0.8,0.1,0.1, got {text!r}."
        ) from None


def reading(
    text: str | None,
    label: str | None,
    image: str | None,
    split_column: str | None,
    label_names: str | None,
    skip_bad: bool,
) -> dict[str, Any]:
    """Options for `read`, as it takes them."""
    names = None
    if label_names is not None:
        names = [name.strip() for name in label_names.split(",")]
    return {
        "text": text,
        "label": label,
        "image": image,
        "split_column": split_column,
        "label_names": names,
        "skip_bad": skip_bad,
    }


def parse_arms(text: str) -> list[str]:
    """Arms by comma, as they were named.

    A comma within a setting stays there (`two-tower:shares=in-batch=0.5,mined=0.5,ease`): what
    follows one begins an arm where it is an arm's name, or where no setting is open that it could
    belong to.
    """
    names = {"all", *STRATEGIES.split(", "), *ARMS.split(", ")}
    found: list[str] = []
    for part in text.split(","):
        begins = part.split(":")[0].strip() in {*names, ""}
        if found and not begins and ":" in found[-1]:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return [one.strip() for one in found if one.strip()]


def parse_settings(items: Sequence[str] | None, flag: str = "--set") -> dict[str, Any]:
    """`--set key=value` options; a value that begins with `[` or `{` is JSON.

    One that goes on after `{}` is no JSON but a sentence with a place to fill:
    `templates={}|a text about {}`.

    Raises:
        UsageError: For an item without `=`, or a list or table that is no JSON.
    """
    import json

    values: dict[str, Any] = {}
    for item in items or ():
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise UsageError(f"{flag} takes key=value, got {item!r}.")
        value = value.strip()
        sentence = value.startswith("{}") and value != "{}"
        try:
            as_json = value[:1] in ("[", "{") and not sentence
            values[key.strip()] = json.loads(value) if as_json else value
        except json.JSONDecodeError as error:
            raise UsageError(
                f"{flag} {key.strip()} is no JSON: {error}. Write a list as "
                f'\'{key.strip()}=["a", "b"]\', in single quotes.'
            ) from None
    return values


def command_line() -> str:
    """The command as it was typed, for the report."""
    import shlex

    return shlex.join(["warmstart", *sys.argv[1:]])
