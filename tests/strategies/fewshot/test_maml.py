"""Meta-learning: its gradients by hand, what it adapts, and when it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from warmstart.core import NotApplicable, Run, Streams, UsageError
from warmstart.data import View
from warmstart.models import EncoderModel, Head, HeadShape
from warmstart.strategies import Maml, make
from warmstart.strategies.fewshot.episodes import eligible
from warmstart.strategies.fewshot.meta import EpisodeBatch, EpisodeLoader, MetaHead, adapt

QUICK: dict[str, Any] = {"epochs": 1, "tasks": 1, "hidden": 8}


@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_by_hand(steps: int) -> None:
    """Inner a/2 (θ - s)², outer b/2 (θ' - q)²: each inner step shrinks θ - s by (1 - rate a).

    dL/dθ = b (θ' - q) (1 - rate a)^n through the inner gradients, b (θ' - q) to first order.
    """
    a, b, s, q, rate, begin = 1.7, 0.6, 0.4, -1.1, 0.3, 2.0
    after = s + (begin - s) * (1 - rate * a) ** steps
    for second, expected in ((True, b * (after - q) * (1 - rate * a) ** steps),
                             (False, b * (after - q))):  # fmt: skip
        theta = torch.tensor(begin, dtype=torch.float64, requires_grad=True)
        rates = {"x": torch.tensor(rate, dtype=torch.float64)}
        moved = adapt(
            lambda now: 0.5 * a * (now["x"] - s) ** 2, {"x": theta}, rates, steps, second=second
        )
        assert moved["x"].item() == pytest.approx(after)
        (0.5 * b * (moved["x"] - q) ** 2).backward()
        assert theta.grad is not None
        assert theta.grad.item() == pytest.approx(expected)


def test_the_rates_gradient_by_hand() -> None:
    """dL/d rate of one inner step: -b (θ' - q) a (θ - s), to first order as well."""
    a, b, s, q, rate, begin = 1.7, 0.6, 0.4, -1.1, 0.3, 2.0
    for second in (True, False):
        theta = torch.tensor(begin, dtype=torch.float64, requires_grad=True)
        step = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        moved = adapt(
            lambda now: 0.5 * a * (now["x"] - s) ** 2, {"x": theta}, {"x": step}, 1, second=second
        )
        (0.5 * b * (moved["x"] - q) ** 2).backward()
        after = begin - rate * a * (begin - s)
        assert step.grad is not None
        assert step.grad.item() == pytest.approx(-b * (after - q) * a * (begin - s))


def learner(start: Any = "prototypes", *, second: bool = True, steps: int = 2) -> MetaHead:
    head = Head(HeadShape(dimension=4, classes=3, hidden=5), Streams(0))
    made = MetaHead(head, start=start, steps=steps, rate=0.2, second=second, learn_rates=True)
    return made.double()


def task(seed: int = 0, way: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = torch.arange(way)
    x = torch.randn(2 * way, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(3 * way, 4, generator=generator, dtype=torch.float64)
    return x, names.repeat_interleave(2), y, names.repeat_interleave(3)


@pytest.mark.parametrize("start", ["prototypes", "zero"])
def test_second_order_against_finite_differences(start: Any) -> None:
    made = learner(start)
    batch = EpisodeBatch([task(0), task(1, way=2)], torch.arange(2))
    made(batch)[0].backward()
    for name, parameter in made.learned():
        assert parameter.grad is not None, name
        flat, grads = parameter.data.view(-1), parameter.grad.reshape(-1)
        for place in range(0, len(flat), max(1, len(flat) // 5)):
            kept, values = flat[place].item(), []
            for shift in (1e-6, -1e-6):
                flat[place] = kept + shift
                values.append(made(batch)[0].item())
            flat[place] = kept
            slope = (values[0] - values[1]) / 2e-6
            assert grads[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7), (name, place)


@pytest.mark.parametrize("start", ["prototypes", "zero"])
def test_first_order_is_the_gradient_at_the_end_of_the_path(start: Any) -> None:
    """FOMAML for the hidden layer at zero start: the query gradient at the adapted parameters."""
    first, exact = learner(start, second=False), learner(start)
    batch = EpisodeBatch([task(3)], torch.arange(1))
    losses = [made(batch)[0] for made in (first, exact)]
    assert losses[0].item() == pytest.approx(losses[1].item()), "the values are the same"
    losses[0].backward()
    losses[1].backward()
    assert first.head.hidden is not None
    assert exact.head.hidden is not None
    mine, other = first.head.hidden.weight.grad, exact.head.hidden.weight.grad
    assert mine is not None
    assert other is not None
    assert not torch.allclose(mine, other)
    if start == "zero":
        x, names, y, answers = task(3)
        grid = list(first.path(x, names, 3, (first._steps,)))
        now = {name: value.requires_grad_(True) for name, value in grid[0][1].items()}
        gradient = torch.autograd.grad(first.loss(now, y, answers), now["hidden.weight"])[0]
        torch.testing.assert_close(mine, gradient)


def test_inner_steps_against_a_slow_twin() -> None:
    """Plain gradient descent on a module of its own gives the same parameters and logits."""
    made = learner("prototypes", steps=3)
    x, names, y, _ = task(5)
    scale = float(made.log_scale.detach().exp())
    twin = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    twin = twin.double()
    assert made.head.hidden is not None
    with torch.no_grad():
        twin[0].load_state_dict(made.head.hidden.state_dict())
        hidden = functional.gelu(made.head.hidden(x))
        for c in range(3):
            mean = hidden[names == c].mean(dim=0)
            twin[2].weight[c] = 2 * scale * mean
            twin[2].bias[c] = -scale * float(mean @ mean)
        distances = torch.cdist(hidden, torch.stack([hidden[names == c].mean(0) for c in range(3)]))
        gaps = twin(x) + scale * distances.square()
        torch.testing.assert_close(gaps, gaps[:, :1].expand(-1, 3), msg="logits are distances")
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(twin(x), names).backward()
        optimizer.step()
    (_, zero), (_, now) = made.path(x, names, 3, (0, 3))
    torch.testing.assert_close(made.logits(now, y), twin(y).detach())
    assert not torch.allclose(made.logits(zero, y), twin(y))


def test_a_class_without_rows_is_all_but_excluded() -> None:
    made = learner("prototypes")
    x, names, y, _ = task(6, way=2)
    ((_, now),) = made.path(x, names, 3, (1,))
    assert torch.softmax(made.logits(now, y), dim=1)[:, 2].max() < 1e-4


def test_episodes_are_a_function_of_seed_and_number() -> None:
    vectors = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    labels = np.arange(24) % 4

    def numbers(seed: int, epoch: int, start: int = 0) -> list[Any]:
        made = EpisodeLoader(
            vectors, labels, eligible(labels, 2), way=3, shots=2, queries=2, tasks=2, steps=4,
            streams=Streams(seed),
        )  # fmt: skip
        return [[t.tolist() for t in one] for b in made.batches(epoch, start) for one in b.tasks]

    whole = numbers(0, 1)
    assert len(whole) == 8
    assert numbers(0, 1, 3) == whole[6:]
    assert numbers(0, 0) != whole
    assert numbers(1, 1) != whole


def test_meta_learning_helps_new_episodes() -> None:
    """Only one direction tells the classes apart, and noise in the others is loud."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    vectors = generator.normal(size=(120, 8)) * 1.5
    vectors[:, 0] = np.linspace(-3, 3, 6)[labels] + 0.2 * generator.normal(size=120)
    tensor = torch.as_tensor(vectors, dtype=torch.float32)
    head = Head(HeadShape(dimension=8, classes=6, hidden=16), Streams(0))
    made = MetaHead(head, start="prototypes", steps=3, rate=0.1, second=True, learn_rates=True)
    shape = {"way": 3, "shots": 1, "queries": 5, "tasks": 4}
    rows = eligible(labels, 1)
    unseen = next(
        EpisodeLoader(tensor, labels, rows, **(shape | {"tasks": 60}), steps=1,
                      streams=Streams(99)).batches(0)
    )  # fmt: skip
    before = made(unseen)[1].item()
    optimizer = torch.optim.Adam([p for _, p in made.learned()], lr=1e-2)
    for batch in EpisodeLoader(tensor, labels, rows, **shape, steps=80, streams=Streams(0)).batches(
        0
    ):
        optimizer.zero_grad()
        made(batch)[0].backward()
        optimizer.step()
    assert made(unseen)[1].item() > before + 0.1


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("start", ["prototypes", "zero"])
def test_the_model_is_the_adapted_head_on_raw_vectors(
    order: Any, start: Any, text_view: Any, opened: Any, tiny_text: Path,
    make_run: Callable[..., Run],
) -> None:  # fmt: skip
    view, test = text_view
    bone = opened(tiny_text)
    strategy = Maml(order=order, start=start, **QUICK)
    fitted = strategy.fit(bone, view, make_run(seed=2))
    assert isinstance(fitted.model, EncoderModel)
    assert not fitted.model.tuned
    assert fitted.model.head.shape.hidden == 8
    assert (fitted.values["way"], fitted.values["shots"]) == (2, 5)
    train = torch.as_tensor(np.array(bone.features(view.train).vectors_ND))
    mean = train.mean(dim=0)
    scale = (train - mean).square().mean().sqrt()
    held = (torch.as_tensor(np.array(bone.features(view.validation).vectors_ND)) - mean) / scale
    job = strategy._job(bone, view, make_run(seed=2))
    _, now, metrics = job.best(job.learner)
    expected = functional.cross_entropy(
        job.learner.logits(now, held), torch.as_tensor(np.array(view.validation.labels_N))
    )
    assert metrics["validation_loss"] == pytest.approx(expected.item(), abs=1e-6)
    raw = bone.features(view.validation).vectors_ND
    np.testing.assert_allclose(
        job.head(now).proba(raw), torch.softmax(job.learner.logits(now, held), 1), atol=1e-5
    )
    assert np.isfinite(fitted.model.proba(test)).all()


def test_without_validation_it_takes_the_inner_steps(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    alone = View(view.train, view.validation.select([]))
    fitted = Maml(inner_steps=2, **QUICK).fit(opened(tiny_text), alone, make_run())
    assert fitted.values["steps_taken"] == 2
    assert fitted.values["best_epoch"] is None
    assert np.isfinite(fitted.model.proba(test)).all()


def test_limits_are_kept(
    text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    fitted = Maml(**QUICK).fit(opened(tiny_text), view, make_run(max_steps=3))
    assert (fitted.stopped, fitted.epochs) == ("max_steps", pytest.approx(3 / 25))
    late = Maml(**QUICK).fit(opened(tiny_text), view, make_run(deadline=time.monotonic() - 1))
    assert (late.stopped, late.epochs) == ("deadline", 0)


@pytest.mark.parametrize("stop", [2, 17])
def test_a_killed_fit_ends_as_the_whole_one(
    stop: int, text_view: Any, opened: Any, tiny_text: Path, make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from warmstart.strategies.fewshot import maml as module
    from warmstart.training import Checkpoints

    view, test = text_view
    bone = opened(tiny_text)
    strategy = Maml(**QUICK)
    monkeypatch.setattr(module, "Checkpoints", partial(Checkpoints, every_steps=5))
    whole = strategy.fit(bone, view, make_run(seed=4))
    real, calls = module._step, 0

    def cut(batch: Any, state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise RuntimeError("killed")
        return real(batch, state)

    run = make_run(seed=4)
    monkeypatch.setattr(module, "_step", cut)
    with pytest.raises(RuntimeError, match="killed"):
        strategy.fit(bone, view, run)
    again = strategy.fit(bone, view, Run(run.folder, seed=4, device="cpu"))
    np.testing.assert_array_equal(again.model.proba(test), whole.model.proba(test))


def test_what_cannot_work_is_refused(text_view: Any, opened: Any, tiny_text: Path) -> None:
    view, _ = text_view
    bone = opened(tiny_text)
    labels = view.train.labels_N
    firsts = [int(np.flatnonzero(labels == c)[0]) for c in (0, 1)]
    with pytest.raises(NotApplicable, match="0 of 2 classes have them; prototypes and knn work"):
        Maml().check(bone, View(view.train.select(firsts), view.validation))
    with pytest.raises(NotApplicable, match="5-way 5-shot episodes need 5 classes of 6"):
        Maml(way=5).check(bone, view)
    with pytest.raises(NotApplicable, match=r"2-way 500-shot .* 0 have them; lower way or shots"):
        Maml(shots=500).check(bone, view)
    for settings, message in (
        ({"way": "1"}, "maml.way"), ({"order": "third"}, "maml.order must be 'first' or 'second'"),
        ({"inner_steps": "0"}, "maml.inner_steps must be at least 1"),
        ({"inner_steps": "51"}, "maml.inner_steps must be at least 1 and at most 50"),
        ({"start": "mean"}, "maml.start must be"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            make("maml", settings)
