"""sentence-transformers folders: read their pooling, and write one that the library opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core import BackboneError, RunError, read_json, write_json

__all__ = ["SentenceSettings", "read_sentence_settings", "write_sentence_settings"]

MODULES = "modules.json"
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class SentenceSettings:
    """What a sentence-transformers folder says beside its transformer.

    Attributes:
        pooling: `mean`, `cls` or `last`.
        normalize: Whether vectors are scaled to unit length.
        max_length: Tokens at most, or None where the folder does not say.
        lower_case: Whether texts are lower-cased before the tokenizer.
        path: Folder of the transformer below the root, often empty.
    """

    pooling: str
    normalize: bool
    max_length: int | None
    lower_case: bool
    path: str


def read_sentence_settings(folder: Path) -> SentenceSettings | None:
    """Read modules.json and what it names; None where the folder has none.

    Raises:
        BackboneError: For a module that is not transformer, pooling or normalisation (a Dense
            layer, say), or a pooling other than mean, class token or last token.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _json(folder / MODULES)
    kinds = [str(m.get("type", "")).rpartition(".")[2] for m in modules]
    allowed = ["Transformer", "Pooling", "Normalize"]
    if kinds not in (allowed[:1], allowed[:2], allowed):
        raise BackboneError(
            f"{folder / MODULES}: modules {', '.join(kinds) or '(none)'} cannot be used; allowed: "
            "Transformer, Pooling, Normalize, in this order. Models with Dense or other modules "
            "are not supported: use one without."
        )
    path = _inside(folder, str(modules[0].get("path") or ""))
    settings = _optional(folder / path / "sentence_bert_config.json")
    pooling = "mean"
    if len(modules) > 1:
        pooling = _pooling(folder / _inside(folder, str(modules[1]["path"])) / "config.json")
    length = settings.get("max_seq_length")
    return SentenceSettings(
        pooling=pooling,
        normalize=len(modules) > 2,
        max_length=int(length) if length else None,
        lower_case=bool(settings.get("do_lower_case", False)),
        path=path,
    )


def write_sentence_settings(
    folder: Path, *, pooling: str, normalize: bool, dimension: int, max_length: int | None
) -> None:
    """Write the files that make a transformers folder open in SentenceTransformer.

    Raises:
        BackboneError: For a pooling that sentence-transformers has no name for.
    """
    if pooling not in _POOLINGS.values():
        raise BackboneError(
            f"pooling {pooling!r} has no form in sentence-transformers; it has mean, cls, last."
        )
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if normalize:
        kinds.append(("2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir(exist_ok=True)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / MODULES, modules)
    flags = {flag: name == pooling for flag, name in _POOLINGS.items()}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": dimension,
            **flags,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "include_prompt": True,
        },
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": max_length, "do_lower_case": False},
    )


def _pooling(path: Path) -> str:
    config = _json(path)
    mode = config.get("pooling_mode")
    if isinstance(mode, str):
        chosen = [{"lasttoken": "last"}.get(mode, mode)]
    else:
        chosen = [
            _POOLINGS.get(key, key)
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value
        ]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS.values():
        raise BackboneError(
            f"{path}: pooling {', '.join(map(str, chosen)) or '(none)'} cannot be used; allowed: "
            "exactly one of mean, cls, last token."
        )
    return chosen[0]


def _inside(folder: Path, path: str) -> str:
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise BackboneError(f"{folder / MODULES} names {path!r}, which lies outside its folder.")
    return path


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except RunError as error:
        raise BackboneError(str(error)) from None


def _optional(path: Path) -> dict[str, Any]:
    value = _json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
