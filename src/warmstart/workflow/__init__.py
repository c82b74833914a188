"""The public verbs: everything that the package root and the command line offer."""

from warmstart.backbones import backbone
from warmstart.data import read, sample

from .adapt import adapt
from .apply import (
    Evaluation,
    Predictions,
    check_predictions_path,
    evaluate,
    predict,
    write_predictions,
)
from .compare import DEFAULT_ARMS, compare
from .embed import check_features_path, embed, write_features
from .episodes import episodes, parse_episodes
from .fit import fit
from .folders import refuse_own_input
from .indexing import IndexReport, RunService, build_run_index, refresh, run_service, serve_run
from .info import info
from .plan import check_plan_path, plan, write_plan
from .rates import check_plot_path, rates, write_rates
from .recommending import Recommendation, RetrievalRun, open_retrieval, open_run, recommend
from .retrieval import RETRIEVAL_ARMS, compare_interactions, fit_interactions
from .runs import FinishedRun
from .seen import write_seen
from .shift import Shift, check_shift_path, shift, write_shift
from .shots import DEFAULT_SHOT_ARMS, compare_shots

__all__ = [
    "DEFAULT_ARMS",
    "DEFAULT_SHOT_ARMS",
    "RETRIEVAL_ARMS",
    "Evaluation",
    "FinishedRun",
    "IndexReport",
    "Predictions",
    "Recommendation",
    "RetrievalRun",
    "RunService",
    "Shift",
    "adapt",
    "backbone",
    "build_run_index",
    "check_features_path",
    "check_plan_path",
    "check_plot_path",
    "check_predictions_path",
    "check_shift_path",
    "compare",
    "compare_interactions",
    "compare_shots",
    "embed",
    "episodes",
    "evaluate",
    "fit",
    "fit_interactions",
    "info",
    "open_retrieval",
    "open_run",
    "parse_episodes",
    "plan",
    "predict",
    "rates",
    "read",
    "recommend",
    "refresh",
    "refuse_own_input",
    "run_service",
    "sample",
    "serve_run",
    "shift",
    "write_features",
    "write_plan",
    "write_predictions",
    "write_rates",
    "write_seen",
    "write_shift",
]
