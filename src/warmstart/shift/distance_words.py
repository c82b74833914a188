"""How large a distance is, in words."""

from __future__ import annotations

from collections.abc import Sequence

from .a_distance import ADistance
from .distance_inputs import Estimate

__all__ = ["how_large", "size_words"]


def how_large(
    estimates: Sequence[Estimate], sides: tuple[str, str] = ("source", "target")
) -> tuple[str, ...]:
    """What the distances come to: the classifier's verdict first, then the yardstick's.

    Args:
        estimates: Distances between the same two sets, with their yardsticks where there are some.
        sides: What the two sets are called.
    """
    found = [_grade(one, sides) for one in estimates if isinstance(one, ADistance)]
    judged = [one for one in estimates if one.halves is not None]
    beyond = [one for one in judged if size_words(one) != "no larger"]
    if judged and not beyond:
        found.append(
            f"No distance is clearly larger than between random halves of the {sides[0]}: no shift "
            "is seen."
        )
    elif judged:
        found.append(
            f"{len(beyond)} of {len(judged)} distances are larger than in any of the random "
            f"halvings of the {sides[0]}."
        )
    return tuple(found)


def size_words(one: Estimate) -> str:
    """The value in multiples of the yardstick: `12 times`, `1.4 times`, `no larger`.

    `larger` where random halves lie at 0 or below.
    """
    if one.halves is None:
        return ""
    low = one.value if one.interval is None else one.interval[0]
    if one.value <= one.halves or low <= 0:
        return "no larger"
    if one.halves <= 0:
        return "larger"
    times = one.value / one.halves
    return f"{times:,.0f} times" if times >= 9.5 else f"{times:.1f} times"


def _grade(one: ADistance, sides: tuple[str, str]) -> str:
    right = f"{1 - one.error:.1%}".replace("%", " %")
    shown = f"A linear classifier tells {sides[0]} from {sides[1]} with {right} right "
    shown += "(50 % is guessing): "
    if one.halves is not None and one.value <= one.halves:
        return shown + f"no better than random halves of the {sides[0]}."
    for limit, words in ((0.4, "a small shift"), (1.0, "a clear shift"), (1.6, "a large shift")):
        if one.value < limit:
            return f"{shown}{words}."
    return shown + "the two hardly overlap."
