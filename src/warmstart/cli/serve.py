"""`warmstart serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _options as o

__all__ = ["serve"]


def serve(
    run: o.RunFolder,
    host: Annotated[
        str, typer.Option("--host", help="Address; any but loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="TCP port; 0 for any free one.")
    ] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="File with the API key; WARMSTART_API_KEY otherwise."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            max=256,
            help="Processes that answer, about one a core; each holds model and index.",
        ),
    ] = 1,
    waiting: Annotated[
        int | None, typer.Option("--waiting", min=0, help="Requests that may wait for a thread.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="Longest time of an answer: 200ms, 1s.")
    ] = None,
    max_k: Annotated[
        int | None, typer.Option("--max-k", min=1, max=10_000, help="Most items of an answer.")
    ] = None,
    max_history: Annotated[
        int | None,
        typer.Option("--max-history", min=1, max=100_000, help="Most items of a raw history."),
    ] = None,
    max_body: Annotated[
        str | None, typer.Option("--max-body", help="Largest body of a request: 500KB, 1MB.")
    ] = None,
    backbone: o.RunEncoder = None,
    allow_bin: o.AllowBin = False,
    device: o.Device = "auto",
) -> None:
    """Answer recommendations over HTTP, with a page at /.

    POST /v1/recommend takes a user or a history, POST /v1/similar an item. Where the run has no
    index yet, one is built. SIGTERM lets requests that were accepted end.

    Examples:
      warmstart serve runs/films

      warmstart serve runs/films --host 0.0.0.0 --key-file key.txt --port 80 --workers 4
    """
    from warmstart.planning.limits import parse_size
    from warmstart.serving import Settings
    from warmstart.workflow import serve_run

    given = {
        "waiting": waiting, "max_k": max_k, "max_history": max_history,
        "max_body_bytes": None if max_body is None else parse_size(max_body, "max_body"),
        "deadline_seconds": None if deadline is None else o.milliseconds(deadline) / 1000,
    }  # fmt: skip
    values = {name: value for name, value in given.items() if value is not None}
    environment = None if key_file is None else {"WARMSTART_API_KEY_FILE": str(key_file)}
    settings = Settings.from_environment(environment, **values)
    serve_run(
        run, host=host, port=port, settings=settings, workers=workers, device=device,
        backbone=backbone, allow_bin=allow_bin,
    )  # fmt: skip
