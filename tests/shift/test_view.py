"""No label of the target can be reached from what a method gets: a method that tries finds none."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from warmstart.backbones import backbone
from warmstart.core import DataError, Run, UsageError
from warmstart.data import Dataset, View, from_columns, read, split
from warmstart.data.dataset import content_hash
from warmstart.models import Head
from warmstart.shift import (
    AdaptationMethod,
    Adapted,
    DomainVectors,
    DomainView,
    Snapshot,
    check_classes,
    domain_view,
)


def rows(texts: list[str], labels: list[str], name: str) -> Dataset:
    """Sorted by class, with the class in ids and in a further column as well."""
    names = sorted(set(labels))
    order = sorted(range(len(texts)), key=lambda i: labels[i])
    return from_columns(
        {
            "id": [f"{labels[i]}/{i}" for i in order],
            "text": [texts[i] for i in order],
            "label": [names.index(labels[i]) for i in order],
            "content": [content_hash(texts[i]) for i in order],
            "stars": [labels[i] for i in order],
        },
        label_names=names,
        modality="text",
        source=name,
    )


@pytest.fixture
def view(topics: Any) -> DomainView:
    texts, labels = topics(90)
    source, target = rows(texts[:50], labels[:50], "source"), rows(texts[50:], labels[50:], "there")
    return domain_view(split(source).view(source), target)


def test_the_targets_labels_ids_columns_and_order_are_taken_off(view: DomainView) -> None:
    target = view.target
    assert (target.labels_N == -1).all()
    assert set(target.column_names) == {"id", "text", "label", "content"}
    assert target.contents == sorted(target.contents), "the file's order is gone"
    assert not any("fruit" in row_id or "vehicle" in row_id for row_id in target.ids)
    assert "stars" not in target.rows.data.column_names, "nor in the storage below"
    assert set(target.rows.data.column("label").to_pylist()) == {-1}
    assert len(set(target.ids)) == len(target)


class Peek(AdaptationMethod):
    """Looks at everything that it can reach, for what tells a target row's class."""

    name: ClassVar[str] = "peek"
    title: ClassVar[str] = "Peek"
    found: ClassVar[list[Any]] = []

    def fit(self, rows: DomainVectors, run: Run) -> Adapted:
        """Walk through every object that hangs on the argument."""
        seen: dict[int, Any] = {}
        waiting: list[Any] = [vars(rows) if hasattr(rows, "__dict__") else rows]
        while waiting:
            one = waiting.pop()
            if id(one) in seen or isinstance(one, type):
                continue
            seen[id(one)] = one
            if isinstance(one, np.ndarray | str | bytes | int | float):
                continue
            if not (getattr(type(one), "__module__", "") or "").startswith(
                ("builtins", "warmstart")
            ):
                continue
            if callable(one):
                continue
            waiting += gc.get_referents(one)
        type(self).found = list(seen.values())
        head = Head.linear(np.eye(2, rows.train_ND.shape[1]), np.zeros(2))
        return Adapted((Snapshot(1, head),), 0)


def test_a_method_that_peeks_finds_nothing(
    view: DomainView, tiny_text: Path, tmp_path: Path
) -> None:
    vectors = DomainVectors.of(view, backbone(str(tiny_text)))
    Peek().fit(vectors, Run(tmp_path, device="cpu"))
    reached = Peek.found
    assert len(reached) > 10
    assert not any(isinstance(one, Dataset | View | DomainView) for one in reached)
    count = len(vectors.target_ids_U)
    arrays = [one for one in reached if isinstance(one, np.ndarray) and len(one) == count]
    assert len(arrays) == 1, "of the target there are vectors and nothing else"
    assert arrays[0].dtype == np.float32
    texts = [one for one in reached if isinstance(one, str)]
    assert not any("there" in text or "/" in text for text in texts if text not in vectors.ids_N)
    for row_id in vectors.target_ids_U:
        content, _, number = row_id.partition("-")
        assert len(content) == 32
        assert number == "1"


def test_vectors_stand_in_the_order_of_the_view(view: DomainView, tiny_text: Path) -> None:
    recipe = backbone(str(tiny_text))
    vectors = DomainVectors.of(view, recipe)
    np.testing.assert_array_equal(vectors.target_UD, recipe.features(view.target).vectors_ND)
    np.testing.assert_array_equal(vectors.labels_N, view.source.train.labels_N)
    assert vectors.target_ids_U == tuple(view.target.ids)
    assert vectors.classes == 2


def test_labels_in_a_target_are_refused(view: DomainView) -> None:
    with pytest.raises(UsageError, match="target must have no labels"):
        DomainView(view.source, view.source.train)
    few = view.target.select(range(9))
    with pytest.raises(DataError, match="needs 10 target rows or more, got 9"):
        DomainView(view.source, few)


def test_images_lose_their_paths_as_vectors(pictures: Path, tiny_vit: Path) -> None:
    """A folder's name is the class: vectors hold no path."""
    dataset = read(pictures)
    shown = domain_view(split(dataset).view(dataset), dataset)
    vectors = DomainVectors.of(shown, backbone(str(tiny_vit)))
    assert not any("red" in row_id or "blue" in row_id for row_id in vectors.target_ids_U)
    assert vectors.target_UD.shape[0] == 40


def test_another_modality_is_refused(view: DomainView, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"holds text rows, the target .* image rows"):
        domain_view(view.source, read(pictures))


def test_equal_rows_get_ids_of_their_own(topics: Any) -> None:
    texts, labels = topics(40)
    source = rows(texts, labels, "source")
    twice = from_columns(
        {
            "id": [str(i) for i in range(12)], "text": ["the same"] * 12, "label": [0] * 12,
            "content": [content_hash("the same")] * 12,
        },
        label_names=["fruit"], modality="text", source="there",
    )  # fmt: skip
    target = domain_view(split(source).view(source), twice).target
    assert len(set(target.ids)) == 12


def test_classes_agree_by_name() -> None:
    check_classes(["negative", "positive"], ["positive"], where="there.csv")
    with pytest.raises(DataError, match=r"there.csv has the class 'postive'.*mean \"positive\""):
        check_classes(["negative", "positive"], ["postive"], where="there.csv")
    with pytest.raises(DataError, match=r"'1', which the source does not have \(2 such classes\)"):
        check_classes(["negative", "positive"], ["1", "2"], where="there.csv")
