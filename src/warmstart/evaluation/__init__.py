"""What a model is worth on held-out rows: metrics, intervals, and two arms on the same rows."""

from .forgetting import Forgetting, check_budget, measure_forgetting
from .metrics import METRICS, Metric, measure, metric_names
from .paired import Paired, compare_arms
from .scores import (
    ClassScore,
    ReliabilityBin,
    Score,
    Scores,
    primary_metric,
    score,
    score_metric,
)

__all__ = [
    "METRICS",
    "ClassScore",
    "Forgetting",
    "Metric",
    "Paired",
    "ReliabilityBin",
    "Score",
    "Scores",
    "check_budget",
    "compare_arms",
    "measure",
    "measure_forgetting",
    "metric_names",
    "primary_metric",
    "score",
    "score_metric",
]
