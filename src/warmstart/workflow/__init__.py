"""The public verbs: everything that the package root and the command line offer."""

from warmstart.backbones import backbone
from warmstart.data import read, sample

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
from .info import info
from .plan import plan
from .rates import check_plot_path, rates, write_rates
from .runs import FinishedRun, open_run
from .seen import write_seen
from .shift import Shift, check_shift_path, shift, write_shift
from .shots import DEFAULT_SHOT_ARMS, compare_shots

__all__ = [
    "DEFAULT_ARMS",
    "DEFAULT_SHOT_ARMS",
    "Evaluation",
    "FinishedRun",
    "Predictions",
    "Shift",
    "backbone",
    "check_features_path",
    "check_plot_path",
    "check_predictions_path",
    "check_shift_path",
    "compare",
    "compare_shots",
    "embed",
    "episodes",
    "evaluate",
    "fit",
    "info",
    "open_run",
    "parse_episodes",
    "plan",
    "predict",
    "rates",
    "read",
    "refuse_own_input",
    "sample",
    "shift",
    "write_features",
    "write_predictions",
    "write_rates",
    "write_seen",
    "write_shift",
]
