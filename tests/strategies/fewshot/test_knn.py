"""The vote of the nearest rows, against slow twins."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import NotApplicable, Run, RunError, UsageError
from warmstart.data import View
from warmstart.models import KnnModel, NeighbourHead, load_model, neighbours, vote
from warmstart.strategies import Knn, make


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(made, dim=-1)


@pytest.mark.parametrize("block", [(1, 1), (3, 4), (256, 8192)])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_neighbours_in_any_block(block: tuple[int, int], k: int) -> None:
    queries, rows = unit(7, 5, 0), unit(11, 5, 1)
    rows[6] = rows[2]  # equal rows: the lower number comes first
    cosine, found = neighbours(queries, rows, k, block=block)
    products = queries.double() @ rows.double().T
    for q in range(7):
        order = sorted(range(11), key=lambda m: (-round(float(products[q, m]), 6), m))
        assert found[q].tolist() == order[:k]
        np.testing.assert_allclose(cosine[q], products[q][order[:k]], atol=1e-6)


def test_a_row_does_not_meet_itself() -> None:
    rows = unit(9, 4, 2)
    _, found = neighbours(rows[3:6], rows, 8, skip_Q=torch.tensor([3, 4, 5]), block=(2, 3))
    for place, mine in enumerate((3, 4, 5)):
        assert sorted(found[place].tolist()) == [m for m in range(9) if m != mine]


def test_no_queries_have_no_neighbours() -> None:
    cosine, found = neighbours(torch.zeros(0, 4), unit(3, 4, 0), 2)
    assert cosine.shape == found.shape == (0, 2)


def test_memory_grows_with_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of all queries with all rows is ever made."""
    widest = 0
    real = torch.Tensor.topk

    def topk(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        nonlocal widest
        widest = max(widest, self.numel())
        return real(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "topk", topk)
    neighbours(unit(100, 4, 0), unit(200, 4, 1), 5, block=(10, 20))
    assert widest == 10 * 20


def test_of_equal_rows_the_first_are_taken() -> None:
    rows = unit(1, 4, 0).expand(40, 4).clone()
    rows[17] = -rows[17]
    for block in ((2, 7), (256, 8192)):
        _, found = neighbours(unit(3, 4, 0)[:1], rows, 20, block=block)
        assert found[0].tolist() == [m for m in range(21) if m != 17]


def test_vote_known_answers_and_slow_twin() -> None:
    """One neighbour: 1.1 of 1.2 halves; equal cosines: equal votes."""
    one = vote(torch.tensor([[0.3]]), torch.tensor([[1]]), 2, 0.07)
    np.testing.assert_allclose(one.numpy(), [[0.05 / 1.1, 1.05 / 1.1]])
    even = vote(torch.tensor([[0.3, 0.3]]), torch.tensor([[0, 1]]), 2, 0.07)
    np.testing.assert_allclose(even.numpy(), [[0.5, 0.5]])
    cosine, labels = [0.9, 0.8, 0.5, 0.1], [2, 0, 0, 1]
    votes = [0.1 / 3] * 3
    for c, label in zip(cosine, labels, strict=True):
        votes[label] += math.exp((c - 0.9) / 0.2)
    found = vote(torch.tensor([cosine], dtype=torch.float64), torch.tensor([labels]), 3, 0.2)
    np.testing.assert_allclose(found.numpy()[0], np.array(votes) / sum(votes))
    tiny = vote(torch.tensor([[1.0, -1.0]]), torch.tensor([[0, 1]]), 2, 0.001)
    assert torch.isfinite(tiny.log()).all()


def test_fit_against_a_slow_twin(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    bone = opened(tiny_text)
    found = Knn(k=3, temperature=0.05).fit(bone, view, make_run()).model.proba(test)
    train, held = (bone.features(rows).vectors_ND.astype(np.float64) for rows in (view.train, test))
    for row, scores in zip(held, found, strict=True):
        cosine = train @ row / np.linalg.norm(train, axis=1) / np.linalg.norm(row)
        nearest = np.argsort(-cosine, kind="stable")[:3]
        votes = np.full(2, 0.05)
        for m in nearest:
            votes[view.train.labels_N[m]] += np.exp((cosine[m] - cosine[nearest[0]]) / 0.05)
        np.testing.assert_allclose(scores, votes / votes.sum(), atol=1e-4)


def part(view: View, train: int, validation: int) -> View:
    return View(view.train.select(range(train)), view.validation.select(range(validation)))


def test_k_is_chosen_on_validation_or_by_leaving_one_out(
    as_text: Any, topics: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    data = as_text(*topics(120))
    bone = opened(tiny_text)
    big = View(data.select(range(90)), data.select(range(90, 120)))
    chosen = Knn().fit(bone, big, make_run())
    assert chosen.values["chosen_on"] == "validation"
    accuracies = chosen.values["accuracies"]
    for k, value in accuracies.items():
        right = Knn(k=int(k)).fit(bone, big, make_run()).model.proba(big.validation)
        assert value == pytest.approx((right.argmax(1) == big.validation.labels_N).mean(), abs=1e-4)
    assert accuracies[str(chosen.values["k"])] == max(accuracies.values())

    small = part(big, 24, 8)
    left = Knn().fit(bone, small, make_run())
    assert left.values["chosen_on"] == "leave-one-out"
    vectors = bone.features(small.train).vectors_ND.astype(np.float64)
    unit_rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for k, value in left.values["accuracies"].items():
        right = 0
        for i in range(24):
            cosine = unit_rows @ unit_rows[i]
            cosine[i] = -np.inf
            near = np.argsort(-cosine, kind="stable")[: int(k)]
            votes = np.zeros(2)
            for m in near:
                votes[small.train.labels_N[m]] += np.exp((cosine[m] - cosine[near[0]]) / 0.07)
            right += votes.argmax() == small.train.labels_N[i]
        assert value == pytest.approx(right / 24, abs=1e-4)


def test_one_row_a_class_leaves_nothing_to_choose_by(
    as_text: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    data = as_text(["apple", "car", "pear", "truck"], ["a b", "c d", "a b", "c d"])
    fitted = Knn().fit(
        opened(tiny_text), View(data.select([0, 1]), data.select([2, 3])), make_run()
    )
    assert fitted.values["k"] == 1
    assert "one row" in fitted.values["chosen_on"]


def test_what_cannot_work_is_refused(text_view: Any, opened: Any, tiny_text: Path) -> None:
    view, _ = text_view
    with pytest.raises(NotApplicable, match=rf"knn.k is 999.*1 to {len(view.train)} works"):
        make("knn", {"k": "999"}).check(opened(tiny_text), view)
    with pytest.raises(UsageError, match=r"knn.k must be above 0"):
        make("knn", {"k": "0"})
    with pytest.raises(
        UsageError, match=r"temperature must be at least 0.001 and at most 10, got 0"
    ):
        make("knn", {"temperature": "0"})


def test_saved_rows_come_back_and_damage_is_told(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    view, test = text_view
    fitted = Knn(k=2).fit(opened(tiny_text), view, make_run())
    folder = fitted.model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    assert isinstance(loaded, KnnModel)
    assert isinstance(loaded.head, NeighbourHead)
    assert (loaded.head.k, len(loaded.head.labels_M)) == (2, len(view.train))
    answer = loaded.predict("my old apple")[0]
    assert sum(answer.scores.values()) == pytest.approx(1.0)
    cosine, rows = loaded.nearest(view.train.inputs([5, 7]))
    assert rows[:, 0].tolist() == [5, 7], "a training row is its own nearest"
    np.testing.assert_allclose(cosine[:, 0], 1.0, atol=1e-5)
    logits = loaded.head(torch.as_tensor(opened(tiny_text).features(test).vectors_ND))
    np.testing.assert_allclose(logits.exp().numpy(), fitted.model.proba(test), atol=1e-5)
    from safetensors.torch import load_file, save_file

    path = folder / "head.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "labels": tensors["labels"] + 5}, path)
    with pytest.raises(RunError, match=r"head\.safetensors does not fit"):
        load_model(folder)
    save_file({"vectors": tensors["vectors"][:3], "labels": tensors["labels"]}, path)
    with pytest.raises(RunError, match=r"head\.safetensors does not fit"):
        load_model(folder)
    path.unlink()
    with pytest.raises(RunError, match=r"head\.safetensors is missing"):
        load_model(folder)
