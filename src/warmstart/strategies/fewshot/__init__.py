"""Learning from a handful of rows of each class."""

from .episodes import Episode, EpisodeScore, draw_episode, episode_scores, evaluate_episodes
from .knn import Knn
from .maml import Maml
from .prototypes import Prototypes
from .setfit import SetFit

__all__ = [
    "Episode",
    "EpisodeScore",
    "Knn",
    "Maml",
    "Prototypes",
    "SetFit",
    "draw_episode",
    "episode_scores",
    "evaluate_episodes",
]
