"""Training on a frozen prefix: the same steps as recomputing it, in every family."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbones.test_features import Ear
from tests.backbones.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, make_folder
from torch import nn
from torch.nn import functional

from warmstart.backbones import (
    Backbone,
    Encoder,
    FeatureCache,
    backbone,
    freeze,
    prefix_record,
    state_hash,
)
from warmstart.backbones.prefix import ALL, PREFIX, Replay, prefix_groups
from warmstart.backbones.prefix_store import KeptRows, MemoryStore
from warmstart.core import Run, Streams, UsageError, progress
from warmstart.data import Dataset
from warmstart.data.dataset import content_hash, from_columns
from warmstart.models import Head, HeadShape
from warmstart.training import (
    Classifier,
    FixedLoader,
    classification_loaders,
    classification_step,
    evaluation,
    fit_loop,
    make_optimizer,
    measure_steps,
    rate_table,
)
from warmstart.training.replay import Replayed, ReplayRows, Views, replay_prefix

FAMILIES = sorted({*TEXT_FAMILIES, *IMAGE_FAMILIES, "clip text"} - {"albert"})
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_folder(root, family)
        return made[family]

    return get


def texts(count: int, seed: int = 0) -> Dataset:
    """Texts of 1 to 14 letters; the class is whether the first is a vowel's neighbour."""
    draw = np.random.default_rng(seed)
    made = [" ".join(draw.choice(list(LETTERS), draw.integers(1, 15))) for _ in range(count)]
    return _dataset("text", made, [content_hash(text) for text in made])


def images(count: int, seed: int = 0) -> Dataset:
    from PIL import Image

    draw = np.random.default_rng(seed)
    cells = []
    for _ in range(count):
        buffer = io.BytesIO()
        pixels = draw.integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    return _dataset("image", cells, [content_hash(cell["bytes"]) for cell in cells])


def _dataset(modality: Any, cells: Sequence[Any], contents: Sequence[str]) -> Dataset:
    count = len(cells)
    columns = {
        "id": [f"row-{i}" for i in range(count)], modality: list(cells),
        "label": [i % 2 for i in range(count)], "content": list(contents),
    }  # fmt: skip
    return from_columns(columns, label_names=("no", "yes"), modality=modality, source="test")


class Case:
    """One family's training with the groups before a depth frozen."""

    def __init__(self, folder: Path, tmp: Path, depth: int | None, **settings: Any) -> None:
        text_tower = settings.pop("text_tower", False)
        self.backbone: Backbone = backbone(folder, cache=FeatureCache(tmp / "cache"))
        self.text = text_tower or self.backbone.modality == "text"
        self.text_tower = text_tower
        self.depth = depth
        self.tmp = tmp
        rows = texts if self.text else images
        self.train = settings.pop("train", None) or rows(12)
        self.held = rows(5, seed=1)
        self.ear = Ear()
        self.fits = 0

    def encoder(self) -> Encoder:
        load = self.backbone.text_encoder if self.text_tower else self.backbone.load
        encoder = load(device="cpu")
        last = len(encoder.groups.block_paths) - 1 if self.depth == -1 else self.depth
        freeze(encoder, prefix_groups(encoder, last))
        return encoder

    def replay(self, encoder: Encoder, **settings: Any) -> Replayed | None:
        with progress.use(self.ear):
            return replay_prefix(
                self.backbone, encoder, self.train, self.held, batch_size=4, streams=Streams(3),
                **settings,
            )  # fmt: skip

    def plain(self, encoder: Encoder) -> Any:
        return classification_loaders(
            self.train, self.held, encoder.preprocess, batch_size=4, streams=Streams(3)
        )

    def fit(self, encoder: Encoder, module: nn.Module, train: Any, held: Any) -> dict[str, Any]:
        """Two epochs; what every step lost and what the head says in the end."""
        head = Head(HeadShape(dimension=encoder.dimension, classes=2, dropout=0.1), Streams(5))
        model = Classifier(module, head)
        groups = {name: list(encoder.groups.parameters(name)) for name in encoder.groups.names}
        groups |= {"head": [(f"head.{n}", p) for n, p in head.named_parameters()]}
        rates = {name: 0.0 if name in encoder.frozen else 1e-3 for name in groups}
        table = rate_table(groups, 1.0, rates=rates, module=nn.ModuleList([encoder, head]))
        losses: list[float] = []
        plain = classification_step()

        def step(batch: Any, state: Any) -> Any:
            output = plain(batch, state)
            losses.append(float(output.total().detach()))
            return output

        self.fits += 1
        history = fit_loop(
            step=step, modules={"model": model}, optimizers=make_optimizer(table), loaders=train,
            run=Run(self.tmp / f"run-{self.fits}", seed=3, device="cpu"), epochs=2,
            evaluate=evaluation(held, classes=2), clip=1.0,
        )  # fmt: skip
        fresh = encoder.preprocess(self.held.inputs())
        with torch.no_grad():
            logits = model.eval()(fresh)
        return {
            "losses": losses, "logits": logits, "held": history.epochs[-1]["validation_loss"],
            "weights": {k: v.clone() for k, v in encoder.state_dict().items()}, "model": model,
            "names": [name for name, _ in model.named_parameters()],
        }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_and_uncached_training_take_the_same_steps(
    folder_of: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    tower = family == "clip text"
    case = Case(folder_of("clip" if tower else family), tmp_path, -1, text_tower=tower)
    uncached, cached = case.encoder(), case.encoder()
    frozen = state_hash(cached, cached.frozen)
    slow = case.fit(uncached, uncached, *case.plain(uncached))
    made = case.replay(cached)
    assert made is not None, case.ear.notes
    fast = case.fit(cached, made.module, made.train, made.validation)
    assert len(slow["losses"]) == 6
    np.testing.assert_allclose(fast["losses"], slow["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast["logits"], slow["logits"], rtol=1e-5, atol=1e-5)
    assert abs(fast["held"] - slow["held"]) < 1e-5
    assert fast["names"] == slow["names"]
    assert state_hash(cached, cached.frozen) == frozen == state_hash(uncached, cached.frozen)
    assert state_hash(cached) != state_hash(case.encoder())  # the rest did train


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert", "swin", "resnet", "vit"])
@pytest.mark.parametrize("depth", [1, -1])
def test_weights_are_bit_equal_when_recorded_in_the_batches_of_training(
    folder_of: Callable[[str], Path], tmp_path: Path, family: str, depth: int
) -> None:
    case = Case(folder_of(family), tmp_path, depth)
    uncached, cached = case.encoder(), case.encoder()
    plain, held = case.plain(uncached)
    batches = list(plain.batches(0))
    slow = case.fit(uncached, uncached, FixedLoader(batches), held)

    made = case.replay(cached)
    assert made is not None
    cut = made.module.cut
    assert cut is not None
    keeper = MemoryStore()
    for batch in batches:
        hidden = cut.run(cached, batch.inputs)
        for place, row in enumerate(batch.rows_B.tolist()):
            mask = batch.inputs.get("attention_mask")
            kept = hidden[place] if mask is None else hidden[place][mask[place].bool()]
            keeper.append([bytes([row]) * 16], [kept.contiguous()])
    rows = KeptRows(keeper, [bytes([row]) * 16 for row in range(len(case.train))])
    source = made.train.source
    assert isinstance(source, ReplayRows)
    source._views = (rows,)
    fixed = FixedLoader(list(made.train.batches(0)))
    fast = case.fit(cached, made.module, fixed, made.validation)
    assert fast["losses"] == slow["losses"]
    assert all(torch.equal(fast["weights"][key], slow["weights"][key]) for key in slow["weights"])


def test_batches_are_those_of_training_without(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    case = Case(folder_of("roberta"), tmp_path, 2, train=texts(30))
    encoder = case.encoder()
    made = case.replay(encoder)
    assert made is not None
    assert made.depth == 2
    for fast, slow in zip((made.train, made.validation), case.plain(encoder), strict=True):
        assert fast.fingerprint == slow.fingerprint
        for epoch in (0, 1, 5):
            for a, b in zip(fast.batches(epoch), slow.batches(epoch), strict=True):
                assert torch.equal(a.rows_B, b.rows_B)
                assert torch.equal(a.labels_B, b.labels_B)
                assert set(a.inputs) - set(b.inputs) == {PREFIX}
                assert all(torch.equal(a.inputs[key], b.inputs[key]) for key in b.inputs)
                assert a.inputs[PREFIX].shape[:2] == b.inputs["attention_mask"].shape


def test_images_are_not_decoded_again(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    real = Dataset.inputs

    def counting(self: Dataset, indices: Any = None) -> list[Any]:
        found = real(self, indices)
        decoded.append(len(found))
        return found

    monkeypatch.setattr(Dataset, "inputs", counting)
    case = Case(folder_of("vit"), tmp_path, 2)
    encoder = case.encoder()
    made = case.replay(encoder)
    assert made is not None
    assert sum(decoded) == 2 + 12 + 5 + 4  # learn the cut, record both parts, verify
    decoded.clear()
    for epoch in range(3):
        for batch in [*made.train.batches(epoch), *made.validation.batches(epoch)]:
            assert list(batch.inputs) == [PREFIX]
            made.module(batch.inputs)
    assert decoded == []
    again = case.replay(case.encoder())
    assert again is not None
    assert sum(decoded) == 2 + 4


def test_dropout_draws_the_same_masks(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    case = Case(folder_of("bert"), tmp_path, 1)
    encoder = case.encoder()
    made = case.replay(encoder)
    assert made is not None
    slow, fast = next(case.plain(encoder)[0].batches(0)), next(made.train.batches(0))
    made.module.train()
    found = []
    for inputs in (slow.inputs, fast.inputs, fast.inputs):
        torch.manual_seed(7)
        found.append(made.module(inputs).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], found[2])
    torch.manual_seed(8)
    assert not torch.allclose(made.module(fast.inputs).detach(), found[1])


@pytest.mark.parametrize("family", ["bert", "albert", "vit", "clip"])
def test_with_everything_frozen_the_encoder_does_not_run(
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(folder_of(family), tmp_path, None)
    uncached, cached = case.encoder(), case.encoder()
    slow = case.fit(uncached, uncached, *case.plain(uncached))
    made = case.replay(cached)
    assert made is not None
    assert made.depth == ALL
    width = cached.dimension
    batch = next(made.train.batches(0))
    assert batch.inputs[PREFIX].shape == (4, width)
    passes: list[int] = []
    real = Encoder.forward_many

    def counting(self: Encoder, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "forward_many", counting)
    fast = case.fit(cached, made.module, made.train, made.validation)
    assert len(passes) == 1  # the last pass over fresh rows
    np.testing.assert_allclose(fast["losses"], slow["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast["logits"], slow["logits"], rtol=1e-5, atol=1e-5)
    here = case.backbone.features(case.train)  # the probe's own features are what was used
    assert np.array_equal(here.vectors_ND[batch.rows_B.numpy()], batch.inputs[PREFIX].numpy())


def brighten(image: Any, generator: np.random.Generator) -> Any:
    return image.point(lambda value: value * generator.uniform(0.2, 1.0))


@pytest.mark.parametrize("depth", [2, None])
def test_views_are_drawn_up_front(
    folder_of: Callable[[str], Path], tmp_path: Path, depth: int | None
) -> None:
    case = Case(folder_of("vit"), tmp_path, depth)
    encoder = case.encoder()
    views = Views(brighten, "brighten", 2)
    made = case.replay(encoder, views=views)
    assert made is not None
    epochs = [next(made.train.batches(epoch)) for epoch in range(4)]
    rows = epochs[0].rows_B.tolist()
    source = made.train.source
    streams = Streams(3)
    for epoch in range(4):
        batch = source.batch(rows, epoch)
        bright = [
            brighten(image, streams.numpy("view", epoch % 2, case.train.ids[row]))
            for image, row in zip(case.train.inputs(rows), rows, strict=True)
        ]
        expected = encoder(encoder.preprocess(bright))
        torch.testing.assert_close(made.module(batch.inputs), expected, rtol=1e-5, atol=1e-5)
        again = source.batch(rows, epoch + 2)
        assert torch.equal(batch.inputs[PREFIX], again.inputs[PREFIX])
    assert not torch.equal(source.batch(rows, 0).inputs[PREFIX],
                           source.batch(rows, 1).inputs[PREFIX])  # fmt: skip
    held = next(made.validation.batches(0))  # validation rows are never augmented
    plain = encoder(encoder.preprocess(case.held.inputs(held.rows_B.tolist())))
    torch.testing.assert_close(made.module(held.inputs), plain, rtol=1e-5, atol=1e-5)


def test_views_that_cannot_be(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="views must be at least 1"):
        Views(brighten, "brighten", 0)
    case = Case(folder_of("bert"), tmp_path, 2)
    with pytest.raises(UsageError, match="data set is text"):
        case.replay(case.encoder(), views=Views(brighten, "brighten", 2))


def test_nothing_to_replay(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    case = Case(folder_of("bert"), tmp_path, 0)
    assert case.replay(case.encoder()) is None
    assert case.replay(case.encoder(), frozen=["block.1"]) is None
    assert case.ear.notes == []
    made = case.replay(case.encoder(), frozen=["stem", "block.0"])
    assert made is not None
    assert made.depth == 1


def test_what_cannot_be_replayed_is_said(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    albert = Case(folder_of("albert"), tmp_path, None)
    assert albert.replay(albert.encoder(), frozen=["stem"]) is None
    assert "recomputed at every step" in albert.ear.notes[0]
    assert "prefix='off'" not in albert.ear.notes[0], "that is what happens already"

    full = Case(folder_of("bert"), tmp_path, 2)
    full.backbone.cache = FeatureCache(tmp_path / "small", limit_bytes=100)
    assert full.replay(full.encoder()) is None
    assert "may hold 100 bytes in all" in full.ear.notes[0]
    full.backbone.cache = None
    monkeypatch.setattr(prefix_record, "MEMORY_LIMIT_BYTES", 100)
    assert full.replay(full.encoder()) is None
    assert "kept in memory" in full.ear.notes[1]


def test_damage_that_escapes_the_checksum_is_found_before_it_is_used(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(folder_of("bert"), tmp_path, 2)
    real = KeptRows.batch
    monkeypatch.setattr(KeptRows, "batch", lambda self, *args: real(self, *args) * 1.01)
    assert case.replay(case.encoder()) is None
    assert "other vectors from kept rows" in case.ear.notes[-1]


def test_an_encoder_that_is_not_its_backbone_is_served(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    case = Case(folder_of("bert"), tmp_path, 2)
    first = case.replay(case.encoder())
    assert first is not None
    encoder = case.backbone.load(device="cpu", random_seed=1)
    freeze(encoder, prefix_groups(encoder, 2))
    made = case.replay(encoder)
    assert made is not None
    inputs = next(made.train.batches(0)).inputs
    assert not torch.allclose(inputs[PREFIX], next(first.train.batches(0)).inputs[PREFIX])
    fresh = {key: value for key, value in inputs.items() if key != PREFIX}
    torch.testing.assert_close(made.module(inputs), encoder(fresh), rtol=1e-5, atol=1e-5)
    everything = case.backbone.load(device="cpu", random_seed=1)
    freeze(everything, everything.groups.names)  # its final vectors are not the backbone's
    assert case.replay(everything) is None
    assert "weights are not those" in case.ear.notes[-1]


def test_later_stages_and_later_runs_find_what_is_kept(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(folder_of("bert"), tmp_path, 2)
    assert case.replay(case.encoder()) is not None
    assert len(case.ear.notes) == 1
    encoder = case.encoder()
    with torch.no_grad():  # what trains after the cut does not matter to what is kept
        for _, parameter in encoder.groups.parameters("block.2"):
            parameter.mul_(1.1)
    monkeypatch.setattr(prefix_record._Work, "_rows", None)
    assert case.replay(encoder) is not None
    assert len(case.ear.notes) == 1


def test_a_training_row_without_a_label_is_refused(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    case = Case(folder_of("bert"), tmp_path, 2)
    case.train = case.train.without_labels()
    with pytest.raises(UsageError, match="no label"):
        case.replay(case.encoder())


def test_steps_can_be_measured_on_a_copy(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    case = Case(folder_of("bert"), tmp_path, 2)
    encoder = case.encoder()
    made = case.replay(encoder)
    assert made is not None
    head = Head(HeadShape(dimension=32, classes=2), Streams(5))
    before = state_hash(encoder)

    def step(batch: Any, state: Any) -> Any:
        return functional.cross_entropy(state.modules["model"](batch.inputs), batch.labels_B)

    model = Classifier(made.module, head)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    cost = measure_steps(
        step=step, modules={"model": model}, optimizers=optimizer, loaders=made.train,
        run=Run(tmp_path / "run", seed=3, device="cpu"),
    )  # fmt: skip
    assert cost.seconds > 0
    assert state_hash(encoder) == before
    assert isinstance(made.module, Replay)
