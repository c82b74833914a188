"""Compare ways of adapting on one split, and read the verdict.

    python examples/compare_strategies.py

The rows are made here: questions to a shop under four intents, 240 in all. Forty sentences are
asked about six things each, so rows come in groups that must not be torn apart: a test row whose
sentence was learnt with another thing in it would flatter every arm. `group=` keeps them whole.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from pathlib import Path

import warmstart as ws

GOODS = ("the chair", "my order", "the blue lamp", "this desk", "the rug", "my new shelf")
ASKED = {
    "delivery time": (
        "When will {} arrive?",
        "How long does it take until {} gets here?",
        "Is {} on its way already?",
        "I have been waiting for {} since Monday.",
        "Which day can I expect {}?",
        "Has {} left the warehouse yet?",
        "The tracking page shows nothing for {}.",
        "Will {} be here before the weekend?",
        "How many days until {} is at my door?",
        "Could you tell me where {} is now?",
    ),
    "refund": (
        "I want my money back for {}.",
        "How do I return {} and get repaid?",
        "Please refund what I paid for {}.",
        "I sent {} back, when do I see the money?",
        "Can I get a refund on {}?",
        "You still owe me the price of {}.",
        "I would like to give {} back and be reimbursed.",
        "The repayment for {} has not reached my account.",
        "Take {} back and credit my card, please.",
        "What is needed to be paid back for {}?",
    ),
    "damage": (
        "There is a crack in {}.",
        "A leg of {} came broken.",
        "The surface of {} is badly scratched.",
        "{} fell apart while I unpacked it.",
        "Part of {} is dented and a screw is bent.",
        "I found a hole in {}.",
        "{} arrived in pieces.",
        "The glass of {} is shattered.",
        "Water has stained {}.",
        "One corner of {} is smashed.",
    ),
    "assembly": (
        "How do I put {} together?",
        "Which screws belong to {}?",
        "The instructions for {} are missing.",
        "Do I need a drill to build {}?",
        "In what order do I mount the parts of {}?",
        "Where does the long bolt of {} go?",
        "Is there a video that shows how to assemble {}?",
        "Step four in the manual of {} makes no sense.",
        "What tool do I need to set up {}?",
        "How do I attach the back panel of {}?",
    ),
}


def write_questions(path: Path) -> None:
    """240 rows: every question about every thing. The sentence becomes a column too."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label", "sentence"])
        for intent, questions in ASKED.items():
            for question, thing in itertools.product(questions, GOODS):
                writer.writerow([question.format(thing), intent, question])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder / "questions.csv")
        run = ws.compare(
            folder / "questions.csv",
            strategies=["zero-shot", "prototypes", "probe", "tfidf"],
            group="sentence",
            seeds=1,
            budget="2m",
            out=folder / "comparison",
        )
        for arm in run.results["arms"]:
            score = arm["scores"]["metrics"][arm["scores"]["primary"]]
            print(
                f"{arm['label']:30} {score['value']:.3f} "
                f"({score['low']:.3f} to {score['high']:.3f})  {arm['seconds']:.1f} s"
            )
        print()
        for sentence in run.verdict["sentences"]:
            print(sentence)
        print("Kept model:", run.best, "->", run.predict("My parcel is late")[0].label)
        print("The report has", run.report.stat().st_size // 1024, "KiB and opens offline.")


if __name__ == "__main__":
    main()
