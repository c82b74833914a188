"""What people look at: terminal tables, plots, the HTML report, the model card.

Everything here takes plain dicts, the JSON of a comparison (results.json), and draws; no number is
computed here.
"""

from .adapt import adaptation_card, adaptation_section, adaptation_view
from .card import model_card
from .curves import interpolation_curve, rate_sweeps
from .drift import drift_view, render_drift_report, write_drift_report
from .html import render_report, write_report
from .index import index_view, render_index_report, trade_off_plot, write_index_report
from .plan import quadrant_lines, quadrant_plot, render_plan_report, write_plan_report
from .plots import forest, learning_curves, reliability, shot_curve
from .ranking import ranking_markdown, ranking_rows
from .ranking_html import render_ranking_report, write_ranking_report
from .ranking_terminal import ranking_view
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
from .transfer import render_transfer_report, transfer_view, write_transfer_report

__all__ = [
    "ComparisonTable",
    "adaptation_card",
    "adaptation_section",
    "adaptation_view",
    "audit_view",
    "comparison_view",
    "counting_view",
    "drift_view",
    "forest",
    "index_view",
    "interpolation_curve",
    "learning_curves",
    "model_card",
    "plan_view",
    "quadrant_lines",
    "quadrant_plot",
    "ranking_markdown",
    "ranking_rows",
    "ranking_view",
    "rate_sweeps",
    "rates_view",
    "reliability",
    "render_drift_report",
    "render_index_report",
    "render_plan_report",
    "render_ranking_report",
    "render_report",
    "render_shift_report",
    "render_transfer_report",
    "scores_view",
    "shift_view",
    "shot_curve",
    "shots_markdown",
    "shots_view",
    "trade_off_plot",
    "transfer_view",
    "verdict_view",
    "write_drift_report",
    "write_index_report",
    "write_plan_report",
    "write_ranking_report",
    "write_report",
    "write_shift_report",
    "write_transfer_report",
]
