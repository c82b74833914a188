"""What everything stands on: errors, settings, random streams, progress, publishing, the run."""

from .config import Config, split_text, typical
from .device import cuda_in_use, describe_machine, peak_memory_bytes, pick_device, synchronize
from .errors import (
    BackboneError,
    DataError,
    Interrupted,
    NotApplicable,
    OutOfMemory,
    RunError,
    UsageError,
    WarmstartError,
    nearest,
    tells_out_of_memory,
)
from .fingerprint import fingerprint, hash_file
from .meter import Meter
from .publish import (
    FORMAT_VERSION,
    MANIFEST,
    finish_folder,
    publishing,
    read_json,
    sweep,
    verify_manifest,
    write_atomic,
    write_json,
    write_manifest,
)
from .rng import Streams
from .run import Run

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "BackboneError",
    "Config",
    "DataError",
    "Interrupted",
    "Meter",
    "NotApplicable",
    "OutOfMemory",
    "Run",
    "RunError",
    "Streams",
    "UsageError",
    "WarmstartError",
    "cuda_in_use",
    "describe_machine",
    "fingerprint",
    "finish_folder",
    "hash_file",
    "nearest",
    "peak_memory_bytes",
    "pick_device",
    "publishing",
    "read_json",
    "split_text",
    "sweep",
    "synchronize",
    "tells_out_of_memory",
    "typical",
    "verify_manifest",
    "write_atomic",
    "write_json",
    "write_manifest",
]
