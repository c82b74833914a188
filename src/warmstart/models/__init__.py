"""What a user keeps: backbone, head, label names and preprocessing; predict, save, load."""

from .base import MODEL_FILE, Model, OwnCode, Prediction, load_model, model_kind
from .cnn import CnnModel, SmallCnn
from .encoder import EncoderModel
from .formats import native_pooling, opens_with
from .heads import Head, HeadShape
from .interpolation import WeightPath, interpolate_head
from .neighbours import KnnModel, NeighbourHead, neighbours, vote
from .nli import NliModel
from .tfidf import TfidfModel

__all__ = [
    "MODEL_FILE",
    "CnnModel",
    "EncoderModel",
    "Head",
    "HeadShape",
    "KnnModel",
    "Model",
    "NeighbourHead",
    "NliModel",
    "OwnCode",
    "Prediction",
    "SmallCnn",
    "TfidfModel",
    "WeightPath",
    "interpolate_head",
    "load_model",
    "model_kind",
    "native_pooling",
    "neighbours",
    "opens_with",
    "vote",
]
