"""Zero-shot through an entailment model: each class is a hypothesis about the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warmstart.backbones.files import model_length_limit
from warmstart.backbones.loading import load_tokenizer
from warmstart.backbones.quiet import quiet_transformers
from warmstart.backbones.sources import resolve
from warmstart.core import BackboneError, pick_device, progress
from warmstart.data import Dataset, Modality

from .base import Model, OwnCode, model_kind

__all__ = ["NliModel", "entailment_label"]

_BATCH = 32
_TOKENS = 512
_CHARACTERS = 1_000_000  # of a text that are read: some 4 s of work for the tokenizer
_ENTAILS = re.compile(r"entail|^(e|yes|true)$")
_DENIES = re.compile(r"^(not|non|no)[^a-z]*|n't")


def entailment_label(labels: Mapping[int, str]) -> int | None:
    """The number of the label that says a text entails a hypothesis, in whatever order they stand.

    `entailment`, `ENTAILMENT`, `is_entailed`, `2: entailment`, `E` are such labels;
    `not_entailment`, `non-entailment`, `contradiction` are none.

    Args:
        labels: Number to name, as `config.id2label`.

    Returns:
        None where there is none, or where several could be meant.
    """
    plain = {
        number: re.sub(r"^[^a-z]+|[^a-z]+$", "", name.lower()) for number, name in labels.items()
    }
    found = [
        number
        for number, name in plain.items()
        if _ENTAILS.search(name) and not _DENIES.search(name)
    ]
    return found[0] if len(found) == 1 else None


@model_kind
class NliModel(Model):
    """Softmax over the classes of the entailment logit of (text, hypothesis) (Yin et al., 2019).

    With several hypotheses a class, their logits are averaged first.

    Args:
        network: A sequence classifier.
        tokenizer: Its tokenizer.
        entailment: Number of its entailment label.
        label_names: Names of the C classes.
        hypotheses: P × C sentences: those of the first wording in the order of the classes, then
            those of the second, and so on.
    """

    kind = "nli"
    modality: Modality = "text"

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        entailment: int,
        label_names: Sequence[str],
        hypotheses: Sequence[str],
    ) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.entailment = entailment
        self.label_names = tuple(label_names)
        self.hypotheses = tuple(hypotheses)

    @classmethod
    def open(
        cls,
        source: str,
        label_names: Sequence[str],
        hypotheses: Sequence[str],
        device: str = "auto",
    ) -> NliModel:
        """Load a sequence classifier that has an entailment label.

        Args:
            source: Folder, installed package or hub id.
            label_names: Names of the C classes.
            hypotheses: One sentence a class, in the same order; or several such rounds, one after
                another.
            device: Where it runs.

        Raises:
            BackboneError: When it cannot be found, has no safetensors, or has no such label.
        """
        from transformers import AutoModelForSequenceClassification

        try:
            folder = resolve(source).folder
        except BackboneError as error:
            raise BackboneError(f"NLI model: {error}") from error
        try:
            with quiet_transformers():
                network, report = AutoModelForSequenceClassification.from_pretrained(
                    folder,
                    use_safetensors=True,
                    local_files_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(f"NLI model {source!r} cannot be read: {first}") from error
        lost = sorted(report["missing_keys"])
        if lost:
            raise BackboneError(
                f"NLI model {source!r} lacks weights of its {type(network).__name__}, which would "
                f"stay random: {', '.join(lost[:5])}. Name a model trained on natural language "
                "inference."
            )
        tokenizer = load_tokenizer(folder)
        tokenizer.model_max_length = min(model_length_limit(folder, network.config), _TOKENS)
        labels = {int(i): str(name) for i, name in network.config.id2label.items()}
        entailment = entailment_label(labels)
        if entailment is None:
            raise BackboneError(
                f"NLI model {source!r} has no entailment label, only "
                f"{', '.join(name.lower() for name in labels.values())}. "
                "Name a model trained on natural language inference."
            )
        target = pick_device(device)
        return cls(network.to(target), tokenizer, entailment, label_names, hypotheses)

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def opens_with(self) -> tuple[str, ...]:
        """The folder is the NLI model as it came."""
        return ("transformers.AutoModelForSequenceClassification",)

    def proba(self, dataset: Dataset) -> np.ndarray:
        """Class probabilities (N, C)."""
        return self.proba_of(dataset.inputs())

    @torch.inference_mode()
    def proba_of(self, inputs: Sequence[Any]) -> np.ndarray:
        """Class probabilities (N, C): one forward pass a pair of text and hypothesis."""
        device = next(self.network.parameters()).device
        pairs = [(text, hypothesis) for text in inputs for hypothesis in self.hypotheses]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
        logits = np.zeros(len(pairs))
        starts = range(0, len(pairs), _BATCH)
        for start in progress.track(starts, "Entailment", unit="batches"):
            rows = order[start : start + _BATCH]
            batch = self.tokenizer(
                [pairs[i][0][:_CHARACTERS] for i in rows],
                [pairs[i][1] for i in rows],
                padding=True,
                truncation="only_first",
                return_tensors="pt",
            ).to(device)
            logits[rows] = self.network(**batch).logits[:, self.entailment].double().cpu().numpy()
        classes = len(self.label_names)
        logits_NPC = logits.reshape(len(inputs), len(self.hypotheses) // classes, classes)
        logits_NC = torch.from_numpy(logits_NPC.mean(axis=1))
        proba_NC: np.ndarray = torch.softmax(logits_NC, dim=-1).numpy()
        return proba_NC

    def facts(self) -> dict[str, Any]:
        """The hypotheses."""
        return {"hypotheses": list(self.hypotheses), "entailment": self.entailment}

    def save_weights(self, folder: Path) -> None:
        """The network and its tokenizer, as transformers saves them."""
        with quiet_transformers():
            self.network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(
        cls,
        folder: Path,
        facts: dict[str, Any],
        device: str,
        own: OwnCode | None = None,
    ) -> NliModel:
        """Open the folder again."""
        return cls.open(str(folder), facts["label_names"], facts["hypotheses"], device)
