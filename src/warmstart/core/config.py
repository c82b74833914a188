"""Settings as values: frozen pydantic models whose errors read like sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UsageError, nearest

__all__ = ["Config"]


class Config(BaseModel):
    """A frozen value; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], who: str) -> Self:
        """Validate `values` and speak in sentences about what is wrong with them.

        Args:
            values: Names and values as a user gave them; text is converted where that is exact.
            who: What the settings belong to, as the messages should call it: `probe`.

        Raises:
            UsageError: With one sentence a mistake, naming the setting, what came and what is
                allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = []
            for item in error.errors():
                where = ".".join(str(part) for part in item["loc"]) or "settings"
                if item["type"] == "extra_forbidden":
                    lines.append(
                        f"{who} has no setting `{where}`.{nearest(where, cls.model_fields)}"
                    )
                elif item["type"] == "missing":
                    lines.append(f"{who}.{where} is required.")
                else:
                    message = item["msg"].removeprefix("Value error, ").rstrip(".")
                    lines.append(f"{who}.{where}: {message}, got {item['input']!r}.")
            raise UsageError(" ".join(lines)) from None
