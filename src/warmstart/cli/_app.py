"""The application: commands by name, errors as sentences, exit codes."""

from __future__ import annotations

import os
import sys

import typer

from warmstart._version import __version__

from ._show import fail, notes_and_bars
from .compare import compare
from .embed import embed
from .evaluate import evaluate
from .fit import fit
from .info import info
from .plan import plan
from .predict import predict
from .sample import sample

__all__ = ["app", "main"]

app = typer.Typer(
    name="warmstart",
    help="Adapt a pretrained model to your data, and prove that it was worth it.",
    epilog=(
        "Exit codes: 0 done, 1 unexpected, 2 settings, 3 data, 4 backbone, 5 run folder, "
        "6 not applicable, 130 interrupted."
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


_COMMANDS = (plan, fit, compare, predict, evaluate, embed, info, sample)
for _command in _COMMANDS:
    app.command(_command.__name__)(_command)


def main() -> None:
    """Run the command line and leave with its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from warmstart.core import WarmstartError

    as_json = "--json" in sys.argv
    try:
        with notes_and_bars(quiet=as_json):
            app()
    except WarmstartError as error:
        sys.exit(fail(error, as_json=as_json))
    except KeyboardInterrupt:
        message = "Interrupted. Repeat the command to go on from where it stopped."
        sys.exit(fail(KeyboardInterrupt(message), as_json=as_json, code=130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
