"""What a model is worth on held-out rows: metrics, intervals, two arms on the same rows, ranks."""

from .fairness import FairnessGap, fairness
from .familiarity import (
    FAMILIARITY_METHODS,
    Familiarity,
    FamiliarityMethod,
    fit_familiarity,
    neighbour_distance,
)
from .familiarity_alarm import Alarm, alarm_p_value, lowest_rate, set_alarm, share_interval
from .familiarity_file import FAMILIARITY_FILE, read_familiarity, write_familiarity
from .familiarity_gaussian import Gaussian, fit_gaussian
from .forgetting import Forgetting, check_budget, measure_forgetting
from .metrics import METRICS, Metric, check_metrics, measure, metric_names
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
    spread,
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
from .transferability import h_score, kendall_tau, ledoit_wolf_shrinkage, leep, log_me, nce

__all__ = [
    "FAMILIARITY_FILE",
    "FAMILIARITY_METHODS",
    "KS",
    "METRICS",
    "RANKING_METRICS",
    "Alarm",
    "ClassScore",
    "Events",
    "FairnessGap",
    "Familiarity",
    "FamiliarityMethod",
    "Forgetting",
    "Gaussian",
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
    "alarm_p_value",
    "all_future_task",
    "check_budget",
    "check_metrics",
    "compare_arms",
    "compare_recommenders",
    "fairness",
    "fit_familiarity",
    "fit_gaussian",
    "h_score",
    "head_items",
    "item_labels",
    "kendall_tau",
    "ledoit_wolf_shrinkage",
    "leep",
    "log_me",
    "lowest_rate",
    "measure",
    "measure_forgetting",
    "measure_ranking",
    "metric_names",
    "nce",
    "neighbour_distance",
    "next_item_task",
    "popularity",
    "positives",
    "primary_metric",
    "rank_targets",
    "ranking_metric",
    "read_familiarity",
    "score",
    "score_metric",
    "score_ranking",
    "set_alarm",
    "share_interval",
    "spread",
    "standard_slices",
    "user_labels",
    "write_familiarity",
]
