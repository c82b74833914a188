"""Pretrained models: where they come from, what they are, what they see in your rows."""

from .backbone import Backbone, backbone
from .cache import FeatureCache
from .card import Card
from .embedding import embed_inputs
from .encoder import Encoder
from .families import FAMILIES
from .freezing import freeze, state_hash, unfreeze
from .groups import LayerGroups, find_groups, groups_of_family
from .sources import DEFAULT_SOURCES, packaged_names
from .space import Features, Space

__all__ = [
    "DEFAULT_SOURCES",
    "FAMILIES",
    "Backbone",
    "Card",
    "Encoder",
    "FeatureCache",
    "Features",
    "LayerGroups",
    "Space",
    "backbone",
    "embed_inputs",
    "find_groups",
    "freeze",
    "groups_of_family",
    "packaged_names",
    "state_hash",
    "unfreeze",
]
