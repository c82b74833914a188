"""Two processes on a CPU take the steps that one process takes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import importlib.util, json, pathlib, sys
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
sys.modules["kit"] = kit
spec.loader.exec_module(kit)
from warmstart.core import Run, Streams
from warmstart.training import (Anchor, Classifier, Checkpoints, classification_loaders,
    classification_step, evaluation, fit_loop, l2_sp)
root, accumulate = pathlib.Path(sys.argv[2]), int(sys.argv[3])

class Encoder(torch.nn.Module):  # no dropout: its draws differ between processes
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(6, 5)
        self.unused = torch.nn.Linear(2, 2)  # a pooler that mean pooling leaves out
        self.norm = torch.nn.BatchNorm1d(5).requires_grad_(False)
    def forward(self, inputs):
        return self.norm(torch.tanh(self.layer(inputs["x"])))

model = Classifier(Encoder(), torch.nn.Linear(5, 2))
train, held = classification_loaders(kit.ToyRows(rows=44), kit.ToyRows(rows=21, seed=1),
    kit.preprocess_vectors, batch_size=4, streams=Streams(0))
penalty = l2_sp(Anchor(model), alpha=0.5, beta=0.5) if sys.argv[4] == "penalty" else None
history = fit_loop(step=classification_step(penalty=penalty), modules={"model": model},
    loaders=train,
    optimizers=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05),
    run=Run(root, device="cpu"), epochs=2, evaluate=evaluation(held, classes=2),
    accumulate=accumulate, clip=1.0, checkpoints=Checkpoints(every_steps=2))
import torch.distributed as dist
if not dist.is_initialized() or dist.get_rank() == 0:
    (root / "out.json").write_text(json.dumps({"steps": history.steps,
        "epochs": [{k: v for k, v in e.items() if k != "seconds"} for e in history.epochs],
        "weights": model.encoder.layer.weight.flatten().tolist()}))
if dist.is_initialized():
    dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("kind", ["plain", "penalty"])
def test_two_processes_equal_one(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    kit = str(Path(__file__).with_name("conftest.py"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start(name: str, accumulate: int, **extra: str) -> subprocess.Popen[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, str(script), kit, str(tmp_path / name), str(accumulate), kind]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **extra}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    jobs = [start("one", 2)]
    jobs += [
        start(
            "two",
            1,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(2)
    ]
    try:
        told = [job.communicate(timeout=120)[1] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
            job.communicate()
    assert [job.returncode for job in jobs] == [0, 0, 0], told
    one, two = (json.loads((tmp_path / name / "out.json").read_text()) for name in ("one", "two"))
    assert one["steps"] == two["steps"] == 12
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)
    for mine, theirs in zip(one["epochs"], two["epochs"], strict=True):
        for key in ("validation_loss", "validation_accuracy", "validation_macro_f1"):
            assert theirs[key] == pytest.approx(mine[key], abs=1e-4)
