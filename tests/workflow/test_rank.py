"""`rank`: from rows and names of backbones to an order, facts and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart.backbones import backbone as open_backbone
from warmstart.core import BackboneError, DataError, UsageError
from warmstart.data import read, split
from warmstart.evaluation import log_me
from warmstart.workflow import check_rank_path, write_rank
from warmstart.workflow.rank_backbones import candidates, hub_facts

QUICK: dict[str, Any] = {"device": "cpu", "resamples": 4}


@pytest.fixture
def data(tmp_path: Path, topics: Callable[..., Any]) -> Path:
    """90 sentences of three topics, some written twice, with a site column."""
    texts, labels = topics(90, 3)
    rows = [f"{t},{n},s{i % 9}" for i, (t, n) in enumerate(zip(texts, labels, strict=True))]
    path = tmp_path / "topics.csv"
    path.write_text("text,label,site\n" + "\n".join([*rows, *rows[:6]]) + "\n")
    return path


def test_everything_is_told(data: Path, tiny_text: Path, tiny_nli: Path) -> None:
    found = ws.rank(data, backbones=[tiny_text, tiny_nli, f"{tiny_text}:pooling=cls"], **QUICK)
    values = found.results
    json.dumps(values)
    assert sorted(found.order) == ["tiny-bert", "tiny-bert (pooling cls)", "tiny-nli"]
    assert [one["place"] for one in values["backbones"]] == [1, 2, 3]
    accuracies = [one["scores"]["probe"]["value"] for one in values["backbones"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert set(values["size_order"]) == set(found.order)
    by_name = {one["label"]: one for one in values["backbones"]}
    nli = by_name["tiny-nli"]
    assert list(nli["scores"]) == ["probe", "knn", "log_me", "h_score", "leep", "nce"]
    assert nli["source_classes"] == 3
    assert set(nli["source_named_most"]) <= {"contradiction", "neutral", "ENTAILMENT"}
    plain = by_name["tiny-bert"]
    assert list(plain["scores"]) == ["probe", "knn", "log_me", "h_score"]
    assert "has no classification head" in plain["source_reason"]
    assert plain["milliseconds_a_row"] > 0
    assert plain["dimension"] == 24
    assert plain["parameters"] == plain["card"]["parameters"]
    assert plain["card"]["license"] is None
    assert any("LEEP and NCE need source classes" in one for one in found.sentences)
    assert "comes first of 3" in found.sentences[0]
    assert "5-fold cross-validated" in found.sentences[0]
    assert set(found.measured) == set(found.order)


def test_training_rows_alone_are_looked_at(data: Path, tiny_text: Path) -> None:
    found = ws.rank(data, backbones=tiny_text, limit=None, **QUICK)
    dataset = read(data)
    train = split(dataset).view(dataset).train
    assert found.results["data"]["used"] == len(train) < len(dataset)
    vectors = open_backbone(tiny_text).features(train).vectors_ND
    assert found.results["backbones"][0]["scores"]["log_me"]["value"] == pytest.approx(
        log_me(vectors, train.labels_N)
    )
    assert len(found.measured["tiny-bert"].proba["probe"]) == len(train)
    few = ws.rank(data, backbones=tiny_text, limit=40, **QUICK)
    assert few.results["data"]["used"] == 40
    assert "One backbone has no order" in few.sentences[0]


def test_test_labels_play_no_part(data: Path, tiny_text: Path, tmp_path: Path) -> None:
    """Labels of the given test rows are turned round; nothing that is told changes."""
    texts = data.read_text().splitlines()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "train.csv").write_text("\n".join(texts[:70]) + "\n")
        rows = texts[70:90]
        if folder == "b":
            rows = [
                row.replace("fruit", "x").replace("vehicle", "fruit").replace("x", "vehicle")
                for row in rows
            ]
        (tmp_path / folder / "test.csv").write_text("\n".join([texts[0], *rows]) + "\n")
    scores = [
        ws.rank(tmp_path / folder, backbones=tiny_text, **QUICK).results["backbones"][0]["scores"]
        for folder in ("a", "b")
    ]
    assert scores[0] == scores[1]


def test_what_does_not_open_is_named_and_the_others_go_on(
    data: Path, tiny_text: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_text, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    asked = [tiny_vit, tiny_text, broken, str(tiny_text), "no-such-backbone",
             f"{tiny_text}:depth=9"]  # fmt: skip
    found = ws.rank(data, backbones=asked, **QUICK)
    assert found.order == ("tiny-bert",)
    reasons = {one["name"]: one["reason"] for one in found.results["failed"]}
    assert "reads images, but texts are wanted" in reasons[str(tiny_vit)]
    assert "depth must be between 0 and 2" in reasons[f"{tiny_text}:depth=9"]
    assert "could not be read from the Hugging Face hub" in reasons["no-such-backbone"]
    assert reasons[str(tiny_text)] == "has the same vectors as tiny-bert"
    assert str(broken) in reasons
    assert sum("is left out" in one for one in found.sentences) == 5
    with pytest.raises(BackboneError, match=r"None of the 2 backbones can be ranked.*tiny-vit: "):
        ws.rank(data, backbones=[tiny_vit, "no-such-backbone"], **QUICK)
    with pytest.raises(BackboneError, match="reads images, but texts are wanted"):
        ws.rank(data, backbones=tiny_vit, **QUICK)


def test_settings_of_one_backbone(data: Path, tiny_text: Path) -> None:
    asked = [f"{tiny_text}:depth=1", f"{tiny_text}:max_length=8:pooling=cls", str(tiny_text)]
    found = ws.rank(data, backbones=asked, **QUICK)
    by_name = {one["label"]: one for one in found.results["backbones"]}
    shallow = by_name["tiny-bert (depth 1)"]
    assert shallow["space"]["depth"] == 1
    assert shallow["parameters"] < by_name["tiny-bert"]["parameters"]
    cut = next(one for name, one in by_name.items() if "cls" in name)
    assert (cut["space"]["max_length"], cut["space"]["pooling"]) == (8, "cls")
    assert len(found.results["agreement"]) >= 4


def test_a_backbone_that_is_open_already(data: Path, tiny_text: Path, tiny_nli: Path) -> None:
    own = [open_backbone(tiny_text, pooling="cls"), open_backbone(tiny_nli, name="mine")]
    found = ws.rank(data, backbones=own, by="log-me", **QUICK)
    assert set(found.order) == {"tiny-bert", "mine"}
    deep = ws.rank(data, backbones=f"{tiny_nli}:depth=1", **QUICK).results["backbones"][0]
    assert "leep" not in deep["scores"]
    assert deep["source_reason"].endswith("not at depth 1")
    assert found.results["by"] == "log_me"
    assert found.sentences[0].startswith(found.order[0])
    assert "LogME" in found.sentences[0]


def test_names_that_are_alike_are_told_apart(
    data: Path, tiny_text: Path, tiny_nli: Path, tmp_path: Path
) -> None:
    for place, source in (("first", tiny_text), ("second", tiny_nli)):
        shutil.copytree(source, tmp_path / place / "model")
    asked = [tmp_path / place / "model" for place in ("first", "second")]
    found = ws.rank(data, backbones=asked, **QUICK)
    assert set(found.order) == {"model", "second/model"}


def test_groups_are_kept_whole(data: Path, tiny_text: Path) -> None:
    found = ws.rank(data, backbones=tiny_text, group="site", **QUICK)
    assert (
        "bootstrap samples of the groups"
        in (found.results["backbones"][0]["scores"]["probe"]["method"])
    )
    assert found.results["data"]["group"] == "site"


def test_images(pictures: Path, tiny_vit: Path, tiny_resnet: Path) -> None:
    found = ws.rank(pictures, backbones=[tiny_vit, tiny_resnet], limit=20, **QUICK)
    assert set(found.order) == {"tiny-vit", "tiny-resnet"}
    assert found.results["backbones"][0]["scores"]["probe"]["value"] > 0.8
    sized = [one for one in found.results["agreement"] if one["second"] == "size"]
    assert all(one["backbones"] == 2 for one in sized)


def test_an_image_text_model_reads_either(pictures: Path, data: Path, tiny_clip: Path) -> None:
    for rows in (pictures, data):
        found = ws.rank(rows, backbones=tiny_clip, limit=24, **QUICK)
        told = found.results["backbones"][0]
        assert "no fixed source classes" in told["source_reason"]
        assert told["dimension"] == found.results["backbones"][0]["dimension"] > 0


def test_the_same_call_gives_the_same_answer(data: Path, tiny_text: Path) -> None:
    first, second = (ws.rank(data, backbones=tiny_text, **QUICK).results for _ in range(2))
    assert first["backbones"][0]["scores"] == second["backbones"][0]["scores"]
    other = ws.rank(data, backbones=tiny_text, seed=1, **QUICK).results
    assert other["backbones"][0]["scores"] != first["backbones"][0]["scores"]


def test_what_makes_no_sense_is_refused(data: Path, tiny_text: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **changes: Any) -> None:
        given = {"backbones": tiny_text, **QUICK, **changes}
        with pytest.raises(kind, match=message):
            ws.rank(data, **given)

    refused(UsageError, r"rank.limit must be at least 4, got 3", limit=3)
    refused(UsageError, r"rank.resamples must be at least 2, got 1", resamples=1)
    refused(UsageError, r'rank.by: no such score is called "size"', by="size")
    refused(UsageError, r'rank.metric: no metric is called "acuracy"', metric="acuracy")
    refused(UsageError, r"at least one backbone, got an empty list", backbones=[])
    refused(UsageError, r"has no setting 'poling'.*Did you mean", backbones="minilm:poling=cls")
    refused(UsageError, r"depth must be a whole number, got 'x'", backbones="minilm:depth=x")
    refused(UsageError, r"device 'gpu' is unknown", device="gpu")
    refused(DataError, r"no column 'sight'", group="sight")
    lonely = tmp_path / "lonely.csv"
    lonely.write_text("text,label\n" + "\n".join(f"apple {i},fruit" for i in range(9)) + "\n")
    with pytest.raises(DataError, match="one"):
        ws.rank(lonely, backbones=tiny_text, **QUICK)


def test_files(data: Path, tiny_text: Path, tmp_path: Path) -> None:
    found = ws.rank(data, backbones=[tiny_text, f"{tiny_text}:depth=1"], **QUICK)
    write_rank(found, tmp_path / "rank.json")
    assert json.loads((tmp_path / "rank.json").read_text()) == found.results
    write_rank(found, tmp_path / "rank.html")
    assert "Beside the list by size" in (tmp_path / "rank.html").read_text()
    with pytest.raises(UsageError, match=r"must end in .html .the report. or .json"):
        check_rank_path(tmp_path / "rank.pdf")


def test_names_with_settings() -> None:
    first, second = candidates(["a/b:pooling=cls:depth=3", "c:/models/own"])
    assert (first.source, first.settings) == ("a/b", {"depth": 3, "pooling": "cls"})
    assert (second.source, second.settings) == ("c:/models/own", {})
    assert candidates(None)[0].source is None


def test_facts_of_the_hub_are_asked_for_hub_ids_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime
    import types

    asked: list[str] = []

    def told(name: str, **_: Any) -> Any:
        asked.append(name)
        if name == "gone/away":
            raise OSError("offline")
        day = datetime.datetime(2024, 5, 31, tzinfo=datetime.UTC)
        return types.SimpleNamespace(downloads=1234, last_modified=day)

    monkeypatch.setattr("huggingface_hub.model_info", told)
    assert hub_facts("/some/folder") == {}
    assert hub_facts("package:x") == {}
    assert hub_facts("hub:a/b") == {"downloads": 1234, "date": "2024-05-31"}
    assert hub_facts("hub:gone/away") == {}
    assert asked == ["a/b", "gone/away"]


def test_vectors_come_from_the_cache(
    data: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time only the timing runs the network."""
    ws.rank(data, backbones=tiny_text, limit=None, **QUICK)
    from warmstart.backbones import features

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("rows were embedded again")

    monkeypatch.setattr(features, "iterate_vectors", never)
    found = ws.rank(data, backbones=tiny_text, limit=None, **QUICK)
    assert np.isfinite(found.results["backbones"][0]["milliseconds_a_row"])
