"""A backbone describes itself: sizes from its configuration, the rest from its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from warmstart.core import Config

from .families import Family

__all__ = ["Card", "folder_card", "module_card"]


class Card(Config):
    """Facts about a pretrained model; None where neither model card nor configuration tells.

    Attributes:
        name: Short name.
        source: Folder, `package:NAME`, `hub:ID` or `module:CLASS`.
        family: Model family, such as BERT.
        modality: `text`, `image` or `image-text`.
        parameters: Weights of the backbone, without any head of its checkpoint.
        layers: Blocks that a forward pass runs.
        dimension: D of the default vectors.
        license: As the model card says.
        objective: What it was pretrained for.
        pretraining_data: Data sets, comma-separated.
        languages: As the model card says, comma-separated.
        size_bytes: Weight files on disk.
        date: That of its release, as the model card states it.
    """

    name: str
    source: str
    family: str
    modality: str
    parameters: int
    layers: int | None = None
    dimension: int | None = None
    license: str | None = None
    objective: str | None = None
    pretraining_data: str | None = None
    languages: str | None = None
    size_bytes: int | None = None
    date: str | None = None


_HEADS = (
    ("ForPreTraining", "masked language modelling and a second task"),
    ("ForMaskedLM", "masked language modelling"),
    ("LMHeadModel", "causal language modelling"),
    ("ForCausalLM", "causal language modelling"),
    ("ForMaskedImageModeling", "masked image modelling"),
)


def folder_card(
    folder: Path,
    *,
    name: str,
    source: str,
    config: Any,
    family: Family | None,
    modality: str,
    network: nn.Module,
    layers: int,
    dimension: int | None,
    weights: list[Path],
) -> Card:
    """Describe a model folder.

    Args:
        folder: Where README.md may lie.
        name: Short name.
        source: Where it came from.
        config: transformers' configuration.
        family: Its row of the family table, None when unknown.
        modality: What it reads.
        network: The model's shape, on torch's meta device.
        layers: Blocks a pass runs.
        dimension: D of the default vectors.
        weights: Weight files.
    """
    header = _header(folder / "README.md")
    return Card(
        name=name,
        source=source,
        family=family.label if family else str(config.model_type),
        modality=modality,
        parameters=sum(p.numel() for p in network.parameters()),
        layers=layers,
        dimension=dimension,
        license=_text(header.get("license_name") or header.get("license")),
        objective=_objective(config, family, header),
        pretraining_data=_text(header.get("datasets")),
        languages=_text(header.get("language")),
        size_bytes=sum(path.stat().st_size for path in weights),
        date=_text(header.get("date") or header.get("release_date")),
    )


def module_card(
    module: nn.Module, *, name: str, modality: str, layers: int, dimension: int | None
) -> Card:
    """Describe a user's own network."""
    return Card(
        name=name,
        source=f"module:{type(module).__name__}",
        family=type(module).__name__,
        modality=modality,
        parameters=sum(p.numel() for p in module.parameters()),
        layers=layers,
        dimension=dimension,
    )


def _objective(config: Any, family: Family | None, header: dict[str, Any]) -> str | None:
    sentence = (header.get("library_name"), header.get("pipeline_tag"))
    if "sentence-transformers" in sentence or "sentence-similarity" in sentence:
        return "contrastive sentence similarity"
    names = [str(name) for name in getattr(config, "architectures", None) or []]
    for name in names:
        for ending, objective in _HEADS:
            if name.endswith(ending):
                return objective
        if name.endswith("ForImageClassification"):
            return f"supervised image classification, {config.num_labels} classes"
        if name.endswith("ForSequenceClassification"):
            return f"supervised text classification, {config.num_labels} classes"
    return family.objective if family else None


def _header(path: Path) -> dict[str, Any]:
    """The YAML header of a model card; empty where there is none or it is broken."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    if not text.startswith("---"):
        return {}
    try:
        value = yaml.safe_load(text[3:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or None
    return str(value) if value not in (None, "") else None
