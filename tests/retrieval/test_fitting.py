"""Training steps: the objectives, what a step encodes, gradient caching and mining in the loop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import Run, Streams
from warmstart.objectives import info_nce
from warmstart.retrieval.fitting import (
    Catalogue,
    FullSoftmax,
    Objective,
    RowTemperature,
    SampledSoftmax,
    _own_scores,
    item_table,
    training_step,
)
from warmstart.retrieval.fitting_mining import MineNegatives
from warmstart.retrieval.negatives import InBatch, Known, Mixture, Uniform
from warmstart.retrieval.negatives_hard import Mined
from warmstart.retrieval.negatives_plan import compare
from warmstart.retrieval.sequences import WindowBatch, WindowRows, group_events
from warmstart.retrieval.towers import Towers, TowerShape
from warmstart.retrieval.two_tower_work import prepare
from warmstart.training import StepOutput

from .towerkit import chains, events, settings, texts

N_ITEMS = 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Bench:
    """Towers, a catalogue whose last two items are of the future, and a batch."""

    def __init__(self, **changes: Any) -> None:
        data = chains()
        data = data.select(data.item_N < N_ITEMS - 2)
        self.sequences = group_events(data)
        known = np.zeros(N_ITEMS, dtype=bool)
        known[data.item_N] = True
        counts = np.bincount(data.item_N, minlength=N_ITEMS)
        self.catalogue = Catalogue(
            torch.from_numpy(texts()), torch.from_numpy(known), torch.from_numpy(counts)
        )
        self.known = Known(
            torch.from_numpy(self.sequences.users_P), torch.from_numpy(self.sequences.items_P),
            N_ITEMS,
        )  # fmt: skip
        shape = TowerShape(
            items=N_ITEMS, features=6, width=16, layers=1, history=8, dropout=0.0, id_dropout=0.0
        ).model_copy(update=changes)
        self.towers = Towers(shape, learn_temperature=True, streams=Streams(3)).train()
        rows = WindowRows(self.sequences, history=8)
        self.batch: WindowBatch = rows.batch(range(10), 0)
        self.state: Any = SimpleNamespace(
            modules={"towers": self.towers}, plain={"towers": self.towers},
            device=torch.device("cpu"), streams=Streams(7), epoch=0, world=1, rank=0,
            backward=Tensor.backward,
        )  # fmt: skip

    def users_and_table(self) -> tuple[Tensor, Tensor]:
        codes = torch.arange(N_ITEMS)
        table = self.towers.items(codes, self.catalogue.features(codes), self.catalogue.known_I)
        return self.towers.user_vectors(self.batch, table), table

    def sampled(self, draws: int = 64, **changes: Any) -> SampledSoftmax:
        samplers = {
            "in-batch": InBatch.counted(self.catalogue.counts_I),
            "uniform": Uniform(self.catalogue.codes_L, N_ITEMS),
        }
        shares = changes.pop("shares", {"in-batch": 0.5, "uniform": 0.5})
        mixture = Mixture(
            samplers, shares, known=changes.get("known"), corrected=changes.pop("corrected", True)
        )
        return SampledSoftmax(self.catalogue, mixture, draws, **changes)

    def gradients(
        self, objective: Objective, chunk: int | None = None
    ) -> tuple[float, list[Tensor]]:
        step = training_step(objective, self.catalogue, chunk=chunk)
        output = step(self.batch, self.state)
        assert isinstance(output, StepOutput)
        assert output.manual == (chunk is not None)
        if not output.manual:
            output.total().backward()
        found = [p.grad.clone() for p in self.towers.parameters() if p.grad is not None]
        self.towers.zero_grad(set_to_none=True)
        return float(output.total().detach()), found


@pytest.mark.parametrize("masked", [False, True])
def test_full_softmax_is_over_the_items_seen_in_training(masked: bool) -> None:
    bench = Bench()
    loss, _ = bench.gradients(FullSoftmax(bench.catalogue, known=bench.known if masked else None))
    users, table = bench.users_and_table()
    scores = (users @ table.T / bench.towers.temperature()).double()
    hidden = (~bench.catalogue.known_I).expand_as(scores).clone()
    if masked:
        asked = bench.batch.users_B[bench.batch.row_N]
        hidden |= bench.known.has(asked, torch.arange(N_ITEMS))
    hidden[torch.arange(len(scores)), bench.batch.targets_N] = False
    expected = functional.cross_entropy(
        scores.masked_fill(hidden, float("-inf")), bench.batch.targets_N
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_plan_points_at_the_right_items() -> None:
    bench = Bench()
    objectives: list[Objective] = [FullSoftmax(bench.catalogue), bench.sampled()]
    for objective in objectives:
        plan = objective.plan(bench.batch, torch.Generator().manual_seed(0))
        codes = torch.cat([plan.codes_K, torch.tensor([-1])])
        assert torch.equal(codes[plan.windows.items_BT], bench.batch.items_BT)
        assert torch.equal(plan.codes_K[plan.windows.targets_N], bench.batch.targets_N)
        assert bool(bench.catalogue.known_I[plan.codes_K].all())
        if plan.candidates is not None:
            assert plan.shared_K is not None
            assert torch.equal(plan.codes_K[plan.shared_K], plan.candidates.shared_K)


def test_sampled_softmax_approaches_the_full_one() -> None:
    bench = Bench()
    full, _ = bench.gradients(FullSoftmax(bench.catalogue))
    found, _ = bench.gradients(bench.sampled(20_000, shares={"uniform": 1.0}))
    assert found == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_in_batch_trains_with_equals_sentence_transformers(
    tmp_path: Path, symmetric: bool
) -> None:
    """The step that the settings make, where no item comes twice: its loss and every gradient."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim

    data = events([(u, 3 * u + n) for n in range(3) for u in range(10)], n_users=10, n_items=30)
    asked = settings(
        negatives="in-batch", logq="off", mask_known=False, symmetric=symmetric, temperature=0.05,
        dropout=0.0, id_dropout=0.0,
    )  # fmt: skip
    run = Run(tmp_path, device="cpu")
    work = prepare(
        asked, data, run, text_IE=texts(), image_IE=None, profile_UP=None, watches_loss=False
    )
    last_P = np.arange(30) % 3 == 2  # a position a user: each user's others would be masked
    batch = WindowRows(work.sequences, history=8, learned_P=last_P).batch(range(10), 0)
    assert sorted(batch.targets_N.tolist()) == list(range(2, 30, 3))
    towers = Towers(work.shape, temperature=0.05, streams=run.streams.child("towers"))
    state: Any = SimpleNamespace(
        modules={"towers": towers}, plain={"towers": towers}, device=torch.device("cpu"),
        streams=run.streams, epoch=0, world=1, rank=0,
    )  # fmt: skip
    step = training_step(compare(asked, data, work, run).objective, work.catalogue)
    output = step(batch, state)
    assert isinstance(output, StepOutput)
    weights = [weight for weight in towers.parameters() if weight.requires_grad]
    found = torch.autograd.grad(output.total(), weights, allow_unused=True)

    pairs: dict[str, Any] = {"scale": 1 / 0.05, "similarity_fct": cos_sim}
    if symmetric:
        pairs |= {
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        }
    model: Any = torch.nn.Identity()
    theirs = MultipleNegativesRankingLoss(model, **pairs)
    codes = torch.arange(30)
    table = towers.items(codes, work.catalogue.features(codes), work.catalogue.known_I)
    users = towers.user_vectors(batch, table)
    vectors = [users, table[batch.targets_N]]
    expected = theirs.compute_loss_from_embeddings(vectors, torch.zeros(10))
    assert float(output.total().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    own = info_nce(*vectors, temperature=0.05, symmetric=symmetric)
    assert float(own.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    others = torch.autograd.grad(expected, weights, allow_unused=True)
    assert [one is None for one in found] == [one is None for one in others]
    for mine, other in zip(found, others, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_symmetric_against_a_slow_twin() -> None:
    bench = Bench()
    objective = bench.sampled(
        200, shares={"in-batch": 1.0}, corrected=False, symmetric=True, known=bench.known
    )
    found, _ = bench.gradients(objective)
    users, table = (part.double() for part in bench.users_and_table())
    asked = bench.batch.users_B[bench.batch.row_N]
    targets = bench.batch.targets_N
    scores = (users @ table[targets].T / bench.towers.temperature()).detach()
    knows = bench.known.has(asked, targets)
    total = 0.0
    for n in range(len(targets)):
        forth = [
            float(scores[n, m]) for m in range(len(targets))
            if targets[m] != targets[n] and not knows[n, m]
        ]  # fmt: skip
        back = [
            float(scores[m, n]) for m in range(len(targets))
            if targets[m] != targets[n] and asked[m] != asked[n] and not knows[m, n]
        ]  # fmt: skip
        own = float(scores[n, n])
        for others in (forth, back):
            total += float(torch.logsumexp(torch.tensor([own, *others]).double(), 0)) - own
    assert found == pytest.approx(total / 2 / len(targets), rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 10])
@pytest.mark.parametrize("name", ["full", "sampled"])
def test_gradient_caching_takes_the_same_step(chunk: int, name: str) -> None:
    bench = Bench()
    objective: Objective = FullSoftmax(bench.catalogue) if name == "full" else bench.sampled()
    whole, expected = bench.gradients(objective)
    cached, found = bench.gradients(objective, chunk)
    assert cached == pytest.approx(whole, abs=1e-6)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_draws_depend_on_seed_epoch_and_batch_alone() -> None:
    bench = Bench(dropout=0.0)
    objective = bench.sampled(16)
    torch.manual_seed(1)
    first, _ = bench.gradients(objective)
    torch.manual_seed(2)
    again, _ = bench.gradients(objective)
    assert first == again
    bench.state.epoch = 1
    other, _ = bench.gradients(objective)
    assert other != first


def test_temperature_of_rows() -> None:
    counts = torch.tensor([1, 1, 100])
    rows = RowTemperature(counts, power=0.5)
    users = torch.ones(2, 3)
    found = rows.scaled(users, torch.tensor(0.1), torch.tensor([0, 2]))
    assert found[0, 0] > 10 > found[1, 0]
    same = RowTemperature(counts).scaled(users, torch.tensor(0.1), torch.tensor([0, 2]))
    assert same.flatten().tolist() == pytest.approx([10.0] * 6)


def test_item_table_leaves_the_mode_alone() -> None:
    bench = Bench()
    table = item_table(bench.towers, bench.catalogue, block=7)
    assert bench.towers.training
    assert table.shape == (N_ITEMS, 16)
    bench.towers.eval()
    torch.testing.assert_close(table, bench.users_and_table()[1])


def test_mining_asks_what_came_last(tmp_path: Path) -> None:
    """Pools hold what the model ranks below the user's last item by the margin, and not known."""
    bench = Bench()
    mined = Mined(24, 5, allowed_I=bench.catalogue.known_I.numpy())
    callback = MineNegatives(
        mined, bench.catalogue, bench.sequences, bench.known, every=2, margin=0.1, history=8
    )
    callback.on_epoch_end(bench.state, {})
    assert int(mined.sizes_U.sum()) == 0  # not yet: every second epoch
    bench.state.epoch = 1
    callback.on_epoch_end(bench.state, {})
    assert int(mined.sizes_U.sum()) > 24
    table = item_table(bench.towers, bench.catalogue)
    bench.towers.eval()
    for user in range(24):
        start, stop = bench.sequences.offsets_U1[user : user + 2]
        past = bench.sequences.items_P[max(start, stop - 1 - 8) : stop - 1]
        window = WindowBatch(
            torch.from_numpy(past)[None], torch.tensor([user]), torch.tensor([0]),
            torch.tensor([len(past)]), torch.tensor([-1]), torch.tensor([0]),
        )  # fmt: skip
        with torch.no_grad():
            scores = (bench.towers.user_vectors(window, table) @ table.T)[0]
        limit = float(scores[bench.sequences.items_P[stop - 1]]) - 0.1
        has = bench.known.has(torch.tensor([user]), torch.arange(N_ITEMS))[0]
        allowed = bench.catalogue.known_I & ~has & (scores <= limit)
        wanted = scores.masked_fill(~allowed, -2.0).topk(5)
        expected = wanted.indices[wanted.values > -2.0].tolist()
        assert mined.pool_UM[user, : mined.sizes_U[user]].tolist() == expected


def test_mining_copes_with_users_without_events() -> None:
    data = events([(0, 1), (0, 2), (2, 3)], n_users=4, n_items=5)
    sequences = group_events(data)
    catalogue = Catalogue(None, torch.tensor([0, 1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 1, 0]))
    known = Known(torch.tensor([0, 0, 2]), torch.tensor([1, 2, 3]), 5)
    mined = Mined(4, 3, allowed_I=catalogue.known_I.numpy())
    towers = Towers(TowerShape(items=5, features=0, width=8, layers=1, history=4))
    state: Any = SimpleNamespace(plain={"towers": towers}, device=torch.device("cpu"), epoch=0)
    MineNegatives(mined, catalogue, sequences, known, every=1, margin=0.0, history=4).on_epoch_end(
        state, {}
    )
    assert mined.sizes_U[1] == 0
    assert mined.sizes_U[3] == 0


def test_a_batch_of_empty_windows_teaches_nothing() -> None:
    """Cuts that move may leave a window without an event; alone in a batch it must not stop."""
    towers = Towers(TowerShape(items=3, features=0, width=4, heads=1), streams=Streams(0))
    state: Any = SimpleNamespace(plain={"towers": towers}, modules={"towers": towers})
    batch: Any = SimpleNamespace(targets_N=torch.zeros(0, dtype=torch.int64))
    found = training_step(None, None)(batch, state)
    assert float(found.loss.detach()) == 0.0
    found.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in towers.parameters())


@pytest.mark.parametrize("items", [5, 200])
def test_own_scores_by_hand(items: int) -> None:
    """With few items in one product, with many one by one: the same scores and gradients."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(6, 4, generator=generator, requires_grad=True)
    table = torch.randn(items, 4, generator=generator, requires_grad=True)
    own = torch.randint(items, (6, 3), generator=generator)
    found = _own_scores(users, table, own)
    for row in range(6):
        for place in range(3):
            wanted = float(users[row].detach() @ table[own[row, place]].detach())
            assert found[row, place].item() == pytest.approx(wanted, abs=1e-5)
    weight = torch.randn(6, 3, generator=generator)
    (found * weight).sum().backward()
    by_hand = torch.zeros(items, 4)
    for row in range(6):
        for place in range(3):
            by_hand[own[row, place]] += weight[row, place] * users[row].detach()
    torch.testing.assert_close(table.grad, by_hand, rtol=1e-4, atol=1e-5)
