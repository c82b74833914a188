"""The item index: vectors by id, an engine chosen by measurement, a folder that proves itself."""

from .building import Blocks, build_index
from .choosing import Choice, Target, Trial, choose
from .engines import ENGINES, HNSW, IVFPQ, Engine, Flat, IVFFlat, engine_from
from .faiss_index import FaissIndex
from .ids import ItemId
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
