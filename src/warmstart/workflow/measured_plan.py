"""A plan by measuring; the evidence is kept beside the feature cache, so that `fit` follows it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from warmstart._version import __version__
from warmstart.backbones import Backbone, FeatureCache
from warmstart.core import (
    BackboneError,
    Config,
    NotApplicable,
    OutOfMemory,
    RunError,
    fingerprint,
    progress,
    read_json,
    write_json,
)
from warmstart.data import Dataset, Split
from warmstart.planning import (
    Distance,
    Limits,
    Missing,
    Plan,
    Prior,
    Survey,
    advise,
    bound_by_limits,
    survey,
)

__all__ = ["Looking", "measured_plan"]

_SIDES: dict[str, float | None] = {"near": -1.0, "far": 1.0, "unknown": None}


@dataclass(frozen=True)
class Looking:
    """What is measured, how, and for whom.

    Attributes:
        dataset: All rows; only training and validation rows are looked at.
        split: Their parts.
        backbone: What would be adapted.
        metric: What decides.
        distance: What is known of the domain.
        limits: What must be kept to.
        prior: The table; None for the package's.
        reference: Vectors of the pretraining domain.
        device: Where to compute.
        seed: Of short trainings and draws.
        within: Seconds that measuring may take.
        options: Options for the command that follows the plan.
    """

    dataset: Dataset
    split: Split
    backbone: Backbone
    metric: str
    distance: Distance = "unknown"
    limits: Limits = field(default_factory=Limits)
    prior: Prior | None = None
    reference: Path | None = None
    device: str = "auto"
    seed: int = 0
    within: float = 120.0
    options: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where the evidence is kept: a function of all that `plan` and `fit` are both told.

        What `plan` alone is told (distance, reference, prior) is kept with the evidence, and the
        last plan for the same rows counts.
        """
        backbone = self.backbone
        key = fingerprint(
            "evidence", __version__, self.dataset.fingerprint, self.split.fingerprint,
            backbone.fingerprint, backbone.image_size, backbone.max_length, backbone.pooling,
            self.metric, self.device, self.seed,
        )  # fmt: skip
        cache = backbone.cache or FeatureCache()
        return cache.root / "plans" / f"{key}.json"

    def as_planned(self) -> Looking:
        """The same with the distance and the table that the last plan for these rows was told."""
        kept = _kept(self.path)
        return self if kept is None else replace(self, distance=kept.distance, prior=kept.prior)


class _Kept(Config):
    """What a plan leaves for `fit`.

    Attributes:
        survey: What was measured, the distance to a reference among it.
        distance: What the plan was told of the domain.
        prior: The table that it was given; None for the package's.
    """

    survey: Survey
    distance: Distance
    prior: Prior | None


def measured_plan(tree: Plan, looking: Looking, *, anew: bool) -> Plan:
    """Measure and advise; or advise by the evidence that was kept.

    Where nothing can be measured, the tree's plan is given with the reason, as far as limits allow.

    Args:
        tree: What the tree alone says.
        looking: What is measured, and how.
        anew: Whether to measure although evidence was kept.
    """
    kept = None if anew else _kept(looking.path)
    if kept is not None:
        found = kept.survey
        progress.note("The plan rests on what was measured before for these rows.")
    else:
        try:
            found = _look(looking)
        except (NotApplicable, BackboneError, OutOfMemory) as error:
            looking.path.unlink(missing_ok=True)  # no plan of before is the last one
            progress.note(f"The tree alone decides, since nothing could be measured: {error}")
            reason = Missing(name="everything", text=f"Nothing could be measured: {error}")
            bound = bound_by_limits(
                tree, looking.limits, looking.backbone.card, looking.dataset.modality,
                looking.options,
            )  # fmt: skip
            return bound.model_copy(update={"missing": (reason,), "tree": tree.strategy})
        _keep(found, looking)
    planned = advise(
        tree, found, card=looking.backbone.card, modality=looking.dataset.modality,
        limits=looking.limits, prior=looking.prior, options=looking.options,
    )  # fmt: skip
    if not anew:  # a fit goes on with it; `plan` shows it whole
        progress.note(planned.sentence)
    return planned


def _look(looking: Looking) -> Survey:
    view = looking.split.view(looking.dataset)
    with tempfile.TemporaryDirectory(prefix="warmstart-plan-") as folder:
        return survey(
            looking.backbone, view, metric=looking.metric, folder=Path(folder),
            within=looking.within, device=looking.device, seed=looking.seed,
            distance=_SIDES[looking.distance], reference=looking.reference,
        )  # fmt: skip


def _kept(path: Path) -> _Kept | None:
    """The evidence in a file; None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        return _Kept.model_validate(read_json(path))
    except (RunError, ValidationError):
        return None


def _keep(found: Survey, looking: Looking) -> None:
    """Write the evidence; a cache that cannot be written to keeps none, and that is no error."""
    kept = _Kept(survey=found, distance=looking.distance, prior=looking.prior)
    path = looking.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept.model_dump(mode="json"))
    except OSError as error:
        progress.note(f"What was measured is not kept for `fit`: {error.strerror or error}.")
