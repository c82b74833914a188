"""Ways of adapting, under one contract."""

from .base import Cost, Fitted, Strategy
from .cnn import Cnn
from .finetune import Finetune, Scratch
from .peft import Adapter, Ia3, Lora, Prefix, Prompt, Ptuning, Qlora, merge, unmerge
from .probe import Probe
from .prototypes import Prototypes
from .registry import make, names, register, strategy_class
from .tfidf import Tfidf
from .zero_shot import ZeroShot, speaking_names

__all__ = [
    "Adapter",
    "Cnn",
    "Cost",
    "Finetune",
    "Fitted",
    "Ia3",
    "Lora",
    "Prefix",
    "Probe",
    "Prompt",
    "Prototypes",
    "Ptuning",
    "Qlora",
    "Scratch",
    "Strategy",
    "Tfidf",
    "ZeroShot",
    "make",
    "merge",
    "names",
    "register",
    "speaking_names",
    "strategy_class",
    "unmerge",
]
