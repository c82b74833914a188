"""Pure formulas of losses and penalties: torch in, torch out, each with its source."""

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
    "FisherForm",
    "PackedFisher",
    "cosine_pair_loss",
    "elastic_penalty",
    "l2_sp_penalty",
    "pack_fisher",
    "supervised_contrastive",
]
