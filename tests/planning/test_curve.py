"""The power law through a learning curve: known answers and a slow twin."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.core import DataError, NotApplicable
from warmstart.planning import fit_power_law
from warmstart.planning.survey_curve import probe_curve

COUNTS = (32, 64, 128, 256, 512)


@pytest.mark.parametrize(("scale", "exponent"), [(2.0, 0.5), (0.9, 0.12), (0.3, 0.0), (8.0, 1.5)])
def test_an_exact_curve_is_found_again(scale: float, exponent: float) -> None:
    errors = [scale * n**-exponent for n in COUNTS[:4]]
    found = fit_power_law(COUNTS[:4], errors)
    assert found.exponent == pytest.approx(exponent, abs=1e-4)
    assert found.scale == pytest.approx(scale, rel=1e-3)
    assert found.floor == 0
    assert found.error(1024) == pytest.approx(scale * 1024**-exponent, rel=1e-3)


def test_five_points_tell_the_floor() -> None:
    found = fit_power_law(COUNTS, [0.1 + 2.0 * n**-0.7 for n in COUNTS])
    assert found.floor == pytest.approx(0.1, abs=1e-3)
    assert found.exponent == pytest.approx(0.7, abs=5e-3)
    growing = fit_power_law(COUNTS, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert growing.exponent == 0 or growing.scale == 0, "an error that grows is held constant"


def slow_loss(labels: list[int], errors: list[float], weights: list[float]) -> float:
    """The smallest loss over a plain grid of scales and exponents."""
    best = float("inf")
    for exponent in np.linspace(0, 2, 201):
        for scale in np.linspace(0, 4, 401):
            loss = 0.0
            for n, error, weight in zip(labels, errors, weights, strict=True):
                loss += weight * (error - scale * n**-exponent) ** 2
            best = min(best, loss)
    return best


def test_no_grid_point_is_better() -> None:
    labels, errors, weights = [10, 20, 80], [0.6, 0.35, 0.3], [1.0, 3.0, 2.0]
    found = fit_power_law(labels, errors, weights)
    loss = sum(
        w * (e - found.error(n)) ** 2 for n, e, w in zip(labels, errors, weights, strict=True)
    )
    slow = slow_loss(labels, errors, weights)
    assert loss <= slow + 1e-12
    assert loss == pytest.approx(slow, abs=2e-4)


def test_one_number_of_labels_is_no_curve() -> None:
    with pytest.raises(DataError, match="two different numbers"):
        fit_power_law([64, 64], [0.2, 0.3])


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels_N = np.arange(count) % 2
    return generator.normal(size=(count, 6)) + 1.2 * labels_N[:, None], labels_N


def test_probes_on_growing_parts() -> None:
    train_ND, labels_N = rows(96, 0)
    held_MD, truth_M = rows(200, 1)
    ids = [f"r{i}" for i in range(96)]
    answers: dict[str, object] = {"classes": 2, "at_full_M": truth_M}
    item = probe_curve(train_ND, labels_N, ids, held_MD, truth_M, **answers)
    assert list(item.details["accuracy"]) == ["12", "24", "48", "96"]
    assert item.details["accuracy"]["96"] == 1.0
    assert item.interval is not None
    assert item.interval[0] <= item.value <= item.interval[1]
    assert f"{item.value:.2f}" in item.text
    assert "100.0% with 96" in item.text
    again = probe_curve(train_ND, labels_N, ids, held_MD, truth_M, **answers)
    assert again.value == item.value
    with pytest.raises(NotApplicable, match="parts of 8 rows or more of the 10"):
        probe_curve(train_ND[:10], labels_N[:10], ids[:10], held_MD, truth_M, **answers)
