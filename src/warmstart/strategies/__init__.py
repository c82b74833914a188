"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Role, Strategy
from .cnn import Cnn
from .finetune import Finetune, Scratch
from .lp_ft import ProbeThenFinetune
from .partial import Partial
from .peft import Adapter, Ia3, Lora, Prefix, Prompt, Ptuning, Qlora, merge, unmerge
from .probe import Probe
from .prototypes import Prototypes
from .registry import make, names, register, strategy_class
from .tfidf import Tfidf
from .unfreeze import Unfreeze
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "Adapter",
    "Cnn",
    "Cost",
    "Finetune",
    "Fitted",
    "Ia3",
    "Lora",
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
    "Strategy",
    "Tfidf",
    "Unfreeze",
    "ZeroShot",
    "make",
    "merge",
    "names",
    "register",
    "speaking_names",
    "strategy_class",
    "unmerge",
]
