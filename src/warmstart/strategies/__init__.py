"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Role, Strategy
from .cnn import Cnn
from .finetune import Finetune, Scratch
from .interpolate import SHARES, interpolate
from .lp_ft import ProbeThenFinetune
from .partial import Partial
from .probe import Probe
from .prototypes import Prototypes
from .registry import make, names, register, strategy_class
from .retain import OldTask, old_task
from .tfidf import Tfidf
from .trained import Trained
from .unfreeze import Unfreeze
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "SHARES",
    "Cnn",
    "Cost",
    "Finetune",
    "Fitted",
    "OldTask",
    "Partial",
    "Probe",
    "ProbeThenFinetune",
    "Prototypes",
    "Role",
    "Scratch",
    "Strategy",
    "Tfidf",
    "Trained",
    "Unfreeze",
    "ZeroShot",
    "interpolate",
    "make",
    "names",
    "old_task",
    "register",
    "speaking_names",
    "strategy_class",
]
