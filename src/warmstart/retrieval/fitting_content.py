"""What content counts beside learned vectors, how far new items are raised: as set, or chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from warmstart.core import NotApplicable, UsageError, progress

from .content_part import ContentCode, ContentPart
from .fitting_validation import ranked
from .two_tower_model import TwoTowerModel
from .two_tower_work import Work

if TYPE_CHECKING:
    from warmstart.evaluation import RankingTask

__all__ = ["ContentSettings", "Counts", "choose_content", "content_part", "with_content"]

Counts = float | Literal["auto"]
LEAST_NEW = 20
"""Questions of validation whose answer is new, below which nothing is chosen for new items."""
_WEIGHTS = (5.0, 10.0, 20.0, 30.0)
"""What content may count, in temperatures: as much as it adds to a logit."""
_BONUSES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_BY_HISTORY = (1.0, 2.0, 3.0, 4.0, 6.0)


class ContentSettings(NamedTuple):
    """What a track was told of content; each a number, or `auto`.

    Attributes:
        content: What a cosine of contents counts.
        new_items: What scores of new items are raised by.
        new_by_history: What they are raised by for users whose last items were all new.
    """

    content: Counts
    new_items: Counts = 0.0
    new_by_history: Counts = 0.0

    def check(self, title: str, *, vectors: bool, validation: bool) -> None:
        """Refuse, before anything is trained, what could not be done afterwards.

        Args:
            title: Of the track.
            vectors: Whether the item tower reads vectors.
            validation: Whether there is a validation task.

        Raises:
            NotApplicable: Without vectors that content could come from.
            UsageError: Where something is to be chosen and there is nothing to choose it by.
        """
        raised = self.new_by_history not in (0.0, "auto")
        asked = self.content not in (0.0, "auto") or self.new_items != 0.0 or raised
        if asked and not vectors:
            raise NotApplicable(
                f"{title}: content, new_items and new_by_history need pretrained vectors of the "
                "items, and the towers read none"
            )
        chosen = "auto" in (self.content, self.new_items)
        if vectors and (self.new_items or raised) and chosen and not validation:
            raise UsageError(
                "How far new items are raised is chosen, or what content counts is, on a "
                "validation task, and none was given. Give one, or numbers for both, such as "
                "content=1.4 and new_items=0.03."
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
    model: TwoTowerModel,
    part: ContentPart | None,
    weight: float,
    bonus: float = 0.0,
    by_history: float = 0.0,
) -> TwoTowerModel:
    """The model with content of that weight; without where the weight is 0."""
    if part is None or not weight:
        return replace(model, content=None)
    return replace(model, content=replace(part, weight=weight, bonus=bonus, by_history=by_history))


def choose_content(
    model: TwoTowerModel,
    part: ContentPart | None,
    settings: ContentSettings,
    task: RankingTask | None,
    metric: str,
) -> TwoTowerModel:
    """The model with content as it was set, or as it does best on a validation task.

    The weight is the one that ranks best, 0 among them. Then new items are raised step by step:
    for users who met new items lately as long as the ranking is no worse than without it, so that
    it costs nothing; for everybody as long as the ranking is no worse than without content, so
    that new items get what content has won and no more. Neither is raised where hardly a question
    of the task asks for a new item.

    Args:
        model: Trained towers.
        part: Content of the catalogue; None where none is wanted, or there are no vectors.
        settings: What is set and what is to be chosen.
        task: What is asked; without one `auto` is 0.
        metric: What decides.
    """
    content, new_items, by_history = settings
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
        if new_items or by_history not in (0.0, "auto"):
            progress.note("Content wins nothing on validation and is left out, new_items with it.")
        return model
    bonus = 0.0 if new_items == "auto" else float(new_items)
    follows = 0.0 if by_history == "auto" else float(by_history)
    made = with_content(model, part, weight, bonus, follows)
    if task is None or "auto" not in (new_items, by_history):
        return made
    new = int((~model.known_I.cpu().numpy())[task.targets.items].sum())
    if new < LEAST_NEW:
        if new_items == "auto":
            progress.note(f"{new} questions of validation ask for a new item: new_items is 0.")
        return made
    if by_history == "auto":
        further = [with_content(model, part, weight, bonus, unit * one) for one in _BY_HISTORY]
        made = _furthest(made, further, ranked(made, task, metric), task, metric)
    if new_items == "auto" and made.content is not None:
        follows = made.content.by_history
        further = [with_content(model, part, weight, unit * one, follows) for one in _BONUSES]
        made = _furthest(made, further, plain, task, metric)
    return made


def _furthest(
    model: TwoTowerModel, steps: list[TwoTowerModel], floor: float, task: RankingTask, metric: str
) -> TwoTowerModel:
    """The last of the steps from a model on that are all no worse than the floor."""
    for one in progress.track(steps, "New items", unit="steps"):
        if ranked(one, task, metric) < floor:
            break
        model = one
    return model
