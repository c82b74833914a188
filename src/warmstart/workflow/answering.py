"""`recommend`: what a user of a run, or anybody with a history, gets from what is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone

from .recommending import Recommendation, open_retrieval
from .run_index import as_served
from .runs import FinishedRun

__all__ = ["recommend"]


def recommend(
    run: FinishedRun | str | Path,
    *,
    user: str | None = None,
    history: Sequence[str] | None = None,
    k: int = 10,
    exclude: Sequence[str] = (),
    tag: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    device: str = "auto",
    backbone: Backbone | str | Path | None = None,
    allow_bin: bool = False,
) -> list[Recommendation]:
    """What a known user, or anybody with this history, should see next.

    Where the run has an index, its catalogue is ranked: items that `refresh` added or removed are
    there or not.

    Args:
        run: A retrieval run or its folder.
        user: See `RetrievalRun.recommend`.
        history: See `RetrievalRun.recommend`.
        k: See `RetrievalRun.recommend`.
        exclude: See `RetrievalRun.recommend`.
        tag: See `RetrievalRun.recommend`.
        attributes: See `RetrievalRun.recommend`.
        device: Where the model is put.
        backbone: See `open_retrieval`.
        allow_bin: See `open_retrieval`.
    """
    opened = open_retrieval(run, device=device, backbone=backbone, allow_bin=allow_bin)
    return as_served(opened).recommend(
        user=user, history=history, k=k, exclude=exclude, tag=tag, attributes=attributes
    )
