"""What people look at: terminal tables, plots, the HTML report, the model card.

Everything here takes plain dicts, the JSON of a comparison (results.json), and draws; no number is
computed here.
"""

from .card import model_card
from .html import render_report, write_report
from .plots import forest, learning_curves, reliability
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
    "learning_curves",
    "model_card",
    "plan_view",
    "rates_view",
    "reliability",
    "render_report",
    "scores_view",
    "verdict_view",
    "write_report",
]
