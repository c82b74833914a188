"""What new items are raised by beside content, and what is learned of them counts: set, or chosen.

Towers score items that they never met about as high as the others, whoever asks: on MovieLens
latest-small the new films were in the way of known ones more often than they were wanted. So their
learned vectors may count less, and they are raised for users who met new items lately.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from warmstart.core import progress

from .content_settings import ContentSettings
from .fitting_validation import Judge
from .two_tower_model import TwoTowerModel

__all__ = ["choose_new_items"]

LEAST_NEW = 20
"""Questions of validation whose answer is new, below which nothing is chosen."""
NEAR = 0.99
"""So much of the best metric is as good: of what has it, what finds most new items is taken."""
_TRUSTS = (1.0, 0.3)
_BY_HISTORY = (0.0, 3.0, 5.0, 7.0, 9.0, 12.0)
"""In temperatures."""
_BONUSES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def choose_new_items(
    model: TwoTowerModel,
    settings: ContentSettings,
    judge: Judge | None,
    *,
    floor: float,
) -> TwoTowerModel:
    """The model with new items placed as set, or as validation has it.

    Of the trusts and raises by history that find no fewer new items than none of both, and are
    within a hundredth of the best metric of these, those are taken that find most new items. The
    bonus for everybody then goes up step by step as long as the metric is no worse than `floor`.

    Args:
        model: With content.
        settings: What is set and what is to be chosen.
        judge: What decides; without one, and where hardly a question asks for a new item, nothing
            is chosen.
        floor: The metric without content, 0 where it is not known: new items get what content has
            won and no more.
    """
    _, new_items, by_history, trust = settings
    part = model.content
    assert part is not None
    part = replace(
        part,
        bonus=0.0 if new_items == "auto" else float(new_items),
        by_history=0.0 if by_history == "auto" else float(by_history),
        trust=1.0 if trust == "auto" else float(trust),
    )
    made = replace(model, content=part)
    if judge is None or "auto" not in (new_items, by_history, trust):
        return made
    if judge.new < LEAST_NEW:
        if new_items == "auto":
            told = f"{judge.new} questions of validation ask for a new item"
            progress.note(f"{told}: new_items is 0.")
        return made
    unit = float(model.towers.temperature().detach())
    raises = [unit * one for one in _BY_HISTORY] if by_history == "auto" else [part.by_history]
    pairs = list(product(_TRUSTS if trust == "auto" else [part.trust], raises))
    if len(pairs) > 1:
        trust_, raise_ = _best(made, pairs, judge, floor)
        part = replace(part, trust=trust_, by_history=raise_)
        made = replace(model, content=part)
    if new_items == "auto":
        for one in progress.track(_BONUSES, "New items for everybody", unit="steps"):
            raised = replace(model, content=replace(part, bonus=unit * one))
            if judge(raised) < floor:
                break
            made = raised
    return made


def _best(
    model: TwoTowerModel, pairs: list[tuple[float, float]], judge: Judge, floor: float
) -> tuple[float, float]:
    """The trust and the raise that find most new items among those as good as the best in all.

    The first pair is the one that changes least: none is taken that finds fewer new items.
    """
    assert model.content is not None
    found: dict[tuple[float, float], tuple[float, float]] = {}
    for trust, raise_ in progress.track(pairs, "New items", unit="settings"):
        tried = replace(model, content=replace(model.content, trust=trust, by_history=raise_))
        found[trust, raise_] = judge.of_new(tried)
    least = found[pairs[0]][1]
    fair = {pair: every for pair, (every, new) in found.items() if new >= least}
    best = max(fair.values())
    enough = max(NEAR * best, min(floor, best))
    near = [pair for pair, every in fair.items() if every >= enough]
    return max(near, key=lambda pair: found[pair][1])
