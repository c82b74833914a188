"""The page at `/`: one HTML file with its style and script, and a policy that allows no others."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from starlette.responses import Response

__all__ = ["Page"]


class Page:
    """The page with its Content-Security-Policy.

    The policy names the hashes of the one style and the one script, so that nothing else runs, and
    lets the page talk to this server alone.
    """

    def __init__(self) -> None:
        html = files("warmstart.serving").joinpath("templates/page.html").read_text("utf-8")
        style, script = _inner(html, "style"), _inner(html, "script")
        self._body = html.encode()
        self._headers = {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
                "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'"
            ),
            "Cache-Control": "no-cache",
        }

    def response(self) -> Response:
        """The page as an answer."""
        return Response(self._body, media_type="text/html", headers=self._headers)


def _inner(html: str, tag: str) -> str:
    """What stands in the only element of that name."""
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    return str(inner)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
