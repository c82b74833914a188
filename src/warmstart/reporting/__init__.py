"""What people look at: terminal tables, plots, the HTML report, the model card.

Everything here takes plain dicts, the JSON of a comparison (results.json), and draws; no number is
computed here.
"""

from .card import model_card
from .curves import interpolation_curve, rate_sweeps
from .html import render_report, write_report
from .plots import forest, learning_curves, reliability, shot_curve
from .shift import render_shift_report, shift_view, write_shift_report
from .shots import shots_markdown, shots_view
from .terminal import (
    ComparisonTable,
    audit_view,
    comparison_view,
    counting_view,
    plan_view,
    rates_view,
    scores_view,
    verdict_view,
)

__all__ = [
    "ComparisonTable",
    "audit_view",
    "comparison_view",
    "counting_view",
    "forest",
    "interpolation_curve",
    "learning_curves",
    "model_card",
    "plan_view",
    "rate_sweeps",
    "rates_view",
    "reliability",
    "render_report",
    "render_shift_report",
    "scores_view",
    "shift_view",
    "shot_curve",
    "shots_markdown",
    "shots_view",
    "verdict_view",
    "write_report",
    "write_shift_report",
]
