"""Label-shift correction: the source's classifier with the target's class shares put in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from warmstart.core import Run
from warmstart.models import Head

from .adapt_base import Adapted, register_method
from .adapt_train import TrainedMethod
from .adapt_view import DomainVectors
from .label_correct_priors import (
    black_box_priors,
    calibrate,
    expectation_priors,
    total_variation,
)

__all__ = ["LabelShiftCorrection", "correct_head", "estimate_shares", "head_logits"]

_LEAST_RATIO = 1e-3


@register_method
class LabelShiftCorrection(TrainedMethod):
    """Source-only, calibrated, with its probabilities corrected by the target's estimated shares.

    The network is source-only's. Its logits are calibrated on the source's validation rows
    (temperature and biases), the target's shares estimated, and log(p_T / p_S) added to the biases.

    Needs: classes whose inputs look alike in both domains. Equals: source-only, calibrated, where
    the shares agree. Pick when: some classes are commoner in the target than in the source.
    Source: Saerens et al. 2002 (`em`), Lipton et al. 2018 (`bbse`), Alexandari et al. 2020 (the
    calibration before it).

    Attributes:
        shares: How the target's shares are estimated: `em` from calibrated probabilities, `bbse`
            from confusions.
    """

    name: ClassVar[str] = "label-shift"
    title: ClassVar[str] = "Label-shift correction"
    shares: Literal["em", "bbse"] = "em"

    @property
    def _early(self) -> bool:
        return True

    def _finish(self, rows: DomainVectors, run: Run, adapted: Adapted) -> Adapted:
        (only,) = adapted.snapshots
        rows = only.own or rows
        found = estimate_shares(only.head, rows)
        target_C = found[self.shares]
        head = correct_head(only.head, rows, found["source"], target_C)
        moved = total_variation(found["source"], target_C)
        note = (
            f"Estimated class shares of the target ({self.shares}) differ from the source's by "
            f"{100 * moved:.1f} % of the rows."
        )
        values = {**adapted.values, "class_shares": shares_json(found, rows)}
        return replace(
            adapted, snapshots=(replace(only, head=head),), values=values,
            notes=[*adapted.notes, note],
        )  # fmt: skip


def estimate_shares(head: Head, rows: DomainVectors) -> dict[str, np.ndarray]:
    """Class shares: the source's training rows, and the target's by both estimators.

    Args:
        head: Learned on the source; reads raw vectors.
        rows: Source and target vectors, in the space that the head reads.

    Returns:
        `source`, `em` and `bbse`, each (C,).
    """
    classes = rows.classes
    source_C = np.bincount(rows.labels_N, minlength=classes) / len(rows.labels_N)
    held_MC, target_UC = head_logits(head, rows.validation_MD), head_logits(head, rows.target_UD)
    calibration = calibrate(held_MC, rows.labels_M)
    proba_UC = _softmax(calibration.apply(target_UC))
    return {
        "source": source_C,
        "em": expectation_priors(proba_UC, source_C),
        "bbse": black_box_priors(
            held_MC.argmax(axis=1), rows.labels_M, target_UC.argmax(axis=1), classes
        ),
    }


def shares_json(found: dict[str, np.ndarray], rows: DomainVectors) -> dict[str, Any]:
    """Estimated shares by class name, as JSON values."""
    return {
        kind: {name: float(share) for name, share in zip(rows.label_names, values_C, strict=True)}
        for kind, values_C in found.items()
    }


@torch.no_grad()
def correct_head(
    head: Head, rows: DomainVectors, source_C: np.ndarray, target_C: np.ndarray
) -> Head:
    """The head calibrated, with log(p_T / p_S) added to its biases: softmax then gives p_T(c | x).

    Args:
        head: Learned on the source; stays as it is.
        rows: Its validation rows calibrate.
        source_C: The source's shares.
        target_C: The target's; a class is never excluded altogether.
    """
    calibration = calibrate(head_logits(head, rows.validation_MD), rows.labels_M)
    ratio_C = np.where(source_C > 0, target_C / np.where(source_C > 0, source_C, 1.0), 1.0)
    bias_C = calibration.bias_C + np.log(np.maximum(ratio_C, _LEAST_RATIO))
    made = Head(head.shape)
    made.load_state_dict(head.state_dict())
    made.output.weight.div_(calibration.temperature)
    made.output.bias.div_(calibration.temperature).add_(torch.from_numpy(bias_C.astype(np.float32)))
    return made.eval()


@torch.inference_mode()
def head_logits(head: Head, vectors_ND: np.ndarray) -> np.ndarray:
    """Logits (N, C) in float64 of raw vectors."""
    device = head.output.weight.device
    made = head.eval()(torch.as_tensor(np.array(vectors_ND, dtype=np.float32), device=device))
    logits_NC: np.ndarray = made.double().cpu().numpy()
    return logits_NC


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    proba_NC: np.ndarray = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    return proba_NC
