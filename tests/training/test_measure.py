"""Measuring a step changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from warmstart.core import Run, Streams
from warmstart.training import ExampleRows, RowLoader, measure_steps


def test_measuring_leaves_everything_as_it_was(kit: SimpleNamespace, tmp_path: Path) -> None:
    model = kit.ToyNet().eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    source = ExampleRows(kit.ToyRows(), kit.preprocess_vectors, streams=Streams(0))
    run = Run(tmp_path, device="cpu")
    cost = measure_steps(
        step=kit.step, modules={"model": model}, optimizers=optimizer, run=run,
        loaders=RowLoader(source, 4, streams=Streams(0)), steps=15, accumulate=2,
    )  # fmt: skip
    assert cost.steps == 15
    assert cost.steps_per_epoch == 5
    assert 0.0 < cost.seconds < 5.0
    assert cost.peak_bytes > 2**20
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not optimizer.state
    assert not model.training
    assert torch.equal(random_state, torch.get_rng_state())
    assert run.read_log() == []
