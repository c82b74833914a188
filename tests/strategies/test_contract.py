"""What every registered strategy must keep, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pytest
import torch

from warmstart.backbones import Backbone, state_hash
from warmstart.core import NotApplicable, UsageError
from warmstart.data import Dataset
from warmstart.models import AdaptedEncoder, Model, load_model, missing_for_4bit, quantize
from warmstart.models.adapters import network_fingerprint
from warmstart.strategies import Cost, Fitted, Strategy, make, names, strategy_class

# Settings that make a fit short; a strategy without a line here is fitted with its defaults.
SHORT: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 2},
    "partial": {"epochs": 2},
    "lp-ft": {"epochs": 2},
    "unfreeze": {"epochs": 2, "stage_epochs": 1, "groups_per_stage": 2},
    "scratch": {"epochs": 2},
    "cnn": {"epochs": 2, "image_size": 16},
    "lora": {"epochs": 2, "rank": 2},
    "qlora": {"epochs": 2, "rank": 2},
    "ia3": {"epochs": 2},
    "prefix": {"epochs": 2, "tokens": 2},
    "prompt": {"epochs": 2, "tokens": 2},
    "ptuning": {"epochs": 2, "tokens": 2, "width": 8},
    "adapter": {"epochs": 2, "width": 4},
    "setfit": {"epochs": 1},
    "maml": {"epochs": 1, "tasks": 2},
}
OVER_ADAPTER: tuple[str, dict[str, Any]] = (
    "maml",
    {"over": "adapter", "epochs": 1, "tasks": 1, "queries": 2, "width": 2, "inner_steps": 1},
)
VARIANTS = [("probe", {"head": "mlp", "hidden": 8}), ("probe", {"depth": "auto"}), OVER_ADAPTER]
# what this machine cannot run, and what a family lacks: a ResNet has no linear layers to quantise
ABSENT = {"qlora"} if missing_for_4bit(torch.device("cpu")) else set()
UNSUITED = {("qlora", "image")}
PLAIN = [(name, SHORT.get(name, {})) for name in names() if name not in ABSENT]
STEPPING = [*PLAIN, OVER_ADAPTER]
CASES = [
    pytest.param(name, settings, modality, id="-".join([name, *map(str, settings), modality]))
    for name, settings in PLAIN + VARIANTS
    for modality in strategy_class(name).modalities
    if not (settings in [v for _, v in VARIANTS] and modality == "image")
    and (name, modality) not in UNSUITED
]


@pytest.fixture
def case(request: pytest.FixtureRequest, opened: Callable[..., Backbone]) -> Callable[..., Any]:
    """The backbone, the view and the test rows that suit a strategy."""

    def make_case(name: str, modality: str) -> tuple[Backbone, Any, Dataset]:
        model = {"text": "tiny_text", "image": "tiny_resnet"}[modality]
        if name == "zero-shot" and modality == "image":
            model = "tiny_clip"
        if name == "qlora" and modality == "text":
            model = "wide_text"
        view, test = request.getfixturevalue(f"{modality}_view")
        return opened(request.getfixturevalue(model)), view, test.without_labels()

    return make_case


def proba(fitted: Fitted, test: Dataset) -> np.ndarray:
    found: np.ndarray = fitted.model.proba(test)
    return found


@pytest.mark.parametrize(("name", "settings", "modality"), CASES)
def test_fit_keeps_the_contract(
    name: str, settings: dict[str, Any], modality: str, case: Any, make_run: Any, tmp_path: Path
) -> None:
    backbone, view, test = case(name, modality)
    strategy = make(name, settings)
    before = strategy.model_dump(), backbone.fingerprint, state_hash(backbone.load(device="cpu"))
    fitted = strategy.fit(backbone, view, make_run(seed=1))
    after = strategy.model_dump(), backbone.fingerprint, state_hash(backbone.load(device="cpu"))
    assert after == before

    assert isinstance(fitted, Fitted)
    assert isinstance(fitted.model, Model)
    assert fitted.model.label_names == tuple(view.label_names)
    assert fitted.model.modality == modality
    scores_NC = proba(fitted, test)
    assert scores_NC.shape == (len(test), len(view.label_names))
    assert scores_NC.dtype == np.float64
    assert np.isfinite(scores_NC).all()
    assert (scores_NC >= 0).all()
    np.testing.assert_allclose(scores_NC.sum(axis=1), 1.0, atol=1e-12)
    assert 0 <= fitted.trainable_parameters <= fitted.model.parameters
    assert fitted.stopped in {"finished", "early"}
    assert (fitted.epochs > 0) == bool(fitted.history)

    again = strategy.fit(backbone, view, make_run(seed=1))
    np.testing.assert_array_equal(proba(again, test), scores_NC)
    other = strategy.fit(backbone, view, make_run(seed=2))
    same = np.array_equal(proba(other, test), scores_NC)
    assert same == strategy.runs_once

    folder = fitted.model.save(tmp_path / "model")
    loaded = load_model(folder, device="cpu")
    assert loaded.label_names == fitted.model.label_names
    np.testing.assert_array_equal(loaded.proba(test), scores_NC)
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.rglob("*.pt"))


@pytest.mark.parametrize(("name", "settings"), STEPPING)
def test_fit_touches_rows_of_the_view_alone(
    name: str,
    settings: dict[str, Any],
    case: Any,
    make_run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, view, test = case(name, strategy_class(name).modalities[0])
    touched: set[str] = set()
    real = Dataset.inputs

    def inputs(self: Dataset, indices: Sequence[int] | None = None) -> list[Any]:
        ids = self.ids
        touched.update(ids if indices is None else [ids[i] for i in indices])
        return real(self, indices)

    monkeypatch.setattr(Dataset, "inputs", inputs)
    monkeypatch.setattr(backbone, "cache", None)
    make(name, settings).fit(backbone, view, make_run())
    assert touched <= {*view.train.ids, *view.validation.ids}
    assert not touched & set(test.ids)


@pytest.mark.parametrize(("name", "settings"), STEPPING)
def test_measure_promises_steps_or_nothing(
    name: str, settings: dict[str, Any], case: Any, make_run: Any
) -> None:
    backbone, view, _ = case(name, strategy_class(name).modalities[0])
    run = make_run()
    cost = make(name, settings).measure(backbone, view, run)
    assert not run.read_log()
    if cost is not None:
        assert isinstance(cost, Cost)
        assert cost.seconds_per_step > 0
        assert cost.epochs >= settings.get("epochs", 0)  # with stages there are more
        fitted = make(name, settings).fit(backbone, view, make_run())
        assert fitted.epochs <= cost.epochs
        assert len(fitted.history) <= cost.epochs


@pytest.mark.parametrize(
    ("name", "settings", "modality"),
    [
        *((name, settings, strategy_class(name).modalities[0]) for name, settings in STEPPING),
        # a network whose batch norm keeps statistics, which must not move either
        *((name, SHORT[name], "image") for name in ("partial", "unfreeze", "lora", "adapter")),
    ],
)
def test_frozen_groups_are_bit_identical(
    name: str, settings: dict[str, Any], modality: str, case: Any, make_run: Any
) -> None:
    """What the table before training calls frozen is afterwards as it was in the backbone."""
    backbone, view, _ = case(name, modality)
    fitted = make(name, settings).fit(backbone, view, make_run())
    rows = [row for row in fitted.rates if row["group"] in backbone.group_names]
    moving = {row["group"] for row in rows if not row["frozen"]}
    frozen = {row["group"] for row in rows} - moving
    if not rows:
        return
    encoder, untouched = fitted.model.encoder, backbone.load(device="cpu")
    if isinstance(encoder, AdaptedEncoder):  # the adapter lies within its groups, beside the base
        if name == "qlora":
            quantize(untouched, untouched.device)
        assert encoder.base_fingerprint() == network_fingerprint(untouched.module)
        return
    if frozen:
        assert state_hash(encoder, frozen) == state_hash(untouched, frozen)
    for group in moving:
        assert state_hash(encoder, [group]) != state_hash(untouched, [group]), group


class Killed(BaseException):
    """Stands for a process that ends at once: nothing of the library catches it."""


@pytest.mark.parametrize(
    ("name", "settings", "modality"),
    [
        *((name, settings, strategy_class(name).modalities[0]) for name, settings in STEPPING),
        # statistics of batch norm are part of what a checkpoint holds; few steps make an epoch
        *(
            (name, {**SHORT[name], "epochs": 6}, "image")
            for name in ("finetune", "partial", "unfreeze", "lp-ft", "scratch", "lora", "adapter")
        ),
    ],
)
def test_a_killed_fit_resumes_exactly(
    name: str,
    settings: dict[str, Any],
    modality: str,
    case: Any,
    make_run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed at a random step, with the last checkpoint some steps before it, then continued."""
    from warmstart.core import Run
    from warmstart.training import Checkpoints
    from warmstart.training.keeper import Keeper

    backbone, view, test = case(name, modality)
    strategy = make(name, settings)
    passed, kill_at = 0, -1
    real = Keeper.boundary

    def boundary(self: Keeper) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            raise Killed
        real(self)

    monkeypatch.setattr(Keeper, "boundary", boundary)
    monkeypatch.setattr(Checkpoints, "due", lambda _, step: step % 3 == 0)
    whole = proba(strategy.fit(backbone, view, make_run(seed=3)), test)
    if not passed:
        return  # no steps, nothing to kill
    total, run = passed, make_run(seed=3)
    at = int(np.random.default_rng(len(name)).integers(1, total))
    passed, kill_at = 0, at
    with pytest.raises(Killed):
        strategy.fit(backbone, view, run)
    passed, kill_at = 0, -1
    again = strategy.fit(backbone, view, Run(run.folder, seed=3, device="cpu"))
    assert passed < total or at < 5, "a checkpoint lay on the way"
    np.testing.assert_array_equal(proba(again, test), whole)


@pytest.mark.parametrize("name", names())
def test_settings_out_of_range_are_refused_with_the_range(name: str) -> None:
    """Every bounded number says both its bounds, whichever of them was passed."""
    for setting, field in strategy_class(name).model_fields.items():
        within = [part for arg in get_args(field.annotation) for part in get_args(arg)[1:]]
        items = [item for part in within for item in getattr(part, "metadata", [part])]
        ends = {
            key: getattr(item, key)
            for item in [*field.metadata, *items]
            for key in ("ge", "gt", "le", "lt")
            if hasattr(item, key)
        }
        told = [f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in ends.values()]
        for key, end in ends.items():
            beyond = end - 1 if key in ("ge", "gt") else end + 1
            given = [beyond] if get_origin(field.annotation) is tuple else beyond
            with pytest.raises(UsageError, match=rf"{name}\.{setting}.* must be .*got") as caught:
                make(name, {setting: given})
            for bound in told:
                assert bound in str(caught.value)


@pytest.mark.parametrize("name", names())
def test_says_what_it_is(name: str) -> None:
    cls = strategy_class(name)
    assert issubclass(cls, Strategy)
    assert cls.name == name
    assert cls.title
    assert cls.role in {"arm", "control"}
    assert set(cls.modalities) <= {"text", "image"}
    assert cls.modalities
    documents = [base.__doc__ or "" for base in cls.__mro__ if issubclass(base, Strategy)]
    for setting in cls.model_fields:
        entry = re.compile(rf"^\s+{setting}: \S", re.MULTILINE)
        assert any(entry.search(text) for text in documents), f"{name}.{setting} is not explained"


@pytest.mark.parametrize("name", names())
def test_is_a_frozen_value_that_names_its_mistakes(name: str) -> None:
    strategy = make(name)
    assert strategy == make(name)
    with pytest.raises(UsageError, match=f"{name} has no setting `no_such_setting`"):
        make(name, {"no_such_setting": 1})
    for setting in type(strategy).model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(strategy, setting, None)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("modality", ["text", "image"])
def test_other_modalities_are_refused_with_a_reason(name: str, modality: str, case: Any) -> None:
    if modality in strategy_class(name).modalities:
        return
    backbone, view, _ = case(name, modality)
    with pytest.raises(NotApplicable, match="which have no"):
        make(name).check(backbone, view)


def test_unknown_names_lead_to_the_nearest() -> None:
    with pytest.raises(UsageError, match='Did you mean "finetune"'):
        make("fine-tune")


def test_register_refuses_a_taken_name() -> None:
    from warmstart.strategies import register

    with pytest.raises(UsageError, match="already registered"):

        @register
        class Other(Strategy):
            name = "probe"
            title = "Another"

            def fit(self, backbone: Any, view: Any, run: Any) -> Fitted:
                raise NotImplementedError

    assert strategy_class("probe").__name__ == "Probe"
