"""Pretrained models: where they come from, what they are, what they see in your rows."""

from .backbone import Backbone, backbone
from .cache import FeatureCache
from .card import Card
from .embedding import embed_inputs
from .encoder import Encoder
from .freezing import freeze, state_hash, unfreeze
from .groups import LayerGroups
from .prefix import Replay, frozen_depth, prefix_groups
from .sources import DEFAULT_SOURCES, packaged_names
from .space import Features, Space

__all__ = [
    "DEFAULT_SOURCES",
    "Backbone",
    "Card",
    "Encoder",
    "FeatureCache",
    "Features",
    "LayerGroups",
    "Replay",
    "Space",
    "backbone",
    "embed_inputs",
    "freeze",
    "frozen_depth",
    "packaged_names",
    "prefix_groups",
    "state_hash",
    "unfreeze",
]
