"""The two-tower recommender: its settings, and how it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import nn

from warmstart.core import Config, Run, UsageError, nearest
from warmstart.evaluation import Events, RankingTask
from warmstart.training import Checkpoints, History, RateTable, discriminative_rates, rate_table

from .content_part import ContentPart
from .content_settings import ContentSettings
from .fitting import item_table, training_step
from .fitting_average import averaged
from .fitting_content import choose_content, content_part
from .fitting_validation import Judge, best_popularity
from .item_texts import ItemTexts
from .negatives_plan import MIXABLE, compare
from .towers import Towers
from .two_tower_model import TwoTowerModel
from .two_tower_training import Fit, Stage, Trained, train_stage
from .two_tower_work import Work, prepare

__all__ = ["Negatives", "Shares", "TwoTower"]

Negatives = Literal[
    "auto", "full", "in-batch", "uniform", "viewed", "tags", "mined", "hard", "mixed"
]


def _parse_shares(value: Any) -> Any:
    """`in-batch=0.5, mined=0.5` as a mapping."""
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in value.split(",") if part.strip()]
    try:
        return {name.strip(): float(share) for name, _, share in parts}
    except ValueError:
        raise ValueError("must be shares such as in-batch=0.5, mined=0.5") from None


Shares = Annotated[dict[str, float], BeforeValidator(_parse_shares)]


class TwoTower(Config):
    """A causal transformer over a user's last items, against one vector for each item.

    Needs: timestamped interactions; text vectors of the items for items that are new.
    Pick when: what comes next depends on the last items, and answers must come from an index.

    Attributes:
        width: Length D of the vectors.
        layers: Blocks of the user tower; 0 for the mean of the history under a projection.
        heads: Attention heads of a block.
        history: Events that the user tower looks back on.
        dropout: Of the user tower.
        feature_dropout: Of the given item vectors.
        id_dropout: Share of items whose id part is taken away in each step; what lets new items be
            ranked.
        hidden: Width of a hidden layer over the given vectors, 0 for none.
        use_ids: Whether items have an id embedding.
        use_text: Whether text vectors are read, where given.
        use_images: Whether image vectors are read, where given.
        use_profiles: Whether users' attributes are read, where given.
        profile_dropout: Share of windows whose attributes are taken away in each step; what lets
            users of whom nothing is known be served.
        temperature: What cosines are divided by, 0.01 to 1; the start where it is learned.
        learn_temperature: Whether it is learned, within these bounds.
        temperature_power: Temperature by item frequency: 0 for none, above 0 for a lower
            temperature where the item is rare.
        negatives: What an item is told apart from. `full`: every item that training has seen.
            Otherwise `draws` items a position: of the same batch, `uniform`, passed over by the
            user (`viewed`), of the same `tags`, `mined` by the current model, all of these that
            the data have (`hard`), or `mixed` by `shares`. `auto`: `full` up to `full_limit`
            items, then mixed.
        shares: Of the mixture: `in-batch=0.5, hard=0.5`.
        draws: Negatives of each position.
        logq: Whether draws are weighed by how often they are drawn: counted exactly, estimated in
            a `stream`, or not (`off`).
        mask_known: Whether a user's other positives are no negatives.
        symmetric: Whether users are told apart for each item as well; with `in-batch` only.
        full_limit: Most items for which `auto` compares with all.
        mine_every: Epochs between two minings.
        mine_size: Mined items kept for each user.
        mine_margin: How far below the positive, in cosine, a mined item must be.
        smoothing: Share of the target spread over all items; with `full` only.
        epochs: Passes over the events; the schedule is laid out over them.
        stop_after: Epochs after which to stop all the same; None for all. What `refit` sets.
        batch_size: Windows a step.
        stride: Events that a window foretells; smaller gives each a longer past. None: `history`.
        shift: Whether windows are cut elsewhere in each epoch.
        shuffle_ties: Whether a user's events of the same second come in another order in each
            epoch.
        cache_chunk: Windows encoded at once with gradient caching; None without.
        rate: Learning rate.
        factor: By how much each earlier block of the user tower learns more slowly; 1 for one rate.
            Projections and ids learn at `rate`.
        schedule: After the warm-up.
        warmup: Share of the steps that the rate rises.
        weight_decay: Decoupled, on matrices only.
        clip: Largest gradient norm.
        average: Decay of the running mean of the weights, which is what is kept; 0 for none.
        keep: The weights of the `best` epoch on validation, or of the `last`.
        metric: What is best: `HR@10`, `HR@100` or `MRR`.
        patience: Epochs without a better value before training stops; None trains on.
        judge_every: Epochs between two rankings of the validation task.
        held_out: Share of the newest events that are held out to watch the loss, where `best` is
            to be kept and no validation task is given.
        popularity: Strength s of the popularity calibration after training, cosine +
            temperature * s * log p with p an item's share of the training events (Menon et al.
            2021, Long-tail learning via logit adjustment, section 4); 0 for none, below it for
            rare items, or `auto`: the best on the validation task.
        content: What a cosine of pretrained contents counts beside a learned cosine, 0 for
            nothing, or `auto`: the best on the validation task, and 0 where none is given. It
            helps most with new items.
        new_items: What the scores of items that training has not seen are raised by, in cosines,
            or `auto`: step by step, as long as validation does as well as without content. More new
            items are shown, at the cost of others.
        new_by_history: What they are raised by beside it for a user whose last 5 items were all
            new, in cosines; for others by (new ones + 1) / 6 of it. Or `auto`: see `new_trust`.
        new_trust: What learned vectors of new items count, 1 as those of all others, or `auto`: of
            what is within a hundredth of the best on validation and finds no fewer new items, it
            takes with `new_by_history` what finds most.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    name: ClassVar[str] = "two-tower"
    title: ClassVar[str] = "Two towers"

    width: PositiveInt = 128
    layers: int = Field(2, ge=0)
    heads: PositiveInt = 2
    history: PositiveInt = 50
    dropout: float = Field(0.1, ge=0, lt=1)
    feature_dropout: float = Field(0.0, ge=0, lt=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    hidden: int = Field(0, ge=0)
    use_ids: bool = True
    use_text: bool = True
    use_images: bool = True
    use_profiles: bool = True
    profile_dropout: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(0.07, ge=0.01, le=1)
    learn_temperature: bool = False
    temperature_power: float = Field(0.0, ge=-1, le=1)
    negatives: Negatives = "auto"
    shares: Shares = Field(default_factory=lambda: {"in-batch": 0.5, "uniform": 0.5})
    draws: PositiveInt = 1024
    logq: Literal["exact", "stream", "off"] = "exact"
    mask_known: bool = True
    symmetric: bool = False
    full_limit: PositiveInt = 20_000
    mine_every: PositiveInt = 2
    mine_size: PositiveInt = 100
    mine_margin: float = Field(0.05, ge=0, le=2)
    smoothing: float = Field(0.0, ge=0, lt=1)
    epochs: PositiveInt = 20
    stop_after: PositiveInt | None = None
    batch_size: PositiveInt = 16
    stride: PositiveInt | None = None
    shift: bool = True
    shuffle_ties: bool = False
    cache_chunk: PositiveInt | None = None
    rate: PositiveFloat = 1e-3
    factor: float = Field(1.0, ge=1, le=100)
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip: PositiveFloat = 1.0
    average: float = Field(0.0, ge=0, lt=1)
    keep: Literal["best", "last"] = "best"
    metric: Literal["HR@10", "HR@100", "MRR"] = "HR@100"
    patience: PositiveInt | None = 5
    judge_every: PositiveInt = 2
    held_out: float = Field(0.05, gt=0, lt=1)
    popularity: float | Literal["auto"] = 0.0
    content: NonNegativeFloat | Literal["auto"] = "auto"
    new_items: NonNegativeFloat | Literal["auto"] = 0.0
    new_by_history: NonNegativeFloat | Literal["auto"] = "auto"
    new_trust: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> TwoTower:
        """Settings that contradict one another."""
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, got {self.width} and {self.heads}"
            )
        if self.stride is not None and self.stride > self.history:
            raise ValueError(f"stride must be at most history ({self.history}), got {self.stride}")
        if self.symmetric and self.negatives != "in-batch":
            raise ValueError("symmetric needs negatives=in-batch, where the users of a batch are")
        if self.smoothing and self.negatives not in ("auto", "full"):
            raise ValueError("smoothing needs negatives=full")
        if not self.content and (asked := self._counts.asked):
            raise ValueError(f"{asked[0]} needs content, by which new items are told apart")
        if self.stop_after is not None and self.stop_after > self.epochs:
            raise ValueError(f"stop_after must be at most epochs ({self.epochs})")
        wrong = [name for name in self.shares if name not in MIXABLE]
        if wrong:
            raise ValueError(f'shares names "{wrong[0]}".{nearest(wrong[0], MIXABLE)}')
        if not self.shares or min(self.shares.values()) <= 0:
            raise ValueError("shares must be above 0, such as in-batch=0.5, mined=0.5")
        return self

    def refit(self, history: History, stages: Sequence[Mapping[str, Any]] = ()) -> TwoTower:
        """These settings for a fit on more data, as long as an earlier one was at its best.

        Args:
            history: Of the fit whose best epoch was found on validation rows that the new fit
                trains on.
            stages: What its stages did, for tracks that have several.
        """
        best = history.best_epoch or len(history.epochs)
        return self.model_copy(update={"stop_after": max(1, int(best)), "keep": "last"})

    def fit(
        self,
        train: Events,
        run: Run,
        *,
        text_IE: np.ndarray | None = None,
        image_IE: np.ndarray | None = None,
        profile_UP: np.ndarray | None = None,
        validation: RankingTask | None = None,
        item_ids: Sequence[str] | None = None,
        tags: Sequence[Sequence[str]] | None = None,
        users: pl.DataFrame | None = None,
        texts: ItemTexts | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> TwoTowerModel:
        """Learn from the events up to the cut.

        Args:
            train: Events in time order.
            run: Where to log, the seed, and how long it may take. A fit that was killed goes on
                where its newest checkpoint stands.
            text_IE: Text vectors of all items, those without events too.
            image_IE: Image vectors of all items; zeros where there is no image.
            profile_UP: Attributes of all users as numbers; zeros stand for nobody known.
            validation: Queries of the time after `train`, to keep the best epoch by.
            item_ids: Names of the items; their codes when None.
            tags: Tags of all items, for negatives by tags.
            users: The users table with a row for each code, in place of `profile_UP`; how it is
                coded is learned from the users with learned events.
            texts: The items' texts and their encoder, for tracks that tune it.
            checkpoints: When to write them; every two minutes when None.

        Returns:
            The model, with the record of the fit in `facts`.

        Raises:
            UsageError: For settings or vectors that do not fit the events.
            DataError: For vectors that are not finite.
            NotApplicable: For negatives that these events do not have.
        """
        work = self._prepare(
            train, run, validation, text_IE=text_IE, image_IE=image_IE, profile_UP=profile_UP,
            users=users, texts=texts,
        )  # fmt: skip
        self._counts.check(
            self.title,
            vectors=work.catalogue.features_IF is not None,
            validation=validation is not None,
        )
        comparison = compare(self, train, work, run, tags)
        towers = Towers(
            work.shape, temperature=self.temperature, learn_temperature=self.learn_temperature,
            streams=run.streams.child("towers"), absent_P=_absent(work),
        )  # fmt: skip
        names = item_ids or [str(code) for code in range(train.n_items)]

        def model(made: Towers, popularity: float = 0.0) -> TwoTowerModel:
            return _model(made, work, names, popularity)

        kept = averaged(towers) if self.average else towers
        modules: dict[str, nn.Module] = {"towers": towers, **comparison.modules}
        if self.average:
            modules["average"] = kept
        trained = self._train(
            Fit(work, comparison, modules, run, validation, model, checkpoints or Checkpoints())
        )
        fixed = 0.0 if self.popularity == "auto" else float(self.popularity)
        wanted = self.content != 0.0 and (validation is not None or self.content != "auto")
        plain = model(kept, fixed)
        judge = None if validation is None else Judge(plain, validation, self.metric)
        made = choose_content(plain, content_part(work) if wanted else None, self._counts, judge)
        strength = self._popularity(lambda value: replace(made, popularity=value), judge)
        part = made.content
        facts = {
            "settings": self.model_dump(), "history": trained.history.model_dump(),
            "notes": [*comparison.notes, *_content_note(made)], "negatives": comparison.name,
            "stages": trained.stages, **_counted(part),
        }  # fmt: skip
        return replace(made, popularity=strength, facts=facts, text_weights=trained.text_weights)

    @property
    def _counts(self) -> ContentSettings:
        return ContentSettings(self.content, self.new_items, self.new_by_history, self.new_trust)

    def _prepare(
        self, train: Events, run: Run, validation: RankingTask | None, **given: Any
    ) -> Work:
        """What the fit works on; others add to it."""
        return prepare(self, train, run, watches_loss=validation is None, **given)

    def _train(self, fit: Fit) -> Trained:
        """Train the modules in place, in one stage; others have several."""
        return Trained(train_stage(self, fit, self._first_stage(fit)))

    def _first_stage(self, fit: Fit) -> Stage:
        """Both towers over the given vectors."""
        return Stage(
            self.name,
            training_step(fit.comparison.objective, fit.work.catalogue, chunk=self.cache_chunk),
            self._rates(fit.towers),
            epochs=self.stop_after or self.epochs, planned=self.epochs,
            patience=self.patience, judge_every=self.judge_every, averages=self.average > 0,
        )  # fmt: skip

    def _rates(self, towers: Towers) -> RateTable:
        """Who learns how fast: blocks of the user tower the slower the further from its end."""
        if self.factor == 1.0:
            groups = towers.parameter_groups()
            return rate_table(groups, self.rate, rates=dict.fromkeys(groups, self.rate))
        groups = towers.parameter_groups(blocks=True)
        inner = [name for name in groups if name.startswith(("users.stem", "users.block"))]
        rates = dict.fromkeys(groups, self.rate)
        rates |= discriminative_rates(inner, self.rate, self.factor)
        return rate_table(groups, self.rate, rates=rates)

    def _popularity(self, model: Callable[[float], TwoTowerModel], judge: Judge | None) -> float:
        """The strength of the calibration that was set, or that does best on validation."""
        if self.popularity != "auto":
            return float(self.popularity)
        if judge is None:
            raise UsageError(
                'popularity="auto" is chosen on a validation task, and none was given. Give one, '
                "or a number such as 0.1."
            )
        return best_popularity(model, judge)


def _model(towers: Towers, work: Work, item_ids: Sequence[str], popularity: float) -> TwoTowerModel:
    """The recommender that these towers make."""
    device = next(towers.parameters()).device
    towers.eval()
    here = work.catalogue.to(device)
    counts_I = here.counts_I.double()
    return TwoTowerModel(
        towers, item_table(towers, here), here.known_I, (counts_I / counts_I.sum()).float(),
        tuple(item_ids), work.text, work.image, popularity, here.profile_UP,
        profiles=work.profiles, teller=work.teller,
    )  # fmt: skip


def _content_note(model: TwoTowerModel) -> list[str]:
    """What content counts, as a sentence; nothing where it counts nothing."""
    part = model.content
    if part is None:
        return []
    told = [f"Pretrained vectors count {part.weight:.2g} times a learned cosine"]
    if part.trust != 1:
        told.append(f"what is learned of new items counts {part.trust:.2g}")
    if part.bonus:
        told.append(f"new items are raised by {part.bonus:.2g}")
    if part.by_history:
        told.append(f"new items are raised by up to {part.by_history:.2g} for who met new ones")
    return ["; ".join(told) + "."]


def _counted(part: ContentPart | None) -> dict[str, float]:
    """The settings of content as they came out; nothing changes new items without content."""
    if part is None:
        return ContentSettings(0.0)._asdict()
    return ContentSettings(part.weight, part.bonus, part.by_history, part.trust)._asdict()


def _absent(work: Work) -> torch.Tensor | None:
    """What stands for a user of whom nothing is known."""
    return None if work.profiles is None else torch.from_numpy(work.profiles.of())
