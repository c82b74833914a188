"""`info`: what this is: a run, a backbone, a data set, or this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart._version import __version__
from warmstart.backbones import FeatureCache
from warmstart.backbones import backbone as open_backbone
from warmstart.core import BackboneError, describe_machine
from warmstart.data import SAMPLES, audit, read, split
from warmstart.strategies import names, strategy_class

from .folders import partial_of
from .runs import open_run

__all__ = ["info"]


def info(target: str | Path | None = None) -> dict[str, Any]:
    """Describe a run folder, a backbone or data; without a target, this installation.

    Returns:
        A dictionary whose `kind` is `run`, `backbone`, `data` or `installation`.
    """
    if target is None:
        return _installation()
    path = Path(str(target))
    if (path / "results.json").is_file() or partial_of(path).is_dir():
        return {"kind": "run", **open_run(path).results}
    if (path / "config.json").is_file() or not path.exists():
        try:
            return _backbone(str(target))
        except BackboneError as error:
            if path.exists():
                raise
            if path.suffix:
                return _data(path)  # which says that there is no such file
            raise BackboneError(f"{target} is no run, data or folder here. {error}") from error
    return _data(path)


def _installation() -> dict[str, Any]:
    cache = FeatureCache()
    return {
        "kind": "installation",
        "warmstart": __version__,
        "machine": describe_machine(),
        "strategies": {
            name: (strategy_class(name).__doc__ or "").strip().splitlines()[0] for name in names()
        },
        "samples": {name: sample.description for name, sample in SAMPLES.items()},
        "cache": {"folder": str(cache.root), "bytes": cache.size_bytes()},
    }


def _backbone(source: str) -> dict[str, Any]:
    found = open_backbone(source)
    encoder = found.load()
    groups = [
        {"group": name, "parameters": sum(p.numel() for _, p in encoder.groups.parameters(name))}
        for name in encoder.groups.names
    ]
    card = found.card.model_dump(mode="json")
    return {"kind": "backbone", **card, "pooling": found.pooling, "groups": groups}


def _data(path: Path) -> dict[str, Any]:
    dataset = read(path)
    parts = split(dataset)
    return {
        "kind": "data",
        "source": dataset.source,
        "rows": len(dataset),
        "modality": dataset.modality,
        "columns": list(dataset.column_names),
        "class_counts": dataset.class_counts,
        "split": parts.sizes,
        "audit": audit(dataset, parts).to_dict(),
    }
