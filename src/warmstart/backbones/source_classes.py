"""The classes that a checkpoint was trained to tell apart, and what they say of other rows.

A backbone leaves the classification head of its checkpoint behind. Here the head is read again:
LEEP and NCE ask how well its source classes foretell the labels of new data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from warmstart.core import BackboneError, NotApplicable, progress
from warmstart.data import Dataset

from .encoder import image_extra
from .loading import read_checkpoint
from .processing import Processor
from .recipe import FolderRecipe, Recipe, Settings

__all__ = ["SourceClassifier", "source_classifier"]

_AUTO = {
    "text": ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    "image": ("ForImageClassification", "AutoModelForImageClassification"),
}
_BATCH = 32
_TRIED = 4
_CLOSE = 1e-3


class SourceClassifier:
    """A pretrained network with the head of its checkpoint.

    Attributes:
        backbone: Its name.
        names: Names of the S source classes, as its configuration gives them.
    """

    def __init__(self, network: Any, processor: Processor, backbone: str, modality: str) -> None:
        self.network = network
        self.processor = processor
        self.backbone = backbone
        self.modality = modality
        labels = network.config.id2label
        self.names = tuple(str(labels[number]) for number in sorted(labels))
        self._extra = image_extra(network, processor)

    @torch.inference_mode()
    def proba(self, dataset: Dataset, vectors_ND: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (N, S) of the source classes, float64, for each row.

        Args:
            dataset: Rows of the backbone's modality.
            vectors_ND: The rows' features, where they are there: if the head is a linear layer on
                just these, which is tried on four rows, the network need not run again.

        Raises:
            BackboneError: For logits that are not finite.
        """
        logits_NS = None if vectors_ND is None else self._from_vectors(dataset, vectors_ND)
        if logits_NS is None:
            logits_NS = np.empty((len(dataset), len(self.names)))
            words = f"Source classes of {self.backbone}"
            with progress.task(words, total=len(dataset)) as bar:
                for rows, found_BS in self._run(dataset, self._batches(dataset)):
                    logits_NS[rows] = found_BS
                    bar.advance(len(rows))
        if not np.isfinite(logits_NS).all():
            raise BackboneError(
                f"{self.backbone}: its source classes get numbers that are not finite for some "
                "rows. Look at these rows, or use another backbone."
            )
        shifted_NS = np.exp(logits_NS - logits_NS.max(axis=1, keepdims=True))
        proba_NS: np.ndarray = shifted_NS / shifted_NS.sum(axis=1, keepdims=True)
        return proba_NS

    def _from_vectors(self, dataset: Dataset, vectors_ND: np.ndarray) -> np.ndarray | None:
        """Logits by the linear layer alone; None where these are not what the network says."""
        width = len(self.names)
        layers = [
            layer
            for layer in self.network.modules()
            if isinstance(layer, nn.Linear) and layer.out_features == width
        ]
        if not layers or layers[-1].in_features != vectors_ND.shape[1]:
            return None
        weight_SD = layers[-1].weight.detach().double().cpu().numpy()
        bias = layers[-1].bias
        bias_S = 0.0 if bias is None else bias.detach().double().cpu().numpy()
        few = list(range(min(_TRIED, len(dataset))))
        ((_, truth_BS),) = self._run(dataset, [few])
        tried_BS = vectors_ND[few] @ weight_SD.T + bias_S
        if np.abs(tried_BS - truth_BS).max() > _CLOSE * max(float(np.abs(truth_BS).max()), 1e-6):
            return None
        logits_NS: np.ndarray = vectors_ND @ weight_SD.T + bias_S
        return logits_NS

    def _batches(self, dataset: Dataset) -> list[list[int]]:
        """Row numbers by batch; texts of like length (in letters) together."""
        order: Sequence[int] = range(len(dataset))
        if self.modality == "text":
            lengths = [len(text) for text in dataset.inputs()]
            order = sorted(order, key=lambda row: -lengths[row])
        return [list(order[start : start + _BATCH]) for start in range(0, len(order), _BATCH)]

    def _run(
        self, dataset: Dataset, batches: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        device = next(self.network.parameters()).device
        for rows in batches:
            items = self.processor.prepare(dataset.inputs(rows))
            batch = {key: value.to(device) for key, value in self.processor.collate(items).items()}
            logits = self.network(**batch, **self._extra).logits
            yield rows, logits.double().cpu().numpy()


def source_classifier(recipe: Recipe, settings: Settings, device: torch.device) -> SourceClassifier:
    """Read a checkpoint together with its classification head.

    Args:
        recipe: What makes encoders of the backbone.
        settings: Its input sizes.
        device: Where to put it.

    Raises:
        NotApplicable: Where the checkpoint has no trained head over two classes or more.
        BackboneError: For files that cannot be read.
    """
    if not isinstance(recipe, FolderRecipe):
        raise NotApplicable("a network of one's own names no source classes")
    architectures = [str(name) for name in getattr(recipe.config, "architectures", None) or []]
    if recipe.modality == "image-text":
        raise NotApplicable("an image-text model has no fixed source classes")
    ending, auto = _AUTO[recipe.modality]
    if not any(ending in name for name in architectures):
        what = f" ({', '.join(architectures)})" if architectures else ""
        raise NotApplicable(f"its checkpoint{what} has no classification head")
    config = recipe.config
    if config.num_labels < 2 or getattr(config, "problem_type", None) in {
        "regression",
        "multi_label_classification",
    }:
        raise NotApplicable("the head of its checkpoint does not choose one of several classes")
    network = _load(recipe, auto)
    processor = recipe.processor(recipe.modality, settings, network)
    return SourceClassifier(network.to(device), processor, recipe.name, recipe.modality)


def _load(recipe: FolderRecipe, auto: str) -> Any:
    import transformers

    network, report = read_checkpoint(
        getattr(transformers, auto), recipe.folder, recipe.config,
        use_bin=recipe.weights[0].suffix == ".bin",
        failure=f"the classification head in {recipe.folder} cannot be read",
    )  # fmt: skip
    missing = [key for key in report["missing_keys"] if not key.endswith("num_batches_tracked")]
    if missing:
        raise NotApplicable(
            f"its checkpoint lacks weights of the classification head ({sorted(missing)[0]})"
        )
    return network.eval()
