"""`embed`: vectors of every row, computed once and kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.backbones import Backbone, Features
from warmstart.core import UsageError, write_atomic, write_json
from warmstart.data import Dataset, read

from .prepare import Source, as_backbone

__all__ = ["embed", "write_features"]


def embed(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    depth: int | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
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
        **reading: Passed to `read`.

    Returns:
        Vectors (N, D) with the rows' ids and the space they live in.
    """
    dataset = data if isinstance(data, Dataset) else read(data, need_label=False, **reading)
    found = as_backbone(
        backbone, dataset.modality, {"image_size": image_size, "max_length": max_length}
    )
    return found.features(dataset.without_labels(), depth=depth, pooling=pooling)


def write_features(features: Features, path: Path) -> None:
    """Write vectors as .npy (ids in NAME.ids.json beside it) or .parquet (columns id, vector).

    Raises:
        UsageError: For another ending.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = path.suffix.lower()
    if kind == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, features.vectors_ND, allow_pickle=False)
        write_atomic(path, buffer.getvalue())
        write_json(path.with_suffix(".ids.json"), list(features.ids))
    elif kind == ".parquet":
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
    else:
        raise UsageError(f"{path} must end in .npy or .parquet.")
