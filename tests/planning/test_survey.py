"""Looking before training: what is measured, on which rows, and what is told as missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest

from warmstart.backbones import FeatureCache, backbone
from warmstart.core import NotApplicable
from warmstart.data import Split, View, read, split
from warmstart.evaluation import Paired
from warmstart.planning import Limits, Survey, label_noise, survey
from warmstart.planning.evidence import gain_error, label_items, wilson
from warmstart.planning.noise import held_out_proba
from warmstart.planning.survey_distance import measured_distance
from warmstart.strategies import Scratch


@pytest.fixture(scope="module")
def looked(
    tiny_text: Path, topics: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Survey, View, Split]:
    texts, labels = topics(120)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    parts, folder = split(data), tmp_path_factory.mktemp("survey")
    opened = backbone(tiny_text, cache=FeatureCache(folder / "cache"))
    view = parts.view(data)
    found = survey(opened, view, metric="accuracy", folder=folder, within=600, device="cpu")
    return found, view, parts


def test_all_that_can_be_had_is_measured(looked: tuple[Survey, View, Split]) -> None:
    found, view, _ = looked
    assert found.labels == len(view.train) == 84
    names = {item.name for item in found.items}
    assert {"labels", "balance", "probe", "zero_shot", "prototypes", "probe_curve",
            "short_finetune", "short_lora", "log_me", "h_score"} <= names  # fmt: skip
    assert {gain.strategy: gain.share < 1 for gain in found.gains} == {
        "zero-shot": False, "prototypes": False, "finetune": True, "lora": True,
    }  # fmt: skip
    assert set(found.prices) == {"probe", "zero-shot", "prototypes", "finetune", "lora",
                                 "unfreeze", "scratch"}  # fmt: skip
    assert found.prices["finetune"].basis == "steps"
    for name in ("lora", "unfreeze", "scratch"):
        assert found.prices[name].measuring == 0, "no steps are taken for a price alone"
        assert found.prices[name].peak_bytes
    assert 1 / (len(view.validation) + 2) <= found.probe_error <= 1
    commonest = np.bincount(view.train.labels_N).argmax()
    assert found.guess == pytest.approx((view.validation.labels_N == commonest).mean())
    assert found.latency_ms is not None
    assert found.seconds > 0
    for item in found.items:
        if item.interval is not None:
            assert item.interval[0] <= item.value <= item.interval[1]
    missing = {one.name: one.text for one in found.missing}
    assert "keeps no statistics" in missing["distance"]


def test_gains_are_of_the_validation_rows(looked: tuple[Survey, View, Split]) -> None:
    found, view, _ = looked
    probe = found.item("probe")
    assert probe is not None
    assert probe.details["rows"] == len(view.validation)
    for gain in found.gains:
        assert abs(gain.value * len(view.validation)) % 1 == pytest.approx(0, abs=1e-6) or abs(
            gain.value * len(view.validation)
        ) % 1 == pytest.approx(1, abs=1e-6)
        assert -1 <= probe.value + gain.value <= 1


def test_too_little_time_is_told(
    tiny_text: Path, topics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scratch, "cost_by", lambda *_: None)  # steps of its own are needed
    texts, labels = topics(120)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    opened = backbone(tiny_text, cache=FeatureCache(tmp_path / "cache"))
    found = survey(
        opened, split(data).view(data), metric="accuracy", folder=tmp_path, within=0.01,
        device="cpu", distance=1.0,
    )  # fmt: skip
    missing = {one.name: one.text for one in found.missing}
    assert "--within" in missing["rows"]
    assert "steps fit into what is left" in missing["short_finetune"]
    assert "--within" in found.left_out["scratch"]
    assert "steps fit into what is left" in missing["short_lora"]
    for name in ("lora", "unfreeze"):  # priced by fine-tuning's steps, of which four were taken
        assert found.prices[name].measuring == 0
        assert found.prices[name].seconds > 0
    assert found.prices["lora"].bound
    assert not found.prices["unfreeze"].bound
    assert Limits(seconds=1e-9).against_price(found.prices["unfreeze"]) is not None
    unproven = Limits(seconds=1e-9).against_price(found.prices["lora"])
    assert unproven is not None
    assert "may take up to" in unproven, "it may take less"
    assert "its own steps were not timed, give --within more" in unproven
    assert Limits(seconds=1e9).against_price(found.prices["lora"]) is None
    assert found.item("distance").value == 1.0
    assert found.gains, "what costs nothing is measured all the same"


def test_rows_that_nothing_can_be_compared_on(looked: tuple[Survey, View, Split]) -> None:
    _, view, _ = looked
    one = View(view.train.select(np.flatnonzero(view.train.labels_N == 0)), view.validation)
    few = View(view.train, view.validation.select([0, 1, 2]))
    for rows, words in ((one, "of 1 and 18"), (few, "of 2 and 3")):
        with pytest.raises(NotApplicable, match=f"two classes and 4 validation rows.*{words}"):
            survey(None, rows, metric="accuracy", folder=Path())


def test_small_samples_prove_no_equality() -> None:
    same = Paired(difference=0, low=0, high=0, p_value=1, n=7, metric="accuracy", discordant=0)
    assert gain_error(same) == pytest.approx(1 / 9)
    wide = same.model_copy(update={"low": -0.4, "high": 0.384})
    assert gain_error(wide) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"), [(0, 20, 0.0, 0.161), (5, 20, 0.112, 0.469)]
)
def test_wilson(hits: int, rows: int, low: float, high: float) -> None:
    assert wilson(hits, rows) == pytest.approx((low, high), abs=1e-3)


def test_labels_and_balance() -> None:
    count, balance = label_items([30, 10])
    assert (count.value, balance.value) == (40, 0.25)
    assert "3.0 times" in balance.text


def two_clouds(rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels_N = np.arange(rows) % 2
    return generator.normal(size=(rows, 4)) + 4.0 * labels_N[:, None], labels_N


def test_every_row_is_judged_by_a_probe_that_did_not_see_it() -> None:
    vectors_ND, labels_N = two_clouds(40)
    wrong_N = labels_N.copy()
    wrong_N[3] = 1 - wrong_N[3]
    proba_NC = held_out_proba(vectors_ND, wrong_N, 2, 0.01)
    np.testing.assert_allclose(proba_NC.sum(axis=1), 1)
    assert proba_NC[3, labels_N[3]] > 0.5, "a row does not teach its own label"
    assert (proba_NC.argmax(axis=1) == labels_N).mean() > 0.9


def test_noise_through_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_ND, labels_N = two_clouds(40)
    labels_N[:4] = 1 - labels_N[:4]
    asked: list[tuple[int, ...]] = []

    def find(labels: Any, pred_probs: Any, *, filter_by: str, n_jobs: int) -> Any:
        assert filter_by == "prune_by_noise_rate"
        asked.append(pred_probs.shape)
        return pred_probs.argmax(axis=1) != labels

    fake = ModuleType("cleanlab.filter")
    fake.find_label_issues = find
    monkeypatch.setitem(sys.modules, "cleanlab", ModuleType("cleanlab"))
    monkeypatch.setitem(sys.modules, "cleanlab.filter", fake)
    found = label_noise(vectors_ND, labels_N, 3, 0.01)
    assert asked == [(40, 2)], "a class without rows is no column"
    assert found.value == pytest.approx(0.1)
    assert found.interval == pytest.approx(wilson(4, 40))
    assert found.details["rows"] == [0, 1, 2, 3]
    assert "4 of 40" in found.text
    with pytest.raises(NotApplicable, match="needs 20 training rows"):
        label_noise(vectors_ND[:10], labels_N[:10], 2, 0.01)


def test_noise_by_cleanlab_itself() -> None:
    """Digits with a tenth of the labels turned: the share is found, and most of the rows."""
    pytest.importorskip("cleanlab")
    from sklearn.datasets import load_digits

    x_ND, y_N = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    at = generator.permutation(len(x_ND))[:600]
    wrong_N = generator.random(600) < 0.1
    labels_N = np.where(wrong_N, (y_N[at] + 1) % 10, y_N[at])
    found = label_noise(x_ND[at] / 16, labels_N, 10, 1e-3)
    assert found.value == pytest.approx(wrong_N.mean(), abs=0.02)
    rows = found.details["rows"]
    assert len(rows) == 50
    assert wrong_N[rows].mean() > 0.75


def test_no_cleanlab_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(NotApplicable, match=r"pip install 'warmstart\[noise\]'"):
        label_noise(*two_clouds(40), 2, 0.01)


def test_distance_to_what_there_is(
    tiny_text: Path, tiny_resnet: Path, pictures: Path, topics: Any, tmp_path: Path
) -> None:
    texts, labels = topics(60)
    data = read(datasets.Dataset.from_dict({"text": texts, "label": labels}))
    opened = backbone(tiny_text, cache=FeatureCache(tmp_path / "cache"))
    with pytest.raises(NotApplicable, match="--reference"):
        measured_distance(opened, data, None)
    vectors_ND = opened.features(data).vectors_ND
    np.save(tmp_path / "far.npy", vectors_ND + 50)
    item, side = measured_distance(opened, data, tmp_path / "far.npy")
    assert side == 1.0
    assert item.value == pytest.approx(2.0, abs=0.05)
    np.save(tmp_path / "near.npy", vectors_ND)
    item, side = measured_distance(opened, data, tmp_path / "near.npy")
    assert side == -1.0
    assert f"{item.value:.2f}" in item.text
    images = read(pictures)
    item, side = measured_distance(backbone(tiny_resnet), images, None)
    assert item.details["kind"] == "batch_norm"
    assert side == (1.0 if item.value >= 1 else -1.0)
