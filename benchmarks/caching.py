"""Memory of a contrastive step whose negatives are encoded anew, with and without gradient caching.

512 users' vectors against K made-up titles that MiniLM encodes with all of its weights learning:
InfoNCE at temperature 0.07, one step back. K = 256 and 2,048 at once, and 8,192 in pieces of 64
with gradient caching (`both-towers:encode=8192:encode_chunk=64`), each in a process of its own.
That both ways give the same gradient is checked first.

    python benchmarks/caching.py [--negatives 8192] [--chunk 64]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ranking import peak_bytes
from warmstart.backbones import backbone
from warmstart.core import FORMAT_VERSION, Streams, describe_machine, write_json
from warmstart.retrieval import ItemTexts
from warmstart.retrieval.grad_cache import Part, cached_gradients
from warmstart.retrieval.item_texts import TextTower

USERS, TEMPERATURE = 512, 0.07
LIMIT = 1.5  # times the memory of 256 negatives at once
WORDS = ["night", "river", "love", "war", "house", "city", "secret", "summer", "king", "road",
         "girl", "story", "man", "last", "return", "dark", "day", "blood"]  # fmt: skip
HERE = Path(__file__).resolve().parent


class Step:
    """One step over so many titles."""

    def __init__(self, negatives: int) -> None:
        draw = Streams(0).numpy("caching benchmark")
        titles = [" ".join(draw.choice(WORDS, draw.integers(3, 13))) for _ in range(negatives)]
        texts = ItemTexts(backbone("minilm"), titles)
        self.tower = TextTower(texts, torch.zeros(negatives, 384))
        self.tower.learn(self.tower.encoder.groups.names)
        self.tower.replay.eval()  # the same gradient each time: no dropout
        self.users_UD = torch.nn.functional.normalize(
            torch.randn(USERS, 384, generator=Streams(0).torch("caching benchmark")), dim=1
        )
        self.codes_N = torch.arange(negatives)

    def loss(self, vectors: Sequence[Tensor]) -> Tensor:
        """InfoNCE: user u took the title u, modulo their number."""
        items_KD = torch.nn.functional.normalize(vectors[0], dim=1)
        taken_U = torch.arange(USERS) % len(items_KD)
        return torch.nn.functional.cross_entropy(self.users_UD @ items_KD.T / TEMPERATURE, taken_U)

    def run(self, chunk: int | None) -> float:
        """The loss of one step, whose gradient the weights then have."""
        self.tower.encoder.module.zero_grad(set_to_none=True)
        if chunk is None:
            total = self.loss([self.tower.encode(self.codes_N)])
            torch.autograd.backward(total)
        else:
            parts = list(torch.split(self.codes_N, chunk))
            total = cached_gradients([Part(self.tower.encode, parts)], self.loss)
        return float(total.detach())

    def gradient(self) -> Tensor:
        """Of all weights."""
        weights = self.tower.encoder.module.parameters()
        return torch.cat([one.grad.flatten() for one in weights if one.grad is not None])


def check_gradients() -> float:
    """Largest difference of both ways' gradients on 256 titles, over the largest gradient."""
    step = Step(256)
    step.run(None)
    whole = step.gradient().clone()
    step.run(64)
    return float((step.gradient() - whole).abs().max() / whole.abs().max())


def measured(negatives: int, chunk: int | None) -> dict[str, Any]:
    """Seconds and bytes of one step in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--negatives", str(negatives)]
    command += ["--alone", "--chunk", str(chunk or 0)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return {"negatives": negatives, "chunk": chunk, **found}


def run_alone(negatives: int, chunk: int | None) -> None:
    """What `measured` starts."""
    Step(8).run(None)  # what the libraries load is there then
    step = Step(negatives)
    gc.collect()
    start = time.perf_counter()
    found = peak_bytes(lambda: step.run(chunk))
    print(json.dumps({"bytes": found, "seconds": time.perf_counter() - start}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table, keep the results; 1 when the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "caching.json")
    options = parser.parse_args(arguments)
    if options.alone:
        run_alone(options.negatives, options.chunk or None)
        return 0
    difference = check_gradients()
    small, middle, cached = (
        measured(*one) for one in ((256, None), (2048, None), (options.negatives, options.chunk))
    )
    table = Table(title="One step, MiniLM learning")
    for heading in ("negatives", "at once", "peak memory", "seconds"):
        table.add_column(heading)
    for one in (small, middle, cached):
        table.add_row(
            f"{one['negatives']:,}", f"{one['chunk'] or one['negatives']:,}",
            f"{one['bytes'] / 2**20:,.0f} MiB", f"{one['seconds']:.1f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    growth = cached["bytes"] / small["bytes"]
    reached = growth <= LIMIT and difference < 1e-4
    console.print(
        f"{growth:.2f} times the memory of 256 (at most {LIMIT:g}); gradients differ by "
        f"{difference:.1e} of the largest: {'reached' if reached else 'not reached'}."
    )
    write_json(
        options.out,
        {"format_version": FORMAT_VERSION, "benchmark": "caching", "machine": describe_machine(),
         "steps": [small, middle, cached], "gradient_difference": difference, "limit": LIMIT,
         "reached": reached},
    )  # fmt: skip
    console.print(f"Kept in {options.out}")
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
