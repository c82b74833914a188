"""Mining between epochs: the current model names the items that it wrongly ranks high."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from warmstart.training import Callback, LoopState

from .fitting import Catalogue, item_table
from .negatives import Known
from .negatives_hard import Mined, mine
from .sequences import Sequences, before_last
from .towers import Towers
from .user_texts import UserTexts, asked_windows

__all__ = ["MineNegatives"]


class MineNegatives(Callback):
    """Fills the pools of mined negatives by the current model, every so many epochs.

    Attributes:
        queries: What the model is asked: each user, before the last event.
    """

    def __init__(
        self,
        mined: Mined,
        catalogue: Catalogue,
        sequences: Sequences,
        known: Known,
        *,
        every: int,
        margin: float,
        history: int,
        texts: UserTexts | None = None,
    ) -> None:
        """Prepare the question put to the model: what came last in each user's sequence.

        Args:
            mined: Whose pools are filled.
            catalogue: The items.
            sequences: Users' events.
            known: Users' positives.
            every: Epochs between two minings.
            margin: See `mine`.
            history: Events that the user tower looks back on.
            texts: Users as texts, for a tower that reads them.
        """
        self._mined = mined
        self._catalogue = catalogue
        self._known = known
        self._every = every
        self._margin = margin
        self._history = history
        self._texts = texts
        self.queries, taken_U = before_last(sequences)
        self._taken_U = torch.from_numpy(taken_U)

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """Mine when the epochs are up."""
        if (state.epoch + 1) % self._every:
            return
        towers = state.plain["towers"]
        assert isinstance(towers, Towers)
        catalogue = self._catalogue.to(state.device)
        items_ID = item_table(towers, catalogue)
        towers.eval()

        @torch.inference_mode()
        def ask(start: int, stop: int) -> Tensor:
            windows = asked_windows(self.queries, start, stop, self._history, self._texts)
            return towers.user_vectors(windows.to(state.device), items_ID, catalogue.profile_UP)

        pools = mine(
            ask, items_ID, self._taken_U.to(state.device), self._known, size=self._mined.size,
            allowed_I=catalogue.known_I, margin=self._margin,
        )  # fmt: skip
        self._mined.fill(*pools)
