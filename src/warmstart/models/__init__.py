"""What a user keeps: backbone, head, label names and preprocessing; predict, save, load."""

from .adapted import AdaptedModel
from .adapters import (
    AdaptedEncoder,
    Method,
    attach_bottlenecks,
    attach_peft,
    load_adapter,
    save_adapter,
)
from .adapters_bottleneck import BottleneckShape, output_dimensions
from .adapters_quantized import four_bit_size, missing_for_4bit, quantize
from .base import MODEL_FILE, Model, OwnCode, Prediction, load_model, model_kind
from .cnn import CnnModel, SmallCnn
from .encoder import EncoderModel
from .formats import native_pooling, opens_with
from .heads import Head, HeadShape, StandardizedHead
from .interpolation import WeightPath, interpolate_head
from .neighbours import KnnModel, NeighbourHead, neighbours, vote
from .nli import NliModel
from .tfidf import TfidfModel

__all__ = [
    "MODEL_FILE",
    "AdaptedEncoder",
    "AdaptedModel",
    "BottleneckShape",
    "CnnModel",
    "EncoderModel",
    "Head",
    "HeadShape",
    "KnnModel",
    "Method",
    "Model",
    "NeighbourHead",
    "NliModel",
    "OwnCode",
    "Prediction",
    "SmallCnn",
    "StandardizedHead",
    "TfidfModel",
    "WeightPath",
    "attach_bottlenecks",
    "attach_peft",
    "four_bit_size",
    "interpolate_head",
    "load_adapter",
    "load_model",
    "missing_for_4bit",
    "model_kind",
    "native_pooling",
    "neighbours",
    "opens_with",
    "output_dimensions",
    "quantize",
    "save_adapter",
    "vote",
]
