"""How far two domains are apart, and carrying a labelled source over to an unlabelled target."""

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
from .adapt_seed import MethodResult, MethodSeed, SeedRecord, fit_method, read_method
from .adapt_view import DomainVectors, DomainView, check_classes, domain_view
from .align import Coral, Mmd, SourceOnly
from .dann import Cdan, Dann
from .label_correct import LabelShift, correct_head, estimate_shares
from .label_correct_priors import (
    Calibration,
    black_box_priors,
    calibrate,
    correct_proba,
    expectation_priors,
    total_variation,
)
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
from .validators import (
    VALIDATORS,
    Judged,
    Validators,
    deep_embedded_risk,
    soft_neighbourhood_density,
    weighted_risk,
)

__all__ = [
    "SOURCE_ONLY",
    "VALIDATORS",
    "AdaptationMethod",
    "Adapted",
    "Calibration",
    "Candidate",
    "Cdan",
    "Choice",
    "Coral",
    "Dann",
    "Decision",
    "DomainClassifier",
    "DomainGap",
    "DomainVectors",
    "DomainView",
    "Judged",
    "Kliep",
    "LabelShift",
    "MethodResult",
    "MethodSeed",
    "Mmd",
    "NamedMethod",
    "Reweight",
    "SeedRecord",
    "SelfTraining",
    "SharesConflict",
    "Snapshot",
    "SourceOnly",
    "Validators",
    "Weights",
    "black_box_priors",
    "calibrate",
    "check_classes",
    "choose",
    "choose_snapshot",
    "concordance",
    "correct_head",
    "correct_proba",
    "decide",
    "deep_embedded_risk",
    "domain_ratio",
    "domain_view",
    "effective_size",
    "estimate_shares",
    "expectation_priors",
    "fit_domain_classifier",
    "fit_kliep",
    "fit_method",
    "kernel_mean_matching",
    "make_method",
    "median_width",
    "method_class",
    "method_names",
    "parse_methods",
    "pick_pseudo_labels",
    "principal",
    "read_method",
    "register_method",
    "settle_weights",
    "shares_conflict",
    "soft_neighbourhood_density",
    "total_variation",
    "weighted_risk",
]
