"""What is learned how fast: one ordered list of rules, shown as a table before training starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from warmstart.backbones import batch_norms, count_weights
from warmstart.core import UsageError, nearest, progress

from .rules import FROZEN, Rule

__all__ = [
    "FROZEN",
    "Groups",
    "RateRow",
    "RateTable",
    "Rule",
    "announce",
    "discriminative_rates",
    "make_optimizer",
    "rate_table",
]

Groups = Mapping[str, Sequence[tuple[str, nn.Parameter]]]
HEAD = "head"
HIGH_RATE = 1e-3


@dataclass(frozen=True)
class RateRow:
    """One line of the table: parameters of one group that are learned at one rate.

    Attributes:
        group: Name of the layer group.
        parameters: Number of weights.
        rate: Learning rate; 0 when frozen.
        frozen: Whether nothing of it moves.
        batch_norm: `train` or `eval` where there is batch normalisation, else `-`.
        members: The parameters by name.
    """

    group: str
    parameters: int
    rate: float
    frozen: bool
    batch_norm: str
    members: tuple[tuple[str, nn.Parameter], ...]


@dataclass(frozen=True)
class RateTable:
    """Every parameter's rate, by rows in the order of the groups."""

    rows: tuple[RateRow, ...]

    @property
    def trainable(self) -> int:
        """Weights that are learned."""
        return sum(row.parameters for row in self.rows if not row.frozen)

    @property
    def total(self) -> int:
        """Weights in all."""
        return sum(row.parameters for row in self.rows)

    def rate(self, group: str) -> float:
        """Highest rate within a group; 0 when it is frozen."""
        found = [row.rate for row in self.rows if row.group == group]
        if not found:
            groups = {row.group for row in self.rows}
            raise UsageError(f'layer group "{group}" is unknown.{nearest(group, groups)}')
        return max(found)

    def to_rows(self) -> list[dict[str, object]]:
        """The rows as plain values, for reports."""
        return [
            {
                "group": row.group, "parameters": row.parameters, "rate": row.rate,
                "frozen": row.frozen, "batch_norm": row.batch_norm,
            }
            for row in self.rows
        ]  # fmt: skip

    def text(self, learns: Mapping[str, str] | None = None) -> str:
        """The table in fixed-width text.

        Args:
            learns: When each group learns, where that changes within a training: a column of its
                own in place of `frozen`.
        """
        head = ("group", "parameters", "rate", "learns" if learns else "frozen", "batch norm")

        def state(row: RateRow) -> str:
            if learns is None:
                return "yes" if row.frozen else "no"
            return "never" if row.frozen else learns[row.group]

        def norm(row: RateRow) -> str:
            late = learns is not None and row.batch_norm == "train"
            return (
                "eval while it rests" if late and state(row) != "from stage 1" else row.batch_norm
            )

        cells = [
            (
                row.group, f"{row.parameters:,}", "-" if row.frozen else f"{row.rate:.2e}",
                state(row), norm(row),
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(len(line[place]) for line in [head, *cells]) for place in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(width) if place in (1, 2) else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [head, *cells]
        ]
        return "\n".join(lines)

    def apply(self) -> None:
        """Ask for gradients of exactly the parameters that are learned."""
        for row in self.rows:
            for _, parameter in row.members:
                if parameter.is_floating_point():
                    parameter.requires_grad_(not row.frozen)


def discriminative_rates(
    groups: Iterable[str],
    base: float,
    factor: float = 2.6,
    head_multiplier: float = 3.0,
    head: str = HEAD,
) -> dict[str, float]:
    """Rates that fall with the distance from the head: `base / factor^(L - l)`.

    L is the last group of the backbone, the head learns at `head_multiplier` times `base`.

    Args:
        groups: Group names, stem first; the one named `head` may be among them.
        base: Rate of the last backbone group.
        factor: By how much each earlier group learns more slowly; 1 gives one flat rate.
        head_multiplier: In [1, 10].
        head: Name of the head's group.

    Source: Howard and Ruder 2018, ULMFiT, section 3.2 (factor 2.6).
    """
    if base <= 0:
        raise UsageError(f"the base rate must be above 0, got {base}. Typical: 2e-5 to 3e-3.")
    if factor < 1:
        raise UsageError(f"factor must be at least 1, got {factor}. Typical: 2.6; 1 is flat.")
    if not 1 <= head_multiplier <= 10:
        raise UsageError(f"head_multiplier must be 1 to 10, got {head_multiplier}. Typical: 3.")
    names = list(groups)
    backbone = [name for name in names if name != head]
    rates = {
        name: base / factor ** (len(backbone) - 1 - place) for place, name in enumerate(backbone)
    }
    if head in names:
        rates[head] = base * head_multiplier
    return rates


def rate_table(
    groups: Groups,
    base: float,
    *,
    rules: Sequence[Rule] = (),
    rates: Mapping[str, float] | None = None,
    module: nn.Module | None = None,
    frozen: Collection[str] = (),
    batch_norm: Literal["train", "eval"] = "train",
) -> RateTable:
    """Give every parameter its rate: the first rule that matches, else its group's rate.

    Args:
        groups: Ordered layer groups, head last.
        base: What the multipliers of rules multiply.
        rules: In order; the first match counts. See `parse_rules`.
        rates: Rate of each group that no rule matches; `discriminative_rates` when None.
        module: The model, to see which parameters belong to batch normalisation.
        frozen: Groups that rest for now, whatever the rules say of them.
        batch_norm: Its mode where a group learns; `eval` keeps the statistics.

    Raises:
        UsageError: For a rule that matches nothing, or nothing that an earlier rule left.
    """
    group_rates = discriminative_rates(groups, base) if rates is None else rates
    matched: set[int] = set()
    reached: set[int] = set()
    norms = _batch_norm_parameters(module)
    rows: list[RateRow] = []
    for group, members in groups.items():
        parts: dict[float | None, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in members:
            hits = [place for place, rule in enumerate(rules) if rule.matches(group, name)]
            reached.update(hits)
            matched.update(hits[:1])
            rate = None if group in frozen else _rate(rules, hits, base, group, group_rates)
            parts.setdefault(rate, []).append((name, parameter))
        rows += [_row(group, rate, part, norms, batch_norm) for rate, part in parts.items()]
    for place, rule in enumerate(rules):
        if place not in matched:
            _refuse(rule, place in reached, groups)
    if all(row.frozen for row in rows):
        raise UsageError("every parameter is frozen, so there is nothing to learn. Train the head.")
    return RateTable(tuple(rows))


def make_optimizer(
    table: RateTable,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    kind: Literal["adamw", "sgd"] = "adamw",
    momentum: float = 0.9,
    apply: bool = True,
) -> Optimizer:
    """An optimiser with one group for each trained row of the table, two where decay differs.

    Biases and normalisation weights (all parameters of one axis or none) do not decay.

    Args:
        table: Who learns how fast.
        weight_decay: Decoupled weight decay (AdamW), or L2 (SGD).
        betas: Of Adam.
        eps: Of Adam.
        kind: `adamw` (Loshchilov and Hutter 2019) or `sgd`.
        momentum: Of SGD.
        apply: Whether to set `requires_grad` as the table says.
    """
    if apply:
        table.apply()
    groups: list[dict[str, object]] = []
    for row in table.rows:
        if row.frozen:
            continue
        for decays in (True, False):
            members = [p for _, p in row.members if (p.ndim >= 2) == decays]
            if members:
                groups.append(
                    {
                        "params": members, "lr": row.rate, "name": row.group,
                        "weight_decay": weight_decay if decays else 0.0,
                    }
                )  # fmt: skip
    if kind == "adamw":
        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=_can_fuse(table))
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    raise UsageError(f'optimizer "{kind}" is unknown.{nearest(kind, ["adamw", "sgd"])}')


def announce(
    table: RateTable,
    *,
    transformer: bool | None = None,
    adam: bool = True,
    learns: Mapping[str, str] | None = None,
) -> None:
    """Show the table, and warn of a backbone rate that usually ruins a transformer.

    Args:
        table: The rates.
        transformer: Whether the backbone is one; None to judge by its parameters' names.
        adam: Whether Adam or a kin of it is used.
        learns: See `RateTable.text`.
    """
    share = table.trainable / max(1, table.total)
    said = "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
    progress.note(
        f"Training {table.trainable:,} of {table.total:,} parameters ({said}).\n"
        f"{table.text(learns)}"
    )
    if any(row.batch_norm == "eval" and not row.frozen for row in table.rows):
        progress.note(
            "Batch normalisation keeps the statistics that it came with; only its scale and shift "
            "learn."
        )
    own = [row for row in table.rows if row.group != HEAD and "adapter" not in row.group]
    high = [row for row in own if row.rate >= HIGH_RATE]
    if transformer is None:
        transformer = any(
            "attention" in name or "attn" in name for row in table.rows for name, _ in row.members
        )
    if adam and transformer and high:
        worst = max(high, key=lambda row: row.rate)
        progress.note(
            f"Warning: the backbone group {worst.group} learns at {worst.rate:.1e}. Adam at 1e-3 "
            "or more usually destroys a pretrained transformer; 2e-5 to 5e-4 is typical."
        )


def _rate(
    rules: Sequence[Rule],
    hits: Sequence[int],
    base: float,
    group: str,
    group_rates: Mapping[str, float],
) -> float | None:
    """The rate of a parameter, None for frozen."""
    if hits:
        return rules[hits[0]].value(base)
    if group not in group_rates:
        raise UsageError(f'layer group "{group}" has no rate.{nearest(group, group_rates)}')
    return group_rates[group] or None


def _row(
    group: str,
    rate: float | None,
    part: list[tuple[str, nn.Parameter]],
    norms: set[int],
    batch_norm: str,
) -> RateRow:
    has_norm = any(id(parameter) in norms for _, parameter in part)
    mode = ("eval" if rate is None else batch_norm) if has_norm else "-"
    count = sum(count_weights(parameter) for _, parameter in part)
    return RateRow(group, count, rate or 0.0, rate is None, mode, tuple(part))


def _refuse(rule: Rule, reached: bool, groups: Groups) -> None:
    if reached:
        raise UsageError(
            f'rule "{rule.pattern}" does nothing: earlier rules match all it matches. '
            "Put it before them or remove it."
        )
    raise UsageError(
        f'rule "{rule.pattern}" matches no layer group and no parameter.'
        f"{nearest(rule.pattern, groups)}"
    )


def _batch_norm_parameters(module: nn.Module | None) -> set[int]:
    if module is None:
        return set()
    return {
        id(parameter)
        for _, part in batch_norms(module)
        for parameter in part.parameters(recurse=False)
    }


def _can_fuse(table: RateTable) -> bool:
    """Whether every learned parameter is of a kind that torch's fused AdamW takes."""
    learned = [p for row in table.rows if not row.frozen for _, p in row.members]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in learned)
