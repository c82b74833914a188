"""Deciding how much to adapt: the tree, the budget, the comparison and its verdict."""

from .advisor import advise, bound_by_limits
from .arms import Arm, SeedResult, parse_arms
from .budget import divide, embedding_estimate, fit_input_size, parse_duration
from .compare import run_comparison, timed
from .counting import Counting, Memory, count_training, lora_parameters, memory
from .curve import PowerLaw, fit_power_law
from .evidence import Gain, Measured, Missing, Survey
from .learn import Outcome, learn_prior
from .limits import Limits, parse_limits
from .meter import Prices
from .noise import label_noise
from .outcome import arm_json, conclude
from .pricing import CostCheck, Price, check_cost, duration, price_of_features, price_of_steps
from .prior import Prior, default_prior, expect, read_prior
from .quadrant import MANY_LABELS, QUADRANTS
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
from .survey import CANDIDATES, survey
from .task import ArmResult, Comparison, Embedding, Task, elapsed_clock
from .transfer_order import ORDERED_BY, TransferOrder, check_by, order_backbones
from .transferability import (
    TRANSFER_SCORES,
    Transfer,
    TransferRows,
    TransferScore,
    measure_transfer,
)
from .tree import Distance, Expected, Plan, Quadrant, Reason, plan_by_tree
from .verdict import ArmFacts, Pair, Verdict, judge

__all__ = [
    "CANDIDATES",
    "MANY_LABELS",
    "ORDERED_BY",
    "QUADRANTS",
    "SHOTS",
    "TRANSFER_SCORES",
    "Arm",
    "ArmFacts",
    "ArmResult",
    "Comparison",
    "Contender",
    "Contest",
    "ContestTask",
    "CostCheck",
    "Counting",
    "Distance",
    "Embedding",
    "Entry",
    "Expected",
    "Gain",
    "Limits",
    "Measured",
    "Memory",
    "Missing",
    "Outcome",
    "Pair",
    "Plan",
    "PowerLaw",
    "Price",
    "Prices",
    "Prior",
    "Quadrant",
    "Reason",
    "SeedFit",
    "SeedResult",
    "ShotTask",
    "Survey",
    "Task",
    "Transfer",
    "TransferOrder",
    "TransferRows",
    "TransferScore",
    "Verdict",
    "advise",
    "arm_json",
    "bound_by_limits",
    "check_by",
    "check_cost",
    "check_deciding",
    "conclude",
    "count_training",
    "default_prior",
    "divide",
    "duration",
    "elapsed_clock",
    "embedding_estimate",
    "expect",
    "fit_input_size",
    "fit_power_law",
    "judge",
    "judge_contest",
    "label_noise",
    "learn_prior",
    "lora_parameters",
    "measure_transfer",
    "memory",
    "metric_in_words",
    "order_backbones",
    "parse_arms",
    "parse_contenders",
    "parse_duration",
    "parse_limits",
    "parse_shots",
    "plan_by_tree",
    "plan_interactions",
    "price_of_features",
    "price_of_steps",
    "read_prior",
    "run_comparison",
    "run_contest",
    "run_shots",
    "serve",
    "shots_json",
    "survey",
    "timed",
    "usual_metric",
]
