"""The command line: one file a command; each parses, calls one verb, prints."""

from ._app import app, main

__all__ = ["app", "main"]
