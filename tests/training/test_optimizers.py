"""Rates by group and by rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from warmstart.core import UsageError, progress
from warmstart.training import (
    FROZEN,
    Rule,
    announce,
    discriminative_rates,
    make_optimizer,
    rate_table,
)

NAMES = ["stem", "b1", "b2", "b3", "b4", "head"]


def groups() -> tuple[nn.Module, dict[str, list[tuple[str, nn.Parameter]]]]:
    model = nn.ModuleDict()
    for name in NAMES:
        model[name] = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return model, {
        name: [(f"{name}.{key}", value) for key, value in model[name].named_parameters()]
        for name in NAMES
    }


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[progress.Task]:
        raise NotImplementedError
        yield

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_the_designs_rates() -> None:
    rates = discriminative_rates(NAMES, 3e-3)
    known = [6.56e-5, 1.71e-4, 4.44e-4, 1.15e-3, 3.00e-3, 9.00e-3]
    assert list(rates.values()) == pytest.approx(known, rel=5e-3)
    assert list(rates) == NAMES


def test_rates_without_a_head_or_flat() -> None:
    assert discriminative_rates(["a", "b"], 1.0, factor=1.0) == {"a": 1.0, "b": 1.0}
    for bad in ({"base": 0.0}, {"base": 1.0, "factor": 0.5}, {"base": 1.0, "head_multiplier": 11}):
        with pytest.raises(UsageError):
            discriminative_rates(NAMES, **bad)


def test_rules_in_order_first_match_counts() -> None:
    model, named = groups()
    table = rate_table(
        named, 0.1, module=model,
        rules=[Rule("stem", FROZEN), Rule("b1.0.weight", 0.5), Rule("b[1-2]", 0.25)],
    )  # fmt: skip
    seen = [(row.group, row.parameters, row.rate, row.frozen, row.batch_norm) for row in table.rows]
    assert seen[:4] == [
        ("stem", 10, 0.0, True, "eval"),
        ("b1", 4, 0.05, False, "-"),
        ("b1", 6, 0.025, False, "train"),
        ("b2", 10, 0.025, False, "train"),
    ]
    assert table.rate("b4") == pytest.approx(0.1)
    assert table.rate("head") == pytest.approx(0.3)
    assert (table.trainable, table.total) == (50, 60)
    learns = {"stem": "never", "b1": "from stage 1", "b2": "from stage 2"}
    shown = table.text({name: learns.get(name, "from stage 1") for name in NAMES}).splitlines()
    assert [line.split("  ")[-1].strip() for line in shown if line[:2] in ("st", "b1", "b2")] == [
        "eval", "-", "train", "eval while it rests"
    ]  # fmt: skip
    table.apply()
    assert not any(p.requires_grad for p in model["stem"].parameters())
    assert all(p.requires_grad for p in model["b1"].parameters())
    assert "stem" in table.text()
    assert table.to_rows()[0]["frozen"] is True


def test_the_seven_lines_of_a_practitioner() -> None:
    """A ResNet-50 table: each stage its own rate, the stem frozen, written as seven rules."""
    names = ["stem", "layer1", "layer2", "layer3", "layer4", "norm", "head"]
    named = {name: [(f"{name}.weight", nn.Parameter(torch.zeros(2, 2)))] for name in names}
    rules = [Rule("stem", FROZEN), Rule("layer1", 0.01), Rule("layer2", 0.03), Rule("layer3", 0.1),
             Rule("layer4", 0.3), Rule("norm", 0.3), Rule("head", 1.0)]  # fmt: skip
    table = rate_table(named, 1e-2, rules=rules)
    rates = [0, 1e-4, 3e-4, 1e-3, 3e-3, 3e-3, 1e-2]
    assert [row.rate for row in table.rows] == pytest.approx(rates)


def test_rules_that_do_nothing_are_errors() -> None:
    _, named = groups()
    with pytest.raises(UsageError, match=r'"hed" matches no layer group.*Did you mean "head"'):
        rate_table(named, 0.1, rules=[Rule("hed", 1.0)])
    with pytest.raises(UsageError, match=r'"head" does nothing'):
        rate_table(named, 0.1, rules=[Rule("*", 1.0), Rule("head", 3.0)])
    with pytest.raises(UsageError, match="every parameter is frozen"):
        rate_table(named, 0.1, rules=[Rule("*", FROZEN)])
    with pytest.raises(UsageError, match="multiplier must be above 0"):
        rate_table(named, 0.1, rules=[Rule("*", -1.0)])
    with pytest.raises(UsageError, match='group "head" has no rate'):
        rate_table(named, 0.1, rates=dict.fromkeys(NAMES[:-1], 1.0))


def test_biases_and_norms_do_not_decay() -> None:
    model, named = groups()
    table = rate_table(named, 0.1, rules=[Rule("stem", FROZEN)])
    optimizer = make_optimizer(table, weight_decay=0.3)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == 20
    for group in optimizer.param_groups:
        decays = group["weight_decay"] == 0.3
        assert all((p.ndim == 2) == decays for p in group["params"])
        assert group["lr"] == table.rate(group["name"])
    assert not model["stem"][0].weight.requires_grad
    assert isinstance(make_optimizer(table, kind="sgd"), torch.optim.SGD)


def test_the_table_is_shown_and_high_rates_are_warned_of() -> None:
    _, named = groups()
    table = rate_table(named, 3e-3)
    notes = Notes()
    with progress.use(notes):
        announce(table, transformer=False)
        announce(table, transformer=True)
        announce(rate_table(named, 1e-4), transformer=True)
    warned = [line for line in notes.lines if "Warning" in line]
    assert len(warned) == 1
    assert "b4 learns at 3.0e-03" in warned[0]
    assert "batch norm" in notes.lines[0]
