"""Embed rows once: a second pass, a subset and an appended row are served by the cache.

python examples/embed_and_cache.py
"""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path

import numpy as np

import warmstart as ws
from warmstart.backbones import FeatureCache

ANIMALS = ("heron", "otter", "badger", "swallow", "lynx", "newt", "hare", "stoat")
PLACES = ("by the river", "under the old bridge", "in the reeds", "near the mill", "on the ice")
ACTS = ("is sleeping", "hunts at dusk", "watches the water", "raises its young", "was seen twice")


def write_notes(path: Path, notes: list[str]) -> None:
    """A table without labels."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["text"], *([note] for note in notes)])


def main() -> None:
    notes = [f"A {a} {act} {place}." for a in ANIMALS for act in ACTS for place in PLACES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = ws.backbone(modality="text", cache=FeatureCache(folder / "cache"))
        print(f"{encoder.name}: {encoder.card.dimension} dimensions, {encoder.pooling} pooling")

        def timed(rows: list[str]) -> np.ndarray:
            write_notes(folder / "notes.csv", rows)
            data = ws.read(folder / "notes.csv", need_label=False)
            start = time.perf_counter()
            vectors_ND = ws.embed(data, backbone=encoder).vectors_ND
            print(f"{len(rows):4} rows in {time.perf_counter() - start:6.3f} s")
            return np.asarray(vectors_ND)

        first_ND = timed(notes)
        again_ND = timed(notes)
        assert np.array_equal(first_ND, again_ND)
        timed(notes[:50])
        timed([*notes, "A kingfisher dives from the willow."])

        # Vectors of one space can be compared; a search is a product.
        query_1D = ws.embed(
            ws.read(_one(folder, "a bird over the water"), need_label=False), backbone=encoder
        ).vectors_ND
        best = np.argsort(-(first_ND @ query_1D[0]))[:3]
        print("Nearest to 'a bird over the water':", *(notes[i] for i in best), sep="\n  ")


def _one(folder: Path, text: str) -> Path:
    write_notes(folder / "query.csv", [text])
    return folder / "query.csv"


if __name__ == "__main__":
    main()
