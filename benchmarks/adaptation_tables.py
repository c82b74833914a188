"""Summaries and tables of the adaptation benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from warmstart.core import Streams
from warmstart.shift import VALIDATORS

__all__ = ["show", "summary"]

Json = Mapping[str, Any]


def summary(pairs: Sequence[Json]) -> dict[str, Any]:
    """Means over pairs with intervals over pairs: of each method, the choice and the oracle."""
    names = list(pairs[0]["methods"])
    reference = names[0]
    value = {name: np.array([pair["methods"][name]["accuracy"]["value"] for pair in pairs])
             for name in names}  # fmt: skip
    value["choice"] = np.array([pair["choice"]["accuracy"] for pair in pairs])
    value["validators alone"] = np.array([pair["validators_alone"]["accuracy"] for pair in pairs])
    value["oracle"] = np.array([pair["oracle"]["accuracy"] for pair in pairs])
    if all("skada" in pair for pair in pairs):
        value["skada dann"] = np.array([pair["skada"]["value"] for pair in pairs])
    rows = {}
    for name, values_P in value.items():
        gained_P = values_P - value[reference]
        low, high = _interval(gained_P)
        rows[name] = {
            "accuracy": float(values_P.mean()), "gain": float(gained_P.mean()), "low": low,
            "high": high, "better": int((gained_P > 0).sum()), "worse": int((gained_P < 0).sum()),
        }  # fmt: skip
    flags = [(pair["conflict"]["found"], pair["conflict"]["true"] >= 0.1) for pair in pairs]
    return {
        "pairs": len(pairs),
        "methods": rows,
        "adapted": sum(pair["choice"]["adapting"] for pair in pairs),
        "regret": float((value["oracle"] - value["choice"]).mean()),
        "worst_loss": float((value["choice"] - value[reference]).min()),
        "validators": {name: _agreement(pairs, name) for name in VALIDATORS},
        "conflict": {
            "called": sum(told for told, _ in flags),
            "true": sum(true for _, true in flags),
            "right": sum(told == true for told, true in flags),
        },
    }


def _agreement(pairs: Sequence[Json], validator: str) -> float:
    """Mean over pairs of the rank correlation of a validator with the target's accuracy."""
    found = []
    for pair in pairs:
        mine = [point[validator] for point in pair["validators"]]
        true = [point["accuracy"] for point in pair["validators"]]
        if len(set(true)) > 1 and len(set(mine)) > 1:
            found.append(float(spearmanr(mine, true).statistic))
    return float(np.mean(found)) if found else 0.0


def _interval(values_P: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over pairs."""
    draws_RP = Streams(0).numpy("pairs").integers(0, len(values_P), (5000, len(values_P)))
    low, high = np.quantile(values_P[draws_RP].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def show(console: Console, kind: str, pairs: Sequence[Json], told: Json) -> None:
    """One table of the pairs, one of the means."""
    names = list(pairs[0]["methods"])
    table = Table(title=f"{kind}: accuracy on the target's test rows, %")
    for head in ("source to target", "A-dist.", *names, "choice", "oracle"):
        table.add_column(head, justify="left" if head.startswith("source to") else "right")
    for pair in pairs:
        cells = [f"{100 * pair['methods'][name]['accuracy']['value']:.1f}" for name in names]
        choice = pair["choice"]
        kept = f"{100 * choice['accuracy']:.1f} {choice['kept'] if choice['adapting'] else 'stays'}"
        table.add_row(pair["pair"], f"{pair['a_distance']:.2f}", *cells, kept,
                      f"{100 * pair['oracle']['accuracy']:.1f}")  # fmt: skip
    console.print(table)
    means = Table(title=f"{kind}: means over {told['pairs']} pairs")
    for head in ("", "accuracy", "gain over source-only (95 % over pairs)", "better", "worse"):
        means.add_column(head, justify="right" if head else "left")
    for name, row in told["methods"].items():
        means.add_row(
            name, f"{100 * row['accuracy']:.1f}",
            f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            str(row["better"]), str(row["worse"]),
        )  # fmt: skip
    agreement = ", ".join(f"{name} {value:+.2f}" for name, value in told["validators"].items())
    flags = told["conflict"]
    means.caption = (
        f"The choice adapts in {told['adapted']} pairs; regret to the oracle "
        f"{100 * told['regret']:.1f} points, worst loss to source-only "
        f"{100 * told['worst_loss']:+.1f}. Rank correlation of validators with accuracy: "
        f"{agreement}. Label-shift conflict called in {flags['called']}, true in {flags['true']}, "
        f"right in {flags['right']}."
    )
    console.print(means)
