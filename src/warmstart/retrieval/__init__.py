"""Two-tower retrieval: towers, negatives and fitting, the baselines beside them, and the index."""

from .als import Als
from .baselines import BASELINES, Baseline, make_baseline
from .ease import Ease
from .frequency import StreamingFrequency
from .index import FaissIndex, ItemIndex, build_index
from .knn import ItemKnn
from .popularity import Popularity, Random, RecentPopularity
from .tracks import TRACKS, Content, HistoryMean, MeanRecommender, make_track
from .tuning import tune
from .two_tower import TwoTower
from .two_tower_model import TwoTowerModel

__all__ = [
    "BASELINES",
    "TRACKS",
    "Als",
    "Baseline",
    "Content",
    "Ease",
    "FaissIndex",
    "HistoryMean",
    "ItemIndex",
    "ItemKnn",
    "MeanRecommender",
    "Popularity",
    "Random",
    "RecentPopularity",
    "StreamingFrequency",
    "TwoTower",
    "TwoTowerModel",
    "build_index",
    "make_baseline",
    "make_track",
    "tune",
]
