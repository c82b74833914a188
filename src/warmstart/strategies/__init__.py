"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Role, Strategy
from .cnn import Cnn
from .fewshot import EpisodeScore, Knn, Maml, Prototypes, SetFit, episode_scores, evaluate_episodes
from .finetune import Finetune, Scratch
from .interpolate import SHARES, interpolate
from .lp_ft import ProbeThenFinetune
from .partial import Partial
from .peft import Adapter, Ia3, Lora, Prefix, Prompt, Ptuning, Qlora, merge, unmerge
from .probe import Probe
from .registry import make, names, register, strategy_class
from .retain import OldTask, old_task
from .tfidf import Tfidf
from .trained import Trained
from .unfreeze import Unfreeze
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "SHARES",
    "Adapter",
    "Cnn",
    "Cost",
    "EpisodeScore",
    "Finetune",
    "Fitted",
    "Ia3",
    "Knn",
    "Lora",
    "Maml",
    "OldTask",
    "Partial",
    "Prefix",
    "Probe",
    "ProbeThenFinetune",
    "Prompt",
    "Prototypes",
    "Ptuning",
    "Qlora",
    "Role",
    "Scratch",
    "SetFit",
    "Strategy",
    "Tfidf",
    "Trained",
    "Unfreeze",
    "ZeroShot",
    "episode_scores",
    "evaluate_episodes",
    "interpolate",
    "make",
    "merge",
    "names",
    "old_task",
    "register",
    "speaking_names",
    "strategy_class",
    "unmerge",
]
