"""The files of a model folder: which weights are safe to read, and what names them all."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from warmstart.core import BackboneError, RunError, fingerprint, hash_file, read_json

from .quiet import quiet_transformers

__all__ = [
    "check_weights",
    "folder_fingerprint",
    "has_weights_under",
    "model_length_limit",
    "read_config",
    "read_scalar",
]

_PREPROCESSING = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
)
_COUNTS = {
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_encoder_layers",
    "num_decoder_layers", "encoder_layers", "decoder_layers", "num_hidden_groups",
    "inner_group_num", "depths", "num_experts", "num_local_experts", "n_routed_experts",
}  # fmt: skip
_MOST = 1_000
_hashes: dict[tuple[str, int, int], str] = {}
_lock = threading.Lock()


def read_config(folder: Path) -> Any:
    """Read config.json as transformers' configuration.

    Raises:
        BackboneError: When it is missing, damaged, of more layers than any model has, or of a model
            that transformers does not know (code that comes with a model is never run).
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    path = folder / "config.json"
    if not path.is_file():
        raise BackboneError(
            f"{folder} has no config.json, so it is no model folder. A transformers or "
            "sentence-transformers folder holds config.json, model.safetensors and a tokenizer or "
            "preprocessor_config.json."
        )
    try:
        raw = read_json(path)
    except RunError as error:
        raise BackboneError(str(error)) from None
    _refuse_depth(path, raw)
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind not in CONFIG_MAPPING_NAMES:
        custom = ""
        if isinstance(raw, dict) and "auto_map" in raw:
            custom = " Code that comes with a model is never run."
        raise BackboneError(
            f"{path}: model_type {kind!r} is not one that this transformers knows.{custom} Use "
            "another model, or load it yourself and give it as module=."
        )
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder)
    except Exception as error:  # a family checks its own values, with errors of its own
        raise BackboneError(f"{path} cannot be used: {' '.join(str(error).split())}") from error


def _refuse_depth(path: Path, raw: Any) -> None:
    """Refuse more layers or experts than any model has: each would be built before any check."""
    if not isinstance(raw, dict):
        return
    for key, value in raw.items():
        if isinstance(value, dict):  # text_config, vision_config
            _refuse_depth(path, value)
        counts = value if isinstance(value, list) else [value]
        if key in _COUNTS and any(isinstance(n, int | float) and n > _MOST for n in counts):
            raise BackboneError(
                f"{path}: {key} must be at most {_MOST:,}, got {value!r}. The file is damaged, or "
                "not a model's; take it from the model's own repository."
            )


def check_weights(folder: Path, *, allow_bin: bool) -> list[Path]:
    """The weight files of a folder, safetensors first.

    Raises:
        BackboneError: When there are none, some are missing, or they are pickled and `allow_bin`
            is false.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(index)
    bins = [folder / "pytorch_model.bin"] if (folder / "pytorch_model.bin").is_file() else []
    if not bins and (folder / "pytorch_model.bin.index.json").is_file():
        bins = _shards(folder / "pytorch_model.bin.index.json")
    if not bins:
        raise BackboneError(
            f"{folder} holds no weights: model.safetensors (or its index) is missing there."
        )
    if not allow_bin:
        raise BackboneError(
            f"{folder} holds only {bins[0].name}, a pickle file, which is refused by default: only "
            "model.safetensors is read. Convert it, or allow it with allow_bin=True (--allow-bin); "
            "it is then read with weights_only."
        )
    return bins


def folder_fingerprint(root: Path, weights: list[Path]) -> str:
    """Name a folder by the bytes of its weights, configuration and preprocessing files.

    File hashes are remembered by path, size and modification time.
    """
    files = {path.name: path for path in weights}
    folders = {root, *(path.parent for path in weights)}
    for folder in folders:
        files |= {
            f"{folder.name if folder != root else ''}/{name}": folder / name
            for name in _PREPROCESSING
            if (folder / name).is_file()
        }
    pooling = sorted(root.glob("*_Pooling/config.json"))
    files |= {path.relative_to(root).as_posix(): path for path in pooling}
    return fingerprint("backbone", {name: _hash(path) for name, path in files.items()})


def model_length_limit(folder: Path, config: Any) -> int:
    """Tokens that a model can take, from its positions and its tokenizer."""
    config = getattr(config, "text_config", config)
    limits = [1_000_000]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        offset = {"roberta", "xlm-roberta", "camembert", "mpnet"}
        limits.append(positions - (2 if config.model_type in offset else 0))
    try:
        raw = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        own = raw.get("model_max_length")
        if isinstance(own, int | float) and 0 < own < 1_000_000:
            limits.append(int(own))
    except (OSError, ValueError, AttributeError):
        pass
    return min(limits)


def has_weights_under(weights: list[Path], part: str) -> bool:
    """Whether a safetensors checkpoint holds weights of a part, such as `pooler`."""
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, framework="pt") as tensors:
            if any(part in name.split(".")[:-1] for name in tensors.keys()):  # noqa: SIM118
                return True
    return False


def read_scalar(weights: list[Path], name: str) -> float | None:
    """Read one number from safetensors files; None where none has it."""
    from safetensors import safe_open

    for path in weights:
        with safe_open(path, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - no mapping
                return float(tensors.get_tensor(name))
    return None


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (RunError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(f"{index} is damaged: {error}") from None
    for name in names:
        if Path(name).name != name or name in {"", ".", ".."}:
            raise BackboneError(f"{index} names {name!r}, which lies outside its folder.")
    paths = [index.parent / name for name in names]
    for path in paths:
        if not path.is_file():
            raise BackboneError(f"{path} is missing though {index.name} lists it.")
    return paths


def _hash(path: Path) -> str:
    facts = path.stat()
    key = (str(path.resolve()), facts.st_size, facts.st_mtime_ns)
    with _lock:
        known = _hashes.get(key)
    if known is None:
        known = hash_file(path)
        with _lock:
            _hashes[key] = known
    return known
