"""The one training loop and what it is fed with: rates, schedules, order, checkpoints, trackers."""

from .callbacks import EarlyStopping
from .checkpoints import Checkpoints
from .engine import pick_precision, set_training
from .examples import ExampleRows
from .finder import RateSweep, find_rates, read_sweep
from .fisher import Fisher, estimate_fisher
from .history import History
from .loaders import Batch, FixedLoader, Loader, RowLoader, RowSource, default_workers
from .loop import fit_loop
from .measure import StepCost, measure_steps
from .mixing import Mixture, draw_mixture
from .optimizers import (
    RateRow,
    RateTable,
    announce,
    discriminative_rates,
    make_optimizer,
    rate_table,
)
from .order import BatchOrder, oversampled_counts
from .penalties import Anchor, Penalty, elastic_weights, l2_sp
from .plateau import ReduceOnPlateau
from .replay import Replayed, Views, replay_prefix
from .retention import RETAINED, Retained, WithinBudget
from .rules import FROZEN, Rule, parse_rules
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
from .state import Callback, EvaluateFunction, LoopState, StepFunction, StepOutput
from .supervised import (
    Classifier,
    balanced_weights,
    classification_loaders,
    classification_step,
    evaluation,
)
from .trackers import TRACKERS, check_trackers
from .vectors import VectorRows

__all__ = [
    "FROZEN",
    "RETAINED",
    "SCHEDULES",
    "TRACKERS",
    "Anchor",
    "Batch",
    "BatchOrder",
    "Callback",
    "Checkpoints",
    "Classifier",
    "Diverged",
    "EarlyStopping",
    "EvaluateFunction",
    "ExampleRows",
    "Fisher",
    "FixedLoader",
    "History",
    "Loader",
    "LoopState",
    "Mixture",
    "Penalty",
    "RateRow",
    "RateSweep",
    "RateTable",
    "ReduceOnPlateau",
    "Replayed",
    "Retained",
    "RowLoader",
    "RowSource",
    "Rule",
    "StepCost",
    "StepFunction",
    "StepOutput",
    "VectorRows",
    "Views",
    "WithinBudget",
    "announce",
    "balanced_weights",
    "check_trackers",
    "classification_loaders",
    "classification_step",
    "constant",
    "default_workers",
    "discriminative_rates",
    "draw_mixture",
    "elastic_weights",
    "estimate_fisher",
    "evaluation",
    "find_rates",
    "fit_loop",
    "l2_sp",
    "make_optimizer",
    "make_schedule",
    "measure_steps",
    "one_cycle",
    "oversampled_counts",
    "parse_rules",
    "pick_precision",
    "rate_table",
    "read_sweep",
    "replay_prefix",
    "set_training",
    "slanted_triangular",
    "warmup_cosine",
    "warmup_linear",
]
