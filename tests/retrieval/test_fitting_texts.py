"""Which texts a step encodes anew, and that it learns what whole passes would teach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from warmstart.backbones import backbone
from warmstart.core import Run, Streams, UsageError
from warmstart.data import from_inputs
from warmstart.retrieval import ItemTexts, make_track
from warmstart.retrieval.fitting import FullSoftmax, Plan, SampledSoftmax
from warmstart.retrieval.fitting_texts import PIECE, chosen_items, text_step
from warmstart.retrieval.item_texts import TextTower
from warmstart.retrieval.negatives import Candidates, Mixture, Rows, Uniform
from warmstart.retrieval.sequences import WindowBatch, WindowRows
from warmstart.retrieval.towers import Towers
from warmstart.retrieval.two_tower_work import Work, prepare
from warmstart.training import LoopState

from .towerkit import SMALL, chains

WORDS = ["apple", "pear", "plum", "grape", "melon", "cherry", "car", "truck", "train", "tram"]
ITEMS = 30


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plan(targets: list[int], shared: list[int], own: list[list[int]]) -> Plan:
    """A step that looks at items 100 to 119, given here by their place among these."""
    none = torch.zeros(1, 1, dtype=torch.int64)
    row_N = torch.zeros(len(targets), dtype=torch.int64)
    windows = WindowBatch(none, none[0], row_N, row_N, torch.tensor(targets), none[0])
    own_NM = torch.tensor(own)
    drawn = Candidates(
        torch.tensor(shared), own_NM, torch.zeros(0, dtype=torch.bool), None, len(shared)
    )
    return Plan(windows, Rows(row_N, row_N), torch.arange(100, 120), drawn, drawn.shared_K, own_NM)


@pytest.mark.parametrize("most", [1, 2, 4, 6, 8, 40])
def test_chosen_items_against_a_slow_twin(most: int) -> None:
    told_I = torch.ones(200, dtype=torch.bool)
    told_I[[102, 111]] = False
    asked = plan([0, 1, 2, 1, 3, 4], [1, 5, 6, 11], [[7, 7], [0, 8]])
    taken = {0, 1, 3, 4}
    others = {5, 6, 7, 8}
    for seed in range(20):
        found = chosen_items(asked, told_I, most, seeded(seed)).tolist()
        assert found == sorted(set(found))
        assert set(found) <= taken | others
        assert len(found) == min(most, 8)
        assert len(taken & set(found)) == min(len(taken), max(-(-most // 2), most - len(others)))
        assert found == chosen_items(asked, told_I, most, seeded(seed)).tolist()
    if most == 4:
        seen = {code for seed in range(60)
                for code in chosen_items(asked, told_I, most, seeded(seed)).tolist()}  # fmt: skip
        assert seen == taken | others, "each has its chance"


def test_few_negatives_leave_room_for_what_was_taken() -> None:
    told_I = torch.ones(200, dtype=torch.bool)
    asked = plan([0, 1, 2, 3, 4, 5], [9], [[9]] * 6)
    found = chosen_items(asked, told_I, 6, seeded())
    assert 9 in found
    assert len(found) == 6


@dataclass
class Bench:
    """Towers, texts and a batch, for one step by hand."""

    work: Work
    towers: Towers
    texts: TextTower
    batch: WindowBatch
    state: LoopState


@pytest.fixture
def bench(tmp_path: Path, tiny_text: Path) -> Bench:
    words = [f"the {WORDS[i % 10]} is {'old' if i % 3 else 'very new'}" for i in range(ITEMS)]
    given = ItemTexts(backbone(tiny_text, modality="text"), words)
    text_IE = given.backbone.features(from_inputs(words, "text")).vectors_ND
    settings: Any = make_track("two-tower", {**SMALL, "dropout": 0.0, "id_dropout": 0.0})
    run = Run(tmp_path, device="cpu")
    work = prepare(
        settings, chains(n_items=ITEMS), run, text_IE=text_IE, image_IE=text_IE[:, :3],
        profile_UP=None, watches_loss=False,
    )  # fmt: skip
    towers = Towers(work.shape, streams=Streams(0)).eval()
    features_IF = work.catalogue.features_IF
    assert features_IF is not None
    texts = TextTower(given, features_IF)
    texts.learn(["block.1"])
    texts.replay.eval()  # no dropout: steps can be compared
    state = LoopState(
        {"towers": towers}, {}, run, torch.device("cpu"), Streams(0), plain={"towers": towers}
    )
    rows = WindowRows(work.sequences, history=8)
    return Bench(work, towers, texts, rows.batch(range(6), 0), state)


def gradients(bench: Bench) -> list[Tensor]:
    found = []
    parts = [*bench.towers.parameters()]
    parts += [value for _, value in bench.texts.encoder.groups.parameters("block.1")]
    for value in parts:
        if value.grad is not None:
            found.append(value.grad.clone())
            value.grad = None
    return found


def whole(bench: Bench, objective: Any) -> Tensor:
    """The slow twin: every item through the whole encoder, then backwards through all of it."""
    catalogue = bench.work.catalogue
    generator = bench.state.streams.torch("negatives", 0, int(bench.batch.rows_B[0]))
    asked = objective.plan(bench.batch, generator)
    tokens = bench.texts.encoder.preprocess(list(bench.texts._inputs))
    text_IE = bench.texts.encoder(tokens)
    assert catalogue.features_IF is not None
    features_IF = torch.cat([text_IE, catalogue.features_IF[:, text_IE.shape[1] :]], dim=1)
    codes_K = asked.codes_K
    made = bench.towers(asked.windows, codes_K, features_IF[codes_K], catalogue.known_I[codes_K])
    loss: Tensor = objective.loss(asked, *made)[0]
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("chunk", [7, 64, None])
@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_a_step_is_that_of_whole_passes(bench: Bench, kind: str, chunk: int | None) -> None:
    """History, positives and negatives through the encoder: where all are encoded, all agrees."""
    catalogue = bench.work.catalogue
    objective: Any = FullSoftmax(catalogue)
    if kind == "sampled":
        uniform = Mixture({"uniform": Uniform(catalogue.codes_L, ITEMS)}, {"uniform": 1.0})
        objective = SampledSoftmax(catalogue, uniform, 400)  # every item is drawn
    wanted = whole(bench, objective)
    expected = gradients(bench)
    with torch.no_grad():
        catalogue.features_IF[:, : bench.texts.width] = -5.0  # not read
    step = text_step(objective, catalogue, bench.texts, most=ITEMS, chunk=chunk)
    output = step(bench.batch, bench.state)
    assert not isinstance(output, Tensor)
    assert ITEMS > PIECE, "without gradient caching there are several pieces too"
    assert output.manual == (chunk == 7)
    if not output.manual:
        output.total().backward()
    assert output.total().item() == pytest.approx(wanted.item(), rel=1e-5)
    found = gradients(bench)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-6)


def test_items_that_are_not_encoded_come_from_the_table(bench: Bench) -> None:
    objective = FullSoftmax(bench.work.catalogue)
    bench.texts.refresh()
    step = text_step(objective, bench.work.catalogue, bench.texts, most=4, chunk=64)
    output: Any = step(bench.batch, bench.state)
    assert output.values["encoded"] == 4
    assert output.total().item() == pytest.approx(whole(bench, objective).item(), rel=1e-5)


def test_several_processes_are_refused(bench: Bench) -> None:
    bench.state.world = 2
    step = text_step(
        FullSoftmax(bench.work.catalogue), bench.work.catalogue, bench.texts, most=4, chunk=4
    )
    with pytest.raises(UsageError, match="in a single process"):
        step(bench.batch, bench.state)


def test_vectors_of_another_encoder_are_refused(tiny_text: Path) -> None:
    given = ItemTexts(backbone(tiny_text, modality="text"), ["a plum"])
    with pytest.raises(UsageError, match="Give the vectors of that encoder"):
        TextTower(given, torch.zeros(1, 5))
