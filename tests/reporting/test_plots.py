"""Plots as inline SVG: well-formed, repeatable, self-describing, without warnings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from warmstart.reporting import forest, learning_curves, reliability
from warmstart.reporting.svg import has_glyphs

from .sample import sample

BEST = {"label": "Fine-tuning", "name": "finetune", "role": "arm"}
OTHER = {"label": "TF-IDF", "name": "tfidf", "role": "control"}
ROWS: list[dict[str, Any]] = [
    {**BEST, "value": 0.9, "low": 0.85, "high": 0.95},
    {**OTHER, "value": 0.7, "low": None, "high": None},
]


def all_plots() -> list[str]:
    results = sample()
    found = [
        learning_curves(results["arms"][2], name="curves2", color=2),
        learning_curves(results["arms"][3], name="curves3", color=3),
        forest(ROWS, "accuracy", best="finetune"),
        reliability(results["arms"][2]["scores"]["reliability"]),
    ]
    return [svg for svg in found if svg is not None]


def test_plots_are_well_formed_and_their_ids_differ() -> None:
    plots = all_plots()
    assert len(plots) == 4
    ids: list[str] = []
    for svg in plots:
        tree = ET.fromstring(svg)
        assert tree.get("role") == "img"
        assert tree.get("aria-label")
        assert tree.get("viewBox")
        own = {node.get("id") for node in tree.iter() if node.get("id")}
        ids += [node.get("id") or "" for node in tree.iter() if node.get("id")]
        used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
        assert used <= own
    assert len(ids) == len(set(ids))


def test_plots_repeat_to_the_byte() -> None:
    assert all_plots() == all_plots()


def test_plots_take_the_colours_of_the_page_and_bring_no_style_of_their_own() -> None:
    for svg in all_plots():
        assert "var(--ink, " in svg
        assert "<style" not in svg
        assert "DejaVu" not in svg
        assert "<metadata" not in svg


def test_drawing_leaves_no_global_state() -> None:
    before = dict(mpl.rcParams)
    all_plots()
    assert dict(mpl.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_alt_text_tells_the_numbers() -> None:
    svg = forest(ROWS, "accuracy")
    assert svg is not None
    assert "Fine-tuning 90.0 % (85.0–95.0); TF-IDF 70.0 %" in svg.split(">")[0]
    curves = learning_curves(sample()["arms"][2])
    assert curves is not None
    assert "over 6 epochs, 3 seeds" in curves.split(">")[0]


@pytest.mark.parametrize("label", ["हिन्दी", "猫のモデル", "$x_1$ & <b>", 'a"b', "x" * 200])
def test_labels_of_any_script_draw_without_a_warning(label: str) -> None:
    svg = forest([{**ROWS[0], "label": label}], "accuracy")
    assert svg is not None
    ET.fromstring(svg)
    arm = {**sample()["arms"][2], "label": label}
    assert learning_curves(arm) is not None


def test_has_glyphs() -> None:
    assert has_glyphs("Über-Käse é")
    assert not has_glyphs("हिन्दी")


def test_nothing_to_draw_is_none() -> None:
    assert forest([], "accuracy") is None
    assert reliability([]) is None
    histories: list[Any] = [None, [], [[]], [[{"epoch": 1}]], [[{"train_loss": None}]]]
    for history in histories:
        assert learning_curves({"name": "x", "history": history}) is None


def test_curves_draw_what_there_is() -> None:
    partial: dict[str, Any] = {
        "name": "x",
        "history": [
            [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": float("nan")}],
            [{"epoch": 1, "train_loss": 0.4, "validation_macro_f1": 0.3}],
        ],
    }
    svg = learning_curves(partial)
    assert svg is not None
    assert "Validation macro F1" in svg
    assert learning_curves({"name": "x", "history": [[{"validation_accuracy": 0.5}]]}) is not None


def test_epochs_are_whole_numbers() -> None:
    for epochs, shown in ((1, ["1"]), (6, list("123456")), (20, ["1", "4", "7", "10"])):
        run = [{"epoch": e + 1, "train_loss": 1.0 / (e + 1)} for e in range(epochs)]
        svg = learning_curves({"name": "x", "history": [run]})
        assert svg is not None
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert texts[: len(shown)] == shown


def test_one_value_and_equal_values_still_have_an_axis() -> None:
    flat = {**ROWS[0], "low": 0.9, "high": 0.9}
    assert forest([flat], "accuracy") is not None
    assert forest([{**flat, "value": 0.4, "low": 0.3, "high": 0.5}], "log_loss") is not None


def test_a_home_that_cannot_be_written_draws_without_a_warning(tmp_path: Path) -> None:
    """matplotlib would warn on import; the folder that it gets in place is gone at the end."""
    home = tmp_path / "home"
    home.write_text("no folder")
    code = (
        "import os\nfrom warmstart.reporting.svg import style\n"
        "with style('x'): pass\nprint(os.environ['MPLCONFIGDIR'])"
    )
    unset = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(home)},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert found.stderr == ""
    assert not Path(found.stdout.strip()).exists()


def test_the_score_that_tells_the_best_epoch_is_drawn() -> None:
    record = {"epoch": 1, "train_loss": 3.0, "validation_HR@10": 0.1, "validation_HR@100": 0.4,
              "validation_MRR": 0.05, "validation_information": 1.2}  # fmt: skip
    arm = {"name": "x", "settings": {"metric": "HR@100"}, "history": [[record]]}
    assert "Validation HR@100" in (learning_curves(arm) or "")
    assert "validation HR@100 from 0.400 to 0.400" in (learning_curves(arm) or "")
    unknown = arm | {"settings": {"metric": "NDCG@10"}}
    assert "validation HR@10 from 0.100" in (learning_curves(unknown) or "")
