"""Calling transformers without its talk: no load reports, no bars, and one check of torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from warmstart.core import BackboneError

__all__ = ["check_torchvision", "quiet_transformers"]

_lock = threading.RLock()


@cache
def check_torchvision() -> None:
    """Fail with one clear message where torchvision is installed but does not load.

    transformers imports torchvision wherever it is installed, so a build that does not match torch
    breaks transformers' own imports far from the cause. warmstart needs no torchvision.

    Raises:
        BackboneError: Naming both versions and the cures.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        raise BackboneError(
            f"torchvision {_version('torchvision')} is installed but does not load beside torch "
            f"{_version('torch')} ({type(error).__name__}: {error}). warmstart does not need it: "
            "`pip uninstall torchvision`, or install the build that matches this torch."
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' warnings and bars; warmstart reads the load report itself."""
    check_torchvision()
    from transformers.utils import logging

    with _lock:
        level = logging.get_verbosity()
        bars = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
