"""Freezing in parts and in stages, and starting from the probe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, FrozenLedger, freeze, state_hash
from warmstart.core import Run, RunError, UsageError, progress
from warmstart.strategies import Partial, Probe, ProbeThenFinetune, Unfreeze, make
from warmstart.strategies.supervised import Job
from warmstart.strategies.unfreeze import Stage, planned_stages, stages_by_group

NAMES = ("stem", "block.0", "block.1", "block.2")


def test_stages_begin_with_the_head_and_end_with_all() -> None:
    assert stages_by_group(NAMES) == [
        ("stem", "block.0", "block.1", "block.2"),
        ("stem", "block.0", "block.1"),
        ("stem", "block.0"),
        ("stem",),
        (),
    ]


@pytest.mark.parametrize(
    ("per_stage", "until", "frozen"),
    [
        (2, None, [4, 2, 0]),
        (3, None, [4, 1, 0]),
        (1, 2, [4, 3, 2]),
        (9, None, [4, 0]),
        (2, 3, [4, 2, 1]),
    ],
)
def test_stages_by_several_groups_and_up_to_some(
    per_stage: int, until: int | None, frozen: list[int]
) -> None:
    stages = stages_by_group(NAMES, per_stage, until)
    assert [len(stage) for stage in stages] == frozen
    assert all(stage == NAMES[: len(stage)] for stage in stages)


def test_an_explicit_plan() -> None:
    plan = {3: [], 0: ["*"], 1: ["stem", "block.[01]"]}
    assert planned_stages(NAMES, plan, 7) == [
        Stage(NAMES, 1), Stage(("stem", "block.0", "block.1"), 2), Stage((), 4)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({1: ["stem"]}, r"must begin at epoch 0, got \[1\]"),
        ({}, "must begin at epoch 0, got no epochs"),
        ({0: ["*"], 5: []}, "at epoch 5, but there are only 5. Set epochs to 6 or more"),
        ({0: ["blok.1"]}, r"'blok.1' at epoch 0 matches no layer group. Did you mean \"block.1\""),
    ],
)
def test_a_plan_that_cannot_be_followed(plan: dict[int, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned_stages(NAMES, plan, 5)


def test_unfreezing_trains_in_stages(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    run = make_run()
    fitted = Unfreeze(stage_epochs=2, epochs=3, prefix="off").fit(source, view, run)
    groups = len(source.group_names)
    told = fitted.values["stages"]
    assert [stage["frozen"] for stage in told] == [*range(groups, -1, -1)]
    assert [stage["epochs"] for stage in told[:-1]] == [2] * groups
    assert len(fitted.history) == sum(stage["epochs"] for stage in told)
    assert [row["epoch"] for row in fitted.history] == [*range(1, len(fitted.history) + 1)]
    losses = [stage["best_validation_loss"] for stage in told]
    kept = loss_of(fitted.model.proba(view.validation.without_labels()), view)
    assert kept == pytest.approx(min(losses), abs=1e-3)
    lines = {line["fit"] for line in run.read_log() if "fit" in line}
    assert not lines or len(lines) == len(told)


def test_a_stage_that_improves_nothing_changes_nothing(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    """With a rate that ruins the backbone, what the head learned before is what is kept."""
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    plan = {0: ("*",), 2: ()}
    ruin = Unfreeze(rate=5.0, head_multiplier=1, plan=plan, epochs=3, patience=1, prefix="off")
    fitted = ruin.fit(source, view, make_run())
    first, second = fitted.values["stages"]
    kept = loss_of(fitted.model.proba(view.validation.without_labels()), view)
    assert kept == pytest.approx(first["best_validation_loss"], abs=1e-3)
    assert second["best_validation_loss"] > first["best_validation_loss"]
    assert state_hash(fitted.model.encoder) == state_hash(source.load(device="cpu"))


def test_a_budget_is_shared_by_the_stages(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    strategy = Unfreeze(stage_epochs=1, epochs=4, groups_per_stage=2, patience=9, prefix="off")
    full = strategy.fit(source, view, make_run())
    steps = [stage["steps"] for stage in full.values["stages"]]
    half = strategy.fit(source, view, make_run(max_steps=sum(steps) // 2))
    for whole, part in zip(steps, half.values["stages"], strict=True):
        assert part["steps"] == pytest.approx(whole / 2, abs=1)
    assert half.stopped == "max_steps"
    late = strategy.fit(source, view, make_run(deadline=time.monotonic() - 1))
    assert late.stopped == "deadline"
    assert len(late.values["stages"]) == 1


def test_a_stage_without_time_for_an_epoch_has_no_loss_of_its_own(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is kept goes into results.json, which takes no infinity."""
    view, _ = text_view
    run, train = make_run(), Job.train

    def then_late(job: Job) -> Any:
        found = train(job)
        run.deadline = time.monotonic() - 1
        return found

    monkeypatch.setattr(Job, "train", then_late)
    fitted = Unfreeze(stage_epochs=1, epochs=2, prefix="off").fit(opened(tiny_text), view, run)
    first, second = fitted.values["stages"]
    assert (second["steps"], second["best_validation_loss"]) == (0, None)
    assert first["best_validation_loss"] is not None
    json.dumps(fitted.values, allow_nan=False)


def test_by_plateau_a_stage_ends_early(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    strategy = Unfreeze(
        by="plateau", rate=0.5, head_multiplier=1, patience=1, stage_epochs=8, until=1, prefix="off"
    )
    told = strategy.fit(source, view, make_run()).values["stages"]
    assert told[0]["epochs"] < 8


def test_more_groups_than_there_are(text_view: Any, tiny_text: Path, opened: Any) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    count = len(source.group_names)
    with pytest.raises(UsageError, match=f"unfreeze.until must be between 1 and {count}"):
        Unfreeze(until=count + 1).check(source, view)
    with pytest.raises(
        UsageError, match=f"partial.last must be between 1 and {count - 1} .* use finetune"
    ):
        Partial(last=count).check(source, view)


def test_partial_trains_the_last_third(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, _ = text_view
    source: Backbone = opened(tiny_text)
    names = source.group_names
    for last, count in (("third", max(1, round(len(names) / 3))), (2, 2)):
        fitted = make("partial", {"last": last, "epochs": 1, "prefix": "off"}).fit(
            source, view, make_run()
        )
        frozen = [row["group"] for row in fitted.rates if row["frozen"]]
        assert tuple(frozen) == names[: len(names) - count]


def test_probe_then_finetune_starts_at_the_probe(
    text_view: Any, tiny_text: Path, opened: Any, make_run: Callable[..., Run]
) -> None:
    view, test = text_view
    source: Backbone = opened(tiny_text)
    probe = Probe().fit(source, view, make_run()).model
    late = make_run(deadline=time.monotonic() - 1)
    start = ProbeThenFinetune().fit(source, view, late)
    np.testing.assert_allclose(start.model.proba(test), probe.proba(test), atol=1e-5)
    ruined = ProbeThenFinetune(rate=1.0, epochs=1, schedule="constant").fit(
        source, view, make_run()
    )
    assert ruined.values["best_epoch"] == 0
    np.testing.assert_allclose(ruined.model.proba(test), probe.proba(test), atol=1e-5)


def test_the_ledger_names_what_moved(tiny_text: Path, opened: Any) -> None:
    encoder = opened(tiny_text).load(device="cpu")
    freeze(encoder, encoder.groups.names[:2])
    ledger = FrozenLedger(encoder)
    ledger.check()
    group = encoder.groups.names[1]
    with torch.no_grad():
        encoder.groups.parameters(group)[0][1].add_(1e-7)
    with pytest.raises(RunError, match=rf"frozen parts changed while training: {group}\."):
        ledger.check()


def test_the_ledger_sees_batch_norm_statistics(tiny_resnet: Path, opened: Any) -> None:
    encoder = opened(tiny_resnet).load(device="cpu")
    ledger = FrozenLedger(encoder, ["stem"])
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.train()
    pixels = {"pixel_values": torch.randn(4, 3, 32, 32)}
    encoder.module(**pixels)
    with pytest.raises(RunError, match="stem"):
        ledger.check()


def loss_of(scores_MC: np.ndarray, view: Any) -> float:
    truth_M = view.validation.labels_N
    chosen = np.maximum(scores_MC[np.arange(len(truth_M)), truth_M], 1e-300)
    return -float(np.log(chosen).mean())


@pytest.mark.parametrize("settings", [{"stage_epochs": 1, "epochs": 2}, {"epochs": 2}])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_replaying_the_prefix_changes_nothing(
    settings: dict[str, Any], modality: str, request: Any, opened: Any,
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from warmstart.strategies import supervised

    view, test = request.getfixturevalue(f"{modality}_view")
    source: Backbone = opened(
        request.getfixturevalue({"text": "tiny_text", "image": "tiny_resnet"}[modality])
    )
    name = "unfreeze" if "stage_epochs" in settings else "partial"
    off = make(name, {**settings, "prefix": "off"}).fit(source, view, make_run())
    made: list[Any] = []
    real = supervised.replay_prefix

    def spy(*args: Any, **values: Any) -> Any:
        made.append(real(*args, **values))
        return made[-1]

    monkeypatch.setattr(supervised, "replay_prefix", spy)
    auto = make(name, settings).fit(source, view, make_run())
    assert made
    assert any(found is not None for found in made)
    for mine, theirs in zip(auto.history, off.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-5)
    np.testing.assert_allclose(auto.model.proba(test), off.model.proba(test), atol=1e-4)


class Notes:
    """Remembers what the user is shown."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Any]:
        yield self

    def advance(self, n: int = 1) -> None: ...

    def describe(self, text: str) -> None: ...

    def note(self, message: str) -> None:
        self.said.append(message)

    @property
    def table(self) -> dict[str, str]:
        """The lines of the one table of rates by group."""
        (table,) = [note for note in self.said if "batch norm" in note]
        return {line.split()[0]: line for line in table.splitlines()[1:]}

    def stages(self) -> list[str]:
        """What is told as each stage begins."""
        return [note for note in self.said if note.startswith("Stage ")]


@pytest.fixture
def shown(tiny_text: Path, text_view: Any, opened: Any, make_run: Any) -> Any:
    def fit(strategy: Unfreeze) -> Any:
        notes = Notes()
        with progress.use(notes):
            fitted = strategy.fit(opened(tiny_text), text_view[0], make_run())
        return fitted, notes

    return fit


def test_one_table_tells_when_each_group_learns_and_a_line_each_stage(shown: Any) -> None:
    _, notes = shown(Unfreeze(epochs=1, stage_epochs=1, groups_per_stage=2))
    assert "learns" in notes.table["group"]
    whens = {name: line.split("  -")[0].split("  ")[-1].strip() for name, line in
             notes.table.items() if name != "group"}  # fmt: skip
    assert whens == {
        "stem": "from stage 3", "block.0": "from stage 2", "block.1": "from stage 2",
        "head": "from stage 1",
    }  # fmt: skip
    assert [note.split(";")[0] for note in notes.stages()] == [
        "Stage 1 of 3: head begins to learn",
        "Stage 2 of 3: block.0, block.1 begin to learn",
        "Stage 3 of 3: stem begins to learn",
    ]
    assert notes.stages()[0].endswith("50 parameters, 1 epoch at most.")


def test_a_plan_that_lets_a_group_rest_again_is_told(shown: Any) -> None:
    _, notes = shown(Unfreeze(epochs=2, plan={0: ["stem", "block.0"], 1: ["stem", "block.1"]}))
    assert "  never" in notes.table["stem"]
    assert "  stage 1  " in notes.table["block.1"]
    assert "  from stage 2" in notes.table["block.0"]
    assert notes.stages()[1].split(";")[0] == (
        "Stage 2 of 2: block.0 begins to learn and block.1 begins to rest"
    )


def test_a_rule_gives_a_group_its_rate_when_its_turn_comes(shown: Any) -> None:
    strategy = Unfreeze(epochs=1, stage_epochs=1, rules="block.0=1e-5, stem=frozen")
    fitted, notes = shown(strategy)
    assert "1.00e-05  from stage 3" in notes.table["block.0"]
    assert "  never" in notes.table["stem"]
    rates = {row["group"]: row["rate"] for row in fitted.rates}
    assert rates["block.0"] == 1e-5
    assert rates["stem"] == 0
    # the head alone: a rule does not thaw its group before its turn
    assert "; 50 parameters" in notes.stages()[0]
