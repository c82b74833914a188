"""Counting what is learned and what memory it takes, from a configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from warmstart.backbones import blueprint
from warmstart.core import BackboneError, NotApplicable, UsageError
from warmstart.planning import count_training, lora_parameters, memory
from warmstart.planning.counting import activation_bytes
from warmstart.strategies import make


def config(folder: Path, value: Any) -> Path:
    value.save_pretrained(folder)
    assert [p.name for p in folder.iterdir()] == ["config.json"]
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config(tmp_path_factory.mktemp("bert") / "base", transformers.BertConfig())


def test_a_lora_pair_on_a_square_matrix() -> None:
    """r(d + k) = 65,536 for 4096 x 4096 at r = 8, 256 times fewer than the matrix."""
    assert lora_parameters(4096, 4096, 8) == 65_536
    assert 4096 * 4096 / lora_parameters(4096, 4096, 8) == 256


def test_seven_billion_in_fp32_with_adam() -> None:
    found = memory(7_000_000_000, 7_000_000_000)
    assert (found.weights, found.optimizer, found.gradients) == (28e9, 56e9, 28e9)
    assert found.total == 112e9
    small = memory(7_000_000_000, 4_000_000, "bf16")
    assert small.weights == 14e9
    assert (small.gradients, small.optimizer) == (8e6, 48e6)
    with pytest.raises(UsageError, match="trained must be between 0 and 5, got 6"):
        memory(5, 6)


def test_fine_tuning_learns_everything(bert: Path) -> None:
    found = count_training(blueprint(bert), make("finetune"), classes=3)
    assert found.total == found.trained == 109_482_240 + 3 * 769
    rows = {row.name: row for row in found.matrices}
    query = rows["encoder.layer.*.attention.self.query.weight"]
    assert (query.shape, query.count, query.trained) == ((768, 768), 12, 12 * 768 * 768)
    assert sum(row.trained for row in found.matrices) + found.head == found.trained
    assert found.share == 1
    assert found.size == {"all": 4 * found.total, "learned": 4 * found.total}


@pytest.mark.parametrize(("rank", "learned"), [(4, 147_456), (8, 294_912)])
def test_lora_on_queries_and_values(bert: Path, rank: int, learned: int) -> None:
    """12 layers of Q and V of width 768: 147,456 at r = 4, 294,912 at r = 8."""
    found = count_training(
        blueprint(bert), make("lora", {"rank": rank, "targets": ["query", "value"]})
    )
    assert found.trained - found.head == found.adapter == learned
    assert [row.count for row in found.matrices] == [12, 12]
    assert all(row.each == rank * (768 + 768) for row in found.matrices)
    assert all(row.base_shape == (768, 768) for row in found.matrices)
    extra = rank * 2 * 768 / (768 * 768)
    assert f"{extra:.2%}" in found.notes[0]
    assert (
        f"alpha/r = {2 * rank}/{rank} = 2; at rank {2 * rank} and the same alpha by 1"
        in (found.notes[1])
    )


def test_a_rank_to_be_searched_is_counted_at_8_and_that_is_said(bert: Path) -> None:
    searched, plain = (
        count_training(blueprint(bert), make("lora", {"rank": rank})) for rank in ("auto", 8)
    )
    assert searched.adapter == plain.adapter
    assert searched.notes == (
        "The rank is searched for, from 1 by doubling; what is counted is 8.", *plain.notes
    )  # fmt: skip


def test_a_large_matrix_at_rank_8(tmp_path: Path) -> None:
    wide = transformers.LlamaConfig(num_hidden_layers=1, vocab_size=100)
    plan = blueprint(config(tmp_path / "wide", wide))
    found = count_training(plan, make("lora", {"rank": 8, "targets": ["q_proj"]}))
    (row,) = found.matrices
    assert (row.shape, row.each, row.times_fewer) == ((4096, 4096), 65_536, 256)


def test_a_probe_learns_the_head_alone(bert: Path) -> None:
    found = count_training(blueprint(bert), make("probe"), classes=10)
    assert found.trained == found.head == 10 * 769
    assert found.activations == ()
    assert count_training(blueprint(bert), make("zero-shot")).trained == 0
    with pytest.raises(NotApplicable, match="tfidf uses no backbone"):
        count_training(blueprint(bert), make("tfidf"))


def test_partial_needs_less_of_everything(bert: Path) -> None:
    full = count_training(blueprint(bert), make("finetune"))
    last = count_training(blueprint(bert), make("partial", {"last": 2}))
    block = 7_087_872
    assert last.trained == 2 * block + 590_592 + last.head  # and the pooler of the last group
    assert last.memory.weights == full.memory.weights
    assert last.memory.optimizer == 8 * last.trained
    for whole, part in zip(full.activations, last.activations, strict=True):
        assert part.bytes < whole.bytes / 3


def test_activations_are_those_that_autograd_keeps(tmp_path: Path) -> None:
    """Against a real pass of the same network, storage by storage."""
    small = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=50,
    )  # fmt: skip
    plan = blueprint(config(tmp_path / "small", small))
    found = activation_bytes(plan, 4, length=10)
    torch.manual_seed(0)
    network = transformers.BertModel(small).train()
    weights = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(input_ids=torch.ones(4, 10, dtype=torch.long))
    real = sum(storage.nbytes() for storage in kept.values())
    assert found == pytest.approx(real, rel=0.05)
    double = activation_bytes(plan, 8, length=10)
    assert double == pytest.approx(2 * found, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (transformers.ViTConfig, {"hidden_size": 32, "num_hidden_layers": 2,
                                  "num_attention_heads": 2, "intermediate_size": 48}),
        (transformers.ResNetConfig, {"hidden_sizes": [8, 16], "depths": [1, 1]}),
        (transformers.LlamaConfig, {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 40,
                                    "num_attention_heads": 2, "intermediate_size": 48}),
    ],
)  # fmt: skip
def test_other_families(tmp_path: Path, kind: Any, settings: dict[str, Any]) -> None:
    plan = blueprint(config(tmp_path / "one", kind(**settings)))
    found = count_training(plan, make("unfreeze"), batch_sizes=[2])
    assert found.trained == found.total
    assert found.activations[0].bytes > 0


def test_what_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has no config"):
        blueprint(tmp_path)
    with pytest.raises(BackboneError, match="no folder here"):
        blueprint("not a name")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="damaged"):
        blueprint(tmp_path)
