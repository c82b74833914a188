"""The plan for interactions: by the events to learn from, the texts, and what is new after a cut.

Only training and validation events are looked at: the share of new items is that of validation.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np

from warmstart.data import Interactions, TimeSplit

from .tree import Plan, Reason

__all__ = ["plan_interactions"]

FEW_EVENTS = 2_000
FEW_USERS = 50
MANY_NEW = 0.25


def plan_interactions(data: Interactions, split: TimeSplit, *, options: Sequence[str] = ()) -> Plan:
    """Recommend a track.

    Args:
        data: For the items' texts and the source's name.
        split: Its parts.
        options: Command line options that `fit` needs to read the same events.
    """
    events = int(split.train.positive_N.sum())
    users = len(np.unique(split.train.user_N))
    told = sum(bool(text and text.strip()) for text in data.items["text"].to_list())
    share_told = told / max(1, data.n_items)
    new = _share_new(split)
    reasons = [
        Reason(text=f"There are {events:,} positive training events.", name="events", value=events),
        Reason(text=f"They are of {users:,} users.", name="users", value=users),
        Reason(
            text=f"{share_told:.0%} of the {data.n_items:,} items have a text.",
            name="share_with_text", value=share_told,
        ),
        Reason(
            text=f"{new:.1%} of the validation events are with items that training never saw.",
            name="share_new_items", value=new,
        ),
    ]  # fmt: skip
    strategy, rule, alternatives = _rule(events, users, share_told, new)
    warnings = []
    if new > 0 and share_told < 0.5:
        warnings.append(
            "Most items have no text, so a new item has no vector: add titles or descriptions."
        )
    if split.random:
        warnings.append(f"A random split says little of what is new: {split.notes[0]}")
    if users < FEW_USERS:
        warnings.append(f"{users} users are too few for narrow intervals: users are what is drawn.")
    command = ["warmstart", "fit", data.source, "--strategy", strategy, *options]
    return Plan(
        strategy=strategy, settings={}, rule=rule, reasons=tuple(reasons),
        alternatives=alternatives, warnings=tuple(warnings), command=shlex.join(command),
    )  # fmt: skip


def _share_new(split: TimeSplit) -> float:
    known_I = np.zeros(split.train.n_items, dtype=bool)
    known_I[split.train.item_N] = True
    items_N = split.validation.item_N
    return float((~known_I[items_N]).mean()) if len(items_N) else 0.0


def _rule(
    events: int, users: int, share_told: float, new: float
) -> tuple[str, str, tuple[str, ...]]:
    """Track, rule, and others worth an arm."""
    if share_told == 0:
        return "scratch", "no texts: item ids alone can be learned", ("item-knn", "ease")
    if events < FEW_EVENTS or users < FEW_USERS:
        return (
            "frozen",
            f"under {FEW_EVENTS:,} events or {FEW_USERS} users: projections alone are learned",
            ("zero-shot", "item-knn"),
        )
    if new > MANY_NEW:
        return (
            "user-tower",
            f"over {MANY_NEW:.0%} of what comes next is new: texts without ids",
            ("both-towers", "two-tower", "frozen"),
        )
    return (
        "two-tower",
        "enough events, and most of what comes next is known: ids beside texts",
        ("ease", "user-tower", "both-towers"),
    )
