"""Rules as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from warmstart.backbones import backbone
from warmstart.core import UsageError
from warmstart.training import FROZEN, Rule, parse_rules, rate_table

STAGES = {"conv1": "conv1", "bn1": "bn1", "layer1": "a", "layer2": "b", "layer3": "c",
          "layer4": "d", "fc": "e"}  # fmt: skip
TABLE = """
    conv1=frozen
    bn1=frozen
    layer1=1e-6
    layer2=1e-5
    layer3=5e-5
    layer4=1e-4
    fc=1e-3
"""


def test_forms() -> None:
    assert parse_rules("stem=frozen, block.*=x0.1|head=1e-3;a=0") == (
        Rule("stem", FROZEN), Rule("block.*", 0.1), Rule("head", 1e-3, absolute=True),
        Rule("a", 0.0, absolute=True),
    )  # fmt: skip
    assert parse_rules(["a[1,2]=x3"]) == (Rule("a[1,2]", 3.0),)
    for text in ("stem=frozen", "block.*=x0.1", "head=0.001"):
        assert str(parse_rules(text)[0]) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "rules is empty"),
        ("layer1", '"layer1" is no rule'),
        ("=1e-3", "is no rule"),
        ("a=fast", 'rule "a" has the rate "fast"'),
        ("a=-1e-3", "rate must be above 0"),
        ("a=x-2", "multiplier must be above 0"),
        ("a=nan", "must be above 0"),
        ("a=inf", "must be above 0"),
    ],
)
def test_other_forms_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_rules(text)


class Stages(nn.Module):
    """Named as torchvision names a ResNet-50's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
        self.fc = nn.Linear(4, 2)


def test_the_seven_lines_of_a_practitioner_as_rates() -> None:
    model = Stages()
    groups = {
        "stem": [*_named(model, "conv1"), *_named(model, "bn1")],
        **{f"block.{n}": _named(model, f"layer{n + 1}") for n in range(4)},
        "head": _named(model, "fc"),
    }
    table = rate_table(groups, 3e-3, rules=parse_rules(TABLE), module=model)
    shown = [(row.group, row.rate, row.frozen, row.batch_norm) for row in table.rows]
    assert shown == [
        ("stem", 0.0, True, "eval"), ("block.0", 1e-6, False, "train"),
        ("block.1", 1e-5, False, "train"), ("block.2", 5e-5, False, "train"),
        ("block.3", 1e-4, False, "train"), ("head", 1e-3, False, "-"),
    ]  # fmt: skip
    table.apply()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "conv1.weight", "bn1.weight", "bn1.bias",
    ]  # fmt: skip


def test_the_same_table_for_transformers_resnet(tiny_resnet: Path) -> None:
    encoder = backbone(str(tiny_resnet)).load(device="cpu")
    head = nn.Linear(16, 2)
    groups = {name: encoder.groups.parameters(name) for name in encoder.groups.names}
    groups["head"] = [(f"head.{name}", p) for name, p in head.named_parameters()]
    rules = parse_rules("*.convolution=frozen,stem=1e-5,block.1=x0.5,head=1e-3,encoder.stages.0=2")
    with pytest.raises(UsageError, match='"head" does nothing'):
        rate_table(groups, 1e-2, rules=[Rule("*", 1.0), *rules[3:4]])
    table = rate_table(groups, 1e-2, rules=rules)
    seen = {(row.group, row.rate) for row in table.rows}
    assert seen == {
        ("stem", 0.0), ("stem", 1e-5), ("block.0", 0.0), ("block.0", 2.0), ("block.1", 0.0),
        ("block.1", 5e-3), ("head", 1e-3),
    }  # fmt: skip


def test_a_path_reaches_what_lies_below_it_and_no_other() -> None:
    rule = Rule("encoder.layer.1", 1.0)
    assert rule.matches("block.1", "encoder.layer.1.dense.weight")
    assert not rule.matches("block.10", "encoder.layer.10.dense.weight")


def test_a_rule_that_matches_nothing_names_the_nearest_group() -> None:
    model = Stages()
    groups = {name: _named(model, name) for name in STAGES}
    with pytest.raises(UsageError, match=r'"layer5" matches no layer group.*Did you mean "layer'):
        rate_table(groups, 1.0, rules=parse_rules("layer5=1e-4"))


def _named(model: nn.Module, part: str) -> list[tuple[str, nn.Parameter]]:
    return [(f"{part}.{name}", p) for name, p in model.get_submodule(part).named_parameters()]
