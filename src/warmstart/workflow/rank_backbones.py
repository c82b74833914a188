"""The backbones that are to be ranked: named, opened, described, timed; failures are kept."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone, Encoder, embed_inputs
from warmstart.core import Interrupted, NotApplicable, UsageError, WarmstartError, nearest, progress
from warmstart.data import Dataset

from .prepare import as_backbone

__all__ = ["Candidate", "Embedded", "candidates", "embed_candidate", "hub_facts", "reason_of"]

_SETTINGS = {"pooling": str, "depth": int, "image_size": int, "max_length": int}
_TIMED_ROWS, _TIMED_SECONDS, _TIMED_MOST = 32, 2.0, 5
_FAILURES = (WarmstartError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Candidate:
    """A backbone as it was asked for.

    Attributes:
        source: A backbone or what names one; None for the modality's default.
        settings: Those of its own: pooling, depth, image_size, max_length.
        said: As the user wrote it.
    """

    source: Backbone | str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    said: str = "default"


@dataclass(frozen=True)
class Embedded:
    """A backbone that opened, with the vectors of the rows.

    Attributes:
        label: A name that no other has.
        backbone: With its settings.
        vectors_ND: Of the rows.
        source_proba_NS: Probabilities of its checkpoint's classes, where it has some.
        facts: What is told of it beside its scores.
    """

    label: str
    backbone: Backbone
    vectors_ND: np.ndarray
    source_proba_NS: np.ndarray | None
    facts: dict[str, Any]


def candidates(
    named: Backbone | str | Path | Sequence[Backbone | str | Path] | None,
) -> list[Candidate]:
    """One backbone or several, each with settings by colon: `minilm:pooling=cls`.

    Raises:
        UsageError: For an empty list, or a setting that does not exist or is none.
    """
    if named is None:
        return [Candidate(None)]
    several = [named] if isinstance(named, Backbone | str | Path) else list(named)
    if not several:
        raise UsageError("rank.backbones must name at least one backbone, got an empty list.")
    return [_candidate(one) for one in several]


def _candidate(named: Backbone | str | Path) -> Candidate:
    if isinstance(named, Backbone):
        return Candidate(named, {}, named.name)
    text = str(named).strip()
    settings: dict[str, Any] = {}
    while found := re.fullmatch(r"(.+):(\w+)=([^:=]*)", text):
        text, key, value = found.groups()
        if key not in _SETTINGS:
            raise UsageError(f"backbone {str(named)!r} has no setting {key!r}."
                             f"{nearest(key, _SETTINGS)}")  # fmt: skip
        try:
            settings[key] = _SETTINGS[key](value)
        except ValueError:
            raise UsageError(
                f"backbone {str(named)!r}: {key} must be a whole number, got {value!r}."
            ) from None
    if not text:
        raise UsageError("rank.backbones holds an empty name. Name a folder, package or hub id.")
    return Candidate(text, settings, str(named))


def embed_candidate(
    one: Candidate,
    rows: Dataset,
    settings: Mapping[str, Any],
    *,
    allow_bin: bool,
    taken: Mapping[str, str],
) -> tuple[str, Embedded]:
    """Open a backbone, time it and embed the rows through the cache.

    Args:
        one: What was asked for.
        rows: Rows to embed; their labels are not looked at.
        settings: For all backbones; a candidate's own come first.
        allow_bin: Whether pickled weights may be read.
        taken: Label of each space that is embedded already.

    Returns:
        The fingerprint of the space, and what was made.

    Raises:
        NotApplicable: For a space that is embedded already.
        BackboneError: For a backbone that does not open, or reads other data.
        UsageError: For a setting that it does not take.
    """
    own = {**settings, **one.settings}
    depth = own.pop("depth", None)
    found = as_backbone(one.source, rows.modality, own, allow_bin=allow_bin)
    space = found.space(depth=depth, modality=rows.modality)
    if space.fingerprint in taken:
        raise NotApplicable(f"has the same vectors as {taken[space.fingerprint]}")
    label = _label(found, one.settings, list(taken.values()))
    bare = rows.without_labels()
    encoder = found.text_encoder() if _is_text_tower(found, rows) else found.load()
    milliseconds, timed = _latency(encoder, bare, depth)
    parameters = _parameters(encoder, depth)
    del encoder
    vectors_ND = found.features(bare, depth=depth).vectors_ND
    proba_NS, classes = _source_classes(found, bare, vectors_ND, depth)
    facts = {
        "card": found.card.model_dump(mode="json"),
        "settings": dict(one.settings),
        "space": space.model_dump(mode="json"),
        "parameters": parameters,
        "dimension": int(vectors_ND.shape[1]),
        "milliseconds_a_row": round(milliseconds, 3),
        "timed_rows": timed,
        **hub_facts(found.source),
        **classes,
    }
    return space.fingerprint, Embedded(label, found, vectors_ND, proba_NS, facts)


def reason_of(error: Exception) -> str:
    """Why a backbone is left out, in a sentence; what is no failure of the backbone is raised.

    Raises:
        Exception: The error itself, where it is an interruption or a mistake of ours.
    """
    if isinstance(error, Interrupted) or not isinstance(error, _FAILURES):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, WarmstartError) else f"{type(error).__name__}: {text}"


def hub_facts(source: str) -> dict[str, Any]:
    """Downloads in the last month and date of the last change, of a hub id; empty elsewhere.

    Nothing is asked of the hub for folders and packages, and no answer is no error.
    """
    if not source.startswith("hub:"):
        return {}
    from huggingface_hub import model_info

    try:
        told = model_info(source.removeprefix("hub:"), timeout=5)
    except Exception:  # offline, private, renamed: a fact less
        return {}
    changed = getattr(told, "last_modified", None)
    return {
        "downloads": getattr(told, "downloads", None),
        "date": None if changed is None else f"{changed:%Y-%m-%d}",
    }


def _label(found: Backbone, own: Mapping[str, Any], taken: Sequence[str]) -> str:
    """The name; with its settings, and with its place where another has that name."""
    label = found.name
    if own:
        label += f" ({', '.join(f'{k} {v}' for k, v in own.items())})"
    if label in taken:
        parent = Path(found.source).parent.name
        label = f"{parent}/{label}" if parent else label
    number = 2
    while label in taken:
        label = f"{label.removesuffix(f' #{number - 1}')} #{number}"
        number += 1
    return label


def _is_text_tower(found: Backbone, rows: Dataset) -> bool:
    return found.modality == "image-text" and rows.modality == "text"


def _latency(encoder: Encoder, rows: Dataset, depth: int | None) -> tuple[float, int]:
    """Milliseconds a row, preprocessing and forward pass, in one batch of up to 32 rows.

    The fastest of up to five runs within two seconds, after a run on two rows; images are decoded
    before the clock starts.
    """
    count = min(_TIMED_ROWS, len(rows))
    inputs = rows.inputs([position * len(rows) // count for position in range(count)])
    embed_inputs(encoder, inputs[:2], depth=depth)
    times: list[float] = []
    while len(times) < _TIMED_MOST and sum(times) < _TIMED_SECONDS:
        began = time.perf_counter()
        embed_inputs(encoder, inputs, depth=depth)
        times.append(time.perf_counter() - began)
    return min(times) * 1000 / count, count


def _parameters(encoder: Encoder, depth: int | None) -> int:
    """Parameters that a pass uses: those of blocks above the depth are left out."""
    every = sum(parameter.numel() for parameter in encoder.module.parameters())
    if depth is None or encoder.groups.shared_note is not None:
        return every
    above = encoder.groups.blocks()[depth:]
    return every - sum(part.numel() for block in above for part in block.parameters())


def _source_classes(
    found: Backbone, rows: Dataset, vectors_ND: np.ndarray, depth: int | None
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """What the checkpoint's own classes say of the rows, or why there are none."""
    if depth is not None:
        reason = f"source classes are told above the last layer, not at depth {depth}"
        return None, {"source_classes": None, "source_reason": reason}
    try:
        head = found.source_classifier()
        proba_NS = head.proba(rows, vectors_ND)
    except Exception as error:
        reason = reason_of(error)
        if not isinstance(error, NotApplicable):
            progress.note(f"{found.name}: no LEEP and NCE: {reason}")
        return None, {"source_classes": None, "source_reason": reason}
    named = np.bincount(proba_NS.argmax(axis=1), minlength=len(head.names))
    most = [head.names[place] for place in np.argsort(-named, kind="stable")[:3] if named[place]]
    return proba_NS, {
        "source_classes": len(head.names),
        "source_reason": None,
        "source_named_most": most,
    }
