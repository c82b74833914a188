"""What a model is worth on held-out rows: metrics, intervals, two arms on the same rows, ranks."""

from .fairness import FairnessGap, fairness
from .forgetting import Forgetting, check_budget, measure_forgetting
from .metrics import METRICS, Metric, measure, metric_names
from .paired import Paired, compare_arms
from .ranking import KS, Ranks, Recommender, rank_targets
from .ranking_metrics import RANKING_METRICS, ranking_metric
from .ranking_pairs import RankedPair, compare_recommenders
from .ranking_queries import (
    Events,
    ItemLists,
    Queries,
    popularity,
    positives,
)
from .ranking_scores import RankingScores, measure_ranking, score_ranking
from .ranking_slices import head_items, item_labels, standard_slices, user_labels
from .ranking_tasks import RankingTask, all_future_task, next_item_task
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
    "KS",
    "METRICS",
    "RANKING_METRICS",
    "ClassScore",
    "Events",
    "FairnessGap",
    "Forgetting",
    "ItemLists",
    "Metric",
    "Paired",
    "Queries",
    "RankedPair",
    "RankingScores",
    "RankingTask",
    "Ranks",
    "Recommender",
    "ReliabilityBin",
    "Score",
    "Scores",
    "all_future_task",
    "check_budget",
    "compare_arms",
    "compare_recommenders",
    "fairness",
    "head_items",
    "item_labels",
    "measure",
    "measure_forgetting",
    "measure_ranking",
    "metric_names",
    "next_item_task",
    "popularity",
    "positives",
    "primary_metric",
    "rank_targets",
    "ranking_metric",
    "score",
    "score_metric",
    "score_ranking",
    "standard_slices",
    "user_labels",
]
