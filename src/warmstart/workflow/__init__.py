"""The public verbs: everything that the package root and the command line offer."""

from warmstart.backbones import backbone
from warmstart.data import read, sample

from .adapt import adapt
from .answering import recommend
from .apply import (
    Evaluation,
    Predictions,
    check_predictions_path,
    evaluate,
    predict,
    write_predictions,
)
from .compare import DEFAULT_ARMS, compare
from .drift import DriftReport, drift, write_drift
from .embed import check_features_path, embed, write_features
from .episodes import episodes, parse_episodes
from .familiar import Unfamiliar
from .fit import fit
from .folders import refuse_own_input
from .indexing import IndexReport, build_run_index, refresh
from .info import info
from .later import RankedArm, RetrievalEvaluation
from .plan import check_plan_path, plan, write_plan
from .rank import RankedBackbones, check_rank_path, rank, write_rank
from .rates import check_plot_path, rates, write_rates
from .recommending import Recommendation, RetrievalRun, open_retrieval, open_run
from .retrieval import RETRIEVAL_ARMS, compare_interactions, fit_interactions
from .run_index import RunService, run_service
from .runs import FinishedRun
from .seen import write_seen
from .serving import serve_run
from .shift import Shift, check_shift_path, shift, write_shift
from .shots import DEFAULT_SHOT_ARMS, compare_shots

__all__ = [
    "DEFAULT_ARMS",
    "DEFAULT_SHOT_ARMS",
    "RETRIEVAL_ARMS",
    "DriftReport",
    "Evaluation",
    "FinishedRun",
    "IndexReport",
    "Predictions",
    "RankedArm",
    "RankedBackbones",
    "Recommendation",
    "RetrievalEvaluation",
    "RetrievalRun",
    "RunService",
    "Shift",
    "Unfamiliar",
    "adapt",
    "backbone",
    "build_run_index",
    "check_features_path",
    "check_plan_path",
    "check_plot_path",
    "check_predictions_path",
    "check_rank_path",
    "check_shift_path",
    "compare",
    "compare_interactions",
    "compare_shots",
    "drift",
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
    "rank",
    "rates",
    "read",
    "recommend",
    "refresh",
    "refuse_own_input",
    "run_service",
    "sample",
    "serve_run",
    "shift",
    "write_drift",
    "write_features",
    "write_plan",
    "write_predictions",
    "write_rank",
    "write_rates",
    "write_seen",
    "write_shift",
]
