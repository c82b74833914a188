"""What a user keeps: something that turns inputs into class probabilities, and saves itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor, nn

from warmstart.core import (
    FORMAT_VERSION,
    MANIFEST,
    Config,
    RunError,
    UsageError,
    nearest,
    read_json,
    verify_manifest,
    write_json,
)
from warmstart.data import Dataset, Modality, from_inputs

__all__ = [
    "MODEL_FILE",
    "Model",
    "OwnCode",
    "Prediction",
    "fill",
    "load_model",
    "model_kind",
    "read_tensors",
]

MODEL_FILE = "warmstart.json"
_KINDS: dict[str, type[Model]] = {}
M = TypeVar("M", bound="type[Model]")


class Prediction(Config):
    """One answer.

    Attributes:
        label: Name of the likeliest class.
        score: Its probability, in [0, 1].
        scores: Probability of every class, by name, likeliest first.
    """

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class OwnCode:
    """The code of a user's own network, which no folder holds.

    Attributes:
        module: A network of the class that was saved; its weights are replaced in a copy.
        processor: As `backbone(module=...)` took it.
        groups: Layer groups as `backbone(module=...)` took them, if it did.
    """

    module: nn.Module
    processor: Any
    groups: Mapping[str, Sequence[str]] | None = None


class Model(ABC):
    """A fitted classifier.

    Attributes:
        label_names: Names of the C classes, in the order of the probabilities' columns.
        modality: What it reads: `text` or `image`.
        has_vectors: Whether `proba_and_vectors` gives vectors.
    """

    kind: ClassVar[str]
    has_vectors: ClassVar[bool] = False
    label_names: tuple[str, ...]
    modality: Modality

    @abstractmethod
    def proba(self, dataset: Dataset) -> np.ndarray:
        """Class probabilities (N, C), float64, for the rows of a dataset in its order."""

    @abstractmethod
    def proba_of(self, inputs: Sequence[Any]) -> np.ndarray:
        """Class probabilities (N, C) for texts, or for RGB images."""

    def proba_and_vectors(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
        """`proba`, and the vectors (N, D) that it stands on, float32; None for a model without."""
        return self.proba(dataset), None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `load` needs beside the weights, as JSON values."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Write everything but `warmstart.json` into the folder."""

    @classmethod
    @abstractmethod
    def load(
        cls, folder: Path, facts: dict[str, Any], device: str, own: OwnCode | None = None
    ) -> Model:
        """Read back what `save` wrote.

        Args:
            folder: Where it lies.
            facts: What `warmstart.json` holds.
            device: Where the model goes.
            own: The user's code; given where the facts have an entry `module`, and only there.
        """

    @property
    def parameters(self) -> int:
        """Number of weights in the whole model."""
        return 0

    @property
    def opens_with(self) -> tuple[str, ...]:
        """Classes of other libraries that open the saved folder as it is."""
        return ()

    def save(self, folder: Path | str) -> Path:
        """Write the model into an existing or new folder; `load_model` reads it back.

        The caller publishes the folder (see `core.publish`), so that a killed save is never read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_weights(folder)
        write_json(
            folder / MODEL_FILE,
            {
                "format_version": FORMAT_VERSION,
                "task_type": "classify",
                "kind": self.kind,
                "modality": self.modality,
                "label_names": list(self.label_names),
                "opens_with": list(self.opens_with),
                **self.facts(),
            },
        )
        return folder

    def predict(self, inputs: Sequence[Any] | str | Path | Image.Image) -> list[Prediction]:
        """Classify texts, or images given as paths or PIL images.

        Args:
            inputs: One text, path or image, or a sequence of them.

        Raises:
            DataError: For an input of the other modality, or an image that cannot be read.
        """
        if isinstance(inputs, str | Path | Image.Image):
            inputs = [inputs]
        rows = from_inputs(inputs, self.modality)
        return self.predictions(self.proba_of(rows.inputs())) if len(rows) else []

    def predictions(self, proba_NC: np.ndarray) -> list[Prediction]:
        """Probabilities (N, C) as answers."""
        return [self._prediction(row_C) for row_C in proba_NC]

    def _prediction(self, row_C: np.ndarray) -> Prediction:
        order = np.argsort(-row_C, kind="stable")
        scores = {self.label_names[i]: float(row_C[i]) for i in order}
        best = self.label_names[order[0]]
        return Prediction(label=best, score=scores[best], scores=scores)


def model_kind(cls: M) -> M:
    """Register a model class under its `kind`, so that `load_model` finds it."""
    _KINDS[cls.kind] = cls
    return cls


def load_model(
    folder: Path | str,
    *,
    device: str = "auto",
    module: nn.Module | None = None,
    processor: Any = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Model:
    """Read a model folder, after checking every file against its manifest where it has one.

    Args:
        folder: Where it lies.
        device: Where the model goes.
        module: For a model on a network of your own: an instance of its class, whose weights do
            not matter (but for an adapted model, which needs those of its base). Code is never
            stored.
        processor: For such a model: what `backbone(module=...)` was given.
        groups: For such a model: what `backbone(module=...)` was given.

    Raises:
        RunError: When the folder holds no model, one of another format, one whose files are
            damaged, naming the file, or one that needs `module=`.
        BackboneError: When the weights of its encoder cannot be read.
        UsageError: When `module=` is given for a model that holds its own network.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        verify_manifest(folder)
    if not (folder / MODEL_FILE).is_file():
        raise RunError(f"{folder} holds no warmstart model: {MODEL_FILE} is missing there.")
    facts = read_json(folder / MODEL_FILE)
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise RunError(
            f"{folder / MODEL_FILE} has format version {version!r}; this warmstart reads "
            f"{FORMAT_VERSION}."
        )
    kind = str(facts.get("kind"))
    if kind not in _KINDS:
        raise RunError(f"{folder / MODEL_FILE}: unknown kind {kind!r}.{nearest(kind, _KINDS)}")
    own = _own_code(folder, facts.get("module"), module, processor, groups)
    try:
        return _KINDS[kind].load(folder, facts, device, own)
    except KeyError as error:
        raise RunError(f"{folder / MODEL_FILE} is damaged: {error} is missing.") from error
    except (TypeError, ValueError, UsageError) as error:
        raise RunError(f"{folder / MODEL_FILE} is damaged: {error}") from error


def _own_code(
    folder: Path,
    needed: Any,
    module: nn.Module | None,
    processor: Any,
    groups: Mapping[str, Sequence[str]] | None,
) -> OwnCode | None:
    """The user's code where the folder needs it.

    Raises:
        RunError: When it is needed and missing, with the call that gives it.
        UsageError: When it is given and not needed.
    """
    if not needed:
        if module is None and processor is None and groups is None:
            return None
        raise UsageError(
            f"{folder} holds a network that needs no code of yours: leave out module=, processor= "
            "and groups=."
        )
    if module is None or processor is None:
        name = needed.get("class", "") if isinstance(needed, dict) else ""
        short = str(name).rpartition(".")[2] or "Net"
        raise RunError(
            f"{folder} holds the weights of a network of your own ({name}); its code is not "
            "stored. Give the code that it was trained with: "
            f"load_model({str(folder)!r}, module={short}(...), processor=..., groups=...)"
        )
    return OwnCode(module, processor, groups)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        RunError: When it is missing or damaged, naming it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise RunError(f"{path} is missing. Make the model again, or restore the file.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}. Make the model again.") from error


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors that were read from `path` into a module, all of them and no others.

    Raises:
        RunError: When names or shapes do not fit, naming the file.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        lines = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise RunError(f"{path} does not fit its model: {lines or error}") from error
