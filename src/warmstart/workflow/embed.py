"""`embed`: vectors of every row, computed once and kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone, Features
from warmstart.core import UsageError, pick_device, write_atomic, write_json

from .prepare import Source, as_backbone, as_dataset

__all__ = ["check_features_path", "embed", "write_features"]


def embed(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    depth: int | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    allow_bin: bool = False,
    **reading: Any,
) -> Features:
    """Embed every row through the feature cache.

    Args:
        data: Anything that `read` takes; labels are not needed.
        backbone: The default for the data's modality otherwise.
        depth: Layers that are used; all otherwise.
        pooling: How positions become one vector; the backbone's own otherwise.
        image_size: Pixels on a side.
        max_length: Tokens.
        device: Where to compute: `cpu`, `cuda`, `mps`; `auto` leaves it to the backbone.
        allow_bin: Whether the backbone that is named may have pickled weights.
        **reading: Passed to `read`; of these a Dataset takes limit= alone.

    Returns:
        Vectors (N, D) with the rows' ids and the space they live in.

    Raises:
        UsageError: For a setting that the backbone does not take, or an unknown device.
    """
    wanted: dict[str, Any] = {"image_size": image_size, "max_length": max_length}
    if device != "auto":
        wanted["device"] = str(pick_device(device))
    dataset = as_dataset(data, need_label=False, **reading)
    found = as_backbone(backbone, dataset.modality, wanted, allow_bin=allow_bin)
    return found.features(dataset.without_labels(), depth=depth, pooling=pooling)


def check_features_path(path: Path) -> None:
    """Refuse an ending that `write_features` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the endings that it knows.
    """
    if path.suffix.lower() not in {".npy", ".parquet"}:
        raise UsageError(f"{path} must end in .npy or .parquet.")


def write_features(features: Features, path: Path) -> None:
    """Write vectors as .npy (ids in NAME.ids.json beside it) or .parquet (columns id, vector).

    Raises:
        UsageError: For another ending.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_features_path(path)
    if path.suffix.lower() == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, features.vectors_ND, allow_pickle=False)
        write_atomic(path, buffer.getvalue())
        write_json(path.with_suffix(".ids.json"), list(features.ids))
    else:
        dimension = features.vectors_ND.shape[1]
        flat = pa.array(np.ascontiguousarray(features.vectors_ND).ravel(), pa.float32())
        table = pa.table(
            {
                "id": pa.array(features.ids, pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_atomic(path, sink.getvalue().to_pybytes())
