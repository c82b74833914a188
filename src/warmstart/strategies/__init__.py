"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Role, Strategy
from .cnn import Cnn
from .finetune import Finetune, Scratch
from .lp_ft import ProbeThenFinetune
from .partial import Partial
from .probe import Probe
from .prototypes import Prototypes
from .registry import make, names, register, strategy_class
from .tfidf import Tfidf
from .unfreeze import Unfreeze
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "Cnn",
    "Cost",
    "Finetune",
    "Fitted",
    "Partial",
    "Probe",
    "ProbeThenFinetune",
    "Prototypes",
    "Role",
    "Scratch",
    "Strategy",
    "Tfidf",
    "Unfreeze",
    "ZeroShot",
    "make",
    "names",
    "register",
    "speaking_names",
    "strategy_class",
]
