"""The verdict in words: what was best, what is as good for less, what lost to its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from warmstart.core import Config
from warmstart.evaluation import METRICS, Paired

from .budget import as_budget

__all__ = ["ArmFacts", "Pair", "Verdict", "judge", "points"]


_WIDE = 0.1  # a loss that the interval leaves open and that nobody would call as good


class Pair(Config):
    """Arm a minus arm b on the test rows."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    significant: bool

    @property
    def turned(self) -> Pair:
        """The same pair as b minus a."""
        return self.model_copy(
            update={"a": self.b, "b": self.a, "difference": -self.difference,
                    "low": -self.high, "high": -self.low}
        )  # fmt: skip

    @classmethod
    def of(cls, a: str, b: str, paired: Paired) -> Pair:
        """From the paired comparison of the two."""
        return cls(
            a=a,
            b=b,
            difference=paired.difference,
            low=paired.low,
            high=paired.high,
            significant=paired.significant,
        )


class ArmFacts(Config):
    """What the verdict needs to know of an arm.

    Attributes:
        name: The arm.
        title: How sentences call it.
        role: `arm` or `control`.
        status: See `planning.arms.SeedResult`.
        validation: Primary metric on the validation rows, by which the model is chosen.
        test: Primary metric on the test rows.
        low: Lower bound of its interval.
        high: Upper bound.
        seconds: What the arm cost.
        from_scratch: Whether it is a control trained from random weights.
        seeds: Training seeds that the values are means of.
        kept_seed: The seed whose model is kept.
        kept_test: That model's own primary metric on the test rows.
        uses_backbone: Whether it starts from the backbone, or stands on its network's shape.
        learns: Whether it learns from labels.
    """

    name: str
    title: str
    role: str
    status: str
    validation: float
    test: float
    low: float | None
    high: float | None
    seconds: float
    from_scratch: bool
    seeds: int = 1
    kept_seed: int = 0
    kept_test: float = 0.0
    uses_backbone: bool = True
    learns: bool = True


class Verdict(Config):
    """The outcome.

    Attributes:
        best: The arm that is kept: best on validation among those that ended.
        cheapest_within: The cheapest arm that the best one does not beat significantly.
        negative_transfer: Arms significantly below training from scratch.
        below_control: Arms significantly below another control: `{"arm", "control"}`.
        sentences: The verdict in words.
        next: What to try next.
        why: Why one arm beat another, as far as the numbers tell.
        asked: The arm that a fit was asked for; None in a comparison.
    """

    best: str | None
    cheapest_within: str | None
    negative_transfer: tuple[str, ...]
    below_control: tuple[dict[str, str], ...]
    sentences: tuple[str, ...]
    next: tuple[str, ...]
    why: tuple[str, ...] = ()
    asked: str | None = None


def judge(
    arms: Sequence[ArmFacts],
    pairs: Sequence[Pair],
    *,
    metric: str,
    skipped: Mapping[str, str],
    asked: str | None = None,
    unreached: Sequence[str] = (),
    enough: float | None = None,
) -> Verdict:
    """Put the numbers into a verdict.

    An arm that the budget cut is not judged. One that it shortened may win, but is not called a
    loser: more time might have helped it.

    Args:
        arms: All arms with scores.
        pairs: Paired differences on the test rows, each pair once.
        metric: Name of the primary metric, where higher is better.
        skipped: Arms without scores and why.
        asked: The arm that a fit was asked for, which wins where validation sees no difference.
        unreached: Titles of arms that never ran, since the budget had ended.
        enough: Seconds in which all arms could run their full length, where that is known.
    """
    judged = [arm for arm in arms if arm.status in {"done", "shortened"}]
    if not judged:
        text = "No arm ended within the budget, so there is no verdict. Raise --budget."
        return Verdict(
            best=None, cheapest_within=None, negative_transfer=(), below_control=(),
            sentences=(text,), next=("Run again with a larger --budget or with --limit.",),
        )  # fmt: skip
    best = max(judged, key=lambda arm: (arm.validation, arm.name == asked, -arm.seconds))
    difference = {(p.a, p.b): p for p in pairs} | {(p.b, p.a): p.turned for p in pairs}
    tied = [
        arm
        for arm in judged
        if arm.name != best.name
        and arm.seconds < best.seconds
        and (best.name, arm.name) in difference
        and not (
            difference[best.name, arm.name].significant
            and difference[best.name, arm.name].difference > 0
        )
    ]
    cheapest = min(tied, key=lambda arm: arm.seconds, default=None)
    negative, below = _lost_to_controls(judged, difference)
    alone = {arm.name for arm in judged if not arm.uses_backbone}
    lost = {*negative, *(arm for arm, control in below if control in alone)}
    sentences = _sentences(best, cheapest, judged, difference, metric)
    sentences += _control_sentences(negative, below, judged, difference)
    cut = [*(arm.title for arm in arms if arm.status == "cut"), *unreached]
    if cut:
        sentences.append(f"Cut by the budget, so not judged: {', '.join(cut)}.")
    return Verdict(
        best=best.name,
        cheapest_within=cheapest.name if cheapest else None,
        negative_transfer=tuple(negative),
        below_control=tuple({"arm": a, "control": c} for a, c in below),
        sentences=tuple(sentences),
        next=tuple(_next(best, judged, cut, lost, skipped, enough)),
    )


def _lost_to_controls(
    judged: Sequence[ArmFacts], difference: Mapping[tuple[str, str], Pair]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Arms significantly below scratch, and pairs of arms and other controls that beat them.

    An arm that learns nothing transfers nothing: it is below a control there as elsewhere.
    """
    negative: list[str] = []
    below: list[tuple[str, str]] = []
    for arm in judged:
        if arm.role != "arm" or arm.status != "done":
            continue
        for control in judged:
            pair = difference.get((arm.name, control.name))
            if control.role != "control" or pair is None:
                continue
            if pair.significant and pair.difference < 0:
                if control.from_scratch and arm.learns:
                    negative.append(arm.name)
                else:
                    below.append((arm.name, control.name))
    return sorted(set(negative)), below


def points(value: float) -> str:
    """A share as hundredths, with one decimal."""
    return f"{round(100 * value, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _sentences(
    best: ArmFacts,
    cheapest: ArmFacts | None,
    judged: Sequence[ArmFacts],
    difference: Mapping[tuple[str, str], Pair],
    metric: str,
) -> list[str]:
    sentences = [_headline(best, len(judged), METRICS[metric].words)]
    if best.seeds > 1:
        sentences.append(
            f"These are means of {best.seeds} seeds. The kept model is that of seed "
            f"{best.kept_seed}, the best on validation: {points(best.kept_test)} % on the test "
            "rows."
        )
    top = max(judged, key=lambda arm: arm.test)
    if top.name != best.name and top.test > best.test:
        sentences.append(
            f"{top.title} scored higher on the test rows ({points(top.test)} %); the choice was "
            "made on validation, and stays so, since choosing on test rows would flatter."
        )
    if cheapest is not None:
        sentences.append(_cheaper(best, cheapest, difference[best.name, cheapest.name]))
    adapted = [arm for arm in judged if arm.role == "arm"]
    if best.role == "control" and adapted:
        sentences.append(
            f"The best arm is a control: no adaptation of the pretrained model beat {best.title} "
            "on the validation rows."
        )
    return sentences


def _headline(best: ArmFacts, judged: int, metric: str) -> str:
    interval = (
        f" (95 % interval {points(best.low)} to {points(best.high)})"
        if best.low is not None and best.high is not None
        else ""
    )
    reached = f"reaches {points(best.test)} % {metric} on the test rows{interval}."
    if judged == 1:
        return f"{best.title} {reached}"
    return (
        f"{best.title} is best on the validation rows and {reached} It is the model that is kept."
    )


def _cheaper(best: ArmFacts, cheapest: ArmFacts, pair: Pair) -> str:
    """What the cheaper arm costs in points and saves in time."""
    times = best.seconds / max(cheapest.seconds, 1e-9)
    saved = f" at 1/{times:.0f} of the time" if times >= 1.5 else ""
    shown = f"{points(pair.low)} to {points(pair.high)}"
    if pair.significant:
        return (
            f"{cheapest.title} is significantly better on the test rows{saved} (difference "
            f"{points(-pair.difference)} points, {points(-pair.high)} to {points(-pair.low)})."
        )
    if pair.high > _WIDE and pair.difference > 0:
        return (
            f"{cheapest.title}{saved} is {points(pair.difference)} points lower, but so few test "
            f"rows cannot tell them apart ({shown})."
        )
    return (
        f"{cheapest.title} is not significantly worse{saved} (difference "
        f"{points(pair.difference)} points, {shown})."
    )


def _control_sentences(
    negative: Sequence[str],
    below: Sequence[tuple[str, str]],
    judged: Sequence[ArmFacts],
    difference: Mapping[tuple[str, str], Pair],
) -> list[str]:
    titles = {arm.name: arm.title for arm in judged}

    def lead(name: str, control: str) -> str:
        pair = difference[name, control]
        return f"{points(-pair.difference)} points ({points(-pair.high)} to {points(-pair.low)})"

    scratches = [arm.name for arm in judged if arm.from_scratch]
    sentences = []
    for name in negative:
        best = min((s for s in scratches if (name, s) in difference),
                   key=lambda s: difference[name, s].difference)  # fmt: skip
        sentences.append(
            f"Negative transfer: {titles[name]} is below training from scratch, by "
            f"{lead(name, best)}."
        )
    return sentences + [
        f"{titles[name]} is below a control: {titles[control]} beats it by {lead(name, control)}."
        for name, control in below
    ]


def _some(names: Sequence[str], most: int = 4) -> str:
    """A list for a sentence; a long one is cut, and its length told."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more arms"


def _next(
    best: ArmFacts,
    judged: Sequence[ArmFacts],
    cut: Sequence[str],
    lost: Set[str],
    skipped: Mapping[str, str],
    enough: float | None,
) -> list[str]:
    """What to try next, most promising first."""
    steps = []
    short = [arm.title for arm in judged if arm.status == "shortened"]
    if cut or short:
        until = f" {as_budget(enough)} is enough for all" if enough else ""
        steps.append(
            f"Give more time (--budget{until}): the budget limited {_some([*cut, *short])}."
        )
    if lost and all(arm.name in lost for arm in judged if arm.role == "arm"):
        steps.append("Try another backbone: this one's features hinder more than they help here.")
    if best.high is not None and best.low is not None and best.high - best.low > 0.1:
        steps.append("Add test rows: the interval is wider than 10 points.")
    present = {arm.name for arm in judged}
    if best.name == "probe" and "probe:depth=auto" not in present:
        steps.append("Try earlier layers: --strategies probe,probe:depth=auto.")
    if "zero-shot" in skipped:
        steps.append(f"Zero-shot was left out: {skipped['zero-shot']}.")
    return steps
