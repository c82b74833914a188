"""The classification step, its evaluation and its loaders: what most strategies train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Streams, UsageError

from .examples import Augment, ExampleRows, Preprocess, Rows
from .loaders import Batch, Loader, RowLoader
from .mixing import MixPlace, Mixture, check_mixup, draw_mixture, mixes_inputs
from .state import EvaluateFunction, LoopState, StepFunction, StepOutput

__all__ = [
    "Classifier",
    "balanced_weights",
    "classification_loaders",
    "classification_step",
    "evaluation",
    "macro_f1",
]


class Classifier(nn.Module):
    """An encoder and a head in one module: logits (B, C) from a batch's inputs."""

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        *,
        depth: int | None = None,
        pooling: str | None = None,
    ) -> None:
        """Join them.

        Args:
            encoder: `forward(inputs) -> vectors_BD`.
            head: `forward(vectors_BD) -> logits_BC`.
            depth: Passed to the encoder when given.
            pooling: Passed to the encoder when given.
        """
        super().__init__()
        self.encoder = encoder
        self.head = head
        chosen = {"depth": depth, "pooling": pooling}
        self._chosen = {key: value for key, value in chosen.items() if value is not None}

    def forward(
        self,
        inputs: dict[str, Tensor],
        *,
        blend: Callable[[Tensor], Tensor] | None = None,
        beside: Callable[[], Tensor] | None = None,
    ) -> Any:
        """Logits (B, C); with `beside`, logits and what it returns.

        Args:
            inputs: What the encoder takes.
            blend: Applied to the vectors (B, D) before the head, as mixup does.
            beside: A term of the weights. Several processes must compute it within this pass:
                they take weights that the pass does not reach for weights without a gradient.
        """
        vectors_BD = self.vectors(inputs)
        logits_BC: Tensor = self.head(vectors_BD if blend is None else blend(vectors_BD))
        return logits_BC if beside is None else (logits_BC, beside())

    def vectors(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the head sees: vectors (B, D)."""
        vectors_BD: Tensor = self.encoder(inputs, **self._chosen)
        return vectors_BD


def classification_step(
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | Tensor | None = None,
    module: str = "model",
    mixup: float = 0.0,
    mix_at: MixPlace = "auto",
    penalty: Callable[[LoopState], Tensor] | None = None,
) -> StepFunction:
    """Cross-entropy over the rows of a batch, and what is added to it.

    With class weights the loss is the sum of weighted losses over the number of rows, not over the
    sum of weights: with weights of mean 1 over the training rows it is unbiased, and accumulating
    small batches equals one large batch.

    Args:
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        class_weights: One a class; see `balanced_weights`.
        module: Name of the classifier in `state.modules`.
        mixup: Alpha of mixup; 0 is off. See `draw_mixture`.
        mix_at: What mixup blends: `inputs`, pooled `vectors`, or `auto`, the pixels of images and
            the vectors of text. Where a frozen prefix is replayed the inputs are stand-ins:
            blend vectors there.
        penalty: A term of the weights alone; see `l2_sp` and `elastic_weights`.

    Source: label smoothing, Szegedy et al. 2016, section 7; mixup, Zhang et al. 2018.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UsageError(
            f"label_smoothing must be in [0, 1), got {label_smoothing}. Typical: 0 to 0.1."
        )
    check_mixup(mixup, mix_at)
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)

    def step(batch: Batch, state: LoopState) -> StepOutput:
        mixture = draw_mixture(mixup, len(batch), batch.labels_B.device) if mixup else None
        terms = None if penalty is None else (lambda: penalty(state))
        logits_BC, term = _forward(state.modules[module], batch, mixture, mix_at, terms)
        used = None if weights is None else weights.to(logits_BC.device)

        def loss_of(labels_B: Tensor) -> Tensor:
            losses = functional.cross_entropy(
                logits_BC.float(), labels_B, weight=used, label_smoothing=label_smoothing,
                reduction="sum",
            )  # fmt: skip
            return losses / len(batch)

        loss = loss_of(batch.labels_B) if mixture is None else mixture.loss(loss_of, batch.labels_B)
        hits = (logits_BC.detach().argmax(dim=1) == batch.labels_B).float().mean()
        if term is None:
            return StepOutput(loss, {"accuracy": hits})
        return StepOutput({"task": loss, "penalty": term}, {"accuracy": hits})

    return step


def _forward(
    model: nn.Module,
    batch: Batch,
    mixture: Mixture | None,
    place: MixPlace,
    term: Callable[[], Tensor] | None,
) -> tuple[Tensor, Tensor | None]:
    """Logits (B, C) of the rows or their blends, and the term of the weights."""
    inputs = batch.inputs
    settings: dict[str, Any] = {} if term is None else {"beside": term}
    if mixture is not None:
        if mixes_inputs(place, inputs):
            inputs = mixture.inputs(inputs)
        else:
            settings["blend"] = mixture.tensor
    found = model(inputs, **settings)
    return (found, None) if term is None else found


def balanced_weights(labels_N: np.ndarray, classes: int) -> np.ndarray:
    """Weight of each class: N / (classes present · rows of the class); mean 1 over the rows.

    Absent classes get weight 0.
    """
    counts_C = np.bincount(labels_N, minlength=classes).astype(np.float64)
    present = counts_C > 0
    weights_C = np.zeros(classes)
    weights_C[present] = counts_C.sum() / (present.sum() * counts_C[present])
    return weights_C


def evaluation(
    loader: Loader, *, classes: int, module: str = "model", prefix: str = "validation_"
) -> EvaluateFunction:
    """An evaluation function for the loop: mean cross-entropy, accuracy and macro F1.

    Args:
        loader: The held-out rows, not shuffled.
        classes: C.
        module: Name of the classifier in the loop's modules.
        prefix: Put before each metric's name.
    """

    def evaluate(state: LoopState) -> Mapping[str, float]:
        total = torch.zeros(2, dtype=torch.float32, device=state.device)  # loss, rows
        confusion = torch.zeros(classes * classes, dtype=torch.int64, device=state.device)
        loss = 0.0
        for batch in loader.batches(0, 0, state.rank, state.world):
            state.pause_point()
            here = batch.to(state.device)
            with torch.inference_mode():
                logits_BC = state.plain[module](here.inputs).float()
                losses = functional.cross_entropy(logits_BC, here.labels_B, reduction="sum")
                loss += float(losses)
                pairs = here.labels_B * classes + logits_BC.argmax(dim=1)
                confusion += torch.bincount(pairs, minlength=classes * classes)
        total[0] = loss
        confusion_CC = state.sum_over_processes(confusion).reshape(classes, classes).cpu().numpy()
        summed = float(state.sum_over_processes(total)[0]) if state.world > 1 else loss
        rows = int(confusion_CC.sum())
        return {
            f"{prefix}loss": summed / rows,
            f"{prefix}accuracy": float(np.trace(confusion_CC)) / rows,
            f"{prefix}macro_f1": macro_f1(confusion_CC),
        }

    return evaluate


def macro_f1(confusion_CC: np.ndarray) -> float:
    """Mean F1 over the classes that occur among the truths or the predictions.

    Args:
        confusion_CC: Rows by truth, columns by prediction.
    """
    hits_C = np.diag(confusion_CC).astype(np.float64)
    both_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)
    occurs = both_C > 0
    return float(np.mean(2.0 * hits_C[occurs] / both_C[occurs])) if occurs.any() else 0.0


def classification_loaders(
    train: Rows,
    validation: Rows,
    preprocess: Preprocess,
    *,
    batch_size: int,
    streams: Streams,
    augment: Augment | None = None,
    num_workers: int = 0,
    bucket: bool = True,
    evaluation_batch_size: int | None = None,
    oversample: float = 0.0,
    even: bool = False,
) -> tuple[RowLoader, RowLoader]:
    """Loaders of the training rows (shuffled) and the validation rows (as they are, by length).

    Args:
        train: Training rows, every one labelled.
        validation: Held-out rows.
        preprocess: `Encoder.preprocess`.
        batch_size: Training rows a batch.
        streams: Source of order and augmentation.
        augment: For training images.
        num_workers: Threads that prepare images ahead.
        bucket: Whether rows of similar length share a batch.
        evaluation_batch_size: Validation rows a batch; twice `batch_size` when None.
        oversample: How far rare classes are brought to the largest one, in [0, 1]; an epoch then
            has more rows (`len` of the loader tells the batches). See `oversampled_counts`.
        even: Whether training images come in batches of equal size. See `BatchOrder`.
    """
    if int(np.min(train.labels_N)) < 0:
        raise UsageError("a training row has no label. Leave unlabelled rows out.")
    learned = ExampleRows(train, preprocess, streams=streams, augment=augment)
    held = ExampleRows(validation, preprocess, streams=streams)
    return (
        RowLoader(
            learned, batch_size, streams=streams, bucket=bucket, num_workers=num_workers,
            labels=train.labels_N, oversample=oversample, even=even,
        ),
        RowLoader(
            held, evaluation_batch_size or 2 * batch_size, streams=streams, shuffle=False,
            num_workers=num_workers,
        ),
    )  # fmt: skip
