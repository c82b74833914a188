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

__all__ = [
    "FISHER_FORMS",
    "MMD_SCALES",
    "FisherForm",
    "PackedFisher",
    "conditional_features",
    "coral_loss",
    "cosine_pair_loss",
    "domain_loss",
    "elastic_penalty",
    "l2_sp_penalty",
    "mmd_loss",
    "pack_fisher",
    "prediction_entropy",
    "reversal_strength",
    "reverse_gradient",
    "supervised_contrastive",
]
