"""The decision tree at its edges."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from warmstart.data import read
from warmstart.planning import plan_by_tree

DATA = read(datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(40)],
                                        "label": ["good", "bad"] * 20}))  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "settings", "strategy", "rule"),
    [
        (1, {}, "zero-shot", "under 100"),
        (99, {}, "zero-shot", "under 100"),
        (99, {"names_speak": False}, "prototypes", "under 100"),
        (100, {}, "probe", "100 to 1,000"),
        (999, {}, "probe", "100 to 1,000"),
        (1000, {}, "finetune", "1,000 to 100,000"),
        (1000, {"distance": "near"}, "finetune", "1,000 to 100,000"),
        (1000, {"distance": "far"}, "finetune", "far domain"),
        (99_999, {}, "finetune", "1,000 to 100,000"),
        (100_000, {}, "finetune", "above 100,000"),
        (100_000, {"budget_seconds": 3599.0}, "probe", "above 100,000"),
        (100_000, {"budget_seconds": 3600.0}, "finetune", "above 100,000"),
    ],
)
def test_thresholds(labels: int, settings: Any, strategy: str, rule: str) -> None:
    plan = plan_by_tree(DATA, labels=labels, **settings)
    assert plan.strategy == strategy
    assert rule in plan.rule
    assert strategy not in plan.alternatives
    assert plan.reasons[0].name == "labels"
    assert plan.reasons[0].value == labels
    assert all(f"{reason.value:,.0f}" in reason.text for reason in plan.reasons)


def test_counts_labels_itself_and_warns_of_rare_classes() -> None:
    data = read(datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(100)],
                                            "label": ["a lot"] * 97 + ["few"] * 3}))  # fmt: skip
    plan = plan_by_tree(data)
    assert plan.reasons[0].value == 100
    assert plan.reasons[1].value == 3
    assert any("3 training rows" in warning for warning in plan.warnings)
    assert plan.command == f"warmstart fit DATA --strategy {plan.strategy}"  # rows have no path
    assert any("macro F1" in warning for warning in plan.warnings)
    assert not plan_by_tree(DATA).warnings
