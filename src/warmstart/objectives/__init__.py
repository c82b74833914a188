"""Pure formulas of losses and penalties: torch in, torch out, each with its source."""

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
    "elastic_penalty",
    "l2_sp_penalty",
    "pack_fisher",
]
