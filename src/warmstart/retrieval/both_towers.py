"""Track C: both towers learn, the text encoder of the items too, one layer group after another.

At first the encoder stays as it is and everything above it learns. Then its last group learns as
well, then the last two, each time from the best weights so far and with rates that fall with depth.
A stage that improves nothing on validation leaves the weights as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from warmstart.backbones import FrozenLedger
from warmstart.core import NotApplicable, UsageError, progress
from warmstart.training import (
    History,
    LoopState,
    RateTable,
    discriminative_rates,
    rate_table,
)

from .fitting_texts import RefreshTexts, text_step
from .item_texts import ItemTexts, TextTable, TextTower
from .two_tower import Negatives, Shares, TwoTower
from .two_tower_training import Fit, Stage, Trained, train_stage
from .two_tower_work import Work

__all__ = ["BothTowers"]


class BothTowers(TwoTower):
    """Track C: both towers are learned, the last groups of the text encoder among them.

    Needs: texts of the items. Pick when: the items' words mean something of their own here, and
    there is time: a step encodes texts.

    Attributes:
        text_groups: Groups of the text encoder that learn in the end; one more each stage.
        text_epochs: Passes of each stage in which texts learn, at most.
        text_rate: Learning rate of the encoder's last group; each earlier one learns
            `text_factor` times more slowly.
        text_factor: See `text_rate`.
        tower_rate: Learning rate of everything above the encoder in these stages.
        encode: Texts that are encoded anew in a step; all others are read from a table that is made
            again after each epoch.
        encode_chunk: How many of them at once, with gradient caching, where memory is short: it
            costs another pass. None keeps what the gradient needs of all of them.
        text_patience: Epochs of such a stage without a better value before it stops; None goes on.
        text_stops: Epochs after which to stop each of these stages all the same; 0 leaves one out.
            What `refit` sets.
    """

    name: ClassVar[str] = "both-towers"
    title: ClassVar[str] = "Both towers tuned"
    negatives: Negatives = "mixed"
    shares: Shares = Field(default_factory=lambda: {"in-batch": 0.5, "hard": 0.5})
    draws: PositiveInt = 256
    text_groups: PositiveInt = 2
    text_epochs: PositiveInt = 3
    text_rate: PositiveFloat = 3e-5
    text_factor: float = Field(2.6, ge=1, le=100)
    tower_rate: PositiveFloat = 1e-4
    encode: PositiveInt = 64
    encode_chunk: PositiveInt | None = None
    text_patience: PositiveInt | None = 1
    text_stops: tuple[NonNegativeInt, ...] | None = None

    @model_validator(mode="after")
    def _tunes_texts(self) -> BothTowers:
        """Settings that go against tuning the texts."""
        if not self.use_text:
            raise ValueError("use_text must be true: the text encoder is what is tuned")
        if self.average:
            raise ValueError("average must be 0: the text encoder has no running mean")
        if self.text_stops is not None and len(self.text_stops) != self.text_groups:
            raise ValueError(f"text_stops must have text_groups ({self.text_groups}) numbers")
        return self

    def refit(self, history: History, stages: Sequence[Mapping[str, Any]] = ()) -> BothTowers:
        """These settings for a fit on more data; each stage as long as it was at its best.

        Args:
            history: Of all stages.
            stages: What each did; those that were not reached are left out.
        """
        best = [int(stage["best_epoch"]) for stage in stages] or [int(history.best_epoch or 1)]
        stops = [*best[1:], *([0] * self.text_groups)][: self.text_groups]
        changes = {"stop_after": max(1, best[0]), "text_stops": tuple(stops), "keep": "last"}
        return self.model_copy(update=changes)

    def _train(self, fit: Fit) -> Trained:
        """First everything above the encoder, then the encoder from its end."""
        given, features_IF = fit.work.texts, fit.work.catalogue.features_IF
        if given is None or not fit.work.text or features_IF is None:
            raise NotApplicable(f"{self.title} needs texts of the items, and there are none")
        _check(given, fit.work)
        texts = TextTower(given, features_IF)
        learned = self._learned(texts)
        _announce(learned)
        first = self._first_stage(fit)
        total = train_stage(self, fit, first)
        stages = [_told(first.name, (), total)]
        stops = self.text_stops or (self.text_epochs,) * self.text_groups
        tuned: tuple[str, ...] = ()
        for place, names in enumerate(learned[1:], start=1):
            if total.cut:  # a later session with more time goes on in that stage
                progress.note(f"{self.title}: the time was up in stage {place} of {len(learned)}.")
                break
            name = f"{self.name}-texts-{place}"
            if not stops[place - 1]:
                stages.append({"stage": name, "learns": [*names], "epochs": 0, "best_epoch": 0})
                continue
            texts.learn(names)
            ledger = FrozenLedger(texts.encoder)
            modules = {"texts": texts.replay, "table": TextTable(features_IF)}
            history = train_stage(
                self, replace(fit, modules={**fit.modules, **modules}),
                self._text_stage(name, fit, texts, stops[place - 1]),
            )  # fmt: skip
            ledger.check()
            stages.append(_told(name, names, history))
            tuned = names if stages[-1]["best_epoch"] else tuned
            total = total.then(history)
        if any(stage["epochs"] for stage in stages[1:]):
            texts.finish()
        return Trained(total, stages, texts.weights(tuned) if tuned else None)

    def _learned(self, texts: TextTower) -> list[tuple[str, ...]]:
        """Groups of the text encoder that learn in each stage; none in the first."""
        names = texts.encoder.groups.names
        if self.text_groups > len(names):
            raise UsageError(
                f"{self.name}.text_groups must be 1 to {len(names)}, the encoder's layer groups "
                f"({', '.join(names)}), got {self.text_groups}."
            )
        return [tuple(names[len(names) - count :]) for count in range(self.text_groups + 1)]

    def _text_stage(self, name: str, fit: Fit, texts: TextTower, epochs: int) -> Stage:
        def before(state: LoopState) -> None:
            texts.refresh((state.name, state.step))

        return Stage(
            name,
            text_step(
                fit.comparison.objective, fit.work.catalogue, texts,
                most=self.encode, chunk=self.encode_chunk,
            ),
            self._text_rates(fit, texts),
            epochs=epochs, planned=self.text_epochs, callbacks=(RefreshTexts(texts),),
            patience=self.text_patience, before=before, keep_start=self.keep == "best",
            skip_frozen=True, transformer=True,
        )  # fmt: skip

    def _text_rates(self, fit: Fit, texts: TextTower) -> RateTable:
        """The encoder's groups by depth, then the towers; what is frozen is shown too."""
        encoder = texts.encoder
        by_depth = discriminative_rates(encoder.groups.names, self.text_rate, self.text_factor)
        towers = self.model_copy(update={"rate": self.tower_rate})._rates(fit.towers)
        rates = {
            f"text.{name}": 0.0 if name in encoder.frozen else rate
            for name, rate in by_depth.items()
        }
        groups = {
            f"text.{name}": [
                (f"text.{key}", value) for key, value in encoder.groups.parameters(name)
            ]
            for name in encoder.groups.names
        }
        own = rate_table(groups, self.text_rate, rates=rates)
        return RateTable(own.rows + towers.rows)


def _check(given: ItemTexts, work: Work) -> None:
    """Texts must be those of the items, and their vectors those of the encoder."""
    items = len(work.catalogue.known_I)
    if len(given.texts) != items:
        raise UsageError(
            f"texts must be one for each of the {items} items, got {len(given.texts)}."
        )


def _announce(learned: Sequence[Sequence[str]]) -> None:
    lines = [f"{place + 1}. {', '.join(names)}" for place, names in enumerate(learned[1:], 1)]
    progress.note(
        "Stages: 1. everything above the text encoder; then with it groups of the encoder: "
        f"{'; '.join(lines)}."
    )


def _told(name: str, learns: Sequence[str], history: History) -> dict[str, Any]:
    """What a stage did; the best epoch is 0 where its start stayed the best."""
    done = len(history.epochs)
    best = done if history.best_epoch is None else history.best_epoch
    return {
        "stage": name, "learns": list(learns), "epochs": done, "best_epoch": int(best),
        "steps": history.steps, "seconds": history.seconds,
    }  # fmt: skip
