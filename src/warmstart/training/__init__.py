"""The one training loop and what it is fed with: rates, schedules, order, checkpoints, trackers."""

from .callbacks import EarlyStopping
from .checkpoints import Checkpoints
from .engine import pick_precision, set_training
from .examples import ExampleRows
from .history import History
from .loaders import Batch, FixedLoader, Loader, RowLoader, RowSource, default_workers
from .loop import fit_loop
from .measure import StepCost, measure_steps
from .optimizers import (
    FROZEN,
    RateRow,
    RateTable,
    Rule,
    announce,
    discriminative_rates,
    make_optimizer,
    rate_table,
)
from .order import BatchOrder
from .replay import Replayed, Views, replay_prefix
from .schedules import (
    SCHEDULES,
    constant,
    make_schedule,
    one_cycle,
    slanted_triangular,
    warmup_cosine,
    warmup_linear,
)
from .scribe import Diverged
from .state import Callback, LoopState, StepFunction, StepOutput
from .supervised import (
    Classifier,
    balanced_weights,
    classification_loaders,
    classification_step,
    evaluation,
)
from .trackers import TRACKERS, check_trackers

__all__ = [
    "FROZEN",
    "SCHEDULES",
    "TRACKERS",
    "Batch",
    "BatchOrder",
    "Callback",
    "Checkpoints",
    "Classifier",
    "Diverged",
    "EarlyStopping",
    "ExampleRows",
    "FixedLoader",
    "History",
    "Loader",
    "LoopState",
    "RateRow",
    "RateTable",
    "Replayed",
    "RowLoader",
    "RowSource",
    "Rule",
    "StepCost",
    "StepFunction",
    "StepOutput",
    "Views",
    "announce",
    "balanced_weights",
    "check_trackers",
    "classification_loaders",
    "classification_step",
    "constant",
    "default_workers",
    "discriminative_rates",
    "evaluation",
    "fit_loop",
    "make_optimizer",
    "make_schedule",
    "measure_steps",
    "one_cycle",
    "pick_precision",
    "rate_table",
    "replay_prefix",
    "set_training",
    "slanted_triangular",
    "warmup_cosine",
    "warmup_linear",
]
