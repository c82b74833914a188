"""Experiment trackers by name, through Accelerate; only those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from warmstart.core import UsageError, nearest

__all__ = ["TRACKERS", "check_trackers"]

TRACKERS = {"mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb"}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, once it is sure that each is known and its package installed.

    Raises:
        UsageError: For an unknown tracker or a missing package, saying how to install it.
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f'tracker "{name}" is unknown.{nearest(name, TRACKERS)}')
        package = TRACKERS[name]
        if find_spec(package) is None:
            raise UsageError(
                f'tracker "{name}" needs the package {package}, which is not installed. '
                f"Install it with: pip install {package}"
            )
    return tuple(names)
