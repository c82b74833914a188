"""Adapters: small parts that learn, on an encoder that stays exactly as it was.

Those of PEFT are put in by PEFT itself and written in its own format, so that either side opens
what the other wrote; bottlenecks are ours (`adapters_bottleneck`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from warmstart.backbones import Encoder
from warmstart.core import RunError, UsageError, fingerprint, nearest, read_json, write_json

from .adapters_bottleneck import (
    BOTTLENECK_FILE,
    Bottleneck,
    BottleneckShape,
    load_bottlenecks,
    put_bottlenecks,
    save_bottlenecks,
)
from .adapters_quantized import quantization_tensors
from .base import read_tensors

__all__ = [
    "METHODS",
    "AdaptedEncoder",
    "Method",
    "attach_bottlenecks",
    "attach_peft",
    "load_adapter",
    "network_fingerprint",
    "save_adapter",
]

Method = Literal["lora", "ia3", "prefix", "prompt", "ptuning", "adapter"]
METHODS: dict[str, Method] = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "ptuning",
}
CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"  # PEFT's name of the one adapter that is in use
_ROOT = "base_model.model."  # how PEFT's own wrapper begins the names of what it wraps


class AdaptedEncoder(Encoder):
    """An encoder whose own weights are frozen, with an adapter that may learn.

    The network itself always runs in evaluation mode: no dropout of its own, and batch-norm
    statistics that stay; only the adapter's parts follow `train()`.

    Attributes:
        method: What kind of adapter it is.
        shape: Of bottlenecks; None for the adapters of PEFT.
        prompt: PEFT's prompt encoder for prefix, prompt and P-tuning; None for the others.
    """

    def __init__(
        self,
        base: Encoder,
        method: Method,
        *,
        prompted: Any = None,
        shape: BottleneckShape | None = None,
    ) -> None:
        """Take over an encoder whose network holds the adapter already.

        Args:
            base: Its network is used, not copied.
            method: Kind of the adapter.
            prompted: PEFT's model around the network where virtual tokens are used.
            shape: Of bottlenecks.
        """
        super().__init__(base.module, base.processor, base.groups, **base.settings)
        self.method: Method = method
        self.shape = shape
        self.prompt: nn.Module | None = None if prompted is None else prompted.prompt_encoder
        # Its other children are the network's own, so it is no child of this module.
        self._prompted = (prompted,)
        if method in ("prompt", "ptuning"):
            self.virtual_tokens = int(prompted.peft_config[_NAME].num_virtual_tokens)
        for _, parameter in self.module.named_parameters():
            parameter.requires_grad_(False)
        for _, parameter in self.adapter_parameters():
            parameter.requires_grad_(True)
        self.eval()

    @property
    def peft_config(self) -> Any:
        """PEFT's settings of the adapter; None for bottlenecks."""
        if self._prompted[0] is not None:
            return self._prompted[0].peft_config[_NAME]
        known: Any = getattr(self.module, "peft_config", None)
        return None if known is None else known[_NAME]

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the adapter with their paths in the network (`prompt` lies beside it)."""
        if self.prompt is not None:
            yield "prompt", self.prompt
        kind = _tuner_layer()
        for path, part in self.module.named_modules():
            if isinstance(part, Bottleneck):
                yield path, part
            elif isinstance(part, kind):
                for name, child in part.named_children():
                    if name != "base_layer":
                        yield f"{path}.{name}", child

    def adapter_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The adapter's parameters by name."""
        return [
            (f"{path}.{name}", parameter)
            for path, part in self.parts()
            for name, parameter in part.named_parameters()
        ]

    def base_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The frozen parameters by their name in the network as it is now."""
        own = {id(parameter) for _, parameter in self.adapter_parameters()}
        return [(n, p) for n, p in self.module.named_parameters() if id(p) not in own]

    def base_fingerprint(self) -> str:
        """Names the frozen weights and buffers, whatever the adapter is or does."""
        own = {id(buffer) for _, part in self.parts() for buffer in part.buffers()}
        buffers = [(n, b) for n, b in self.module.named_buffers() if id(b) not in own]
        packed = quantization_tensors(self.module)
        return _fingerprint([*self.base_parameters(), *buffers, *packed])

    def train(self, mode: bool = True) -> Self:
        """Switch the adapter alone to training."""
        super().train(mode)
        self.module.eval()
        for _, part in self.parts():
            part.train(mode)
        return self

    def _run(self, batch: dict[str, Tensor]) -> Any:
        prompted = self._prompted[0]
        if prompted is None:
            return super()._run(batch)
        inputs = {key: value for key, value in batch.items() if key != "token_type_ids"}
        output = prompted(**inputs, **self._extra)
        pooled = getattr(output, "pooler_output", None)
        # virtual tokens are no part of the text: what is pooled are its own tokens
        hidden_BTD = output.last_hidden_state[:, self.virtual_tokens :]
        return {"last_hidden_state": hidden_BTD, "pooler_output": pooled}


def network_fingerprint(network: nn.Module) -> str:
    """Names the weights and buffers of a network as `AdaptedEncoder.base_fingerprint` does."""
    packed = quantization_tensors(network)
    return _fingerprint([*network.named_parameters(), *network.named_buffers(), *packed])


def attach_peft(encoder: Encoder, config: Any, *, seed: int = 0) -> AdaptedEncoder:
    """Put an adapter of PEFT into an encoder, whose network is changed in place.

    Args:
        encoder: A fresh one.
        config: PEFT's settings (`LoraConfig` and so on).
        seed: The adapter starts as a function of it; torch's global generator is left as it was.

    Raises:
        UsageError: When PEFT refuses the settings or finds no layer for them.
    """
    import peft

    method = METHODS.get(_kind(config))
    if method is None:
        raise UsageError(
            f"adapters of PEFT's kind {_kind(config)} are not taken; {', '.join(METHODS)} are."
        )
    prompted = None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT reads a property that transformers is about to rename
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        torch.random.manual_seed(seed % (1 << 63))
        try:
            if config.is_prompt_learning:
                network: Any = encoder.module
                prompted = peft.PeftModelForFeatureExtraction(network, config, adapter_name=_NAME)
            else:
                peft.inject_adapter_in_model(config, encoder.module, adapter_name=_NAME)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise UsageError(f"PEFT cannot put {method} into this network: {error}") from error
    return AdaptedEncoder(encoder, method, prompted=prompted)


def attach_bottlenecks(
    encoder: Encoder, shape: BottleneckShape, generator: torch.Generator | None = None
) -> AdaptedEncoder:
    """Put bottlenecks into an encoder, whose network is changed in place.

    Raises:
        UsageError: For a layer that is not there.
    """
    put_bottlenecks(encoder.module, shape, generator)
    return AdaptedEncoder(encoder, "adapter", shape=shape)


def save_adapter(folder: Path, encoder: AdaptedEncoder, base: str | None = None) -> None:
    """Write the adapter alone: in PEFT's format, or the bottlenecks in ours.

    Args:
        folder: Made if it is not there.
        encoder: Holds the adapter.
        base: What PEFT shall name as the base model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if encoder.shape is not None:
        save_bottlenecks(folder, encoder.module, encoder.shape)
        return
    from peft import get_peft_model_state_dict

    prompted = encoder._prompted[0]
    holder = encoder.module if prompted is None else prompted
    found = get_peft_model_state_dict(holder, adapter_name=_NAME, save_embedding_layers=False)
    start = _ROOT if prompted is None else ""
    tensors = {
        start + key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in found.items()
    }
    values = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in encoder.peft_config.to_dict().items()
    }
    values |= {"base_model_name_or_path": base, "inference_mode": True}
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, dict(sorted(values.items())))


def load_adapter(folder: Path, encoder: Encoder) -> AdaptedEncoder:
    """Put a saved adapter into a fresh encoder of its base, whose network is changed in place.

    Raises:
        RunError: For files that are missing, damaged, pickled, of a kind that is not taken, or of
            another network.
    """
    if (folder / BOTTLENECK_FILE).is_file():
        shape = load_bottlenecks(folder, encoder.module)
        return AdaptedEncoder(encoder, "adapter", shape=shape)
    if (folder / "adapter_model.bin").is_file() and not (folder / TENSORS_FILE).is_file():
        raise RunError(
            f"{folder} holds only adapter_model.bin, a pickle file, which is never read. Save the "
            "adapter again with safe_serialization=True."
        )
    if not (folder / CONFIG_FILE).is_file():
        raise RunError(
            f"{folder} holds no adapter: there is no {CONFIG_FILE}. Give the folder that PEFT's "
            "save_pretrained, or a saved run with an adapter, has written."
        )
    config = _read_config(folder / CONFIG_FILE)
    tensors = read_tensors(folder / TENSORS_FILE)
    try:
        adapted = attach_peft(encoder, config)
    except UsageError as error:
        raise RunError(f"{folder / CONFIG_FILE} does not fit its base: {error}") from error
    _fill(adapted, tensors, folder / TENSORS_FILE)
    return adapted


def _read_config(path: Path) -> Any:
    from peft import PeftConfig

    values = read_json(path)
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind not in METHODS:
        raise RunError(f"{path}: peft_type {kind!r} is not taken.{nearest(str(kind), METHODS)}")
    for setting, plain in (("bias", "none"), ("modules_to_save", None)):
        if values.get(setting) not in (plain, None, []):
            raise RunError(
                f"{path}: {setting}={values[setting]!r} changes weights of the base itself. Only "
                f"adapters that leave the base as it is are taken ({setting}={plain!r}), made on "
                "AutoModel and not on a model with a head."
            )
    try:
        config = PeftConfig.from_peft_type(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    config.inference_mode = METHODS[kind] in ("prefix", "prompt", "ptuning")
    return config


def _fill(adapted: AdaptedEncoder, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the tensors in, all of them and no others."""
    from peft import set_peft_model_state_dict

    prompted = adapted._prompted[0]
    holder = adapted.module if prompted is None else prompted
    given = {key.removeprefix(_ROOT): value for key, value in tensors.items()}
    if prompted is not None:
        given = dict(tensors)
        if set(given) != {"prompt_embeddings"}:
            raise RunError(f"{path} is damaged: it must hold prompt_embeddings and nothing else.")
    try:
        report = set_peft_model_state_dict(holder, given, adapter_name=_NAME)
    except (RuntimeError, KeyError) as error:
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        raise RunError(f"{path} does not fit its base: {last}") from error
    if prompted is not None:
        return
    own = {name for name, _ in adapted.adapter_parameters()}
    missing = sorted(own & set(report.missing_keys))
    if missing or report.unexpected_keys:
        raise RunError(
            f"{path} does not fit its base: {len(missing)} weights of the adapter are missing "
            f"({', '.join(missing[:3])}), {len(report.unexpected_keys)} are unknown "
            f"({', '.join(report.unexpected_keys[:3])})."
        )


def _fingerprint(tensors: list[tuple[str, Any]]) -> str:
    parts = {}
    for name, value in tensors:
        host = value.detach().cpu().contiguous()
        raw = host.reshape(-1).view(torch.uint8).numpy()
        parts[name.replace(".base_layer.", ".")] = [str(host.dtype), list(host.shape), raw]
    return fingerprint("network", parts)


def _tuner_layer() -> type[nn.Module]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind: type[nn.Module] = BaseTunerLayer
    return kind


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))
