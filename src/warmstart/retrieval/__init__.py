"""Recommending items to users: what is counted, what is learned, and what answers."""

from .als import Als
from .baselines import BASELINES, Baseline, make_baseline
from .ease import Ease
from .knn import ItemKnn
from .popularity import Popularity, Random, RecentPopularity
from .tuning import tune

__all__ = [
    "BASELINES",
    "Als",
    "Baseline",
    "Ease",
    "ItemKnn",
    "Popularity",
    "Random",
    "RecentPopularity",
    "make_baseline",
    "tune",
]
