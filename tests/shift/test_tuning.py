"""Which part of the encoder learns: parsed, opened, replayed and restored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from warmstart.backbones import Backbone, FeatureCache, backbone, state_hash
from warmstart.core import Run, RunError, Streams, UsageError
from warmstart.data import View, read, split
from warmstart.models import AdaptedEncoder, Head, HeadShape
from warmstart.shift import DomainInputs, Mmd, Tuning, domain_view, parse_trainable, tuning_course
from warmstart.shift.adapt_course import Bottleneck
from warmstart.shift.tuning import save_learned
from warmstart.shift.tuning_course import TunedNetwork

SMALL = {"width": 8, "epochs": 2, "rate": 1e-2, "snapshots": 1, "dropout": 0.0}


def rows_of(topics: Any, opened: Backbone, part: str) -> DomainInputs:
    texts, labels = topics(90)
    source = read(datasets.Dataset.from_dict({"text": texts[:60], "label": labels[:60]}))
    there = {"text": [f"photo of {t}" for t in texts[60:]], "label": labels[60:]}
    target = read(datasets.Dataset.from_dict(there))
    view: View = split(source).view(source)
    tuning = parse_trainable(part)
    assert tuning is not None
    found = DomainInputs.of_tuned(domain_view(view, target), opened, tuning, Path())
    assert (found.target.labels_N == -1).all()
    return found


@pytest.mark.parametrize(("given", "rows"), [("auto", 32), (64, 64)])
def test_a_set_batch_holds_where_the_encoder_learns_too(
    given: Any, rows: int, tiny_text: Path, topics: Any
) -> None:
    inputs = rows_of(topics, backbone(tiny_text), "all")
    assert Mmd(batch_size=given)._batch(inputs) == rows


@pytest.mark.parametrize("text", ["lora", "all", "last:1", "last:12"])
def test_a_part_reads_as_it_is_written(text: str) -> None:
    found = parse_trainable(text)
    assert found is not None
    assert str(found) == text
    assert parse_trainable(found) is found
    assert parse_trainable(" features ") is None
    with pytest.raises(UsageError, match="trainable must be features, lora, last:N"):
        parse_trainable(f"{text}:")


@pytest.mark.parametrize("given", [2, None, True, ["all"]])
def test_a_part_that_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"trainable must be .* as text, .*'last:N'") as caught:
        parse_trainable(given)
    assert f"got {given!r} ({type(given).__name__})" in str(caught.value)


def test_one_layer_group_has_no_last_ones() -> None:
    only = SimpleNamespace(group_names=("all",), name="tiny")
    with pytest.raises(UsageError, match=r"last:1 needs .* tiny has one. Use all, .* or lora"):
        Tuning(part="last", last=1).check(only, None)
    Tuning(part="all").check(only, None)


def test_what_opens_is_the_untouched_encoder(tiny_text: Path) -> None:
    opened = backbone(tiny_text)
    plain = opened.load()
    batch = plain.preprocess(["the old plum", "a car"])
    for part, learns in (("lora", None), ("last:1", 1), ("last:2", 2), ("all", 3)):
        tuning = parse_trainable(part)
        assert tuning is not None
        encoder = tuning.open(opened, Streams(0)).eval()
        torch.testing.assert_close(encoder(batch), plain(batch), atol=0, rtol=0)
        if learns is None:
            assert isinstance(encoder, AdaptedEncoder)
        else:
            assert encoder.frozen == plain.groups.names[: 3 - learns]
    assert Tuning(part="last", last=1).title == "the last layer group"


def test_domains_go_through_together_or_apart(tiny_text: Path) -> None:
    encoder = backbone(tiny_text).load()
    head = Head(HeadShape(dimension=24, classes=2, hidden=4))
    network = TunedNetwork(encoder, Bottleneck(head, torch.zeros(24), torch.ones(24))).eval()
    calls: list[int] = []
    encoder.register_forward_hook(lambda _m, _a, out: calls.append(len(out)))
    long, short = (encoder.preprocess(t) for t in (["the old new plum"] * 3, ["a car"] * 2))
    alone = [network(part) for part in (long, short, long)]
    calls.clear()
    both = network(long, short)
    assert calls == [3, 2], "texts padded to two lengths"
    calls.clear()
    alike = network(long, long)
    assert calls == [6], "rows of one shape"
    for place in (0, 1):
        torch.testing.assert_close(both[place], torch.cat([alone[0][place], alone[1][place]]))
        torch.testing.assert_close(alike[place], torch.cat([alone[0][place], alone[2][place]]))


def test_replaying_what_is_frozen_changes_nothing(
    tiny_text: Path, topics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = backbone(tiny_text, cache=FeatureCache(tmp_path / "cache"))
    rows = rows_of(topics, opened, "last:1")
    kept: list[bool] = []
    real = tuning_course.replay_prefix

    def seen(*args: Any, **settings: Any) -> Any:
        made = real(*args, **settings)
        kept.append(made is not None)
        return made

    monkeypatch.setattr(tuning_course, "replay_prefix", seen)
    replayed = Mmd(**SMALL).fit(rows, Run(tmp_path / "a", device="cpu")).snapshots[0]
    assert kept == [True]
    monkeypatch.setattr(tuning_course, "replay_prefix", lambda *_, **__: None)
    whole = Mmd(**SMALL).fit(rows, Run(tmp_path / "b", device="cpu")).snapshots[0]
    assert replayed.own is not None
    assert whole.own is not None
    np.testing.assert_allclose(replayed.own.target_UD, whole.own.target_UD, atol=1e-4)
    np.testing.assert_allclose(
        replayed.head.proba(replayed.own.target_UD), whole.head.proba(whole.own.target_UD),
        atol=1e-4,
    )  # fmt: skip


def test_a_snapshot_is_restored_as_it_was(tiny_text: Path, topics: Any, tmp_path: Path) -> None:
    """Its vectors are those of the restored encoder; what did not learn is the backbone's."""
    opened = backbone(tiny_text)
    rows = rows_of(topics, opened, "last:1")
    found = Mmd(**SMALL).fit(rows, Run(tmp_path / "run", device="cpu")).snapshots[0]
    assert found.weights is not None
    encoder = rows.tuning.restore(opened, found.weights)
    own = rows.embedded(encoder, "again")
    assert found.own is not None
    for name in ("train_ND", "validation_MD", "target_UD"):
        np.testing.assert_allclose(getattr(own, name), getattr(found.own, name), atol=1e-5)
    assert np.abs(own.target_UD - rows.target_UD).max() > 1e-3
    assert found.own.space != rows.space
    plain = opened.load()
    frozen = list(plain.groups.names[:-1])
    assert state_hash(encoder, frozen) == state_hash(plain, frozen)
    model = rows.tuning.model(opened, found.weights, found.head, rows.label_names)
    assert model.tuned
    with pytest.raises(RunError, match="weights of another encoder, or of another part"):
        Tuning(part="all").restore(opened, found.weights)
    save_learned(opened.load(), tmp_path / "all.safetensors")
    Tuning(part="all").restore(opened, tmp_path / "all.safetensors")


def test_a_frozen_group_that_moved_is_an_error(
    tiny_text: Path, topics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(topics, backbone(tiny_text), "last:1")
    real = tuning_course.TunedCourse.table

    def moving(self: Any, modules: Any, rate: float) -> Any:
        first: nn.Parameter = self._encoder.groups.parameters(self._encoder.frozen[0])[0][1]
        with torch.no_grad():
            first.add_(1.0)
        return real(self, modules, rate)

    monkeypatch.setattr(tuning_course.TunedCourse, "table", moving)
    with pytest.raises(RunError, match="frozen parts changed while training"):
        Mmd(**SMALL).fit(rows, Run(tmp_path / "run", device="cpu"))


def test_a_snapshot_that_is_gone_is_said_with_the_cure(
    tiny_text: Path, topics: Any, tmp_path: Path
) -> None:
    rows, folder = rows_of(topics, backbone(tiny_text), "last:1"), tmp_path / "run"
    found = Mmd(**SMALL).fit(rows, Run(folder, device="cpu")).snapshots[0]
    assert found.weights is not None
    found.weights.unlink()
    with pytest.raises(RunError, match=r"epoch-0002.safetensors is missing.*Delete that folder"):
        Mmd(**SMALL).fit(rows, Run(folder, device="cpu"))
