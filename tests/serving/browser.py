"""A headless Chromium, driven over its debugging pipe: no driver and no package is needed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

VARIABLE = "WARMSTART_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_JOIN = (  # Chromium reads commands from 3 and answers at 4
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execvp(sys.argv[3], sys.argv[3:])"
)


def found_browser() -> str | None:
    """The Chromium that the environment names, else the first that is installed."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named) or named
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab of a browser of its own.

    Attributes:
        faults: What the page complained of: exceptions, refused styles, failed requests.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.faults: list[str] = []
        self._number, self._rest, self._session = 0, b"", ""
        ours_in, theirs_out = _pipe()
        theirs_in, ours_out = _pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions",
            "--window-size=1280,900", f"--user-data-dir={folder}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _JOIN,
                str(theirs_in),
                str(theirs_out),
                program,
                *flags,
                "about:blank",
            ],
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out

    def __enter__(self) -> Self:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._out, json.dumps(told).encode() + b"\0")
        end = time.monotonic() + 60
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def look(self, expression: str) -> Any:
        """What an expression of JavaScript comes to on the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Look until it comes to something true."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = self.look(expression)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{expression} never came true; the page: {self.text('body')[:500]}")

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a selector finds."""
        found: list[str] = self.look(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)"
        )
        return found

    def text(self, selector: str) -> str:
        """The text of the only one."""
        (found,) = self.texts(selector)
        return found

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        place = self.look(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({ block: 'center' }); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.ask(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button=button,
                clickCount=1,
            )  # fmt: skip

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """One key by its name, such as Enter."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(told["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(told["entry"]["text"])

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = end - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self._in], [], [], left)[0]:
                part = os.read(self._in, 1 << 16)
                assert part, f"the browser has gone with {self._process.poll()}"
                self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found


def _pipe() -> Sequence[int]:
    """The two ends of a pipe, at numbers that are in nobody's way."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20))
        os.close(end)
    return ends
