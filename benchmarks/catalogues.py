"""Made-up catalogues with the shape of a real item tower's output, and a service over them.

Real item vectors are no Gaussian cloud: they share a direction, a few directions carry most of the
rest, and items come in clusters of very different sizes. Measured on MiniLM's vectors of the 1,682
MovieLens-100K items: the shared direction has .38 of the squared length, the variances of the
others fall as rank^-0.77, the nearest neighbour has a median cosine of .70 and the tenth of .62.
`tower_like(1682, 128)` gives .40, -0.78, .70 and .62.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from warmstart.core import Streams, read_json
from warmstart.retrieval import FaissIndex, towers
from warmstart.retrieval.index import ItemId
from warmstart.serving import ItemCard, Settings, adopt, run_workers, serve

HISTORY = 50
USERS = 2000
SHARED = 0.37
POWER = 0.6
WITHIN = 0.65
"""Part of an item's own variance that its cluster does not explain."""


def tower_like(items: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, D) with a shared direction, a power-law spectrum and clusters; cluster (N,).

    x = sqrt(SHARED) m + sqrt(1 - SHARED) (sqrt(1 - WITHIN) c + sqrt(WITHIN) e), where the centre c
    of an item's cluster and its own part e are normal with variances that fall as rank^-POWER in
    the directions of a random rotation. Cluster k has a share proportional to 1 / (k + 10).
    """
    streams = Streams(seed)
    draw = streams.numpy("catalogue")
    turn_DD, _ = np.linalg.qr(draw.standard_normal((dimension, dimension)))
    variance_D = np.arange(1, dimension + 1, dtype=np.float64) ** -POWER
    axes_DD = (turn_DD * np.sqrt(variance_D / variance_D.sum())).T.astype(np.float32)
    shared_D = draw.standard_normal(dimension)
    shared_D = (shared_D / np.linalg.norm(shared_D)).astype(np.float32)
    count = max(8, round(2 * items**0.5))
    share_C = 1.0 / (np.arange(count) + 10.0)
    cluster_N = draw.choice(count, items, p=share_C / share_C.sum()).astype(np.int32)
    centres_CD = draw.standard_normal((count, dimension), dtype=np.float32) @ axes_DD
    vectors_ND = np.empty((items, dimension), dtype=np.float32)
    for at in range(0, items, 100_000):
        part = cluster_N[at : at + 100_000]
        own_BD = draw.standard_normal((len(part), dimension), dtype=np.float32) @ axes_DD
        mixed_BD = np.sqrt(1 - WITHIN) * centres_CD[part] + np.sqrt(WITHIN) * own_BD
        vectors_ND[at : at + 100_000] = np.sqrt(SHARED) * shared_D + np.sqrt(1 - SHARED) * mixed_BD
    return _unit(vectors_ND), cluster_N


def gaussian(items: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors without any structure: the hardest case, which no item tower produces."""
    draw = Streams(seed).numpy("gaussian")
    vectors_ND = draw.standard_normal((items, dimension), dtype=np.float32)
    return _unit(vectors_ND), draw.integers(0, 100, items).astype(np.int32)


CATALOGUES = {"tower": tower_like, "gaussian": gaussian}


def histories(cluster_N: np.ndarray, users: int = USERS, seed: int = 0) -> np.ndarray:
    """Item rows (U, HISTORY): each user keeps to three clusters, and strays every fifth time."""
    draw = Streams(seed).numpy("users")
    order_N = np.argsort(cluster_N, kind="stable")
    starts_C = np.searchsorted(cluster_N[order_N], np.arange(int(cluster_N.max()) + 2))
    rows_UH = draw.integers(0, len(cluster_N), (users, HISTORY))
    for user in range(users):
        mine = cluster_N[draw.integers(0, len(cluster_N), 3)]
        for place in np.flatnonzero(draw.random(HISTORY) < 0.8):
            cluster = int(mine[draw.integers(0, 3)])
            row = draw.integers(starts_C[cluster], starts_C[cluster + 1])
            rows_UH[user, place] = order_N[row]
    return rows_UH


class UserTower(nn.Module):
    """The library's user tower with random weights.

    So that its output lies where users lie, it is a small change of the mean of the latest ten
    items.
    """

    def __init__(self, dimension: int, seed: int = 0) -> None:
        super().__init__()
        shape = towers.TowerShape(items=0, features=dimension, width=dimension, history=HISTORY)
        self.tower = towers.UserTower(shape, Streams(seed))
        self.eval()

    @torch.inference_mode()
    def forward(self, items_BHD: torch.Tensor) -> torch.Tensor:
        """User vectors (B, D) of unit length from the latest items, oldest first."""
        count, length = items_BHD.shape[:2]
        change_BD = self.tower(items_BHD, torch.arange(count), torch.full((count,), length))
        middle_BD = items_BHD[:, -10:].mean(dim=1)
        user_BD = nn.functional.normalize(middle_BD, dim=-1) + 0.2 * change_BD
        return nn.functional.normalize(user_BD, dim=-1)


class Cards(Mapping[ItemId, ItemCard]):
    """A card for every item, made when it is asked for; its title names the version."""

    def __init__(self, index: FaissIndex, version: str) -> None:
        self._index = index
        self._version = version

    def __getitem__(self, item: ItemId) -> ItemCard:
        if item not in self._index:
            raise KeyError(item)
        return ItemCard(f"{self._version} {item}", ("all",))

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[ItemId]:
        return iter(self._index.ids)


class Service:
    """What the benchmark serves: a version names model and cards, its folder the index."""

    images = ()
    profiles = None

    def __init__(self, folder: Path) -> None:
        self.index = FaissIndex.load(folder / "index")
        self.tower = self.index.tower
        self.version = folder.name
        self.model = f"model-{folder.name}"
        self.cards = Cards(self.index, folder.name)
        self.histories: dict[str, list[ItemId]] = read_json(folder / "histories.json")
        self._tower = UserTower(self.index.dimension)

    def user_vector(
        self, history: Sequence[ItemId], user: ItemId | None, attributes: Any = None
    ) -> np.ndarray:
        """The tower over the latest items."""
        items_HD = self.index.vectors([item for item in history[-HISTORY:] if item in self.index])
        vector_D: np.ndarray = self._tower(torch.from_numpy(items_HD)[None])[0].numpy()
        return vector_D


def run_server(
    folder: Path, port: int, threads: int, listener: socket.socket | None = None
) -> None:
    """Serve what `folder/current` names.

    A version is loaded once and then kept, so that frequent swaps measure swapping, not the disk.
    """
    torch.set_num_threads(1)
    kept: dict[str, Service] = {}

    def load(version: Path) -> Service:
        if version.name not in kept:
            start = time.perf_counter()
            kept[version.name] = Service(version)
            print(f"loaded {version.name} in {time.perf_counter() - start:.1f} s", flush=True)
        return kept[version.name]

    for version in sorted(path for path in folder.iterdir() if path.is_dir()):
        load(version)
    current = folder / "current"
    serve(None, "127.0.0.1", port, limits(threads), current=current, load=load, listener=listener)


def limits(threads: int) -> Settings:
    """Those of the benchmark's server."""
    return Settings(threads=threads, poll_seconds=0.1, waiting=32, deadline_seconds=2.0)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    for at in range(0, len(vectors_ND), 100_000):
        part_BD = vectors_ND[at : at + 100_000]
        part_BD /= np.linalg.norm(part_BD, axis=1, keepdims=True)
    return vectors_ND


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        adopted = adopt()
        run_server(Path(adopted.spec["folder"]), 0, adopted.spec["threads"], adopted.listener)
    else:
        folder, port, threads, workers = sys.argv[1], *map(int, sys.argv[2:5])
        if workers == 1:
            run_server(Path(folder), port, threads)
        else:
            spec = {"folder": folder, "threads": threads}
            command = [sys.executable, __file__, "worker"]
            run_workers(command, spec, "127.0.0.1", port, limits(threads), workers)
