"""The application: commands by name, errors as sentences, exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from warmstart._version import __version__
from warmstart.core import Interrupted, UsageError, WarmstartError

from ._show import fail, notes_and_bars
from .adapt import adapt
from .compare import CompareCommand, compare
from .drift import drift
from .embed import embed
from .evaluate import evaluate
from .fit import fit
from .index import index
from .info import info
from .plan import plan
from .predict import predict
from .rank import RankCommand, rank
from .rates import rates
from .recommend import recommend
from .refresh import refresh
from .sample import sample
from .serve import serve
from .shift import shift

__all__ = ["app", "main"]

app = typer.Typer(
    name="warmstart",
    help="Adapt a pretrained model to your data, and prove that it was worth it.",
    epilog=(
        "Exit codes: 0 done, 1 unexpected, 2 settings, 3 data, 4 backbone, 5 run folder, "
        "6 not applicable, 7 training diverged, 8 drift found (with --fail-on-drift), "
        "130 interrupted, 143 terminated."
    ),
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"warmstart {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Adapt a pretrained model to your data, and prove that it was worth it."""


def _telling(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with Ctrl-C as an error of ours: typer would leave without a word."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt as stop:
            told = "Interrupted. Repeat the command to go on from where it stopped."
            raise Interrupted(" ".join([told, *getattr(stop, "__notes__", ())])) from None

    return run


def _saying_what_came(base: type[TyperCommand]) -> type[TyperCommand]:
    """The class of a command, which also tells the value where one is out of its range."""

    def parse_args(self: Any, ctx: Any, args: list[str]) -> list[str]:
        try:
            return base.parse_args(self, ctx, args)
        except Exception as error:  # typer's own of many versions; some leave the value out
            mistakes = getattr(error.__cause__, "errors", None)
            told: Any = error
            if callable(mistakes) and isinstance(getattr(error, "message", None), str):
                told.message = f"{told.message.rstrip('.')}, got {mistakes()[0]['input']}."
            raise

    return type(base.__name__, (base,), {"parse_args": parse_args})


_COMMANDS = (
    plan, fit, compare, shift, adapt, rank, predict, evaluate, drift, embed, info, rates, recommend,
    index, serve, refresh, sample,
)  # fmt: skip
_CLASSES: dict[str, type[TyperCommand]] = {"compare": CompareCommand, "rank": RankCommand}
for _command in _COMMANDS:
    _class = _saying_what_came(_CLASSES.get(_command.__name__, TyperCommand))
    app.command(_command.__name__, cls=_class)(_telling(_command))


def main() -> None:
    """Run the command line and leave with its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    as_json = "--json" in sys.argv
    try:
        with notes_and_bars(quiet=as_json):
            _run(as_json)
    except WarmstartError as error:
        sys.exit(fail(error, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(fail(Interrupted("Interrupted."), as_json=as_json))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a folder that cannot be written, a full disk
        named = f"{error.filename}: " if error.filename else ""
        sys.exit(fail(WarmstartError(f"{named}{error.strerror or error}."), as_json=as_json))


def _run(as_json: bool) -> None:
    """Call the application; with --json its own complaints about usage become errors of ours."""
    if not as_json:
        app()
        return
    try:
        app(standalone_mode=False)
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        text = str(message())
        text += "" if text.endswith((".", "?", "!")) else "."
        raise UsageError(f"{text} Try --help.") from None
