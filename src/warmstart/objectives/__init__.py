"""Pure formulas of losses and penalties: torch in, torch out, each with its source."""

from .alignment import (
    MMD_SCALES,
    conditional_features,
    coral_loss,
    domain_loss,
    mmd_loss,
    prediction_entropy,
    reversal_strength,
    reverse_gradient,
)
from .contrastive import cosine_pair_loss, supervised_contrastive
from .regularisers import (
    FISHER_FORMS,
    FisherForm,
    PackedFisher,
    elastic_penalty,
    l2_sp_penalty,
    pack_fisher,
)
from .retrieval import (
    TEMPERATURES,
    accidental_hits,
    bounded_temperature,
    frequency_temperature,
    info_nce,
    log_expected_draws,
    mutual_information_bound,
    sampled_softmax,
    unbounded_temperature,
)
from .retrieval_softmax import full_softmax

__all__ = [
    "FISHER_FORMS",
    "MMD_SCALES",
    "TEMPERATURES",
    "FisherForm",
    "PackedFisher",
    "accidental_hits",
    "bounded_temperature",
    "conditional_features",
    "coral_loss",
    "cosine_pair_loss",
    "domain_loss",
    "elastic_penalty",
    "frequency_temperature",
    "full_softmax",
    "info_nce",
    "l2_sp_penalty",
    "log_expected_draws",
    "mmd_loss",
    "mutual_information_bound",
    "pack_fisher",
    "prediction_entropy",
    "reversal_strength",
    "reverse_gradient",
    "sampled_softmax",
    "supervised_contrastive",
    "unbounded_temperature",
]
