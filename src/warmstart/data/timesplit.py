"""One global cut in time: what came before teaches, what came after judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from warmstart.core.errors import DataError, UsageError
from warmstart.core.progress import note
from warmstart.core.rng import Streams
from warmstart.data.interaction_times import moment, say_time
from warmstart.data.interactions import EVENT_ARRAYS, Interactions, occurring

__all__ = ["FRACTIONS", "TimeSplit", "check_cuts", "held_out_events", "time_split"]

FRACTIONS = (0.8, 0.1, 0.1)
_PARTS = ("train", "validation", "test")

IntArray = npt.NDArray[np.int64]

_LEAKS = (
    "This split is random: training sees events that happened after those it is judged by. A model "
    "can look up what a user did next, what became popular later, and items that were not there "
    "yet, so its figures say nothing about the future. Leave it out to divide by time."
)


@dataclass(frozen=True, eq=False)
class TimeSplit:
    """Training and validation events, and where the test begins; test events are not in it.

    Attributes:
        train: Events before `validation_cut`.
        validation: Events from `validation_cut` on, before `test_cut`.
        test_cut: Second of the first test event, or the moment that was asked for.
        validation_cut: The same for validation.
        notes: Sentences for the user.
        audit: Counts of each part, cold users and items after each cut, checks; see `time_split`.
        random: Whether events were divided at random; the cuts then say nothing.
        data: Fingerprint of the interactions that were divided.
        test_N: Positions of the test events of a random split, else None.
    """

    train: Interactions
    validation: Interactions
    test_cut: int
    validation_cut: int
    notes: tuple[str, ...] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False
    data: str = ""
    test_N: IntArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.random:
            return
        if not self.validation_cut < self.test_cut:
            raise DataError(
                f"validation must begin before the test does, got {self.validation_cut} and "
                f"{self.test_cut}."
            )
        for part, low, high in (
            (self.train, None, self.validation_cut),
            (self.validation, self.validation_cut, self.test_cut),
        ):
            early = low is not None and len(part) and part.time_N[0] < low
            late = len(part) and part.time_N[-1] >= high
            if early or late:
                raise DataError("a part of the split holds an event from outside its time.")

    @cached_property
    def fitted(self) -> Interactions:
        """Training and validation events together: what the final model learns from."""
        return _joined(self.train, self.validation)


def time_split(
    data: Interactions,
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    validation_from: str | int | None = None,
    test_from: str | int | None = None,
    random: bool = False,
    seed: int = 0,
) -> TimeSplit:
    """Divide events by two moments that hold for all users.

    By fractions, a cut is the time of an event, chosen so that the later part comes as close as it
    can to its share of the events; events of one second stay on one side. A date moves its cut
    there; the other cut then divides what is left by the remaining fractions.

    The audit has, by part: `events`, `users`, `items`, `first` and `last` (seconds). By
    "validation" and "test": `cold_users`, `cold_items` (they first appear after the cut),
    `cold_user_events`, `cold_item_events`, `seen_share` (share of events whose item the user has
    had before). `leaks` counts events of a later part that are not after all of an earlier one.

    Args:
        data: What to divide.
        fractions: Shares of training, validation and test, above 0, with a sum of 1.
        validation_from: A date, time or number of seconds (UTC where it names no zone).
        test_from: The same, later.
        random: Divide at random instead; a note says what that leaks.
        seed: Root seed of a random split.

    Raises:
        UsageError: For fractions or moments that cannot be used.
        DataError: When a part would be empty.
    """
    check_cuts(fractions, validation_from, test_from, random)
    if random:
        return _random_split(data, fractions, seed)
    test_cut, validation_cut = _cuts(data, fractions, validation_from, test_from)
    middle, end = np.searchsorted(data.time_N, [validation_cut, test_cut])
    rows = (np.arange(middle), np.arange(middle, end), np.arange(end, len(data)))
    for name, part_N in zip(_PARTS, rows, strict=True):
        if not len(part_N):
            raise DataError(_empty(data, name, validation_cut, test_cut))
    audit = _audit(data, rows)
    if sum(audit["leaks"].values()):
        raise DataError(
            f"{data.source}: a test event precedes a training event; nothing was split."
        )
    return TimeSplit(
        train=data.select(rows[0]),
        validation=data.select(rows[1]),
        test_cut=test_cut,
        validation_cut=validation_cut,
        notes=tuple(_sentences(audit)),
        audit=audit,
        data=data.fingerprint,
    )


def held_out_events(data: Interactions, split: TimeSplit) -> Interactions:
    """The test events. For evaluation, planning and workflow; nothing that learns calls it.

    Raises:
        DataError: When `data` is not what was divided.
    """
    if split.data != data.fingerprint:
        raise DataError(
            f"{data.source} is not what this split was made of, or it has changed since. Split it "
            "again."
        )
    if split.test_N is not None:
        return data.select(split.test_N)
    return data.select(data.time_N >= split.test_cut)


# --- cuts ----------------------------------------------------------------------------------------


def check_cuts(
    fractions: Sequence[float],
    validation_from: str | int | None,
    test_from: str | int | None,
    random: bool,
) -> None:
    """Refuse settings of `time_split` that fit no data, which can be told before any is read.

    Raises:
        UsageError: Naming the setting.
    """
    shares = tuple(fractions) if isinstance(fractions, list | tuple) else ()
    numbers = all(isinstance(f, int | float) and np.isfinite(f) and f > 0 for f in shares)
    if len(shares) != 3 or not numbers or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            "fractions must be three numbers above 0 with a sum of 1 (training, validation, "
            f"test), got {shares or repr(fractions)}. Typical values: 0.8, 0.1, 0.1."
        )
    if random and (validation_from is not None or test_from is not None):
        raise UsageError(
            "a random split divides without dates: leave validation_from and test_from out."
        )


def _cuts(
    data: Interactions,
    fractions: tuple[float, float, float],
    validation_from: str | int | None,
    test_from: str | int | None,
) -> tuple[int, int]:
    """The second from which the test runs, and the one from which validation does."""
    train, validation, test = fractions
    times_N = data.time_N
    begin = None if validation_from is None else moment(validation_from, "validation_from")
    if test_from is not None:
        test_cut = moment(test_from, "test_from")
        if begin is not None and begin >= test_cut:
            raise UsageError(
                f"validation_from ({validation_from!r}) must lie before test_from ({test_from!r})."
            )
    elif begin is None:
        test_cut = _cut(times_N, test, least=2)
    else:
        later_N = times_N[times_N >= begin]
        test_cut = _cut(later_N, test / (validation + test), least=1)
    if begin is None:
        begin = _cut(times_N[times_N < test_cut], validation / (train + validation), least=1)
    return test_cut, begin


def _cut(times_N: IntArray, share: float, *, least: int) -> int:
    """The event time from which on the number of events is nearest to this share of all.

    `least` different times stay before the cut, where there are as many; of two cuts as near the
    later one is taken. With one time alone that time is the cut, and what is before it is empty.
    """
    if not len(times_N):
        return 0
    starts = np.flatnonzero(np.concatenate(([True], times_N[1:] != times_N[:-1])))
    if len(starts) <= least:
        return int(times_N[-1])
    after = len(times_N) - starts[least:]
    off = np.abs(after - share * len(times_N))
    best = len(off) - 1 - int(np.argmin(off[::-1]))
    return int(times_N[starts[least + best]])


def _empty(data: Interactions, part: str, validation_cut: int, test_cut: int) -> str:
    first, last = say_time(int(data.time_N[0])), say_time(int(data.time_N[-1]))
    if data.time_N[0] == data.time_N[-1]:
        return (
            f"{data.source}: all {len(data):,} events are of one time, {first}, so there is no "
            "before and after. If another column has the times, name it with --time (time=)."
        )
    return (
        f"{data.source}: the {part} part is empty. Events run from {first} to {last} at "
        f"{len(np.unique(data.time_N)):,} different times; validation would begin at "
        f"{say_time(validation_cut)}, the test at {say_time(test_cut)}. Choose other fractions or "
        "moments."
    )


def _random_split(
    data: Interactions, fractions: tuple[float, float, float], seed: int
) -> TimeSplit:
    n = len(data)
    n_test, n_validation = (max(1, round(f * n)) for f in (fractions[2], fractions[1]))
    if n - n_test - n_validation < 1:
        raise DataError(f"{data.source}: {n} events are too few for three parts.")
    order_N = Streams(seed).numpy("time-split", "random").permutation(n)
    rows = tuple(
        np.sort(part_N)
        for part_N in (
            order_N[n_test + n_validation :],
            order_N[n_test : n_test + n_validation],
            order_N[:n_test],
        )
    )
    audit = _audit(data, rows)
    note(_LEAKS)
    return TimeSplit(
        train=data.select(rows[0]),
        validation=data.select(rows[1]),
        test_cut=int(data.time_N[rows[2][0]]),
        validation_cut=int(data.time_N[rows[1][0]]),
        notes=(_LEAKS, *_sentences(audit)),
        audit=audit,
        random=True,
        data=data.fingerprint,
        test_N=rows[2],
    )


def _joined(train: Interactions, validation: Interactions) -> Interactions:
    """Both parts' events in time order; those of equal time keep the order of the parts."""
    time_N = np.concatenate((train.time_N, validation.time_N))
    order_N = np.argsort(time_N, kind="stable")
    arrays: dict[str, Any] = {}
    for name in EVENT_ARRAYS:
        ours, theirs = getattr(train, name), getattr(validation, name)
        arrays[name] = None if ours is None else np.concatenate((ours, theirs))[order_N]
    return replace(train, **arrays)


# --- audit ---------------------------------------------------------------------------------------


def _audit(data: Interactions, rows: Sequence[IntArray]) -> dict[str, Any]:
    """Counts of each part and of what is new in it, and whether time runs forwards."""
    counts: dict[str, Any] = {
        name: {
            "events": len(part_N),
            "users": int(occurring(data.user_N[part_N], data.n_users).sum()),
            "items": int(occurring(data.item_N[part_N], data.n_items).sum()),
            "first": int(data.time_N[part_N].min()),
            "last": int(data.time_N[part_N].max()),
        }
        for name, part_N in zip(_PARTS, rows, strict=True)
    }
    seen_N = _seen_before(data)
    leaks = {}
    for i in (1, 2):
        past, now = np.concatenate(rows[:i]), rows[i]
        for what, codes_N, total in (
            ("user", data.user_N, data.n_users),
            ("item", data.item_N, data.n_items),
        ):
            known = occurring(codes_N[past], total)
            cold_N = codes_N[now][~known[codes_N[now]]]
            counts[_PARTS[i]][f"cold_{what}s"] = int(occurring(cold_N, total).sum())
            counts[_PARTS[i]][f"cold_{what}_events"] = len(cold_N)
        counts[_PARTS[i]]["seen_share"] = float(seen_N[now].mean())
        latest = data.time_N[past].max()
        leaks[_PARTS[i]] = int((data.time_N[now] <= latest).sum())
    counts["leaks"] = leaks
    return counts


def _seen_before(data: Interactions) -> npt.NDArray[np.bool_]:
    """Whether the user has had the item in an earlier event."""
    pair_N = data.user_N.astype(np.int64) * data.n_items + data.item_N
    return ~pl.Series(pair_N).is_first_distinct().to_numpy()


def _sentences(audit: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in _PARTS:
        part = audit[name]
        line = (
            f"{name}: {part['events']:,} events of {part['users']:,} users with {part['items']:,} "
            f"items, {say_time(part['first'])} to {say_time(part['last'])}"
        )
        if "cold_users" in part:
            line += (
                f"; cold: {part['cold_users']:,} users ({part['cold_user_events']:,} events), "
                f"{part['cold_items']:,} items ({part['cold_item_events']:,} events); "
                f"{part['seen_share']:.1%} of events repeat an item of the user's"
            )
        lines.append(line + ".")
    leaks = audit["leaks"]
    if not sum(leaks.values()):
        return [*lines, "Leak audit: every event of a later part comes after all earlier parts."]
    found = " and ".join(
        f"{leaks[name]:,} of {audit[name]['events']:,} {name} events" for name in _PARTS[1:]
    )
    return [*lines, f"Leak audit: {found} do not come after all earlier parts."]
