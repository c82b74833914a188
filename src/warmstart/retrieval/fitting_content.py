"""What content counts beside learned vectors, how far new items are raised: as set, or chosen."""

from __future__ import annotations

from dataclasses import replace

from warmstart.core import progress

from .content_part import ContentCode, ContentPart
from .content_settings import ContentSettings
from .fitting_new_items import choose_new_items
from .fitting_validation import Judge
from .two_tower_model import TwoTowerModel
from .two_tower_work import Work

__all__ = ["choose_content", "content_part", "with_content"]

_WEIGHTS = (5.0, 10.0, 20.0, 30.0)
"""What content may count, in temperatures: as much as it adds to a logit."""


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
    return choose_new_items(made, settings, judge, floor=plain)
