"""How far two sets of rows lie apart, which shift it is, and what to do about it."""

from .a_distance import DomainScores, domain_scores
from .diagnosis import Diagnosis, Finding, diagnose
from .diagnosis_bound import BoundTerms
from .diagnosis_concept import ConceptShift, ErrorRate, Window
from .distance import (
    DISTANCES,
    MMD,
    ADistance,
    DistanceInfo,
    Estimate,
    coral,
    frechet,
    mean_covariance,
    measure_distances,
    mmd,
    proxy_a_distance,
    sliced_wasserstein,
)
from .distance_plane import Plane, principal_plane
from .distance_words import how_large, size_words
from .label_shift import ClassShare, LabelShift, black_box_shares
from .reference import BatchNormShift, LayerShift, batch_norm_shift, read_reference
from .words import MovedWord, WordDivergence, word_divergence, words_of

__all__ = [
    "DISTANCES",
    "MMD",
    "ADistance",
    "BatchNormShift",
    "BoundTerms",
    "ClassShare",
    "ConceptShift",
    "Diagnosis",
    "DistanceInfo",
    "DomainScores",
    "ErrorRate",
    "Estimate",
    "Finding",
    "LabelShift",
    "LayerShift",
    "MovedWord",
    "Plane",
    "Window",
    "WordDivergence",
    "batch_norm_shift",
    "black_box_shares",
    "coral",
    "diagnose",
    "domain_scores",
    "frechet",
    "how_large",
    "mean_covariance",
    "measure_distances",
    "mmd",
    "principal_plane",
    "proxy_a_distance",
    "read_reference",
    "size_words",
    "sliced_wasserstein",
    "word_divergence",
    "words_of",
]
