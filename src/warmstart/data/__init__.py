"""Reading, checking, auditing and dividing data: rows come in here and nowhere else."""

from .audit import audit
from .dataset import Dataset, Modality, Skipped, from_columns, from_inputs
from .findings import Audit, Finding
from .images import MAX_PIXELS, UnreadableImageError, open_rgb
from .readers import read
from .samples import SAMPLES, Sample, SampleResult, sample
from .splits import Split, View, split
from .transforms import AUGMENTATIONS, Augment, Augmentation, parse_augmentation

__all__ = [
    "AUGMENTATIONS",
    "MAX_PIXELS",
    "SAMPLES",
    "Audit",
    "Augment",
    "Augmentation",
    "Dataset",
    "Finding",
    "Modality",
    "Sample",
    "SampleResult",
    "Skipped",
    "Split",
    "UnreadableImageError",
    "View",
    "audit",
    "from_columns",
    "from_inputs",
    "open_rgb",
    "parse_augmentation",
    "read",
    "sample",
    "split",
]
