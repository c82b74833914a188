"""The finder's plot and the interpolation's, as inline SVG."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from warmstart.reporting import interpolation_curve, rate_sweeps
from warmstart.training import read_sweep

RATES = np.geomspace(1e-6, 1, 40)


def sweep(group: str | None = None, shift: int = 0) -> dict[str, Any]:
    place = np.arange(40)
    losses = 1.0 - 0.6 / (1 + np.exp(-(place - 20 - shift) / 3))
    losses[36:] = [2.0, 5.0, 40.0, math.inf]
    return read_sweep(RATES, losses.tolist(), 0.0, group=group).to_dict()


def points() -> list[dict[str, Any]]:
    return [
        {"share": a / 4, "chosen": a == 3, "validation_loss": 0.5 + (a / 4 - 0.75) ** 2,
         "validation_accuracy": 0.8 + 0.02 * a, "validation_macro_f1": 0.5,
         "retained_accuracy": 0.9 - 0.1 * a}
        for a in range(5)
    ]  # fmt: skip


def test_finder() -> None:
    svg = rate_sweeps([sweep(), sweep("stem", -4), sweep("head", 3)])
    assert svg is not None
    tree = ET.fromstring(svg)
    alt = tree.get("aria-label") or ""
    whole = sweep()
    assert f"all groups: steepest at {whole['steepest']:.1e}" in alt
    assert "stem: steepest" in alt
    assert "head" in svg
    assert svg == rate_sweeps([sweep(), sweep("stem", -4), sweep("head", 3)])


def test_finder_of_the_whole_alone_and_of_a_loss_that_never_falls() -> None:
    assert rate_sweeps([sweep()]) is not None
    flat = read_sweep(RATES, np.linspace(1, 2, 40).tolist(), 0.0).to_dict()
    svg = rate_sweeps([flat, {**flat, "group": "stem"}])
    assert svg is not None
    assert "the loss never fell" in svg


@pytest.mark.parametrize("group", ["हिन्दी", "$x_1$ & <b>", "x" * 80])
def test_groups_of_any_name_draw_without_a_warning(group: str) -> None:
    svg = rate_sweeps([sweep(), sweep(group)])
    assert svg is not None
    ET.fromstring(svg)


def test_interpolation() -> None:
    svg = interpolation_curve(points())
    assert svg is not None
    tree = ET.fromstring(svg)
    alt = tree.get("aria-label") or ""
    assert "validation accuracy from 0.800 untouched to 0.880 tuned" in alt
    assert "retained accuracy from 0.900 untouched to 0.500 tuned" in alt
    assert "Kept: 75% of the tuned weights" in alt
    assert "share of the tuned weights" in svg
    alone = interpolation_curve([{"share": a, "validation_loss": a + 1.0} for a in (0, 1)])
    assert alone is not None


def test_nothing_to_draw_is_none() -> None:
    assert rate_sweeps([]) is None
    assert rate_sweeps([read_sweep([1e-3], [1.0]).to_dict()]) is None
    assert interpolation_curve(points()[:1]) is None
    assert interpolation_curve([{"share": 0.0}, {"share": 1.0}]) is None
