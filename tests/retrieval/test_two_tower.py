"""Fitting two towers from end to end: it learns, resumes, saves, and serves new users and items."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.core import DataError, NotApplicable, Run, RunError, UsageError
from warmstart.evaluation import measure_ranking, rank_targets
from warmstart.retrieval import TwoTower, TwoTowerModel
from warmstart.retrieval.fitting_validation import information
from warmstart.training import Checkpoints, History

from .towerkit import (
    Queries,
    ToyEvents,
    chains,
    events,
    fit,
    halves,
    next_item_task,
    settings,
    texts,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TwoTowerModel:
    """Trained on the first four fifths of the walks, with texts."""
    past, _ = halves(chains())
    return fit(tmp_path_factory.mktemp("run"), past, text_IE=texts(), epochs=12, keep="last")


def same_weights(one: TwoTowerModel, other: TwoTowerModel) -> bool:
    mine, theirs = one.towers.state_dict(), other.towers.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_it_learns_what_comes_next(model: TwoTowerModel) -> None:
    """The walks go on by 7 in nine of ten cases; a popularity ranking finds one in thirty."""
    past, future = halves(chains())
    task = next_item_task(past, future)
    ranks = rank_targets(model, task, 30)
    found = measure_ranking(ranks, task, ("HR@1", "MRR"))
    assert found["HR@1"] > 0.6
    assert found["MRR"] > 0.7
    queries = Queries.of([[1, 8, 15]])
    assert int(model.scores(queries)[0].argmax()) == 22


def test_vectors_and_scores(model: TwoTowerModel) -> None:
    queries = Queries.of([[], [3], list(range(20)), list(range(12, 20))])
    users, items = model.user_vectors(queries), model.item_vectors()
    assert users.shape == (4, 16)
    assert items.shape == (30, 16)
    assert users.dtype == items.dtype == np.float32
    assert np.linalg.norm(users, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert np.linalg.norm(items, axis=1) == pytest.approx(np.ones(30), abs=1e-5)
    scores = model.scores(queries)
    torch.testing.assert_close(scores, torch.from_numpy(users @ items.T))
    assert bool(torch.isfinite(scores).all())
    assert np.array_equal(users[2], users[3])  # of a long history the last 8 events count


def test_the_answer_does_not_depend_on_the_company(model: TwoTowerModel) -> None:
    histories = [[1], [1, 2, 3], [], [4, 5]]
    together = model.user_vectors(Queries.of(histories, users=[0, 0, 0, 1]))
    for place, history in enumerate(histories):
        alone = model.user_vectors(Queries.of([history]))
        assert together[place] == pytest.approx(alone[0], abs=1e-5)
    assert model.user_vectors(Queries.of([])).shape == (0, 16)


def test_a_new_item_is_encoded_from_its_text(model: TwoTowerModel, tmp_path: Path) -> None:
    past, _ = halves(chains())
    without = past.select(past.item_N != 5)
    trained = fit(tmp_path, without, text_IE=texts(), keep="last", epochs=1)
    assert not bool(trained.known_I[5])
    again = trained.encode_items(texts()[5:6])
    assert again[0] == pytest.approx(trained.item_vectors()[5], abs=1e-6)
    larger = trained.with_items(["new"], texts()[5:6])
    assert larger.item_ids == (*trained.item_ids, "new")
    assert larger.scores(Queries.of([[1]])).shape == (1, 31)
    assert larger.fingerprint == trained.fingerprint
    assert larger.user_vectors(Queries.of([[30]]))[0] == pytest.approx(
        trained.user_vectors(Queries.of([[5]]))[0], abs=1e-6
    )
    with pytest.raises(DataError, match="3 is there already"):
        trained.with_items(["3"], texts()[5:6])
    with pytest.raises(DataError, match="1 item ids and 2 vectors"):
        trained.with_items(["new"], texts()[5:7])


def test_text_and_image_side_by_side(tmp_path: Path) -> None:
    past, _ = halves(chains())
    images = texts(width=4, seed=9)
    trained = fit(tmp_path, past, text_IE=texts(), image_IE=images, epochs=1, keep="last")
    assert (trained.text, trained.image) == (6, 4)
    changed = trained.encode_items(texts()[:1], images[1:2])
    assert not np.allclose(changed, trained.encode_items(texts()[:1], images[:1]))
    with pytest.raises(UsageError, match="reads image vectors of length 4"):
        trained.encode_items(texts()[:1])
    with pytest.raises(DataError, match="text vectors of length 6, got 5"):
        trained.encode_items(texts(width=5)[:1], images[:1])
    alone = fit(tmp_path / "alone", past, text_IE=texts(), epochs=1, keep="last", use_images=False)
    with pytest.raises(UsageError, match="reads no image vectors"):
        alone.encode_items(texts()[:1], images[:1])


def test_ids_alone_know_no_new_items(tmp_path: Path) -> None:
    past, _ = halves(chains())
    trained = fit(tmp_path, past.select(past.item_N != 5), epochs=1, keep="last")
    assert bool(torch.isfinite(trained.scores(Queries.of([[5]]))).all())
    with pytest.raises(UsageError, match="ids alone"):
        trained.encode_items()


def test_attributes_of_users(tmp_path: Path) -> None:
    past, _ = halves(chains())
    profile = np.eye(24, 3)
    trained = fit(tmp_path / "run", past, profile_UP=profile, epochs=1, keep="last")
    found = trained.user_vectors(Queries.of([[], [], []], users=[0, 1, -1]))
    assert not np.allclose(found[0], found[1])
    trained.save(tmp_path / "model")
    loaded = TwoTowerModel.load(tmp_path / "model")
    again = loaded.user_vectors(Queries.of([[], [], []], users=[0, 1, -1]))
    assert np.array_equal(found, again)


def test_saved_and_loaded_it_answers_alike(model: TwoTowerModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]
    loaded = TwoTowerModel.load(folder)
    queries = Queries.of([[], [3, 4], [1, 2, 5]])
    assert torch.equal(model.scores(queries), loaded.scores(queries))
    assert np.array_equal(model.encode_items(texts()[:3]), loaded.encode_items(texts()[:3]))
    assert loaded.fingerprint == model.fingerprint
    assert loaded.item_ids == model.item_ids
    assert loaded.facts == json.loads(json.dumps(model.facts))
    with pytest.raises(RunError, match="exists already"):
        model.save(folder)
    model.save(folder, replace=True)


def test_a_damaged_folder_is_refused(model: TwoTowerModel, tmp_path: Path) -> None:
    for name in ("towers.safetensors", "items.safetensors", "model.json"):
        folder = tmp_path / name
        model.save(folder)
        raw = bytearray((folder / name).read_bytes())
        raw[-2] ^= 1
        (folder / name).write_bytes(bytes(raw))
        with pytest.raises(RunError, match=name):
            TwoTowerModel.load(folder)


def test_the_fingerprint_is_of_the_item_tower(model: TwoTowerModel, tmp_path: Path) -> None:
    past, _ = halves(chains())
    again = fit(tmp_path / "a", past, text_IE=texts(), epochs=1, keep="last")
    other = fit(tmp_path / "b", past, text_IE=texts(), epochs=1, keep="last", seed=1)
    same = fit(tmp_path / "c", past, text_IE=texts(), epochs=1, keep="last")
    assert again.fingerprint == same.fingerprint
    assert len({model.fingerprint, again.fingerprint, other.fingerprint}) == 3
    with torch.no_grad():
        before = again.fingerprint
        again.towers.users.start += 1.0
        assert again.fingerprint == before
        again.towers.items.output.bias += 1.0
        assert again.fingerprint != before


def test_an_item_of_the_future_is_no_negative(tmp_path: Path) -> None:
    """Its id has no gradient, whatever the negatives: it stays where it started."""
    past, _ = halves(chains())
    without = past.select((past.item_N != 5) & (past.item_N != 29))
    for negatives in ("full", "uniform", "in-batch", "mined", "mixed"):
        trained = fit(
            tmp_path / negatives, without, negatives=negatives, draws=8, epochs=2, keep="last",
            mine_every=1, weight_decay=0.0, id_dropout=0.0,
            shares="uniform=0.4, mined=0.3, in-batch=0.3",
        )  # fmt: skip
        from warmstart.retrieval.towers import Towers

        start = Towers(trained.towers.shape, streams=Run(tmp_path / "s").streams.child("towers"))
        assert trained.towers.items.ids is not None
        assert start.items.ids is not None
        gap = (trained.towers.items.ids.weight - start.items.ids.weight).detach()
        moved = gap.abs().sum(dim=1)
        assert moved[[5, 29]].tolist() == [0.0, 0.0]
        assert negatives != "full" or float(moved[trained.known_I].min()) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"negatives": "in-batch", "symmetric": True, "logq": "off"},
        {"negatives": "in-batch", "logq": "stream", "draws": 40},
        {"negatives": "uniform", "learn_temperature": True},
        {"negatives": "mixed", "shares": {"in-batch": 0.5, "mined": 0.5}, "mine_every": 1},
        {"negatives": "mixed", "shares": {"tags": 0.5, "viewed": 0.5}, "draws": 16},
        {"negatives": "full", "mask_known": True, "smoothing": 0.1, "temperature_power": 0.1},
        {"cache_chunk": 3, "shift": True, "stride": 4},
    ],
)
def test_every_way_of_training_learns(tmp_path: Path, changes: dict[str, Any]) -> None:
    past, future = halves(chains())
    views = past.select(np.arange(len(past.item_N)) % 6 != 5)
    positive = views.positive_N.copy()
    positive[::9] = False
    data = ToyEvents(
        views.user_N, views.item_N, views.time_N, positive, views.n_users, views.n_items
    )
    tags = [[f"t{item % 5}"] for item in range(30)]
    trained = fit(tmp_path, data, text_IE=texts(), tags=tags, epochs=12, keep="last", **changes)
    task = next_item_task(data, future)
    found = measure_ranking(rank_targets(trained, task, 30), task, ("MRR",))["MRR"]
    assert found > 0.35  # by chance: 0.13


def test_keeps_the_best_epoch_on_the_validation_task(tmp_path: Path) -> None:
    past, future = halves(chains())
    task = next_item_task(past, future)
    trained = fit(
        tmp_path, past, validation=task, epochs=6, metric="MRR", rate=3e-2, schedule="constant"
    )
    history = History(**trained.facts["history"])
    curve = history.curve("validation_MRR")
    assert len(curve) == 6
    found = measure_ranking(rank_targets(trained, task, 30), task, ("MRR",))["MRR"]
    assert found == pytest.approx(max(curve), abs=1e-6)
    assert history.best_epoch == curve.index(max(curve)) + 1
    assert all(0 < value < 6.94 for value in history.curve("validation_information"))
    asked = len(task)
    users = torch.from_numpy(trained.user_vectors(task.queries)).double()
    items = torch.from_numpy(trained.item_vectors()).double()[torch.from_numpy(task.targets.items)]
    loss = torch.nn.functional.cross_entropy(users @ items.T / 0.07, torch.arange(asked))
    told = history.curve("validation_information")[history.best_epoch - 1]
    assert told == pytest.approx(math.log(asked) - float(loss), abs=1e-4)
    most = history.curve("validation_information_most")
    assert most == pytest.approx([math.log(asked)] * 6)
    again = TwoTower.parse({**trained.facts["settings"]}, "two-tower").refit(history)
    assert (again.stop_after, again.keep, again.epochs) == (history.best_epoch, "last", 6)


def test_the_information_of_vectors_that_tell_all_and_of_such_that_tell_nothing() -> None:
    """Known answers: users who point at the next item or at none, 1 / temperature = 5."""

    def points(at: Iterator[int]) -> Any:
        return SimpleNamespace(
            towers=SimpleNamespace(temperature=lambda: torch.tensor(0.2)),
            item_vectors=lambda: np.eye(31, dtype=np.float32)[:30],
            user_vectors=lambda asked: np.eye(31, dtype=np.float32)[
                [next(at) for _ in asked.user_Q]
            ],
        )

    many = next_item_task(*halves(chains(n_users=1000, length=8)))
    assert len(many) > 1024, "more than are looked at"
    found = information(points(itertools.repeat(30)), many)
    assert found == pytest.approx((0.0, math.log(1024)), abs=1e-5)
    few = next_item_task(*halves(chains(length=8)))
    targets = few.targets.items
    nats, most = information(points(iter(targets.tolist())), few)
    alike = np.bincount(targets)[targets]  # questions with the same answer cannot be told apart
    others = len(targets) - alike
    assert most == pytest.approx(math.log(len(targets)))
    assert nats == pytest.approx(most - np.log(alike + others * math.exp(-5)).mean(), abs=1e-5)


def test_patience_stops_early(tmp_path: Path) -> None:
    past, future = halves(chains())
    trained = fit(
        tmp_path, past, validation=next_item_task(past, future), epochs=40, patience=2, rate=1e-9
    )
    history = History(**trained.facts["history"])
    assert history.stopped == "early"
    assert len(history.epochs) < 40


def test_rankings_between_epochs_may_be_left_out(tmp_path: Path) -> None:
    past, future = halves(chains())
    trained = fit(tmp_path, past, validation=next_item_task(past, future), epochs=5, judge_every=2)
    curve = History(**trained.facts["history"]).curve("validation_MRR")
    assert curve[2] == curve[1]  # epochs 1 (the first), 2, 4 and 5 (the last) are ranked
    assert len(set(curve)) >= 3


def test_without_a_validation_task_the_newest_events_are_held_out(tmp_path: Path) -> None:
    past, _ = halves(chains())
    trained = fit(tmp_path, past, epochs=4, held_out=0.2)
    history = History(**trained.facts["history"])
    assert history.best_epoch is not None
    assert len(history.curve("validation_loss")) == 4
    everything = fit(tmp_path / "all", past, epochs=1, keep="last")
    assert not History(**everything.facts["history"]).curve("validation_loss")
    counts = np.bincount(past.item_N, minlength=30)
    assert everything.share_I.numpy() == pytest.approx(counts / counts.sum(), abs=1e-6)
    early = np.bincount(past.item_N[: int(0.8 * len(past.item_N))], minlength=30)
    assert trained.share_I.numpy() == pytest.approx(early / early.sum(), abs=1e-6)


def test_popularity_calibration(tmp_path: Path) -> None:
    past, future = halves(chains())
    task = next_item_task(past, future)
    plain = fit(tmp_path / "a", past, epochs=1, keep="last")
    lifted = fit(tmp_path / "a", past, epochs=1, keep="last", popularity=2.0)
    queries = Queries.of([[1], []])
    share = np.maximum(plain.share_I.numpy(), 1e-9)
    expected = plain.scores(queries).numpy() + 0.07 * 2.0 * np.log(share)
    assert lifted.scores(queries).numpy() == pytest.approx(expected, rel=1e-4)
    assert lifted.popularity == 2.0
    chosen = fit(tmp_path / "b", past, validation=task, popularity="auto", metric="MRR")
    best = measure_ranking(rank_targets(chosen, task, 30), task, ("MRR",))["MRR"]
    for strength in (-0.2, 0.0, 0.5):
        other = replace(chosen, popularity=strength)
        assert measure_ranking(rank_targets(other, task, 30), task, ("MRR",))["MRR"] <= best
    with pytest.raises(UsageError, match="chosen on a validation task"):
        fit(tmp_path / "c", past, popularity="auto", epochs=1, keep="last")


def test_seeds_are_what_differs(tmp_path: Path) -> None:
    past, _ = halves(chains())
    torch.manual_seed(1)
    one = fit(tmp_path / "a", past, epochs=1, keep="last", negatives="mixed", draws=8)
    torch.manual_seed(2)
    np.random.seed(2)
    same = fit(tmp_path / "b", past, epochs=1, keep="last", negatives="mixed", draws=8)
    other = fit(tmp_path / "c", past, epochs=1, keep="last", negatives="mixed", draws=8, seed=1)
    assert same_weights(one, same)
    assert not same_weights(one, other)


HARD: dict[str, Any] = {
    "negatives": "mixed", "shares": "in-batch=0.5, mined=0.5", "mine_every": 1, "draws": 16,
    "logq": "stream", "shift": True, "learn_temperature": True, "epochs": 4, "metric": "MRR",
}  # fmt: skip


class Killed(Exception):
    pass


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_steps_it_ends_where_it_would_have(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With mined pools, streamed frequencies and moving cuts: all that a resume must carry."""
    from warmstart.retrieval import two_tower

    past, future = halves(chains())
    task = next_item_task(past, future)
    often = Checkpoints(every_steps=1, every_seconds=None)
    whole = fit(tmp_path / "whole", past, validation=task, checkpoints=often, **HARD)
    make, calls, deadly = (
        two_tower.training_step,
        0,
        set(random.Random(seed).sample(range(2, 16), 3)),
    )

    def brittle(*args: Any, **named: Any) -> Any:
        step = make(*args, **named)

        def once(batch: Any, state: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in deadly:
                raise Killed
            return step(batch, state)

        return once

    monkeypatch.setattr(two_tower, "training_step", brittle)
    for _ in range(len(deadly) + 1):
        try:
            cut = fit(tmp_path / "cut", past, validation=task, checkpoints=often, **HARD)
            break
        except Killed:
            continue
    assert calls > max(deadly)
    assert same_weights(whole, cut)
    strip = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in m.facts["history"]["epochs"]]
        for m in (whole, cut)
    ]
    assert strip[0] == strip[1]


DRIVER = """
import os, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from tests.retrieval.test_two_tower import HARD
from tests.retrieval.towerkit import chains, fit, halves, next_item_task
from warmstart.training import Checkpoints
from warmstart.training.engine import Engine
deadly, steps, optimise = int(sys.argv[2]), 0, Engine.optimise
def counted(*args, **named):
    global steps
    steps += 1
    if steps == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return optimise(*args, **named)
Engine.optimise = counted
past, future = halves(chains())
policy = Checkpoints(every_steps=1, every_seconds=None)
model = fit(
    pathlib.Path(sys.argv[1]), past, validation=next_item_task(past, future), checkpoints=policy,
    **HARD,
)
model.save(sys.argv[3])
"""


def test_sigkill_and_a_new_process(tmp_path: Path) -> None:
    past, future = halves(chains())
    whole = fit(tmp_path / "whole", past, validation=next_item_task(past, future), **HARD)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)

    def run(deadly: int) -> int:
        arguments = [str(tmp_path / "cut"), str(deadly), str(tmp_path / "model")]
        return subprocess.run(
            [sys.executable, "-c", DRIVER, *arguments], env=environment, timeout=200, check=False
        ).returncode

    assert run(random.Random(3).randint(3, 12)) == -9
    assert run(-1) == 0
    assert same_weights(TwoTowerModel.load(tmp_path / "model"), whole)


def test_a_resumed_fit_must_meet_the_same_data(tmp_path: Path) -> None:
    past, _ = halves(chains())
    fit(tmp_path, past, text_IE=texts(), epochs=1, keep="last")
    with pytest.raises(RunError, match="other settings, data or model"):
        fit(tmp_path, past, text_IE=texts(seed=1), epochs=1, keep="last")


def test_hard_negatives_that_are_not_there(tmp_path: Path) -> None:
    past, _ = halves(chains())
    with pytest.raises(NotApplicable, match="viewed but not completed"):
        fit(tmp_path / "a", past, negatives="viewed")
    with pytest.raises(NotApplicable, match="negatives by tags need tags"):
        fit(tmp_path / "b", past, negatives="tags")
    with pytest.raises(NotApplicable, match="share tags"):
        fit(tmp_path / "c", past, negatives="tags", tags=[[]] * 30)


def test_auto_samples_where_the_catalogue_is_large(tmp_path: Path) -> None:
    past, _ = halves(chains())
    small = fit(tmp_path / "a", past, epochs=1, keep="last")
    large = fit(tmp_path / "b", past, epochs=1, keep="last", full_limit=10, draws=12)
    assert small.facts["negatives"] == "full"
    assert large.facts["negatives"] == "in-batch=0.5, uniform=0.5"
    assert "30 items are more than full_limit (10)" in large.facts["notes"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temperature": 0.001},
            "two-tower.temperature must be at least 0.01 and at most 1, got 0.001",
        ),
        ({"width": 15}, "width must be a multiple of heads, got 15 and 2"),
        ({"stride": 9}, r"stride must be at most history \(8\), got 9"),
        ({"symmetric": True}, "symmetric needs negatives=in-batch"),
        ({"smoothing": 0.1, "negatives": "uniform"}, "smoothing needs negatives=full"),
        ({"stop_after": 9}, r"stop_after must be at most epochs \(3\)"),
        ({"shares": "in-bach=1"}, 'Did you mean "in-batch"'),
        ({"shares": "in-batch=x"}, "shares such as in-batch=0.5"),
        ({"shares": {"uniform": -1.0}}, "above 0"),
        ({"negatives": "random"}, "negatives must be"),
        ({"id_dropout": 1.0}, "id_dropout must be at least 0 and below 1"),
        ({"rate": float("inf")}, "rate"),
        ({"with": 3}, 'no setting `with`. Did you mean "width"'),
    ],
)
def test_settings_are_refused_in_sentences(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**changes)


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    past, _ = halves(chains())
    broken = texts()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="text vectors must be finite"):
        fit(tmp_path, past, text_IE=broken)
    with pytest.raises(UsageError, match="one row for each of the 30 items"):
        fit(tmp_path, past, text_IE=texts(29))
    with pytest.raises(UsageError, match="one row for each of the 24 users"):
        fit(tmp_path, past, profile_UP=np.zeros((3, 2)))
    with pytest.raises(DataError, match="profile values must be finite"):
        fit(tmp_path, past, profile_UP=np.full((24, 2), np.nan))
    with pytest.raises(UsageError, match="need ids, text vectors or image vectors"):
        fit(tmp_path, past, use_ids=False)
    once = replace(events([(0, 1), (0, 2)], n_users=1, n_items=3), time_N=np.zeros(2))
    with pytest.raises(UsageError, match="every event has the same time"):
        fit(tmp_path, once)
