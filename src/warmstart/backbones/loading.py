"""Calls into transformers: weights, random weights, tokenizers and Pillow image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from warmstart.core import BackboneError, read_json
from warmstart.data import Modality

from .quiet import quiet_transformers

__all__ = [
    "empty_model",
    "load_image_processor",
    "load_model",
    "load_tokenizer",
    "network_class",
    "random_model",
    "read_checkpoint",
]

_POOLERS = ("pooler.",)
_HARMLESS = ("num_batches_tracked", "position_ids")


def network_class(config: Any, tower: Modality) -> str:
    """Name of the transformers class for a tower: CLIP's with projection, else AutoModel."""
    if config.model_type == "clip":
        return "CLIPTextModelWithProjection" if tower == "text" else "CLIPVisionModelWithProjection"
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    if config.model_type in {"clip_vision_model", "clip_text_model"} and named:
        allowed = {"CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"}
        return named[0] if named[0] in allowed else "AutoModel"
    return "AutoModel"


def read_checkpoint(
    cls: Any, folder: Path, config: Any, *, use_bin: bool, failure: str, cure: str = ""
) -> tuple[Any, Any]:
    """A network of a transformers class in float32 on the CPU, and what its loading reports.

    Nothing is fetched or unpickled, and no random stream of the caller moves.

    Args:
        cls: Class with `from_pretrained`.
        folder: Where the checkpoint lies.
        config: Its configuration.
        use_bin: Whether the weights are a .bin file.
        failure: First words of the error.
        cure: Its last ones.

    Raises:
        BackboneError: When it cannot be read.
    """
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            network, report = cls.from_pretrained(
                folder,
                config=config,
                use_safetensors=not use_bin,
                weights_only=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # of a module that nothing here imports
            raise BackboneError(
                f"{failure}: its .bin file holds more than tensors, which would be run as code, or "
                "is damaged. It is not read. Take a folder with model.safetensors."
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{failure} ({type(error).__name__}: {first}).{cure}") from error
    return network, report


def load_model(
    folder: Path, config: Any, tower: Modality, *, use_bin: bool
) -> tuple[nn.Module, bool]:
    """Read the weights in float32 onto the CPU.

    Head weights in the checkpoint that the backbone does not have are left out without a word. A
    pooler that the checkpoint lacks is removed; any other missing weight is an error, since it
    would be random.

    Returns:
        The network in evaluation mode, and whether its pooler came with the checkpoint.

    Raises:
        BackboneError: When files are damaged or weights are missing.
    """
    cls, own_config = _class_and_config(config, tower)
    # a pooler that the checkpoint lacks is drawn at random before it is removed
    network, report = read_checkpoint(
        cls, folder, own_config, use_bin=use_bin,
        failure=f"the weights in {folder} cannot be read", cure=" The file may be damaged or not "
        "belong to its config.json: fetch the folder again.",
    )  # fmt: skip
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(_HARMLESS))
    pooler = [key for key in missing if key.startswith(_POOLERS)]
    lost = [key for key in missing if key not in pooler]
    if lost:
        raise BackboneError(
            f"{folder} lacks {len(lost)} weights of its {type(network).__name__}, which would "
            f"stay random: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}. The weights do "
            "not belong to this config.json: fetch the folder again."
        )
    if pooler:
        network.pooler = None
    return network.eval(), not pooler


def random_model(config: Any, tower: Modality, seed: int, *, like: nn.Module) -> nn.Module:
    """The same architecture with fresh weights, a function of the seed alone.

    torch's global generator is left as it was.
    """
    cls, own_config = _class_and_config(config, tower)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed % (1 << 63))
        network: Any = _from_config(cls, own_config).float()
    if getattr(like, "pooler", None) is None and hasattr(network, "pooler"):
        network.pooler = None
    fresh: nn.Module = network.eval()
    return fresh


def empty_model(config: Any, tower: Modality) -> nn.Module:
    """The architecture on torch's meta device: shapes without weights.

    Raises:
        BackboneError: When the configuration describes no network.
    """
    cls, own_config = _class_and_config(config, tower)
    try:
        with quiet_transformers(), torch.device("meta"):
            return _from_config(cls, own_config)
    except Exception as error:  # sizes that fit no layer end in whatever the network raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"config.json describes no {config.model_type} that can be built "
            f"({type(error).__name__}: {first}). Take the file from the model's own repository."
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """Read the tokenizer.

    Raises:
        BackboneError: When it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {first}). The "
            "folder must hold tokenizer.json, or the vocabulary files of its model."
        ) from error
    # without a vocabulary transformers makes up a tokenizer of special tokens alone
    names = set(tokenizer.vocab_files_names.values())
    if names and not any((folder / name).is_file() for name in names | {"tokenizer.json"}):
        raise BackboneError(
            f"{folder} has no vocabulary ({', '.join(sorted(names | {'tokenizer.json'}))}): "
            "preprocessing comes with the weights and is never guessed. Take these files from the "
            "model's own repository."
        )
    return tokenizer


def load_image_processor(folder: Path) -> Any:
    """Read the image processor in its Pillow form, which needs no torchvision.

    Raises:
        BackboneError: When it cannot be read.
    """
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        raise BackboneError(
            f"{folder} has no preprocessor_config.json: preprocessing comes with the weights and "
            "is never guessed. Take that file from the model's own repository."
        )
    try:
        with quiet_transformers():
            cls, arguments = _pillow_class(folder)
            return cls.from_pretrained(folder, local_files_only=True, **arguments)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"the image processor in {folder} cannot be read ({type(error).__name__}: {first})."
        ) from error


def _pillow_class(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The Pillow class that a folder's processor has, else what AutoImageProcessor finds.

    The class is looked up by name because AutoImageProcessor of some versions (5.17 for one) asks
    for torchvision even when the Pillow backend is wanted.
    """
    from transformers import AutoImageProcessor
    from transformers.models.auto import image_processing_auto as auto

    facts = _json_or_empty(folder / "preprocessor_config.json")
    if not facts:
        facts = _json_or_empty(folder / "processor_config.json").get("image_processor") or {}
    named = str(facts.get("image_processor_type") or facts.get("feature_extractor_type") or "")
    base = named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    found = auto.get_image_processor_class_from_name(f"{base}Pil") if base else None
    if found is not None and not getattr(found, "is_dummy", False):
        return found, {}
    return AutoImageProcessor, {"backend": "pil"}


def _json_or_empty(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def _class_and_config(config: Any, tower: Modality) -> tuple[Any, Any]:
    import transformers

    cls = getattr(transformers, network_class(config, tower))
    if config.model_type == "clip":
        part = config.text_config if tower == "text" else config.vision_config
        part.projection_dim = config.projection_dim
        return cls, part
    return cls, config


def _from_config(cls: Any, config: Any) -> nn.Module:
    network = cls.from_config(config) if hasattr(cls, "from_config") else cls(config)
    assert isinstance(network, nn.Module)
    return network
