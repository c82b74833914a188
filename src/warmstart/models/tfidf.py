"""TF-IDF and logistic regression as a model: the control that no pretrained text model may ignore.

Saved as JSON (vocabulary) and safetensors (weights); nothing is pickled.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer

from warmstart.core import RunError, read_json, write_json
from warmstart.data import Dataset, Modality

from .base import Model, OwnCode, model_kind, read_tensors

__all__ = ["TfidfModel", "new_vectorizer"]


def new_vectorizer() -> TfidfVectorizer:
    """Words and word pairs, sublinear term frequency, unit length.

    The token pattern takes any run of letters, digits and combining marks of any script, since
    scikit-learn's default cuts Devanagari words at their vowel signs.
    """
    return TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=rf"[^\W_][\w{_marks()}]*"
    )


@cache
def _marks() -> str:
    """Unicode's combining marks, most of which are no word characters, as a class's ranges."""
    marks = {c for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M"}
    starts = sorted(c for c in marks if c - 1 not in marks)
    ends = sorted(c for c in marks if c + 1 not in marks)
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))


@model_kind
class TfidfModel(Model):
    """A linear classifier on TF-IDF features."""

    kind = "tfidf"
    modality: Modality = "text"

    def __init__(
        self,
        vectorizer: TfidfVectorizer,
        weight_CV: np.ndarray,
        bias_C: np.ndarray,
        label_names: tuple[str, ...],
    ) -> None:
        self.vectorizer = vectorizer
        self.weight_CV = weight_CV
        self.bias_C = bias_C
        self.label_names = label_names

    @property
    def parameters(self) -> int:
        """Weights and biases of the classifier."""
        return int(self.weight_CV.size + self.bias_C.size)

    def proba(self, dataset: Dataset) -> np.ndarray:
        """Class probabilities (N, C)."""
        return self.proba_of(dataset.inputs())

    def proba_of(self, inputs: Sequence[Any]) -> np.ndarray:
        """Class probabilities (N, C) for texts."""
        features_NV = self.vectorizer.transform(inputs)
        logits_NC = features_NV @ self.weight_CV.T + self.bias_C
        proba_NC: np.ndarray = softmax(np.asarray(logits_NC, dtype=np.float64), axis=1)
        return proba_NC

    def facts(self) -> dict[str, Any]:
        """The vectoriser's settings."""
        return {"vectorizer": {"ngram_range": list(self.vectorizer.ngram_range)}}

    def save_weights(self, folder: Path) -> None:
        """Vocabulary as JSON, idf and weights as safetensors."""
        vocabulary = sorted(self.vectorizer.vocabulary_, key=self.vectorizer.vocabulary_.get)
        write_json(folder / "vocabulary.json", vocabulary)
        tensors = {
            "idf": np.ascontiguousarray(self.vectorizer.idf_),
            "weight": np.ascontiguousarray(self.weight_CV),
            "bias": np.ascontiguousarray(self.bias_C),
        }
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def load(
        cls,
        folder: Path,
        facts: dict[str, Any],
        device: str,
        own: OwnCode | None = None,
    ) -> TfidfModel:
        """Read the vocabulary and the weights back."""
        path = folder / "model.safetensors"
        tensors = {key: value.numpy() for key, value in read_tensors(path).items()}
        vectorizer = new_vectorizer()
        words = read_json(folder / "vocabulary.json")
        label_names = tuple(facts["label_names"])
        expected = {
            "idf": (len(words),),
            "weight": (len(label_names), len(words)),
            "bias": (len(label_names),),
        }
        found = {key: value.shape for key, value in tensors.items()}
        if found != expected:
            raise RunError(f"{path} does not fit its model: {found} instead of {expected}.")
        vectorizer.vocabulary_ = {word: position for position, word in enumerate(words)}
        vectorizer.fixed_vocabulary_ = True
        vectorizer.idf_ = tensors["idf"]
        return cls(vectorizer, tensors["weight"], tensors["bias"], label_names)
