"""The item index: vectors by id, an engine chosen by measurement, a folder that proves itself."""

from .building import Blocks, build_index
from .choosing import Choice, Target, Trial, choose
from .engine import Engine
from .engines import ENGINES, HNSW, Flat, engine_from
from .faiss_index import FaissIndex
from .ids import ItemId
from .ivf import IVFPQ, IVFFlat
from .protocol import ItemIndex, Selection
from .vectors import Vectors, exact_top

__all__ = [
    "ENGINES",
    "HNSW",
    "IVFPQ",
    "Blocks",
    "Choice",
    "Engine",
    "FaissIndex",
    "Flat",
    "IVFFlat",
    "ItemId",
    "ItemIndex",
    "Selection",
    "Target",
    "Trial",
    "Vectors",
    "build_index",
    "choose",
    "engine_from",
    "exact_top",
]
