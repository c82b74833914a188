"""Adapt a pretrained text encoder to a small table and use the model that comes out.

    python examples/fit_and_predict.py

The table is made here: 160 short reviews under two labels, twenty sentences about eight things
each. `group=` keeps the rows of a sentence in one part, so that the held-out rows are new sentences
and not known ones about another thing. With your own data, give a path to any table that has a text
column and a label column.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from pathlib import Path

import warmstart as ws

THINGS = ("kettle", "lamp", "backpack", "keyboard", "umbrella", "radio", "blanket", "headset")
GOOD = (
    "The {} works perfectly and feels well made.",
    "I love this {}, it was worth every penny.",
    "A great {}. It arrived early and looks lovely.",
    "Very happy with the {}; I would buy it again.",
    "This {} is reliable and easy to use.",
    "Excellent {}, my whole family enjoys it.",
    "The best {} I have ever owned.",
    "What a pleasant {}, beautifully finished.",
    "The {} exceeded what I had hoped for.",
    "A delightful {} at a fair price.",
)
BAD = (
    "The {} broke after two days.",
    "I regret buying this {}, a waste of money.",
    "A terrible {}. It arrived late and was scratched.",
    "Very disappointed with the {}; I sent it back.",
    "This {} is flimsy and hard to use.",
    "Awful {}, nobody here wants to touch it.",
    "The worst {} I have ever owned.",
    "What an ugly {}, badly finished.",
    "The {} failed at the one thing it should do.",
    "A useless {} at a shameless price.",
)


def write_reviews(path: Path) -> None:
    """160 rows: every sentence about every thing."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label", "sentence"])
        for (good, bad), thing in itertools.product(zip(GOOD, BAD, strict=True), THINGS):
            writer.writerow([good.format(thing), "positive", good])
            writer.writerow([bad.format(thing), "negative", bad])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_reviews(folder / "reviews.csv")

        # `plan` says what the number of labels calls for, and which rule spoke.
        plan = ws.plan(folder / "reviews.csv")
        print(f"Plan: {plan.strategy} ({plan.rule})")

        # One call reads, divides, embeds, fits, judges on held-out rows and writes a run folder.
        run = ws.fit(folder / "reviews.csv", strategy="probe", group="sentence", out=folder / "run")
        accuracy = run.arm()["scores"]["metrics"]["accuracy"]
        print(f"Accuracy on {accuracy['n']} test rows: {accuracy['value']:.2f}")

        for text in ("Sturdy and quiet, I am delighted.", "It stopped working within a week."):
            answer = run.predict([text])[0]
            print(f"{answer.label:>8} ({answer.score:.2f})  {text}")

        # The folder is all that is needed later, in another process or on another machine.
        again = ws.open_run(folder / "run")
        print("The saved model answers:", again.predict("Lovely, thank you.")[0].label)


if __name__ == "__main__":
    main()
