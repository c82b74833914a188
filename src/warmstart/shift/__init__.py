"""How far two sets of rows lie apart, which shift it is, and moving to an unlabelled target."""

from .a_distance import DomainScores, domain_scores
from .adapt_base import (
    SOURCE_ONLY,
    AdaptationMethod,
    Adapted,
    NamedMethod,
    Snapshot,
    make_method,
    method_class,
    method_names,
    parse_methods,
    register_method,
)
from .adapt_images import TARGET_IMAGES
from .adapt_seed import (
    MethodResult,
    MethodSeed,
    SeedRecord,
    fit_method,
    forget_weights,
    read_method,
)
from .adapt_view import DomainInputs, DomainVectors, DomainView, check_classes, domain_view
from .align import Coral, Mmd, SourceOnly
from .dann import Cdan, Dann
from .diagnosis import Diagnosis, Finding, diagnose
from .diagnosis_bound import BoundTerms
from .diagnosis_concept import ConceptShift, ErrorRate, Window, WindowsTest
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
from .drift import AnswersBefore, Drift, DriftTest, UnfamiliarShare, measure_drift
from .drift_tests import Difference, accuracy_difference, confidence_difference
from .label_correct import LabelShiftCorrection, correct_head, estimate_shares
from .label_correct_priors import (
    Calibration,
    black_box_priors,
    calibrate,
    correct_proba,
    expectation_priors,
    total_variation,
)
from .label_shift import ClassShare, LabelShift, black_box_shares
from .reference import BatchNormShift, LayerShift, batch_norm_shift, read_reference
from .reweight import Reweight
from .reweight_kernel import Kliep, fit_kliep, kernel_mean_matching, median_width, principal
from .reweight_ratio import (
    DomainClassifier,
    DomainGap,
    Weights,
    domain_ratio,
    effective_size,
    fit_domain_classifier,
    settle_weights,
)
from .select import Candidate, Decision, SharesConflict, decide, shares_conflict
from .select_choice import Choice, choose
from .select_ranks import choose_snapshot, concordance
from .selftrain import SelfTraining
from .selftrain_pseudo import pick_pseudo_labels
from .tuning import FEATURES, Tuning, parse_trainable
from .validators import (
    VALIDATORS,
    Judged,
    Validators,
    deep_embedded_risk,
    soft_neighbourhood_density,
    weighted_risk,
)
from .words import MovedWord, WordDivergence, word_divergence, words_of

__all__ = [
    "DISTANCES",
    "FEATURES",
    "MMD",
    "SOURCE_ONLY",
    "TARGET_IMAGES",
    "VALIDATORS",
    "ADistance",
    "AdaptationMethod",
    "Adapted",
    "AnswersBefore",
    "BatchNormShift",
    "BoundTerms",
    "Calibration",
    "Candidate",
    "Cdan",
    "Choice",
    "ClassShare",
    "ConceptShift",
    "Coral",
    "Dann",
    "Decision",
    "Diagnosis",
    "Difference",
    "DistanceInfo",
    "DomainClassifier",
    "DomainGap",
    "DomainInputs",
    "DomainScores",
    "DomainVectors",
    "DomainView",
    "Drift",
    "DriftTest",
    "ErrorRate",
    "Estimate",
    "Finding",
    "Judged",
    "Kliep",
    "LabelShift",
    "LabelShiftCorrection",
    "LayerShift",
    "MethodResult",
    "MethodSeed",
    "Mmd",
    "MovedWord",
    "NamedMethod",
    "Plane",
    "Reweight",
    "SeedRecord",
    "SelfTraining",
    "SharesConflict",
    "Snapshot",
    "SourceOnly",
    "Tuning",
    "UnfamiliarShare",
    "Validators",
    "Weights",
    "Window",
    "WindowsTest",
    "WordDivergence",
    "accuracy_difference",
    "batch_norm_shift",
    "black_box_priors",
    "black_box_shares",
    "calibrate",
    "check_classes",
    "choose",
    "choose_snapshot",
    "concordance",
    "confidence_difference",
    "coral",
    "correct_head",
    "correct_proba",
    "decide",
    "deep_embedded_risk",
    "diagnose",
    "domain_ratio",
    "domain_scores",
    "domain_view",
    "effective_size",
    "estimate_shares",
    "expectation_priors",
    "fit_domain_classifier",
    "fit_kliep",
    "fit_method",
    "forget_weights",
    "frechet",
    "how_large",
    "kernel_mean_matching",
    "make_method",
    "mean_covariance",
    "measure_distances",
    "measure_drift",
    "median_width",
    "method_class",
    "method_names",
    "mmd",
    "parse_methods",
    "parse_trainable",
    "pick_pseudo_labels",
    "principal",
    "principal_plane",
    "proxy_a_distance",
    "read_method",
    "read_reference",
    "register_method",
    "settle_weights",
    "shares_conflict",
    "size_words",
    "sliced_wasserstein",
    "soft_neighbourhood_density",
    "total_variation",
    "weighted_risk",
    "word_divergence",
    "words_of",
]
