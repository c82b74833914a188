"""What content counts beside learned vectors, how far new items are raised: as set, or chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from warmstart.core import NotApplicable, UsageError, progress

from .content_part import ContentCode, ContentPart
from .fitting_new_items import choose_new_items
from .fitting_validation import Judge
from .two_tower_model import TwoTowerModel
from .two_tower_work import Work

__all__ = ["ContentSettings", "Counts", "choose_content", "content_part", "with_content"]

Counts = float | Literal["auto"]
_WEIGHTS = (5.0, 10.0, 20.0, 30.0)
"""What content may count, in temperatures: as much as it adds to a logit."""


class ContentSettings(NamedTuple):
    """What a track was told of content; each a number, or `auto`.

    Attributes:
        content: What a cosine of contents counts.
        new_items: What scores of new items are raised by.
        new_by_history: What they are raised by for users whose last items were all new.
        new_trust: What their learned vectors count; 1 as those of all others.
    """

    content: Counts
    new_items: Counts = 0.0
    new_by_history: Counts = 0.0
    new_trust: Counts = 1.0

    @property
    def asked(self) -> list[str]:
        """What is set for new items beyond what happens without it."""
        given = {
            "new_items": self.new_items != 0.0,
            "new_by_history": self.new_by_history not in (0.0, "auto"),
            "new_trust": self.new_trust not in (1.0, "auto"),
        }
        return [name for name, set_ in given.items() if set_]

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
        asked = self.asked
        if self.content not in (0.0, "auto"):
            asked.insert(0, "content")
        if asked and not vectors:
            raise NotApplicable(
                f"{title}: {' and '.join(asked)} need pretrained vectors of the items, and the "
                "towers read none"
            )
        chosen = "auto" in (self.content, self.new_items)
        if vectors and self.asked and chosen and not validation:
            raise UsageError(
                f"{title}: {' and '.join(self.asked)} go with what content counts, which is chosen "
                "on a validation task, and none was given. Give one, or numbers, such as "
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


def with_content(model: TwoTowerModel, part: ContentPart | None, weight: float) -> TwoTowerModel:
    """The model with content of that weight; without where the weight is 0."""
    if part is None or not weight:
        return replace(model, content=None)
    return replace(model, content=replace(part, weight=weight))


def choose_content(
    model: TwoTowerModel,
    part: ContentPart | None,
    settings: ContentSettings,
    judge: Judge | None,
) -> TwoTowerModel:
    """The model with content as it was set, or as it does best on a validation task.

    The weight is the one that ranks best, 0 among them; what is for new items comes after it: see
    `choose_new_items`.

    Args:
        model: Trained towers.
        part: Content of the catalogue; None where none is wanted, or there are no vectors.
        settings: What is set and what is to be chosen.
        judge: What decides; without one nothing is chosen.
    """
    content = settings.content
    if part is None or content == 0.0 or (content == "auto" and judge is None):
        return model
    unit = float(model.towers.temperature().detach())
    chosen = "auto" in (content, settings.new_items)
    plain = judge(model) if judge and chosen else 0.0
    weight = 0.0
    if content != "auto":
        weight = float(content)
    elif judge is not None:
        steps = progress.track(_WEIGHTS, "What content counts", unit="weights")
        scored = {unit * one: judge(with_content(model, part, unit * one)) for one in steps}
        weight = max([0.0, *scored], key=lambda one: scored.get(one, plain))
    if not weight:
        if settings.asked:
            left = " and ".join(settings.asked)
            progress.note(f"Content wins nothing on validation and is left out, {left} with it.")
        return model
    made = with_content(model, part, weight)
    return choose_new_items(made, settings[1:], judge, floor=plain)
