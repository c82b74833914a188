"""Four quadrants: few or many labels, a near or a far domain, and what the textbook does there."""

from __future__ import annotations

from .tree import Quadrant

__all__ = ["MANY_LABELS", "QUADRANTS", "quadrant_of"]

MANY_LABELS = 1_000

QUADRANTS = {
    (False, False): ("few labels, near domain", "a probe, or the class names"),
    (True, False): ("many labels, near domain", "fine-tuning, or a probe where time is short"),
    (False, True): ("few labels, far domain", "few weights: LoRA, earlier layers, more labels"),
    (True, True): ("many labels, far domain", "every layer: fine-tuning, or from scratch"),
}
"""By (many labels, far domain): a name, and the textbook's advice."""


def quadrant_of(labels: int, distance: float | None) -> Quadrant:
    """Where so many labels at that distance lie.

    Args:
        labels: Labelled training rows.
        distance: Below 0 near, above 0 far, None where it is not known.
    """
    many = labels >= MANY_LABELS
    if distance is None:
        name = f"{'many' if many else 'few'} labels, domain distance not known"
        advice = "; or, if far: ".join(QUADRANTS[many, far][1] for far in (False, True))
        return Quadrant(labels=labels, distance=None, name=name, advice=advice)
    name, advice = QUADRANTS[many, distance > 0]
    return Quadrant(labels=labels, distance=distance, name=name, advice=advice)
