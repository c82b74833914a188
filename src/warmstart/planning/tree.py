"""The decision tree by label count: the prior that evidence is held against."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

from warmstart.core import Config
from warmstart.data import IN_MEMORY, Dataset

from .evidence import Measured, Missing
from .pricing import Price

__all__ = ["Distance", "Expected", "Plan", "Quadrant", "Reason", "plan_by_tree"]

Distance = Literal["near", "far", "unknown"]
FEW, PROBE, LARGE = 100, 1_000, 100_000


class Reason(Config):
    """One ground for the recommendation, with the number that it rests on.

    Attributes:
        text: A sentence.
        name: What was measured: `labels`.
        value: Its value.
    """

    text: str
    name: str
    value: float


class Expected(Config):
    """What one way of adapting is expected to be worth, beside the probe on the same rows.

    Attributes:
        strategy: Which.
        title: How sentences call it.
        gain: Expected difference of the metric to the probe's, as a share (0.05: five points).
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        prior: What the number of labels alone let expect.
        price: What a whole run would take; None where that was not measured.
        out: Why it cannot be chosen, or None.
    """

    strategy: str
    title: str
    gain: float
    low: float
    high: float
    prior: float
    price: Price | None = None
    out: str | None = None


class Quadrant(Config):
    """Where the data lies between few and many labels, a near and a far domain.

    Attributes:
        labels: Labelled training rows.
        distance: -1 for near, 1 for far, None where it is not known.
        name: Such as `many labels, near domain`.
        advice: What the textbook does there.
    """

    labels: int
    distance: float | None
    name: str
    advice: str


class Plan(Config):
    """What to do with this data.

    A plan by the tree alone holds the first seven; the others come with measuring.

    Attributes:
        strategy: Name of the recommended strategy.
        settings: Settings that differ from its defaults.
        rule: The rule of the tree that spoke.
        reasons: Why, each with its number.
        alternatives: Other strategies worth an arm, nearest first.
        warnings: What should be looked at before training.
        command: The command line that follows the plan.
        sentence: The recommendation with its numbers, in a sentence or two.
        tree: The strategy that the tree alone names.
        metric: What gains are differences of.
        expected: What each way is expected to be worth, best first.
        runner_up: The second choice.
        cost: What the recommended way would take.
        evidence: Everything that was measured.
        missing: What could not be measured, and why.
        quadrant: Where the data lies.
        seconds: What the measuring took.
        prior: Where the table of expectations comes from.
    """

    strategy: str
    settings: dict[str, object]
    rule: str
    reasons: tuple[Reason, ...]
    alternatives: tuple[str, ...]
    warnings: tuple[str, ...]
    command: str
    sentence: str = ""
    tree: str | None = None
    metric: str | None = None
    expected: tuple[Expected, ...] = ()
    runner_up: str | None = None
    cost: Price | None = None
    evidence: tuple[Measured, ...] = ()
    missing: tuple[Missing, ...] = ()
    quadrant: Quadrant | None = None
    seconds: float = 0.0
    prior: str = ""

    def expectation(self, strategy: str) -> Expected | None:
        """What one way is expected to be worth; None where nothing was measured."""
        return next((one for one in self.expected if one.strategy == strategy), None)


def plan_by_tree(
    dataset: Dataset,
    *,
    labels: int | None = None,
    names_speak: bool = True,
    distance: Distance = "unknown",
    budget_seconds: float | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """Recommend a strategy by the number of labels.

    Under 100 labels: zero-shot where the class names speak, else prototypes. 100 to 1,000: probe.
    1,000 to 100,000: fine-tuning. Above that the compute budget decides.

    Args:
        dataset: The training rows; what is held out is no ground for a plan.
        labels: Number of labelled training rows, where it is not the dataset's.
        names_speak: Whether the class names mean something.
        distance: How far the domain is from the pretraining data, where it is known.
        budget_seconds: Time for training, where it is limited.
        options: Command line options that `fit` needs to read the same rows.
    """
    count = int((dataset.labels_N >= 0).sum()) if labels is None else labels
    counts = sorted(dataset.class_counts.values())
    strategy, rule, text, alternatives = _speak(count, names_speak, distance, budget_seconds)
    reasons = [Reason(text=text, name="labels", value=count)]
    rarest = counts[0] if counts else 0
    reasons.append(
        Reason(
            text=f"The rarest of {len(counts)} classes has {rarest:,} training rows.",
            name="rarest_class",
            value=rarest,
        )
    )
    source = "DATA" if dataset.source == IN_MEMORY else dataset.source
    warnings = []
    if rarest < 8:
        warnings.append(
            f"A class with {rarest} training {'row' if rarest == 1 else 'rows'} cannot be judged: "
            "its test rows are too few."
        )
    if counts and rarest < 0.05 * sum(counts):
        warnings.append("Classes are unbalanced: macro F1 decides instead of accuracy.")
    return Plan(
        strategy=strategy,
        settings={},
        rule=rule,
        reasons=tuple(reasons),
        alternatives=alternatives,
        warnings=tuple(warnings),
        command=shlex.join(["warmstart", "fit", source, "--strategy", strategy, *options]),
    )


def _speak(  # noqa: PLR0911 - one return a branch of the tree
    count: int, names_speak: bool, distance: Distance, budget_seconds: float | None
) -> tuple[str, str, str, tuple[str, ...]]:
    """Strategy, rule, reason, alternatives."""
    if count < FEW:
        rule = "under 100 labels: zero-shot or few-shot"
        if names_speak:
            text = f"{count} labels are too few to train on, and the class names mean something."
            return "zero-shot", rule, text, ("prototypes", "probe")
        text = f"{count} labels are few, and the class names say nothing: compare with class means."
        return "prototypes", rule, text, ("probe",)
    if count < PROBE:
        text = f"{count:,} labels carry a convex head; more freedom tends to overfit."
        return "probe", "100 to 1,000 labels: probe", text, ("finetune", "prototypes")
    if count < LARGE:
        if distance == "far":
            rule = "1,000 to 100,000 labels, far domain: fine-tuning of every layer"
            text = f"{count:,} labels and a far domain: every layer has something to learn."
            return "finetune", rule, text, ("probe", "scratch")
        rule = "1,000 to 100,000 labels: fine-tuning"
        known = "" if distance == "near" else " The domain distance was not measured."
        text = f"{count:,} labels are enough to move the backbone's own weights.{known}"
        return "finetune", rule, text, ("probe",)
    rule = "above 100,000 labels: the compute budget decides"
    if budget_seconds is not None and budget_seconds < 3600:
        text = f"{count:,} labels would pay for fine-tuning, which does not fit in under an hour."
        return "probe", rule, text, ("finetune",)
    text = f"{count:,} labels pay for fine-tuning; training from scratch may come close."
    return "finetune", rule, text, ("scratch", "probe")
