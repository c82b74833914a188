"""What every HTML report shares: its template, trusted drawings, times and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

from . import format as fmt
from . import view
from .view import Json

__all__ = ["machine_facts", "page", "trusted", "when"]


def page(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package filled in; all texts are escaped.

    Args:
        template: Name of a file in `templates`.
        context: What it shows; markup only where `trusted` made it.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files(__package__) / "templates"
    sources = {
        name: (folder / name).read_text(encoding="utf-8") for name in (template, "report.css")
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def trusted(svg: str | None) -> Any:
    """Markup that this package drew, whose texts are escaped."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)


def when(created: object) -> str:
    """A moment as people write it; empty for what is none."""
    try:
        moment = datetime.fromisoformat(str(created))
    except ValueError:
        return ""
    return f"{moment.day} {moment:%B %Y, %H:%M}" + (
        " UTC" if moment.utcoffset() is not None else ""
    )


def machine_facts(machine: Json) -> list[tuple[str, str]]:
    """What is known of the machine and the versions, as titles and texts."""
    pairs = [
        (key.replace("_gib", " (GiB)").replace("_", " ").capitalize(), view.plain(value))
        for key, value in machine.items()
        if not isinstance(value, dict)
    ]
    versions = machine.get("versions")
    if isinstance(versions, dict):
        pairs += [(fmt.clean(name), view.plain(value)) for name, value in versions.items()]
    return pairs
