"""The encoders that a retrieval run was made with, found again by what the run tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from warmstart.backbones import Backbone, Space
from warmstart.core import BackboneError, RunError
from warmstart.data import Modality

from .prepare import as_backbone

__all__ = ["run_encoder"]


def run_encoder(
    results: Mapping[str, Any],
    folder: Path,
    kind: Literal["backbone", "image_backbone"],
    given: Backbone | str | Path | None = None,
    device: str = "auto",
    allow_bin: bool = False,
) -> Backbone:
    """The text or image encoder that a run was made with, set as it was.

    Args:
        results: Of the run.
        folder: Its folder, for the message.
        kind: Which.
        given: The encoder, where its own name no longer finds it.
        device: Where it is put.
        allow_bin: Whether it may have pickled weights.

    Raises:
        RunError: When another one is found.
        BackboneError: When none is, or it cannot be set as it was.
    """
    wanted = results["settings"][kind]
    card = results.get(kind) or {}
    source = given
    if source is None:
        origin, _, named = str(card.get("source") or "").partition(":")
        source = {"package": card.get("name"), "hub": named}.get(origin, card.get("source"))
    reads: Modality = "text" if kind == "backbone" else "image"
    cure = f"Name it with --{kind.replace('_', '-')}."
    try:
        found = as_backbone(source, reads, {"device": device}, allow_bin=allow_bin)
    except BackboneError as error:
        raise BackboneError(
            f"the encoder that {folder} was made with ({card.get('name')}) is not where it was: "
            f"{error} {cure}"
        ) from error
    if found.fingerprint != wanted:
        raise RunError(
            f"{found.name} is not the encoder that {folder} was made with "
            f"({card.get('name')}): its weights differ. {cure}"
        )
    space = (results["settings"].get("spaces") or {}).get(kind)
    return found if space is None else found.in_space(Space.parse(space, f"{folder}: its space"))
