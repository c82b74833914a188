"""The old task of `--retain`: rows whose answers must not get lost while a new task is learned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from warmstart.backbones import Backbone, Encoder
from warmstart.core import Streams
from warmstart.data import Dataset, View
from warmstart.evaluation import Forgetting, measure, measure_forgetting
from warmstart.models import EncoderModel, Head
from warmstart.objectives import FisherForm
from warmstart.training import (
    Anchor,
    Classifier,
    ExampleRows,
    Penalty,
    Retained,
    RowLoader,
    elastic_weights,
    estimate_fisher,
)

from .probe import convex_head

__all__ = ["FISHER_ROWS", "OldTask", "old_task"]

FISHER_ROWS = 500


@dataclass(frozen=True)
class OldTask:
    """An old task as the untouched backbone serves it.

    Its head is convex, fitted on untouched features and fixed from then on: what the old task
    loses is what the encoder has lost for it.

    Attributes:
        backbone: The untouched backbone.
        head: The old task's head.
        view: Its rows: `train` made the head (and gives Fisher information), `validation` is
            watched.
    """

    backbone: Backbone
    head: Head
    view: View

    @cached_property
    def before(self) -> float:
        """Accuracy on the old task's validation rows with the untouched backbone, in [0, 1]."""
        rows = self.view.validation
        return measure(self.model().proba(rows), rows.labels_N, ["accuracy"])["accuracy"]

    def watch(self, encoder: Encoder, streams: Streams, *, batch_size: int = 32) -> Retained:
        """What a fit evaluates beside its own validation rows.

        Args:
            encoder: The encoder in training, for its preprocessing.
            streams: Of the run.
            batch_size: Rows a batch.
        """
        rows = ExampleRows(self.view.validation, encoder.preprocess, streams=streams)
        loader = RowLoader(rows, batch_size, streams=streams, shuffle=False)
        return Retained(loader, self.head, classes=self.view.n_classes)

    def elastic(
        self,
        classifier: Classifier,
        anchor: Anchor,
        streams: Streams,
        *,
        strength: float = 1e3,
        rows: int | None = FISHER_ROWS,
        form: FisherForm = "bfloat16",
        labels: Literal["sampled", "empirical"] = "sampled",
    ) -> Penalty:
        """EWC's penalty, with Fisher information of the old task at the untouched weights.

        Args:
            classifier: The one to be trained, untouched as yet; what is frozen is left out.
            anchor: Its weights at the start.
            streams: Of the run.
            strength: Lambda.
            rows: Training rows of the old task at most; each is a pass forward and back.
            form: How the information is kept.
            labels: See `estimate_fisher`.
        """
        encoder = classifier.encoder
        assert isinstance(encoder, Encoder)
        source = ExampleRows(self.view.train, encoder.preprocess, streams=streams)
        loader = RowLoader(source, 32, streams=streams.child("fisher"))
        old = Classifier(encoder, self.head.to(encoder.device))
        fisher = estimate_fisher(
            old, loader, streams=streams, labels=labels, form=form, rows=rows
        )  # fmt: skip
        return elastic_weights(anchor, fisher, strength=strength)

    def model(self, adapted: EncoderModel | None = None) -> EncoderModel:
        """The old task's classifier over the untouched encoder, or over an adapted one."""
        encoder = adapted.encoder if adapted is not None and adapted.tuned else None
        return EncoderModel(self.backbone, self.head, self.view.label_names, encoder=encoder)

    def forgetting(
        self, adapted: EncoderModel, rows: Dataset | None = None, *, metric: str = "accuracy"
    ) -> Forgetting:
        """What the old task lost, paired on rows.

        Args:
            adapted: The fine-tuned model.
            rows: Labelled rows of the old task that nothing was chosen on; its validation rows
                when None.
            metric: What to measure.
        """
        held = self.view.validation if rows is None else rows
        before, after = self.model().proba(held), self.model(adapted).proba(held)
        return measure_forgetting(before, after, held.labels_N, metric=metric)


def old_task(backbone: Backbone, view: View, *, l2: float | None = None) -> OldTask:
    """Fit the old task's convex head on the untouched backbone's features.

    Args:
        backbone: The recipe that will be adapted.
        view: Rows of the old task.
        l2: Strength of the head's penalty; by cross-validation when None.
    """
    return OldTask(backbone, convex_head(backbone, view, l2), view)
