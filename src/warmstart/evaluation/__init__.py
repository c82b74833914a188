"""What a model is worth on held-out rows: metrics, intervals, and two arms on the same rows."""

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
    "Metric",
    "Paired",
    "ReliabilityBin",
    "Score",
    "Scores",
    "compare_arms",
    "measure",
    "metric_names",
    "primary_metric",
    "score",
    "score_metric",
]
