"""A real server of fakes: `python process.py PORT POINTER [WORKERS]`; it names folders `v-X`.

As `python process.py worker` it is one of the workers.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from pathlib import Path
from typing import Any


def fakes() -> Any:
    """tests/serving/fakes.py, loaded by its path: this file is run as a script."""
    path = Path(__file__).with_name("fakes.py")
    spec = importlib.util.spec_from_file_location("fakes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fakes"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    from warmstart.serving import Settings, adopt, run_workers, serve

    fake = fakes().Fake
    settings = Settings(poll_seconds=0.05, threads=2, waiting=64, deadline_seconds=5)

    def load(folder: Path) -> Any:
        """A fake whose every answer takes ten milliseconds."""
        return fake(folder.name.removeprefix("v-"), before=lambda: time.sleep(0.01))

    if sys.argv[1] == "worker":
        spec, listener, wait = adopt()
        if spec.get("fails"):
            sys.exit(3)
        current = Path(spec["pointer"])
        serve(None, settings=settings, current=current, load=load, listener=listener, wait=wait)
    elif len(sys.argv) > 3:
        logging.basicConfig(level=logging.INFO)
        command = [sys.executable, __file__, "worker"]
        spec = {"pointer": sys.argv[2], "fails": "fails" in sys.argv}
        port, workers = int(sys.argv[1]), int(sys.argv[3])
        run_workers(command, spec, "127.0.0.1", port, settings, workers)
        print("gone")  # noqa: T201
    else:
        port, pointer = int(sys.argv[1]), Path(sys.argv[2])
        serve(None, "127.0.0.1", port, settings, current=pointer, load=load)
        print("gone")  # noqa: T201 - tells the test that serve() returned
