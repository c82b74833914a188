"""An index as a folder: the vectors are the truth, the engine's file a cache beside them.

    manifest.json        SHA-256 of every file of the truth; tower, dimension, count, metric
    index.json           what the index is: engine settings, shards, counts
    vectors-00000.npy    float32 rows, in order; ids-00000.json their ids
    alive.npy            which rows are live; only where some are not
    weights.npy          how much directions count in users' queries; where some were known
    choice.json          the engines that were tried and what they measured; where that was done
    golden_queries.npy   100 queries; golden.json their exact answers and the engine's recall
    engine/              the built engine, with a manifest that names the truth's checksum

The truth is verified file by file before anything is read. An engine that is missing, damaged or of
another truth is not opened: it is built again from the vectors. The golden queries are asked before
publication, of what was written, and at each load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from warmstart.core import (
    MANIFEST,
    Config,
    NotApplicable,
    RunError,
    UsageError,
    publishing,
    read_json,
    verify_manifest,
    write_json,
)
from warmstart.core.progress import note

from .engine_file import engine_beside, keep_engine, publish_engine, read_engine, written_engine
from .engines import engine_from
from .golden import Golden, WrongEngine, read_array
from .ids import ItemId, plain_ids
from .state import State
from .vectors import Vectors

__all__ = ["Published", "read_index", "write_index"]

KIND = "item-index"
WEIGHTS = "weights.npy"
METRIC = "dot"
"""The inner product; of unit vectors it is the cosine."""
SHARD_ROWS = 262_144
SLACK = 0.05
"""An engine built again, on another machine or by other threads, may lose so much golden recall."""


@dataclass(frozen=True)
class Published:
    """What a folder holds.

    Attributes:
        state: The items.
        tower: Fingerprint of the item tower.
        seed: Root of what the engine draws.
        name: `folder@checksum`.
        choice: What `choose` measured, as JSON has it; None where the engine was given.
    """

    state: State
    tower: str
    seed: int
    name: str
    choice: dict[str, Any] | None = None


class _Facts(Config):
    """index.json."""

    kind: Literal["item-index"]
    metric: Literal["dot"]
    tower: str
    dimension: PositiveInt
    rows: NonNegativeInt
    count: NonNegativeInt
    shards: tuple[int, ...]
    engine: str
    settings: dict[str, Any]
    trained_rows: int
    seed: int
    faiss: str


def write_index(published: Published, folder: Path, *, replace: bool = False) -> str:
    """Publish an index; what was written is read back and asked before anyone sees it.

    Args:
        published: The index; nothing may be pending.
        folder: Where.
        replace: Whether an existing folder may be replaced.

    Returns:
        The name `folder@checksum`.

    Raises:
        RunError: When the folder exists and `replace` is false, or when what was written does not
            answer as the index does.
    """
    state, facts = published.state, _facts(published)
    golden = Golden.of(state, published.seed)
    shown = {"kind": KIND, "metric": METRIC, "tower": published.tower}
    with engine_beside(folder) as beside:
        with publishing(
            folder, replace=replace, **shown, dimension=facts.dimension, count=facts.count
        ) as part:
            _write_truth(part, facts, published, golden)
            written = _read_state(part, facts)
            _check_facts(part, facts, written)
            rows_GK = golden.check_vectors(part, written)
            ready = _with(written, written_engine(state, beside))
            golden.check_engine(part, ready, rows_GK, slack=0.0)
        truth = str(read_json(folder / MANIFEST)["checksum"])
        publish_engine(folder, beside, truth)
    return _name(folder, truth)


def read_index(folder: Path, *, tower: str | None = None) -> Published:
    """Read a published index.

    Raises:
        RunError: When a file of the truth is missing or damaged, naming it; when the index belongs
            to another tower, naming both; when it does not answer its golden queries.
    """
    manifest = verify_manifest(folder)
    if manifest.get("kind") != KIND:
        raise RunError(f"{folder} is no item index (its manifest says {manifest.get('kind')!r}).")
    facts = _read_facts(folder / "index.json")
    if tower is not None and facts.tower != tower:
        raise RunError(
            f"{folder} was built by item tower {facts.tower}, the model has item tower {tower}. "
            "Their vectors cannot be compared: index the items with this model."
        )
    state = _read_state(folder, facts)
    _check_facts(folder, facts, state)
    golden = Golden.read(folder, facts.dimension)
    truth = str(manifest["checksum"])
    ready = _with_engine(folder, facts, state, golden, truth)
    choice = folder / "choice.json"
    tried = read_json(choice) if choice.is_file() else None
    return Published(ready, facts.tower, facts.seed, _name(folder, truth), tried)


def _with_engine(folder: Path, facts: _Facts, state: State, golden: Golden, truth: str) -> State:
    """The state with its engine: from its file, or built again and kept."""
    rows_GK = golden.check_vectors(folder, state)
    searcher = read_engine(folder, state, truth)
    if searcher is not None:
        try:
            golden.check_engine(folder, _with(state, searcher), rows_GK, SLACK)
            return _with(state, searcher)
        except WrongEngine as reason:
            note(f"{reason} It is built again from the vectors.")
    try:
        ready = _with(state, state.engine.build(state.vectors, facts.seed))
    except NotApplicable as reason:
        raise RunError(f"The engine of {folder} cannot be built again: {reason}") from None
    golden.check_engine(folder, ready, rows_GK, SLACK)
    keep_engine(folder, ready, truth)
    return ready


def _with(state: State, searcher: faiss.Index) -> State:
    return replace(state, searcher=searcher)


def _facts(published: Published) -> _Facts:
    state = published.state
    shards = [min(SHARD_ROWS, len(state.ids) - at) for at in range(0, len(state.ids), SHARD_ROWS)]
    return _Facts(
        kind="item-index",
        metric="dot",
        tower=published.tower,
        dimension=state.vectors.dimension,
        rows=len(state.ids),
        count=len(state),
        shards=tuple(shards),
        engine=state.engine.kind,
        settings=state.engine.model_dump(),
        trained_rows=state.trained_rows,
        seed=published.seed,
        faiss=faiss.__version__,
    )


def _write_truth(folder: Path, facts: _Facts, published: Published, golden: Golden) -> None:
    state, at = published.state, 0
    for number, rows in enumerate(facts.shards):
        taken_ND = state.vectors.take(np.arange(at, at + rows))
        np.save(folder / f"vectors-{number:05d}.npy", taken_ND)
        write_json(folder / f"ids-{number:05d}.json", list(state.ids[at : at + rows]))
        at += rows
    if state.dead:
        np.save(folder / "alive.npy", state.alive_M)
    if state.vectors.weights_DD is not None:
        np.save(folder / WEIGHTS, state.vectors.weights_DD)
    if published.choice is not None:
        write_json(folder / "choice.json", published.choice)
    golden.write(folder)
    write_json(folder / "index.json", facts.model_dump(mode="json"))


def _read_facts(path: Path) -> _Facts:
    try:
        return _Facts.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{path} is of another version: {where}: {first['msg']}. Index the items again."
        ) from None


def _read_state(folder: Path, facts: _Facts) -> State:
    """The rows as they lie on disk, mapped; the engine is one over nothing yet."""
    ids: list[ItemId] = []
    shards: list[np.ndarray] = []
    for number, rows in enumerate(facts.shards):
        shard_ND = read_array(folder / f"vectors-{number:05d}.npy", mapped=True)
        mine = read_json(folder / f"ids-{number:05d}.json")
        if shard_ND.shape != (rows, facts.dimension) or shard_ND.dtype != np.float32:
            raise RunError(
                f"{folder} is damaged: vectors-{number:05d}.npy is {shard_ND.shape} of "
                f"{shard_ND.dtype}, index.json says {(rows, facts.dimension)} of float32."
            )
        if not isinstance(mine, list) or len(mine) != rows:
            raise RunError(f"{folder} is damaged: ids-{number:05d}.json has not {rows} ids.")
        shards.append(shard_ND)
        ids += mine
    alive_M = np.ones(len(ids), dtype=bool)
    if (folder / "alive.npy").is_file():
        alive_M = read_array(folder / "alive.npy")
    try:
        plain, engine = plain_ids(ids), engine_from(facts.engine, facts.settings)
    except UsageError as error:
        raise RunError(f"{folder} cannot be used: {error}") from None
    return State(
        vectors=Vectors(
            tuple(shards) or (_no_rows(facts),), facts.dimension, _weights(folder, facts)
        ),
        ids=plain,
        alive_M=alive_M,
        engine=engine,
        searcher=faiss.IndexFlatIP(facts.dimension),
        trained_rows=facts.trained_rows,
        pending_ids=(),
        pending_PD=_no_rows(facts),
    )


def _weights(folder: Path, facts: _Facts) -> np.ndarray | None:
    if not (folder / WEIGHTS).is_file():
        return None
    weights_DD = read_array(folder / WEIGHTS)
    if weights_DD.shape != (facts.dimension, facts.dimension) or weights_DD.dtype != np.float64:
        raise RunError(
            f"{folder} is damaged: {WEIGHTS} is {weights_DD.shape} of {weights_DD.dtype}, "
            f"index.json says {(facts.dimension, facts.dimension)} of float64."
        )
    return weights_DD


def _no_rows(facts: _Facts) -> np.ndarray:
    return np.empty((0, facts.dimension), dtype=np.float32)


def _check_facts(folder: Path, facts: _Facts, state: State) -> None:
    """What index.json and the rows say must agree."""
    wrong = None
    if len(state.ids) != facts.rows or state.alive_M.shape != (facts.rows,):
        wrong = f"{len(state.ids)} ids and {state.alive_M.shape} marks for {facts.rows} rows"
    elif state.alive_M.dtype != np.bool_ or len(state) != facts.count:
        wrong = f"{facts.count} live items are told and not found"
    elif len(state.base_rows) != len(state):
        wrong = "an id comes twice"
    if wrong:
        raise RunError(f"{folder} does not fit together: {wrong}. Index the items again.")


def _name(folder: Path, truth: str) -> str:
    return f"{folder.name}@{truth[:12]}"
