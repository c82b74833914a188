"""Recommending items to users: what is counted, what is learned, and what answers."""

from .als import Als
from .baselines import BASELINES, Baseline, make_baseline
from .ease import Ease
from .frequency import StreamingFrequency
from .knn import ItemKnn
from .popularity import Popularity, Random, RecentPopularity
from .tuning import tune
from .two_tower import TwoTower
from .two_tower_model import TwoTowerModel

__all__ = [
    "BASELINES",
    "Als",
    "Baseline",
    "Ease",
    "ItemKnn",
    "Popularity",
    "Random",
    "RecentPopularity",
    "StreamingFrequency",
    "TwoTower",
    "TwoTowerModel",
    "make_baseline",
    "tune",
]
