"""Pretrained models: where they come from, what they are, what they see in your rows."""

from .backbone import Backbone, backbone
from .blueprint import Blueprint, blueprint
from .cache import FeatureCache
from .card import Card
from .embedding import embed_inputs
from .encoder import Encoder
from .families import FAMILIES
from .freezing import FrozenLedger, freeze, state_hash, unfreeze
from .groups import LayerGroups, batch_norms, count_weights, find_groups, groups_of_family
from .prefix import Replay, frozen_depth, prefix_groups
from .source_classes import SourceClassifier
from .sources import DEFAULT_SOURCES, packaged_names
from .space import Features, Space

__all__ = [
    "DEFAULT_SOURCES",
    "FAMILIES",
    "Backbone",
    "Blueprint",
    "Card",
    "Encoder",
    "FeatureCache",
    "Features",
    "FrozenLedger",
    "LayerGroups",
    "Replay",
    "SourceClassifier",
    "Space",
    "backbone",
    "batch_norms",
    "blueprint",
    "count_weights",
    "embed_inputs",
    "find_groups",
    "freeze",
    "frozen_depth",
    "groups_of_family",
    "packaged_names",
    "prefix_groups",
    "state_hash",
    "unfreeze",
]
