"""What towers are told of who asks: numbers for a profile, words for towers that read texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.core import UsageError

from .profiles import ProfileCode
from .sequences import Histories, QueryRows
from .user_texts import UserTexts, about_text

__all__ = ["Asked", "told_about"]


@dataclass(frozen=True)
class Asked:
    """Questions, and what is known of those who ask.

    Attributes:
        queries: Users and their histories.
        profile_UP: Attributes by user as numbers; None without.
        about: Attributes of all of them in words; None for what is known of each.
    """

    queries: QueryRows
    profile_UP: Tensor | None = None
    about: str | None = None


def told_about(
    queries: QueryRows,
    attributes: Mapping[str, Any],
    profiles: ProfileCode | None,
    teller: UserTexts | None,
) -> Asked:
    """The same questions by somebody with these attributes.

    Args:
        queries: Users and their histories.
        attributes: By name, as the users table has them.
        profiles: How the towers code attributes; None where they read none.
        teller: Users as texts, for a tower that reads them; None for any other.

    Raises:
        UsageError: For attributes that the towers do not read.
    """
    if profiles is None:
        raise UsageError(
            "this model reads no attributes of users. Leave them out, or fit with a users "
            "table and use_profiles."
        )
    profiles.check(attributes)
    if teller is not None:
        return Asked(queries, about=about_text(attributes, teller.names))
    somebody = np.zeros(len(queries), dtype=np.int64)
    told_1P = torch.from_numpy(profiles.of(attributes))[None]
    return Asked(Histories(somebody, queries.offsets_Q1, queries.items_H), told_1P)
