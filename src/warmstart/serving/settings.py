"""What the server allows: limits, deadlines, the key. Loopback and small unless told otherwise."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr

from warmstart.core import Config, UsageError

__all__ = ["KEY_FILE_VARIABLE", "KEY_VARIABLE", "Settings", "is_loopback", "read_key"]

KEY_VARIABLE = "WARMSTART_API_KEY"
KEY_FILE_VARIABLE = "WARMSTART_API_KEY_FILE"
KEY_LENGTH = 16


class Settings(Config):
    """Limits of the HTTP service.

    Attributes:
        key: API key that every route but health asks for; None: no key (loopback only).
        hosts: Names that the Host header may have where there is no key, besides loopback ones: a
            foreign page must not reach the service through a name of its own.
        max_body_bytes: Larger request bodies are refused with 413.
        body_seconds: A body that has not arrived by then is refused with 408.
        max_k: Results at most.
        max_history: Items of a raw history at most; also of a list of items to leave out.
        max_tags: Tags of a filter at most.
        max_attributes: Attributes of a user in a request at most.
        max_text: Characters of an id, a tag or a search at most.
        threads: Threads that compute.
        waiting: Accepted requests that may wait for a thread; more are refused with 429.
        deadline_seconds: An answer that is not there by then is not given; work that has not begun
            by then is not begun.
        images_waiting: Thumbnails that may wait; they have a thread of their own.
        image_seconds: Deadline of a thumbnail.
        max_pixels: Images with more pixels get no thumbnail.
        thumbnail_size: Longer side of a thumbnail, pixels.
        thumbnail_cache_bytes: Memory for made thumbnails.
        poll_seconds: How often the pointer file is looked at.
        drain_seconds: Requests that were accepted before SIGTERM may take so long.
        notice_seconds: How long a draining server still answers 503 before it stops listening.
    """

    key: SecretStr | None = None
    hosts: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=262_144, ge=1024, le=67_108_864)
    body_seconds: float = Field(default=10.0, gt=0, le=600)
    max_k: int = Field(default=500, ge=1, le=10_000)
    max_history: int = Field(default=1000, ge=1, le=100_000)
    max_tags: int = Field(default=50, ge=1, le=1000)
    max_attributes: int = Field(default=100, ge=1, le=1000)
    max_text: int = Field(default=256, ge=8, le=10_000)
    threads: int = Field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)), ge=1, le=256)
    waiting: int = Field(default=16, ge=0, le=100_000)
    deadline_seconds: float = Field(default=1.0, gt=0, le=600)
    images_waiting: int = Field(default=256, ge=0, le=100_000)
    image_seconds: float = Field(default=10.0, gt=0, le=600)
    max_pixels: int = Field(default=25_000_000, ge=1, le=1_000_000_000)
    thumbnail_size: int = Field(default=160, ge=16, le=1024)
    thumbnail_cache_bytes: int = Field(default=33_554_432, ge=0)
    poll_seconds: float = Field(default=1.0, gt=0, le=3600)
    drain_seconds: float = Field(default=20.0, gt=0, le=3600)
    notice_seconds: float = Field(default=0.5, ge=0, le=600)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **values: object
    ) -> Self:
        """Settings with the key from the environment, where `values` name none.

        Raises:
            UsageError: As `read_key`, or for a value out of its range.
        """
        if values.get("key") is None:
            values["key"] = read_key(os.environ if environment is None else environment)
        return cls.parse(values, "serving")


def read_key(environment: Mapping[str, str]) -> str | None:
    """The API key from `WARMSTART_API_KEY`, or from the file that `WARMSTART_API_KEY_FILE` names.

    Returns:
        The key, or None where neither is set.

    Raises:
        UsageError: When the file cannot be read, or the key is shorter than 16 characters, not
            plain ASCII, or has blanks in it.
    """
    source = KEY_VARIABLE
    key = environment.get(KEY_VARIABLE)
    if key is None and KEY_FILE_VARIABLE in environment:
        path = Path(environment[KEY_FILE_VARIABLE])
        source = f"{KEY_FILE_VARIABLE} ({path})"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(f"{source} cannot be read: {error}") from None
    if key is None:
        return None
    if len(key) < KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"{source} must be at least {KEY_LENGTH} ASCII characters without blanks, got "
            f"{len(key)} characters. Make one: python -c 'import secrets; "
            "print(secrets.token_urlsafe())'"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether a name or address reaches this machine alone; an unknown name does not count."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
