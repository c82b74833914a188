"""Train a two-tower recommender on interactions, ask it, and add an item that nobody has seen.

    python examples/recommend.py

The data are made up: people who cook go from starters to main courses to desserts, and keep to one
kitchen. So what comes next follows from what came last, which popularity cannot know.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np

import warmstart as ws
from warmstart.workflow import build_run_index, refresh

COURSES = ("starter", "main course", "dessert")
KITCHENS = ("Indian", "Italian", "Mexican", "Thai")
DISHES = 4  # of each course in each kitchen


def write_data(folder: Path, cooks: int = 120) -> None:
    """Three tables as `read_interactions` finds them: interactions, items, users."""
    generator = np.random.default_rng(0)
    names = [(k, c, n) for k in KITCHENS for c in COURSES for n in range(DISHES)]
    events = []
    for cook in range(cooks):
        kitchen = KITCHENS[generator.integers(len(KITCHENS))]
        start = int(generator.integers(1_000_000))
        for step in range(12):
            if generator.random() < 0.1:
                kitchen = KITCHENS[generator.integers(len(KITCHENS))]
            dish = (kitchen, COURSES[step % 3], int(generator.integers(DISHES)))
            events.append((start + 90_000 * step, f"cook{cook}", f"dish{names.index(dish)}"))
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["timestamp", "user_id", "item_id"])
        writer.writerows(sorted(events))
    with (folder / "items.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["item_id", "title", "tags"])
        for place, (kitchen, course, number) in enumerate(names):
            writer.writerow([f"dish{place}", f"{kitchen} {course} number {number + 1}", kitchen])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "cooking")

        plan = ws.plan(folder / "cooking")
        print(f"plan: {plan.strategy} ({plan.rule})")

        # `fit` judges the towers against popularity, item-kNN and EASE under one cut in time.
        run = ws.fit(
            folder / "cooking",
            strategy="two-tower",
            settings={"width": 32, "layers": 1, "epochs": 30, "rate": 0.005, "batch_size": 8},
            out=folder / "run",
        )
        for sentence in run.verdict["sentences"]:
            print(sentence)

        asked = ["dish0", "dish5"]  # an Indian starter and an Indian main course
        print("after an Indian starter and main course:")
        for one in ws.recommend(run, history=asked, k=3):
            print(f"  {one.title} ({one.score:.2f})")

        build_run_index(run)
        new = folder / "new.csv"
        new.write_text("item_id,title,tags\nkulfi,Indian dessert: pistachio kulfi,Indian\n")
        print(f"with a new dish the index holds {refresh(run, new).items} items")


if __name__ == "__main__":
    main()
