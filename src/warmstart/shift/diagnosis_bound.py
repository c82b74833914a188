"""The terms of the Ben-David bound, where both sides have labels.

    error on the target ≤ error on the source + ½ d_HΔH + λ,

for every classifier of a class H, with λ the least that one classifier's errors on both sides can
add up to. Here H is linear, d_HΔH is put in by the proxy A-distance (which is that of H itself, and
so no upper bound of it), and λ is measured by one classifier trained on equally many rows of both
sides, each row being judged by one that has not seen it, with the penalty of the source's. The
terms are what counts: a large ½ d says that rows differ, a large λ that no one classifier serves
both, whatever is done about the rows.

Source: Ben-David et al., A Theory of Learning from Different Domains, Machine Learning 2010,
theorem 2.
"""

from __future__ import annotations

import numpy as np

from warmstart.core import Config, Streams

from .diagnosis_classifier import SourceClassifier, cross_validated_answers
from .distance_inputs import Floats, Ints

__all__ = ["BoundTerms", "bound_terms"]


class BoundTerms(Config):
    """Terms of the bound, and what it bounds.

    Attributes:
        source_error: Held-out error of the source's classifier on the source.
        half_divergence: Half the proxy A-distance, at least 0.
        joint_error: λ: errors on source and target of one classifier trained on both, added.
        bound: Their sum.
        target_error: What the source's classifier errs on the target.
        rows: Labelled rows of a side that λ was measured with.
    """

    source_error: float
    half_divergence: float
    joint_error: float
    bound: float
    target_error: float
    rows: int


def bound_terms(
    classifier: SourceClassifier,
    source_ND: Floats,
    target_MD: Floats,
    truth_M: Ints,
    a_distance: float,
    classes: int,
    *,
    seed: int = 0,
) -> BoundTerms:
    """Measure each term.

    Args:
        classifier: Of the source.
        source_ND: Source vectors.
        target_MD: Target vectors.
        truth_M: Classes of the target rows, -1 unknown.
        a_distance: Proxy A-distance of the two.
        classes: Number of classes.
        seed: Of the draw to equal numbers and of the folds.

    Raises:
        NotApplicable: With too few labelled target rows, or one class only.
    """
    generator = Streams(seed).numpy("shift", "bound")
    known = np.flatnonzero(truth_M >= 0)
    rows = min(len(known), len(classifier.at_N))
    ours = classifier.at_N[np.sort(generator.permutation(len(classifier.at_N))[:rows])]
    theirs = known[np.sort(generator.permutation(len(known))[:rows])]
    truth_of = dict(zip(classifier.at_N.tolist(), classifier.truth_N.tolist(), strict=True))
    y_N = np.concatenate([[truth_of[i] for i in ours.tolist()], truth_M[theirs]]).astype(np.int64)
    x_ND = np.concatenate([source_ND[ours], target_MD[theirs]])
    answer_N, _ = cross_validated_answers(x_ND, y_N, classes, x_ND[:1], classifier.l2, seed=seed)
    wrong_N = answer_N != y_N
    joint = float(wrong_N[:rows].mean() + wrong_N[rows:].mean())
    source = float(classifier.wrong_N.mean())
    half = max(a_distance, 0.0) / 2
    return BoundTerms(
        source_error=source, half_divergence=half, joint_error=joint, bound=source + half + joint,
        target_error=float(classifier.target_wrong(truth_M).mean()), rows=rows,
    )  # fmt: skip
