"""Run folders: NAME.partial while the work goes on, NAME once it is done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from warmstart.core import (
    Interrupted,
    RunError,
    UsageError,
    finish_folder,
    progress,
    read_json,
    write_json,
)
from warmstart.data.filenames import is_utf8, printable

__all__ = [
    "SETTINGS_FILE",
    "check_free",
    "default_folder",
    "lock_of",
    "partial_of",
    "refuse_own_input",
    "run_folder",
]

SETTINGS_FILE = "settings.json"


def default_folder(verb: str, source: object, settings: Mapping[str, Any]) -> Path:
    """`runs/VERB-NAME`, or with a number behind it when that name holds other work.

    A finished run is never named again; an unfinished one is, when its settings are the same.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(str(source)).stem or "data").strip("-") or "data"
    base = Path("runs") / f"{verb}-{stem}"
    number = 1
    while True:
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        partial = partial_of(folder)
        if not folder.exists() and (not partial.exists() or _same(partial, settings)):
            return folder
        number += 1


@contextmanager
def run_folder(
    final: Path,
    settings: Mapping[str, Any],
    *,
    replace: bool = False,
    task_type: Literal["classify", "retrieve"] = "classify",
) -> Iterator[Path]:
    """Yield the folder to work in; it takes its final name when the context ends well.

    After an interruption the partial folder stays, and the same call goes on from it.

    Args:
        final: The run's folder.
        settings: What decides the result; a partial run of other settings is not continued.
        replace: Whether a finished run of that name may be replaced and an unfinished one of
            other settings discarded.
        task_type: What the manifest says of it.

    Raises:
        RunError: When the name is taken, or another process is writing there.
    """
    partial = partial_of(final)
    lock = FileLock(lock_of(final))
    try:
        check_free(final, replace)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"Another process is writing {partial}. Wait for it, or name another --out."
        ) from None
    except OSError as error:
        raise RunError(
            f"The run folder {final} cannot be made ({error.strerror or error}). Name another "
            "folder with --out."
        ) from None
    try:
        check_free(final, replace)  # another process may have ended there meanwhile
        if partial.exists() and not _same(partial, settings):
            _check_ours(partial)
            if not replace:
                raise RunError(
                    f"{partial} holds an unfinished run of other settings. Repeat the command that "
                    "began it, name another --out, or give --replace to discard it."
                )
            shutil.rmtree(partial)
        if partial.exists():
            progress.note(f"Going on with the unfinished run in {partial}.")
        else:
            partial.mkdir()
            write_json(partial / SETTINGS_FILE, settings)
        with _says_where(partial):
            yield partial
        finish_folder(partial, final, replace=replace, task_type=task_type)
    finally:
        lock.release()


@contextmanager
def _says_where(partial: Path) -> Iterator[None]:
    """Tell who is interrupted where the unfinished run lies."""
    kept = f"The unfinished run is in {partial}."
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(f"{stop} {kept}", stop.exit_code) from stop
    except KeyboardInterrupt as stop:
        stop.add_note(kept)
        raise


def check_free(final: Path, replace: bool) -> None:
    """Refuse a name that is taken by something that may not be replaced.

    Raises:
        RunError: Naming the cure.
        UsageError: For a file, a link, or a name that is not UTF-8.
    """
    if not is_utf8(str(final)):
        raise UsageError(f"The name {printable(str(final))} is not UTF-8. Choose another --out.")
    if final.exists() and not final.is_dir():
        raise UsageError(
            f"{final} is a file; a run needs a folder of its own. Name one with --out."
        )
    if final.exists() and not replace:
        raise RunError(f"{final} exists already. Name another folder with --out, or --replace it.")
    if final.is_symlink():
        raise UsageError(f"{final} is a link; name the folder itself with --out.")
    if final.exists() and any(final.iterdir()) and not (final / "manifest.json").is_file():
        raise RunError(f"{final} holds other files than a run's; it will not be replaced.")


def refuse_own_input(out: Path, data: object) -> None:
    """Refuse to write an answer over the file that is read.

    Raises:
        UsageError: When both are one file.
    """
    both = isinstance(data, str | Path) and out.is_file() and Path(data).is_file()
    if both and out.samefile(str(data)):
        raise UsageError(f"--out {out} is the file that is read; name another.")


def _check_ours(partial: Path) -> None:
    """Refuse to discard what no run began."""
    begun = partial.is_dir() and ((partial / SETTINGS_FILE).is_file() or not any(partial.iterdir()))
    if not begun or partial.is_symlink():
        raise RunError(
            f"{partial} holds other files than a run's and stands where one would be written. "
            "Move it away, or name another --out."
        )


def lock_of(final: Path) -> Path:
    """The file whose holder alone may write the run.

    It stays when the run is done: a lock file that is removed while a second process has it open
    leaves that one with a lock on a file that a third no longer finds, and both would write.
    """
    partial = partial_of(final)
    return partial.parent / ".locks" / f"{partial.name}.lock"


def partial_of(final: Path) -> Path:
    """Where a run is written before it has its name."""
    named = final if final.name else final.resolve()  # `.` has no name of its own
    return named.parent / f"{named.name}.partial"


def _same(partial: Path, settings: Mapping[str, Any]) -> bool:
    try:
        known: object = read_json(partial / SETTINGS_FILE)
    except (OSError, RunError):
        return False
    return known == dict(settings)
