"""`plan`: which strategy the data calls for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.data import split
from warmstart.planning import Distance, Plan, parse_duration, plan_by_tree
from warmstart.strategies import speaking_names

from .prepare import Source, as_backbone, as_dataset
from .retrieval import interaction_options, plan_for_interactions

__all__ = ["plan"]


def plan(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    distance: Distance = "unknown",
    budget: str | float | None = None,
    group: str | None = None,
    allow_bin: bool = False,
    **reading: Any,
) -> Plan:
    """Recommend a strategy by the decision tree, and say which rule spoke.

    Args:
        data: Anything that `read` takes.
        backbone: What would be adapted; it decides whether zero-shot can work on images.
        distance: How far the data is from the backbone's pretraining data, where you know it.
        budget: Time for training: `15m`.
        group: Column that the split keeps whole.
        allow_bin: Whether the backbone that is named may have pickled weights.
        **reading: Passed to `read`; of these a Dataset takes limit= alone.
    """
    own = interaction_options(
        data, reading, group=group, budget=budget, allow_bin=allow_bin,
        distance=distance if distance != "unknown" else None,
    )  # fmt: skip
    if own is not None:
        return plan_for_interactions(data, backbone, **own)
    dataset = as_dataset(data, group=group, **reading)
    parts = split(dataset, group=group)
    speak = speaking_names(dataset.label_names)
    if dataset.modality == "image":
        aligned = (
            backbone is not None
            and as_backbone(backbone, "image", allow_bin=allow_bin).modality == "image-text"
        )
        speak = speak and aligned
    return plan_by_tree(
        parts.view(dataset).train,
        names_speak=speak,
        distance=distance,
        budget_seconds=parse_duration(budget) if budget is not None else None,
        options=_options({"backbone": backbone, "allow_bin": allow_bin, "group": group, **reading}),
    )


def _options(given: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them; what it has no option for is left out."""
    found: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif isinstance(value, list | tuple):
            found += [flag, ",".join(map(str, value))]
        elif isinstance(value, str | int | Path) and value is not False:
            found += [flag, str(value)]
    return found
