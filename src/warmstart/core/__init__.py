"""What everything stands on: errors, settings, random streams, progress, publishing, the run."""

from .config import Config
from .device import describe_machine, peak_memory_bytes, pick_device, synchronize
from .errors import (
    BackboneError,
    DataError,
    Interrupted,
    NotApplicable,
    RunError,
    UsageError,
    WarmstartError,
    nearest,
)
from .fingerprint import fingerprint, hash_file
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
    "NotApplicable",
    "Run",
    "RunError",
    "Streams",
    "UsageError",
    "WarmstartError",
    "describe_machine",
    "fingerprint",
    "finish_folder",
    "hash_file",
    "nearest",
    "peak_memory_bytes",
    "pick_device",
    "publishing",
    "read_json",
    "sweep",
    "synchronize",
    "verify_manifest",
    "write_atomic",
    "write_json",
    "write_manifest",
]
