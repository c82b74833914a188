"""`episodes`: what a backbone's vectors are worth with a few labels, over many draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import UsageError, pick_device
from warmstart.strategies import EpisodeScore, episode_scores

from .prepare import Source, as_backbone, as_dataset

__all__ = ["episodes", "parse_episodes"]


def parse_episodes(text: str) -> tuple[int, int]:
    """Way and shots from `5x1`.

    Raises:
        UsageError: For anything else.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*", text)
    if match is None:
        raise UsageError(
            f"episodes must be classes x rows a class, such as 5x1 or 5x5, got {text!r}."
        )
    return int(match[1]), int(match[2])


def episodes(
    data: Source,
    *,
    way: int = 5,
    shots: int = 5,
    queries: int = 15,
    count: int = 600,
    seed: int = 0,
    head: str = "prototypes",
    backbone: Backbone | str | Path | None = None,
    depth: int | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    allow_bin: bool = False,
    **reading: Any,
) -> EpisodeScore:
    """Accuracy over episodes: W classes drawn, K rows of each learned from, others answered.

    Nothing is trained and nothing is kept; rows of the whole data set take part, so this measures
    the untouched backbone and no model of yours. `compare` with shots tests ways of adapting.

    Args:
        data: Anything that `read` takes, with labels.
        way: Classes an episode.
        shots: Rows a class to learn from.
        queries: Rows a class to answer, at most.
        count: Episodes.
        seed: Of the draws.
        head: `prototypes`, `knn` or `logistic`.
        backbone: The default for the data's modality otherwise.
        depth: Layers that are used; all otherwise.
        pooling: How positions become one vector; the backbone's own otherwise.
        image_size: Pixels on a side.
        max_length: Tokens.
        device: Where to compute.
        allow_bin: Whether the backbone that is named may have pickled weights.
        **reading: Passed to `read`; of these a Dataset takes limit= alone.

    Raises:
        UsageError: For settings that make no sense.
        DataError: When too few classes have enough rows.
    """
    wanted: dict[str, Any] = {"image_size": image_size, "max_length": max_length}
    if device != "auto":
        wanted["device"] = str(pick_device(device))
    dataset = as_dataset(data, **reading)
    found = as_backbone(backbone, dataset.modality, wanted, allow_bin=allow_bin)
    vectors = found.features(dataset.without_labels(), depth=depth, pooling=pooling).vectors_ND
    return episode_scores(
        vectors, dataset.labels_N, way=way, shots=shots, queries=queries, episodes=count,
        seed=seed, head=head,
    )  # fmt: skip
