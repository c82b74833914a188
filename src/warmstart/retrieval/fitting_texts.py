"""A training step that encodes some of its items anew, so that the text encoder learns.

Encoded are items that the batch's users took and items that they are compared with, at most so
many a step, in pieces and where memory is short with gradient caching: neither time nor memory
grows with the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from warmstart.core import UsageError
from warmstart.training import Callback, LoopState, StepFunction, StepOutput

from .fitting import Catalogue, Objective, Plan, learned_values, zero_loss
from .grad_cache import Part, cached_gradients
from .item_texts import TextTower
from .sequences import WindowBatch

__all__ = ["RefreshTexts", "chosen_items", "text_step"]


PIECE = 16
"""Texts of like length that are encoded side by side, so that few are padded far."""


def chosen_items(plan: Plan, told_I: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Which of a step's items are encoded anew: rows among its K, rising.

    Half of them are items that the users took, half items that they are compared with; where one
    kind has fewer the other fills up. Within a kind each is as likely as any other.

    Args:
        plan: Of the step.
        told_I: True for items that have a text, on the CPU.
        most: How many at most.
        generator: On the CPU.
    """
    told_K = told_I[plan.codes_K.cpu()]
    taken = torch.unique(plan.windows.targets_N).cpu()
    if plan.shared_K is None or plan.own_NM is None:
        others = torch.arange(len(told_K))
    else:
        others = torch.unique(torch.cat([plan.shared_K, plan.own_NM.flatten()])).cpu()
    others = others[~torch.isin(others, taken)]
    taken, others = taken[told_K[taken]], others[told_K[others]]
    count = min(len(taken), max(most - most // 2, most - len(others)))
    taken = taken[torch.randperm(len(taken), generator=generator)[:count]]
    others = others[torch.randperm(len(others), generator=generator)[: most - count]]
    return torch.cat([taken, others]).sort().values


def text_step(
    objective: Objective, catalogue: Catalogue, texts: TextTower, *, most: int, chunk: int | None
) -> StepFunction:
    """The step function of the loop while texts are tuned.

    Draws are a function of (seed, epoch, first window of the batch), as in `training_step`.

    Args:
        objective: The loss.
        catalogue: The items; their text vectors are those of the table in `texts`.
        texts: The encoder.
        most: Items that are encoded anew in a step.
        chunk: How many of them at once; fewer than `most` means gradient caching, None none.
    """

    def step(batch: WindowBatch, state: LoopState) -> StepOutput:
        if state.world > 1:
            raise UsageError(
                "the text encoder is tuned in a single process; several were launched. Launch one."
            )
        if not len(batch.targets_N):  # windows that this epoch's cuts left empty
            return StepOutput(zero_loss(state), learned_values(state))
        generator = state.streams.torch("negatives", state.epoch, int(batch.rows_B[0]))
        plan = objective.plan(batch, generator)
        here = catalogue.to(state.device)
        towers = state.modules["towers"]
        given_KF = here.features(plan.codes_K)
        assert given_KF is not None
        chosen_C = chosen_items(plan, texts.told_I, most, generator).to(state.device)
        codes_C = plan.codes_K[chosen_C]
        values: dict[str, Tensor | float] = {"encoded": float(len(chosen_C))}
        pieces = texts.by_length(codes_C, chunk or PIECE) if len(codes_C) else []
        order_C = torch.cat(pieces).to(state.device) if pieces else chosen_C

        def loss(vectors: Sequence[Tensor]) -> Tensor:
            features_KF = given_KF
            if pieces:
                features_KF = _replaced(given_KF, chosen_C[order_C], vectors[0])
            users_ND, items_KD, temperature = towers(
                plan.windows, plan.codes_K, features_KF, here.known_I[plan.codes_K],
                here.profile_UP,
            )  # fmt: skip
            found, more = objective.loss(plan, users_ND, items_KD, temperature)
            values.update(more)
            return found

        parts = [codes_C[piece.to(state.device)] for piece in pieces]
        if chunk is None or len(parts) < 2:
            encoded = [texts.encode(part) for part in parts]
            total = loss([torch.cat(encoded)] if encoded else [])
            return StepOutput(total, {**values, **learned_values(state)})
        total = cached_gradients([Part(texts.encode, parts)], loss, state.backward)
        return StepOutput(total, {**values, **learned_values(state)}, manual=True)

    return step


def _replaced(given_KF: Tensor, rows_C: Tensor, text_CE: Tensor) -> Tensor:
    """The given vectors with the text part of some rows put in, differentiable in it."""
    length = text_CE.shape[1]
    text_KE = given_KF[:, :length].index_copy(0, rows_C, text_CE.to(given_KF.dtype))
    if given_KF.shape[1] == length:
        return text_KE
    return torch.cat([text_KE, given_KF[:, length:]], dim=1)


class RefreshTexts(Callback):
    """Makes the table anew at the end of each epoch, before anything else reads it."""

    def __init__(self, texts: TextTower) -> None:
        """Take the encoder."""
        self._texts = texts

    def on_epoch_end(self, state: LoopState, record: Mapping[str, float]) -> None:
        """Make it, unless the evaluation of this step has."""
        self._texts.refresh((state.name, state.step))
