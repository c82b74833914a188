"""Two-tower retrieval: towers, negatives and fitting, baselines, and the index that answers."""

from .frequency import StreamingFrequency
from .two_tower import TwoTower
from .two_tower_model import TwoTowerModel

__all__ = ["StreamingFrequency", "TwoTower", "TwoTowerModel"]
