"""`info`: what this is: a run, a backbone, a data set, or this installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from warmstart._version import __version__
from warmstart.backbones import DEFAULT_SOURCES, FeatureCache, blueprint
from warmstart.backbones import backbone as open_backbone
from warmstart.core import BackboneError, RunError, describe_machine, nearest
from warmstart.data import SAMPLES, audit, read, split
from warmstart.planning import count_training
from warmstart.strategies import Strategy, make, names, strategy_class

from .folders import partial_of
from .recommending import open_run

__all__ = ["info"]


def info(
    target: str | Path | None = None,
    *,
    allow_bin: bool = False,
    strategy: str | None = None,
    settings: Mapping[str, Any] | None = None,
    classes: int = 2,
    batch_sizes: Sequence[int] = (1, 8, 32),
    length: int | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> dict[str, Any]:
    """Describe a run folder, a backbone or data; without a target, this installation.

    Args:
        target: A run folder, what names a backbone, or data.
        allow_bin: Whether a backbone may have pickled weights.
        strategy: Count what this strategy would learn on the backbone, and the memory that takes;
            config.json is all that is read.
        settings: Of the strategy.
        classes: Classes of the head, for counting.
        batch_sizes: Rows a batch, for counting activations.
        length: Tokens, or pixels on a side, for counting activations.
        dtype: Of the weights, for counting.

    Returns:
        A dictionary whose `kind` is `run`, `backbone`, `data`, `counting` or `installation`.

    Raises:
        RunError: For a damaged run, or a path into a folder that holds nothing of that name.
        BackboneError: For a backbone that cannot be read.
        DataError: For data that cannot be read.
    """
    if strategy is not None:
        return _counting(
            target, make(strategy, settings), classes=classes, batch_sizes=batch_sizes,
            length=length, dtype=dtype,
        )  # fmt: skip
    if target is None:
        return _installation()
    path = Path(str(target))
    if (path / "results.json").is_file() or partial_of(path).is_dir():
        return {"kind": "run", **open_run(path).results}
    if (path / "config.json").is_file() or not path.exists():
        _refuse_typo(path)
        try:
            return _backbone(str(target), allow_bin)
        except BackboneError as error:
            if path.exists():
                raise
            if path.suffix:
                return _data(path)  # which says that there is no such file
            raise BackboneError(f"{target} is no run, data or folder here. {error}") from error
    return _data(path)


def _counting(target: str | Path | None, strategy: Strategy, **settings: Any) -> dict[str, Any]:
    plan = blueprint(target or DEFAULT_SOURCES["text"])
    counted = count_training(plan, strategy, **settings)
    return {"kind": "counting", **counted.model_dump(mode="json")}


def _refuse_typo(path: Path) -> None:
    """`runs/typo` beside `runs/reviews` is a slip, though it could be read as a hub id."""
    parent = path.parent
    if path.exists() or path.suffix or parent == Path() or not parent.is_dir():
        return
    if path.as_posix() in DEFAULT_SOURCES.values() or _is_downloaded(path.as_posix()):
        return
    there = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    raise RunError(
        f"{path} does not exist: the folder {parent} holds no run, data or backbone of that name."
        f"{nearest(path.name, there)} If {path} is meant as a hub id, ask from another folder."
    )


def _is_downloaded(hub_id: str) -> bool:
    """Whether the hub's cache on this machine holds a model of that id."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except HFValidationError:
        return False


def _installation() -> dict[str, Any]:
    cache = FeatureCache()
    return {
        "kind": "installation",
        "warmstart": __version__,
        "machine": describe_machine(),
        "strategies": {name: _first_line(strategy_class(name)) for name in names()},
        "samples": {name: sample.description for name, sample in SAMPLES.items()},
        "cache": {"folder": str(cache.root), "bytes": cache.size_bytes()},
    }


def _first_line(strategy: type[Strategy]) -> str:
    """The first line of its docstring, or its title."""
    text = (strategy.__doc__ or "").strip()
    return text.splitlines()[0] if text else strategy.title


def _backbone(source: str, allow_bin: bool) -> dict[str, Any]:
    found = open_backbone(source, allow_bin=allow_bin)
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
        "columns": list(dataset.user_columns),
        "class_counts": dataset.class_counts,
        "split": parts.sizes,
        "audit": audit(dataset, parts).to_dict(),
    }
