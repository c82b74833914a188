"""Replaying a frozen prefix: every family, every refusal, and a network that is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.backbones import Backbone, Encoder, backbone, freeze
from warmstart.backbones.prefix import (
    ALL,
    PREFIX,
    PrefixCut,
    Replay,
    ReplayError,
    frozen_depth,
    prefix_groups,
    verify_replay,
)
from warmstart.backbones.prefix_store import KeptRows, MemoryStore
from warmstart.core import BackboneError, UsageError

from .tiny import IMAGE_FAMILIES, TEXT_FAMILIES, TEXTS, pictures

Folders = Callable[[str], Path]
FAMILIES = sorted({*TEXT_FAMILIES, *IMAGE_FAMILIES, "clip text"} - {"albert"})


def encoder_of(family_folder: Folders, family: str) -> Encoder:
    if family == "clip text":
        return backbone(family_folder("clip")).text_encoder(device="cpu")
    return backbone(family_folder(family)).load(device="cpu")


def rows_of(encoder: Encoder) -> list[Any]:
    return list(TEXTS) if encoder.modality == "text" else list(pictures(4))


def blocks_of(encoder: Encoder) -> list[nn.Module]:
    return encoder.groups.blocks()


def kept_rows(encoder: Encoder, cut: PrefixCut, rows: Sequence[Any]) -> KeptRows:
    """Each row recorded by itself, without padding."""
    keeper = MemoryStore()
    keys = [bytes([place]) * 16 for place in range(len(rows))]
    for key, row in zip(keys, rows, strict=True):
        batch = encoder.preprocess([row])
        hidden = cut.run(encoder, batch)[0]
        mask = batch.get("attention_mask")
        keeper.append([key], [hidden if mask is None else hidden[mask[0].bool()]])
    return KeptRows(keeper, keys)


def replay_batch(encoder: Encoder, kept: KeptRows, rows: Sequence[Any]) -> dict[str, Tensor]:
    """All rows in one batch."""
    places = range(len(rows))
    if encoder.modality == "image":
        return {PREFIX: kept.batch(places)}
    fresh = encoder.preprocess(rows)
    return {**fresh, PREFIX: kept.batch(places, fresh["attention_mask"])}


def cut_at(encoder: Encoder, depth: int, precision: str = "no") -> PrefixCut:
    batch = encoder.preprocess(rows_of(encoder)[:2])
    return PrefixCut(encoder, depth, batch, precision=precision)


def prepared(encoder: Encoder, depth: int) -> tuple[Replay, dict[str, Tensor], dict[str, Tensor]]:
    """A module with the whole batch and the kept batch of the same rows."""
    rows = rows_of(encoder)
    cut = cut_at(encoder, depth)
    kept = kept_rows(encoder, cut, rows)
    return Replay(encoder, cut), encoder.preprocess(rows), replay_batch(encoder, kept, rows)


def overridden(encoder: Encoder) -> list[str]:
    return [name for name, part in encoder.module.named_modules() if "forward" in vars(part)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_pass_equals_a_whole_pass(family_folder: Folders, family: str) -> None:
    encoder = encoder_of(family_folder, family)
    blocks = blocks_of(encoder)
    ran: list[nn.Module] = []
    for depth in sorted({1, len(blocks) // 2, len(blocks) - 1}):
        module, fresh, kept = prepared(encoder, depth)
        inner = [part for block in blocks[:depth] for part in block.modules() if part is not block]
        convolutions = [
            part
            for name in prefix_groups(encoder, 0)  # the stem
            for part in encoder.groups.modules(name)
            if encoder.modality == "image"
            for part in part.modules()
            if isinstance(part, nn.Conv2d)
        ]
        assert bool(convolutions) == (encoder.modality == "image")
        handles = [
            part.register_forward_hook(lambda part, *_: ran.append(part))
            for part in [*inner, *convolutions]
        ]
        ran.clear()
        before = module(fresh).detach()
        assert ran  # the hooks do see a whole pass
        ran.clear()
        after = module(kept).detach()
        assert ran == []  # neither skipped blocks nor the stem of images are computed
        for handle in handles:
            handle.remove()
        scale = float(before.abs().max())
        assert float((before - after).abs().max()) < 1e-5 * scale
        assert verify_replay(module, fresh, kept) < 1e-5
        assert overridden(encoder) == []
        assert torch.equal(encoder(fresh), before)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "swin", "resnet"])
def test_gradients_reach_the_blocks_after_the_cut_alone(
    family_folder: Folders, family: str
) -> None:
    encoder = encoder_of(family_folder, family)
    depth = len(blocks_of(encoder)) - 1
    freeze(encoder, prefix_groups(encoder, depth))
    module, _, kept = prepared(encoder, depth)
    module.train()
    module(kept).square().sum().backward()
    behind = prefix_groups(encoder, depth)
    for name in encoder.groups.names:
        grads = [p.grad is not None for _, p in encoder.groups.parameters(name)]
        assert any(grads) == (name not in behind), name


def test_gradients_with_checkpointing(family_folder: Folders) -> None:
    """The first block that trains is computed again in the backward pass, from what was kept."""
    encoder = encoder_of(family_folder, "bert")
    freeze(encoder, prefix_groups(encoder, 1))
    for probability in [part for part in encoder.modules() if isinstance(part, nn.Dropout)]:
        probability.p = 0.0
    module, fresh, kept = prepared(encoder, 1)
    encoder.module.activation_checkpointing_enable()
    module.train()
    found = []
    for batch in (fresh, kept):
        module.zero_grad()
        module(batch).square().sum().backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-5)


def test_something_between_the_blocks() -> None:
    class Between(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.start(input_ids, attention_mask)
            for block in (self.one, self.two, self.three):
                x = block(x + 1)
            return x

    class Beside(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.start(input_ids, attention_mask)
            for block in (self.one, self.two, self.three):
                x = x + block(x)
            return x

    for network in (Between(), Beside()):
        with pytest.raises(ReplayError, match=r"between blocks 1 and 2.*prefix='off'"):
            cut_at(own(network), 2)


def test_depths(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    names = encoder.groups.names
    assert names == ("stem", "block.0", "block.1", "block.2")
    assert frozen_depth(encoder, []) is None
    assert frozen_depth(encoder, ["stem"]) is None
    assert frozen_depth(encoder, ["block.0", "block.1"]) is None
    assert frozen_depth(encoder, ["stem", "block.1"]) is None
    assert frozen_depth(encoder, ["stem", "block.0"]) == 1
    assert frozen_depth(encoder, ["block.0", "stem", "block.2"]) == 1
    assert frozen_depth(encoder, names[:3]) == 2
    assert frozen_depth(encoder, names) == ALL
    with pytest.raises(BackboneError, match="Did you mean"):
        frozen_depth(encoder, ["blok.0"])
    assert prefix_groups(encoder, 1) == ("stem", "block.0")
    assert prefix_groups(encoder, None) == names


def test_shared_blocks_are_refused(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "albert")
    assert frozen_depth(encoder, []) is None
    assert frozen_depth(encoder, encoder.groups.names) == ALL
    with pytest.raises(ReplayError, match=r"run 3 times in a pass.*prefix='off'"):
        frozen_depth(encoder, ["stem"])


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor) -> Any:
        return torch.tanh(self.line(hidden_states))


class Own(nn.Module):
    """A user's network: a table of 30 letters, three layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 4)
        self.one, self.two, self.three = Layer(), Layer(), Layer()

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        table: Tensor = self.table(input_ids)
        return table

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.start(input_ids, attention_mask)
        for block in (self.one, self.two, self.three):
            x = block(hidden_states=x)
        result: Tensor = x
        return result


def letters(texts: Sequence[str], left: bool = False) -> dict[str, Tensor]:
    width = max(len(text) for text in texts)
    fill = [[0] * (width - len(text)) for text in texts]
    codes = [[ord(c) % 29 + 1 for c in text] for text in texts]
    join = (lambda pad, row: [*pad, *row]) if left else (lambda pad, row: [*row, *pad])
    ids = torch.tensor([join(p, r) for p, r in zip(fill, codes, strict=True)])
    ones = [[1] * len(text) for text in texts]
    mask = torch.tensor([join(p, r) for p, r in zip(fill, ones, strict=True)])
    return {"input_ids": ids, "attention_mask": mask}


GROUPS = {"stem": ["table"], "a": ["one"], "b": ["two"], "c": ["three"]}


def own(module: nn.Module, groups: Any = None, processor: Any = letters) -> Encoder:
    made: Backbone = backbone(
        module=module, processor=processor, groups=groups or GROUPS, modality="text"
    )
    return made.load(device="cpu")


def test_a_network_of_ones_own_with_named_arguments() -> None:
    encoder = own(Own())
    module, fresh, kept = prepared(encoder, 2)
    assert verify_replay(module, fresh, kept) < 1e-6
    assert not torch.equal(module(kept), module({**kept, PREFIX: torch.zeros_like(kept[PREFIX])}))


def test_groups_without_a_stem() -> None:
    class Headless(Own):
        def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return nn.functional.one_hot(input_ids % 4, 4).float()

    network = Headless()
    del network.table
    encoder = own(network, {"0": ["one"], "1": ["two"], "2": ["three"]})
    encoder.groups.block_paths = ("one", "two", "three")
    assert frozen_depth(encoder, ["0", "1"]) == 2
    assert prefix_groups(encoder, 2) == ("0", "1")
    module, fresh, kept = prepared(encoder, 2)
    assert verify_replay(module, fresh, kept) < 1e-6


def test_unknown_blocks_are_refused() -> None:
    encoder = own(Own(), {"stem": ["table"], "a": ["one.line.weight", "one.line.bias"],
                          "b": ["two", "three"]})  # fmt: skip
    assert frozen_depth(encoder, ["stem", "a", "b"]) == ALL
    with pytest.raises(ReplayError, match=r"blocks are not known.*prefix='off'"):
        frozen_depth(encoder, ["stem", "a"])


def test_a_block_that_runs_twice_or_never_is_refused() -> None:
    class Twice(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            result: Tensor = self.one(super().forward(input_ids, attention_mask))
            return result

    class Never(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            result: Tensor = self.two(self.one(self.start(input_ids, attention_mask)))
            return result

    with pytest.raises(ReplayError, match=r"order \[0, 1, 2, 0\].*prefix='off'"):
        cut_at(own(Twice()), 2)
    with pytest.raises(ReplayError, match=r"order \[0, 1\]"):
        cut_at(own(Never()), 1)
    with pytest.raises(ReplayError, match=r"order \[0, 1\]"):
        cut_at(own(Never()), 2)


@dataclass
class Passed:
    last_hidden_state: Tensor
    count: int


class Opaque:
    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda x: (x, None, ("more", 3)), lambda y: y[0]),
        (lambda x: [x], lambda y: y[0]),
        (lambda x: {"hidden": x}, lambda y: y["hidden"]),
        (lambda x: Passed(x, 2), lambda y: y.last_hidden_state if y.count == 2 else None),
    ],
)
def test_structures_are_handed_on(pack: Any, unpack: Any) -> None:
    class Packing(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = unpack(pack(self.start(input_ids, attention_mask)))
            for block in (self.one, self.two, self.three):
                x = unpack(block(x))
            result: Tensor = x
            return result

    network = Packing()
    for block in (network.one, network.two, network.three):
        plain = block.forward
        block.forward = lambda x, plain=plain: pack(plain(x))
    encoder = own(network)
    before = vars(blocks_of(encoder)[0])["forward"]
    module, fresh, kept = prepared(encoder, 2)
    assert verify_replay(module, fresh, kept) < 1e-6
    assert vars(blocks_of(encoder)[0])["forward"] is before  # an override of one's own is kept


def test_what_cannot_be_rebuilt_is_refused() -> None:
    class Closed(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.start(input_ids, attention_mask)
            for block in (self.one, self.two, self.three):
                x = block(x).last_hidden_state
            return x

    class ClosedLayer(Layer):
        def forward(self, hidden_states: Tensor) -> Any:
            return Opaque(super().forward(hidden_states))

    network = Closed()
    network.one, network.two, network.three = ClosedLayer(), ClosedLayer(), ClosedLayer()
    with pytest.raises(ReplayError, match=r"one returns a Opaque.*prefix='off'"):
        cut_at(own(network), 1)


def test_a_block_that_tells_later_blocks_more_is_found() -> None:
    """As in T5, where the first block makes the position bias of all others."""

    class Telling(Own):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.start(input_ids, attention_mask)
            told = torch.zeros(())
            for block in (self.one, self.two, self.three):
                x, more = block(x, told)
                told = more
            return x

    class TellingLayer(Layer):
        def forward(self, hidden_states: Tensor, told: Tensor) -> Any:
            made = super().forward(hidden_states + told)
            return made, made.mean()

    network = Telling()
    network.one, network.two, network.three = TellingLayer(), TellingLayer(), TellingLayer()
    with pytest.raises(ReplayError, match="gives other vectors"):
        verify_replay(*prepared(own(network), 2))


def test_text_without_one_position_a_token_is_refused() -> None:
    class Bag(Own):
        def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().start(input_ids, attention_mask).mean(dim=1)

    with pytest.raises(ReplayError, match="one position a token"):
        cut_at(own(Bag()), 1)


def test_a_prefix_that_depends_on_the_padding_is_found() -> None:
    """Left padding shifts absolute positions, so what a row becomes depends on its neighbours."""

    class Positions(Own):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(60, 4)

        def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            here: Tensor = self.places(torch.arange(input_ids.shape[1]))
            return super().start(input_ids, attention_mask) + here

    groups = {**GROUPS, "stem": ["table", "places"]}
    right = prepared(own(Positions(), groups), 1)
    assert verify_replay(*right) < 1e-6
    left = prepared(own(Positions(), groups, lambda texts: letters(texts, left=True)), 1)
    with pytest.raises(ReplayError, match="depends on more than the row"):
        verify_replay(*left)
    shifted = prepared(own(Own(), GROUPS, lambda texts: letters(texts, left=True)), 1)
    assert verify_replay(*shifted) < 1e-6  # without positions padding on the left is as good


def test_left_padded_gpt2_is_found(family_folder: Folders) -> None:
    import transformers as t

    folder = family_folder("gpt2")
    made = backbone(
        module=t.AutoModel.from_pretrained(folder),
        processor=lambda texts: letters(texts, left=True),
        modality="text",
    )
    with pytest.raises(ReplayError, match="depends on more than the row"):
        verify_replay(*prepared(made.load(device="cpu"), 2))


def test_changed_weights_are_found(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    module, fresh, kept = prepared(encoder, 2)
    with torch.no_grad():
        for _, parameter in encoder.groups.parameters("block.0"):
            parameter.mul_(1.01)
    with pytest.raises(ReplayError, match="weights are not those"):
        verify_replay(module, fresh, kept)


def test_nothing_stays_overridden_after_an_error(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    module, fresh, kept = prepared(encoder, 2)

    def fail(*_: Any) -> None:
        raise RuntimeError("stop here")

    handle = blocks_of(encoder)[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        module(kept)
    handle.remove()
    assert overridden(encoder) == []
    assert verify_replay(module, fresh, kept) < 1e-5


def test_names_copies_and_modes(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    freeze(encoder, prefix_groups(encoder, 2))
    module, fresh, kept = prepared(encoder, 2)
    assert not module.training
    assert list(module.state_dict()) == list(encoder.state_dict())
    module.train()
    modes = {name: part.training for name, part in zip("012", blocks_of(encoder), strict=True)}
    assert modes == {"0": False, "1": False, "2": True}
    module.eval()
    assert not encoder.training

    copied = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(copied(kept), module(kept))
    assert verify_replay(module, fresh, kept) < 1e-5
    assert copied.encoder.module is copied.module


def test_inner_depths(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    module, fresh, kept = prepared(encoder, 1)
    torch.testing.assert_close(
        module(kept, depth=2, pooling="cls"), encoder(fresh, depth=2, pooling="cls")
    )
    for depth in (0, 1):
        with pytest.raises(UsageError, match="above 1"):
            module(kept, depth=depth)


def test_final_vectors_pass_through(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    fresh = encoder.preprocess(TEXTS)
    vectors_BD = encoder(fresh).detach()
    module = Replay(encoder, None)
    assert torch.equal(module({PREFIX: vectors_BD}), vectors_BD)
    assert verify_replay(module, fresh, {PREFIX: vectors_BD}) == 0.0
    with pytest.raises(UsageError, match="prefix='off'"):
        module({PREFIX: vectors_BD}, pooling="cls")


def test_bfloat16_bits_are_kept(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "llama")
    encoder.module.to(torch.bfloat16)
    rows = rows_of(encoder)
    cut = cut_at(encoder, 2)
    assert cut.dtype == torch.bfloat16
    kept = kept_rows(encoder, cut, rows)
    alone = encoder.preprocess(rows[3:4])
    again = kept.batch([3], alone["attention_mask"])
    assert again.dtype == torch.bfloat16
    assert torch.equal(again, cut.run(encoder, alone))


def test_recording_in_the_precision_of_training(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "bert")
    rows = rows_of(encoder)
    module = Replay(encoder, cut_at(encoder, 2, "bf16"))
    assert module.cut is not None
    kept = kept_rows(encoder, module.cut, rows)
    exact = kept_rows(encoder, cut_at(encoder, 2), rows)
    mask = encoder.preprocess(rows)["attention_mask"]
    assert not torch.equal(kept.batch(range(5), mask).float(), exact.batch(range(5), mask))
    fresh, batch = encoder.preprocess(rows), replay_batch(encoder, kept, rows)
    assert 0 < verify_replay(module, fresh, batch, precision="bf16") < 5e-2


def test_placeholders_of_an_evaluation_serve_training(family_folder: Folders) -> None:
    encoder = encoder_of(family_folder, "electra")
    module, _, kept = prepared(encoder, 2)
    with torch.inference_mode():
        module(kept)
    module(kept).sum().backward()
    assert all(p.grad is not None for _, p in encoder.groups.parameters("block.2"))
