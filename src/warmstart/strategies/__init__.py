"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Strategy
from .cnn import Cnn
from .fewshot import EpisodeScore, Knn, Maml, Prototypes, SetFit, episode_scores, evaluate_episodes
from .finetune import Finetune, Scratch
from .probe import Probe
from .registry import make, names, register, strategy_class
from .tfidf import Tfidf
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "Cnn",
    "Cost",
    "EpisodeScore",
    "Finetune",
    "Fitted",
    "Knn",
    "Maml",
    "Probe",
    "Prototypes",
    "Scratch",
    "SetFit",
    "Strategy",
    "Tfidf",
    "ZeroShot",
    "episode_scores",
    "evaluate_episodes",
    "make",
    "names",
    "register",
    "speaking_names",
    "strategy_class",
]
