"""Parameter-efficient adaptation: a small part learns on a backbone that stays as it was."""

from .adapter import Adapter
from .base import Adapting
from .ia3 import Ia3
from .lora import Lora, Qlora
from .merging import merge, unmerge
from .prompts import Prefix, Prompt, Ptuning
from .table import PLACES, family_of, works_on

__all__ = [
    "PLACES",
    "Adapter",
    "Adapting",
    "Ia3",
    "Lora",
    "Prefix",
    "Prompt",
    "Ptuning",
    "Qlora",
    "family_of",
    "merge",
    "unmerge",
    "works_on",
]
