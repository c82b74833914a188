"""`serve`: a retrieval run answers over HTTP, by one process or several."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

import torch

from warmstart.backbones import Backbone
from warmstart.core import UsageError, progress
from warmstart.serving import Settings, adopt, check_address, run_workers
from warmstart.serving import serve as serve_http

from .indexing import build_run_index
from .recommending import RetrievalRun, open_retrieval
from .run_index import POINTER, current_index, index_home, run_service
from .runs import FinishedRun

__all__ = ["serve_run", "serve_worker"]

WORKER = "from warmstart.workflow.serving import serve_worker; serve_worker()"


def serve_run(
    run: FinishedRun | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    workers: int = 1,
    device: str = "auto",
    backbone: Backbone | str | Path | None = None,
    allow_bin: bool = False,
) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C; a run without an index gets one first.

    Args:
        run: A retrieval run or its folder.
        host: Address; any but loopback needs a key (see `serving.Settings`).
        port: TCP port, 0 for any free one.
        settings: Limits and key.
        workers: Processes that answer, each with the model and the index in its memory. With more
            than one, each has one thread that computes unless the settings name a number.
        device: Where the towers are put.
        backbone: See `open_retrieval`.
        allow_bin: See `open_retrieval`.

    Raises:
        UsageError: For workers below 1, several with a backbone that is not named, or an address
            that needs a key.
    """
    if workers < 1:
        raise UsageError(f"serve.workers must be at least 1, got {workers}. Usual: one a core.")
    if workers > 1 and isinstance(backbone, Backbone):
        raise UsageError("Several workers load the backbone themselves: give its name or folder.")
    settings = settings or Settings.from_environment()
    check_address(host, port, settings)
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    current = current_index(opened)
    if current is None:
        progress.note("This run has no index yet: one is built.")
        current = build_run_index(opened, thorough=False).folder
    if workers == 1:
        _serve(opened, settings, host, port)
        return
    run_service(opened, current)  # an engine that is built again is built once, not by each worker
    if "threads" not in settings.model_fields_set:
        settings = settings.model_copy(update={"threads": 1})
    secret = settings.key.get_secret_value() if settings.key else None
    spec = {
        "run": str(opened.folder), "device": device, "allow_bin": allow_bin,
        "backbone": None if backbone is None else str(backbone),
        "settings": {**settings.model_dump(mode="json"), "key": secret},
    }  # fmt: skip
    del opened
    command = [sys.executable, "-P", "-c", WORKER]
    run_workers(command, spec, host, port, settings, workers)


def serve_worker() -> None:
    """What each of several workers does: serve what it is told, on the socket that it is given."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("warmstart").setLevel(logging.INFO)  # notes have no other way out
    spec, listener, wait = adopt()
    settings = Settings.parse(spec.pop("settings"), "serving")
    _serve(open_retrieval(**spec), settings, listener=listener, wait=wait)


def _serve(
    opened: RetrievalRun,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 0,
    listener: socket.socket | None = None,
    wait: bool = False,
) -> None:
    torch.set_num_threads(1)
    serve_http(
        None, host, port, settings, current=index_home(opened) / POINTER,
        load=lambda folder: run_service(opened, folder), listener=listener, wait=wait,
    )  # fmt: skip
