"""Two-tower retrieval: towers, negatives and fitting, the baselines beside them, and the index."""

from .als import Als
from .baselines import BASELINES, Baseline, make_baseline
from .both_towers import BothTowers
from .content_settings import ContentSettings
from .ease import Ease
from .frequency import StreamingFrequency
from .index import FaissIndex, ItemIndex, build_index
from .item_texts import ItemTexts
from .knn import ItemKnn
from .popularity import Popularity, Random, RecentPopularity
from .profiles import ProfileCode, learn_profiles
from .text_history import TextHistory
from .tracks import TRACKS, Content, HistoryMean, MeanRecommender, make_track
from .tuning import tune
from .two_tower import TwoTower
from .two_tower_model import TwoTowerModel
from .user_texts import item_titles

__all__ = [
    "BASELINES",
    "TRACKS",
    "Als",
    "Baseline",
    "BothTowers",
    "Content",
    "ContentSettings",
    "Ease",
    "FaissIndex",
    "HistoryMean",
    "ItemIndex",
    "ItemKnn",
    "ItemTexts",
    "MeanRecommender",
    "Popularity",
    "ProfileCode",
    "Random",
    "RecentPopularity",
    "StreamingFrequency",
    "TextHistory",
    "TwoTower",
    "TwoTowerModel",
    "build_index",
    "item_titles",
    "learn_profiles",
    "make_baseline",
    "make_track",
    "tune",
]
