"""What content counts beside learned vectors, and the bonus of new items: as set, or chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from warmstart.core import NotApplicable, UsageError, progress

from .content_part import ContentCode, ContentPart
from .fitting_validation import ranked
from .two_tower_model import TwoTowerModel
from .two_tower_work import Work

if TYPE_CHECKING:
    from warmstart.evaluation import RankingTask

__all__ = ["Counts", "check_content", "choose_content", "content_part", "with_content"]

Counts = float | Literal["auto"]
LEAST_NEW = 20
"""Questions of validation whose answer is new, below which no bonus is chosen."""
_WEIGHTS = (5.0, 10.0, 20.0, 30.0)
"""What content may count, in temperatures: as much as it adds to a logit."""
_BONUSES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def check_content(
    content: Counts, new_items: Counts, title: str, *, vectors: bool, validation: bool
) -> None:
    """Refuse, before anything is trained, what could not be done afterwards.

    Args:
        content: The setting.
        new_items: The setting.
        title: Of the track.
        vectors: Whether the item tower reads vectors.
        validation: Whether there is a validation task.

    Raises:
        NotApplicable: Without vectors that content could come from.
        UsageError: Where something is to be chosen and there is nothing to choose it by.
    """
    if not vectors and (new_items or content not in (0.0, "auto")):
        raise NotApplicable(
            f"{title}: content and new_items need pretrained vectors of the items, and the towers "
            "read none"
        )
    if vectors and new_items and not validation and "auto" in (content, new_items):
        raise UsageError(
            "new_items is chosen, or its content is, on a validation task, and none was given. "
            "Give one, or numbers for both, such as content=1.4 and new_items=0.03."
        )


def content_part(work: Work) -> ContentPart | None:
    """Content of the catalogue, learned from items with events; None without vectors."""
    features_IF = work.catalogue.features_IF
    if features_IF is None:
        return None
    sizes = tuple(size for size in (work.text, work.image) if size)
    code = ContentCode.learn(features_IF[work.catalogue.known_I], sizes)
    if code is None:
        return None
    return ContentPart(code, code(features_IF).to(features_IF.device), 0.0)


def with_content(
    model: TwoTowerModel, part: ContentPart | None, weight: float, bonus: float = 0.0
) -> TwoTowerModel:
    """The model with content of that weight; without where the weight is 0."""
    if part is None or not weight:
        return replace(model, content=None)
    return replace(model, content=replace(part, weight=weight, bonus=bonus))


def choose_content(
    model: TwoTowerModel,
    part: ContentPart | None,
    content: Counts,
    new_items: Counts,
    task: RankingTask | None,
    metric: str,
) -> TwoTowerModel:
    """The model with content as it was set, or as it does best on a validation task.

    The weight is the one that ranks best, 0 among them. The bonus is raised step by step as long as
    the ranking is no worse than without content: new items get what content has won and no more.
    It stays 0 where hardly a question of the task asks for a new item.

    Args:
        model: Trained towers.
        part: Content of the catalogue; None where none is wanted, or there are no vectors.
        content: What a cosine of contents counts, or `auto`.
        new_items: What scores of new items are raised by, or `auto`.
        task: What is asked; without one `auto` is 0.
        metric: What decides.
    """
    if part is None or content == 0.0 or (content == "auto" and task is None):
        return model
    unit = float(model.towers.temperature().detach())
    plain = ranked(model, task, metric) if task and "auto" in (content, new_items) else 0.0
    weight = 0.0
    if content != "auto":
        weight = float(content)
    elif task is not None:
        steps = progress.track(_WEIGHTS, "What content counts", unit="weights")
        scored = {
            unit * one: ranked(with_content(model, part, unit * one), task, metric) for one in steps
        }
        weight = max([0.0, *scored], key=lambda one: scored.get(one, plain))
    if not weight:
        if new_items:
            progress.note("Content wins nothing on validation and is left out, new_items with it.")
        return model
    bonus = 0.0 if new_items == "auto" else float(new_items)
    if new_items == "auto" and task is not None:
        new = int((~model.known_I.cpu().numpy())[task.targets.items].sum())
        if new < LEAST_NEW:
            progress.note(f"{new} questions of validation ask for a new item: new_items is 0.")
            return with_content(model, part, weight)
        for one in progress.track(_BONUSES, "New items", unit="bonuses"):
            if ranked(with_content(model, part, weight, unit * one), task, metric) < plain:
                break
            bonus = unit * one
    return with_content(model, part, weight, bonus)
