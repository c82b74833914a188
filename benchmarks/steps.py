"""Step times of the spectrum beside what is possible and beside peers, interleaved."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers import Ratio, Task, Tokenised, model_folder
from warmstart.backbones import Backbone, FeatureCache, freeze, prefix_groups
from warmstart.backbones.prefix import PREFIX
from warmstart.core import Run, Streams
from warmstart.data import View
from warmstart.models import Head, HeadShape
from warmstart.strategies import Finetune, make
from warmstart.training import (
    Classifier,
    classification_loaders,
    fit_loop,
    replay_prefix,
    set_training,
)

__all__ = ["measure_epoch", "measure_lora", "measure_prefix"]

BATCH = 16


# --- the frozen prefix ---------------------------------------------------------------------------


def measure_prefix(recipe: Backbone, task: Task, depth: int, *, rounds: int) -> dict[str, Any]:
    """Replayed steps against recomputed ones, and what separate times of prefix and rest allow.

    The rest is the blocks after the cut, pooling, head, backward pass and optimiser, run by hand on
    kept tensors, without any of our machinery; the prefix is the model's own pass up to the cut.
    Both sides' times hold making the batch, as reading rows is part of a step.
    """
    with tempfile.TemporaryDirectory(prefix="warmstart-prefix-") as folder:
        cold = recipe.with_settings(cache=FeatureCache(folder))
        encoder = cold.load(device="cpu")
        freeze(encoder, prefix_groups(encoder, depth))
        streams = Streams(0)
        view = task.view
        made = replay_prefix(
            cold, encoder, view.train, view.validation, batch_size=BATCH, streams=streams
        )
        assert made is not None
        assert made.module.cut is not None
        plain, _ = classification_loaders(
            view.train, view.validation, encoder.preprocess, batch_size=BATCH, streams=streams
        )
        head = Head(HeadShape(dimension=encoder.dimension, classes=task.classes), streams)
        whole, cut = Classifier(encoder, head), Classifier(made.module, head)
        learned = [p for p in whole.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=1e-5, fused=True)

        def finish(loss: Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def step(model: nn.Module, batch: Any) -> None:
            finish(nn.functional.cross_entropy(model(batch.inputs), batch.labels_B))

        rest = _rest_of(encoder, depth, head)
        for model in (whole, cut):
            set_training(model)
        seconds: dict[str, list[float]] = {k: [] for k in ("recomputed", "replayed", "prefix",
                                                          "rest")}  # fmt: skip
        generator = np.random.default_rng(0)
        run_cut = made.module.cut

        def prefix_alone(batch: Any) -> None:
            with torch.no_grad():
                run_cut.run(encoder, batch.inputs)

        def rest_alone(kept: Any) -> None:
            finish(rest(kept))

        for epoch in range(rounds):
            pairs = zip(plain.batches(epoch), made.train.batches(epoch), strict=True)
            for batch, kept in pairs:
                work: dict[str, Callable[[], None]] = {
                    "recomputed": partial(step, whole, batch),
                    "replayed": partial(step, cut, kept),
                    "prefix": partial(prefix_alone, batch),
                    "rest": partial(rest_alone, kept),
                }
                for name in generator.permutation(sorted(work)):
                    seconds[name].append(_timed(work[name]))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    got = median["recomputed"] / median["replayed"]
    allowed = (median["prefix"] + median["rest"]) / median["rest"]
    return {
        "depth": depth,
        "of": encoder.n_depths,
        "milliseconds": {name: 1000 * value for name, value in median.items()},
        "steps": len(seconds["recomputed"]),
        "speed_up": got,
        "allowed": allowed,
        "share_of_time": got / allowed,
        "share_of_gain": (got - 1) / (allowed - 1),
    }


def _rest_of(encoder: Any, depth: int, head: Head) -> Callable[[Any], Tensor]:
    """The loss of a batch from kept tensors, by the blocks themselves (BERT's and ResNet's kin)."""
    blocks = encoder.groups.blocks()[depth:]

    def text(batch: Any) -> Tensor:
        hidden_BTD = batch.inputs[PREFIX]
        mask_BT = batch.inputs["attention_mask"]
        wide = None
        if not bool(mask_BT.all()):
            wide = mask_BT[:, None, None, :].bool().expand(-1, 1, mask_BT.shape[1], -1)
        for block in blocks:
            found = block(hidden_BTD, wide)
            hidden_BTD = found[0] if isinstance(found, tuple) else found
        mask_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        vectors_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        if encoder.normalize:
            vectors_BD = nn.functional.normalize(vectors_BD, dim=-1)
        return nn.functional.cross_entropy(head(vectors_BD), batch.labels_B)

    def image(batch: Any) -> Tensor:
        hidden = batch.inputs[PREFIX]
        for block in blocks:
            hidden = block(hidden)
        vectors_BD = hidden.mean(dim=(2, 3))
        return nn.functional.cross_entropy(head(vectors_BD), batch.labels_B)

    return text if encoder.modality == "text" else image


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- LoRA beside PEFT ----------------------------------------------------------------------------


def measure_lora(recipe: Backbone, task: Task, *, pairs: int, epochs: int = 4) -> dict[str, Any]:
    """Our LoRA on all layers through the training loop, against PEFT under a bare loop.

    Both sides see the same batches, grouped by length, with clipping and fused AdamW; the peer's
    batches are made before its clock starts.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    view = View(task.view.train.select(range(256)), task.view.validation.select(range(32)))
    strategy = make("lora", {"targets": "all", "epochs": epochs, "batch_size": BATCH})
    with tempfile.TemporaryDirectory(prefix="warmstart-lora-") as name:
        folder = Path(name)
        attempt = strategy._attempt(recipe, view, Run(folder / "setup", device="cpu"))  # type: ignore[attr-defined]
        targets = attempt.encoder.peft_config.target_modules
        loader, _ = classification_loaders(
            view.train, view.validation, attempt.encoder.preprocess, batch_size=BATCH,
            streams=Streams(0),
        )  # fmt: skip
        batches = [list(loader.batches(epoch)) for epoch in range(epochs)]
        for batch in itertools.chain.from_iterable(batches):
            batch.inputs.pop("token_type_ids", None)
        torch.manual_seed(0)
        network = get_peft_model(
            AutoModel.from_pretrained(model_folder()),
            LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=targets,
                       task_type="FEATURE_EXTRACTION"),
        )  # fmt: skip
        head = nn.Linear(attempt.encoder.dimension, task.classes)
        learned = [p for p in network.parameters() if p.requires_grad] + list(head.parameters())
        optimizer = torch.optim.AdamW(learned, lr=1e-3, fused=True)

        def theirs() -> None:
            network.train()
            for batch in itertools.chain.from_iterable(batches):
                hidden_BTD = network(**batch.inputs).last_hidden_state
                mask_BT1 = batch.inputs["attention_mask"].unsqueeze(-1).float()
                vectors_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1e-9)
                logits_BC = head(nn.functional.normalize(vectors_BD, dim=-1))
                nn.functional.cross_entropy(logits_BC, batch.labels_B).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(learned, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        count = itertools.count()

        def ours() -> None:
            parts = attempt.job._parts(replay=False)
            parts.pop("validation")
            fit_loop(**parts | {"run": Run(folder / f"run-{next(count)}", device="cpu")},
                     epochs=epochs)  # fmt: skip

        ratio = _paired({"ours": ours, "theirs": theirs}, pairs)
    steps = epochs * len(loader)
    return {"ratio": ratio["ratio"], "milliseconds_a_step": {
        side: 1000 * statistics.median(values) / steps for side, values in ratio["seconds"].items()
    }}  # fmt: skip


def _paired(sides: Mapping[str, Callable[[], None]], pairs: int) -> dict[str, Any]:
    """Seconds of both sides in turn, in the reverse order every other time; ours over theirs."""
    for work in sides.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs):
        order = list(sides) if number % 2 else list(sides)[::-1]
        for name in order:
            seconds[name].append(_timed(sides[name]))
    ratio = Ratio(tuple(a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)))
    return {"ratio": ratio.to_json(), "seconds": seconds}


# --- an epoch of fine-tuning beside the Trainer --------------------------------------------------


class _Whole(nn.Module):
    """The peer's model: an encoder, mean pooling, unit length, and a linear head, all trained."""

    def __init__(self, encoder: nn.Module, dimension: int, classes: int, normalize: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dimension, classes)
        self.normalize = normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """Loss and logits, as the Trainer wants them."""
        hidden_BTD = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTD.dtype)
        vectors_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1e-9)
        if self.normalize:
            vectors_BD = nn.functional.normalize(vectors_BD, dim=-1)
        logits_BC = self.head(vectors_BD)
        return {"loss": nn.functional.cross_entropy(logits_BC, labels), "logits": logits_BC}


def measure_epoch(recipe: Backbone, task: Task, *, pairs: int, rows: int) -> dict[str, Any]:
    """One epoch of fine-tuning against transformers' Trainer: same rows, batch and padding.

    Both group rows by length. Weights are loaded and texts tokenised before the clock starts.
    """
    from transformers import (
        AutoModel,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    view = View(task.view.train.select(range(rows)), task.view.validation.select(range(32)))
    with tempfile.TemporaryDirectory(prefix="warmstart-epoch-") as name:
        folder = Path(name)
        job = Finetune(epochs=1, batch_size=BATCH)._job(
            recipe, view, Run(folder / "setup", device="cpu")
        )
        count = itertools.count()

        def ours() -> None:
            parts = job._parts(replay=False)
            parts.pop("validation")
            fit_loop(**parts | {"run": Run(folder / f"run-{next(count)}", device="cpu")}, epochs=1)

        tokenizer = AutoTokenizer.from_pretrained(model_folder())
        tokens = Tokenised(view.train, tokenizer, recipe.max_length or 512)
        encoder = AutoModel.from_pretrained(model_folder())
        model = _Whole(encoder, encoder.config.hidden_size, task.classes, recipe.space().normalize)
        arguments = TrainingArguments(
            output_dir=str(folder / "trainer"), num_train_epochs=1,
            per_device_train_batch_size=BATCH, learning_rate=5e-5,
            train_sampling_strategy="group_by_length", save_strategy="no", eval_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
            dataloader_pin_memory=False,
        )  # fmt: skip

        def theirs() -> None:
            trainer = Trainer(model=model, args=arguments, train_dataset=tokens,
                              data_collator=DataCollatorWithPadding(tokenizer))  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.train()

        found = _paired({"ours": ours, "theirs": theirs}, pairs)
    return {"ratio": found["ratio"], "rows": rows, "seconds": {
        side: statistics.median(values) for side, values in found["seconds"].items()
    }}  # fmt: skip
