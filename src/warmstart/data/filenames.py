"""Names of files that are not UTF-8: no table, JSON or terminal can hold them as they are."""

from __future__ import annotations

__all__ = ["is_utf8", "printable"]


def is_utf8(name: str) -> bool:
    """Whether a name is text; other bytes come as halves of surrogate pairs."""
    return printable(name) == name


def printable(name: str) -> str:
    r"""The name with `\udcff` or the like for each byte that is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
