"""Reading, checking, auditing and dividing data: rows come in here and nowhere else."""

from .audit import audit
from .dataset import Dataset, Modality, Skipped, from_columns, from_inputs
from .findings import Audit, Finding
from .images import MAX_PIXELS, UnreadableImageError, open_rgb
from .interaction_layouts import is_interactions
from .interaction_readers import read_interactions, read_items
from .interactions import Histories, Interactions
from .readers import IN_MEMORY, read
from .samples import SAMPLES, Sample, SampleResult, sample
from .splits import Split, View, split
from .timesplit import FRACTIONS, TimeSplit, check_cuts, held_out_events, time_split
from .transforms import AUGMENTATIONS, Augment, Augmentation, parse_augmentation

__all__ = [
    "AUGMENTATIONS",
    "FRACTIONS",
    "IN_MEMORY",
    "MAX_PIXELS",
    "SAMPLES",
    "Audit",
    "Augment",
    "Augmentation",
    "Dataset",
    "Finding",
    "Histories",
    "Interactions",
    "Modality",
    "Sample",
    "SampleResult",
    "Skipped",
    "Split",
    "TimeSplit",
    "UnreadableImageError",
    "View",
    "audit",
    "check_cuts",
    "from_columns",
    "from_inputs",
    "held_out_events",
    "is_interactions",
    "open_rgb",
    "parse_augmentation",
    "read",
    "read_interactions",
    "read_items",
    "sample",
    "split",
    "time_split",
]
