"""What adaptation may see: labelled source rows, and target rows of which no label can be reached.

A target's classes hide in more places than its label column: in other columns, in row ids, in the
folder that an image lies in, in the order of a sorted file. `DomainView` keeps none of the first
two and has its target rows in the order of their content hashes. `DomainVectors`, which is what a
method gets, holds no path either: vectors and nothing else. `DomainInputs` adds the texts or the
images, under paths made of their content hashes, for methods that train the encoder too.

U counts unlabelled target rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone, Encoder, Space, embed_inputs
from warmstart.core import DataError, UsageError, nearest
from warmstart.data import Dataset, View, from_columns
from warmstart.models.encoder import RowInputs

from .adapt_images import TARGET_IMAGES, nameless_images
from .tuning import Tuning

__all__ = [
    "FEWEST_TARGET_ROWS",
    "DomainInputs",
    "DomainVectors",
    "DomainView",
    "check_classes",
    "domain_view",
]

FEWEST_TARGET_ROWS = 10


@dataclass(frozen=True, eq=False)
class DomainView:
    """Source rows with labels and target rows without.

    Attributes:
        source: Training and validation rows of the source, labelled.
        target: Target rows to adapt to, unlabelled, under ids that are their content hashes.
    """

    source: View
    target: Dataset

    def __post_init__(self) -> None:
        """Refuse a target with labels.

        Raises:
            UsageError: When a target row has one.
            DataError: When there are too few target rows, or they are of another modality.
        """
        if (self.target.labels_N >= 0).any():
            raise UsageError(
                "a DomainView's target must have no labels; make it with domain_view, which takes "
                "them off."
            )
        if len(self.target) < FEWEST_TARGET_ROWS:
            raise DataError(
                f"{self.target.source}: adapting needs {FEWEST_TARGET_ROWS} target rows or more, "
                f"got {len(self.target)}. Add rows; labels are not needed."
            )
        if self.target.modality != self.source.train.modality:
            raise DataError(
                f"the source {self.source.train.source} holds {self.source.train.modality} rows, "
                f"the target {self.target.source} {self.target.modality} rows: one backbone must "
                "read both."
            )


def domain_view(source: View, target: Dataset) -> DomainView:
    """Put the two together, with the target's labels, further columns, ids and order taken off.

    Args:
        source: Training and validation rows with labels.
        target: Target rows, with labels or without.
    """
    contents = target.contents
    order = sorted(range(len(target)), key=lambda row: contents[row])
    cells = target.column(target.modality)
    seen: Counter[str] = Counter()
    ids = []
    for row in order:
        seen[contents[row]] += 1
        ids.append(f"{contents[row]}-{seen[contents[row]]}")
    bare = from_columns(
        {
            "id": ids,
            target.modality: [cells[row] for row in order],
            "label": [-1] * len(order),
            "content": [contents[row] for row in order],
        },
        label_names=source.label_names,
        modality=target.modality,
        source=target.source,
        max_pixels=target.max_pixels,
    )
    return DomainView(replace(source, retain=None), bare)


@dataclass(frozen=True, eq=False)
class DomainVectors:
    """The rows of a `DomainView` as vectors of the untouched backbone.

    Attributes:
        train_ND: Source rows to learn from.
        labels_N: Their classes.
        ids_N: Their ids, by which batches are ordered.
        validation_MD: Source rows to choose on.
        labels_M: Their classes.
        target_UD: Target rows.
        target_ids_U: Their ids: content hashes.
        label_names: Names of the C classes.
        space: Where the vectors live.
    """

    train_ND: np.ndarray
    labels_N: np.ndarray
    ids_N: tuple[str, ...]
    validation_MD: np.ndarray
    labels_M: np.ndarray
    target_UD: np.ndarray
    target_ids_U: tuple[str, ...]
    label_names: tuple[str, ...]
    space: Space

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.label_names)

    @classmethod
    def of(cls, view: DomainView, backbone: Backbone) -> DomainVectors:
        """Embed the rows through the backbone's feature cache.

        Args:
            view: The rows.
            backbone: The untouched backbone.
        """
        train = backbone.features(view.source.train)
        held = backbone.features(view.source.validation)
        target = backbone.features(view.target)
        return cls(
            train_ND=train.vectors_ND,
            labels_N=view.source.train.labels_N,
            ids_N=train.ids,
            validation_MD=held.vectors_ND,
            labels_M=view.source.validation.labels_N,
            target_UD=target.vectors_ND,
            target_ids_U=target.ids,
            label_names=view.source.label_names,
            space=train.space,
        )


@dataclass(frozen=True, eq=False)
class DomainInputs(DomainVectors):
    """The same rows with the inputs that the vectors were made of, for an encoder that learns.

    Attributes:
        backbone: The untouched one that the encoder starts from.
        source: Training and validation rows of the source, labelled.
        target: Target rows without labels, under the ids of `target_ids_U`, images under
            their content hashes.
        tuning: Which part of the encoder learns.
    """

    backbone: Backbone
    source: View
    target: Dataset
    tuning: Tuning

    @classmethod
    def of_tuned(
        cls, view: DomainView, backbone: Backbone, tuning: Tuning, folder: Path
    ) -> DomainInputs:
        """Embed the rows and keep their inputs.

        Args:
            view: The rows.
            backbone: The untouched backbone.
            tuning: Which part of the encoder learns.
            folder: Of the run. Target images lie in `target-images` below it while it lasts.

        Raises:
            UsageError: For a part that this backbone does not have, or a folder that is full.
            DataError: When an image cannot be read any more.
            NotApplicable: Where its family takes no such adapter.
        """
        tuning.check(backbone, view.source)
        plain = DomainVectors.of(view, backbone)
        return cls(
            **{field.name: getattr(plain, field.name) for field in fields(plain)},
            backbone=backbone, source=view.source, target=_without_paths(view.target, folder),
            tuning=tuning,
        )  # fmt: skip

    def seen_by(self, vectors: Sequence[np.ndarray], name: str) -> DomainVectors:
        """The rows in another encoder's space.

        Args:
            vectors: Of the source's training rows, its validation rows and the target rows.
            name: Of that encoder's weights.
        """
        train_ND, validation_MD, target_UD = vectors
        return DomainVectors(
            train_ND=train_ND, labels_N=self.labels_N, ids_N=self.ids_N,
            validation_MD=validation_MD, labels_M=self.labels_M, target_UD=target_UD,
            target_ids_U=self.target_ids_U, label_names=self.label_names,
            space=self.space.model_copy(update={"backbone": name}),
        )  # fmt: skip

    def embedded(self, encoder: Encoder, name: str) -> DomainVectors:
        """The rows as an encoder sees them.

        Args:
            encoder: With what it has learned.
            name: Of its weights.
        """
        parts = (self.source.train, self.source.validation, self.target)
        return self.seen_by([embed_inputs(encoder, RowInputs(part)) for part in parts], name)


def _without_paths(target: Dataset, folder: Path) -> Dataset:
    """The rows with images under other paths: the folder that one lies in may be its class."""
    if target.modality == "image":
        cells = nameless_images(target, folder / TARGET_IMAGES)
    else:
        cells = target.column(target.modality)
    return from_columns(
        {
            "id": target.ids,
            target.modality: cells,
            "label": [-1] * len(target),
            "content": target.contents,
        },
        label_names=target.label_names,
        modality=target.modality,
        source="target",
        max_pixels=target.max_pixels,
    )


def check_classes(source: Sequence[str], target: Sequence[str], *, where: str) -> None:
    """Refuse target classes that the source does not have.

    Args:
        source: Class names of the source.
        target: Class names of the target's labelled rows.
        where: Names the target in the message.

    Raises:
        DataError: Naming the first class that is missing, with the nearest name.
    """
    unknown = [name for name in target if name not in source]
    if unknown:
        more = f" ({len(unknown)} such classes)" if len(unknown) > 1 else ""
        raise DataError(
            f"{where} has the class {unknown[0]!r}, which the source does not have{more}."
            f"{nearest(unknown[0], source)} Rename it, or give --label-names for both."
        )
