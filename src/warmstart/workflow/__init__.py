"""The public verbs: everything that the package root and the command line offer."""

from warmstart.backbones import backbone
from warmstart.data import read, sample

from .apply import Predictions, evaluate, predict, write_predictions
from .compare import DEFAULT_ARMS, compare, fit
from .embed import embed, write_features
from .info import info
from .plan import plan
from .runs import FinishedRun, open_run

__all__ = [
    "DEFAULT_ARMS",
    "FinishedRun",
    "Predictions",
    "backbone",
    "compare",
    "embed",
    "evaluate",
    "fit",
    "info",
    "open_run",
    "plan",
    "predict",
    "read",
    "sample",
    "write_features",
    "write_predictions",
]
