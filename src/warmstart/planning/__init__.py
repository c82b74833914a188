"""Deciding how much to adapt: the tree, the budget, the comparison and its verdict."""

from .arms import Arm, SeedResult, parse_arms
from .budget import divide, embedding_estimate, fit_input_size, parse_duration
from .compare import run_comparison, timed
from .counting import Counting, Memory, count_training, lora_parameters, memory
from .meter import Prices
from .outcome import arm_json, conclude
from .recommending import run_contest
from .recommending_contenders import (
    Contender,
    check_deciding,
    parse_contenders,
    usual_metric,
)
from .recommending_plan import plan_interactions
from .recommending_task import Contest, ContestTask, Entry, SeedFit
from .recommending_verdict import judge_contest, metric_in_words
from .shot_results import shots_json
from .shots import SHOTS, ShotTask, parse_shots, run_shots, serve
from .task import ArmResult, Comparison, Embedding, Task, elapsed_clock
from .transfer_order import ORDERED_BY, TransferOrder, check_by, order_backbones
from .transferability import (
    TRANSFER_SCORES,
    Transfer,
    TransferRows,
    TransferScore,
    measure_transfer,
)
from .tree import Distance, Plan, Reason, plan_by_tree
from .verdict import ArmFacts, Pair, Verdict, judge

__all__ = [
    "ORDERED_BY",
    "SHOTS",
    "TRANSFER_SCORES",
    "Arm",
    "ArmFacts",
    "ArmResult",
    "Comparison",
    "Contender",
    "Contest",
    "ContestTask",
    "Counting",
    "Distance",
    "Embedding",
    "Entry",
    "Memory",
    "Pair",
    "Plan",
    "Prices",
    "Reason",
    "SeedFit",
    "SeedResult",
    "ShotTask",
    "Task",
    "Transfer",
    "TransferOrder",
    "TransferRows",
    "TransferScore",
    "Verdict",
    "arm_json",
    "check_by",
    "check_deciding",
    "conclude",
    "count_training",
    "divide",
    "elapsed_clock",
    "embedding_estimate",
    "fit_input_size",
    "judge",
    "judge_contest",
    "lora_parameters",
    "measure_transfer",
    "memory",
    "metric_in_words",
    "order_backbones",
    "parse_arms",
    "parse_contenders",
    "parse_duration",
    "parse_shots",
    "plan_by_tree",
    "plan_interactions",
    "run_comparison",
    "run_contest",
    "run_shots",
    "serve",
    "shots_json",
    "timed",
    "usual_metric",
]
