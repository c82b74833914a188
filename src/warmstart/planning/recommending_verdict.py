"""What a contest of recommenders leads to, in words."""

from __future__ import annotations

from warmstart.evaluation import RankedPair, compare_recommenders

from .recommending_task import Contest, ContestTask, Entry
from .verdict import Verdict, points

__all__ = ["judge_contest", "metric_in_words"]


def judge_contest(contest: Contest, task: ContestTask) -> Verdict:
    """Put the numbers into a verdict.

    Args:
        contest: The outcome.
        task: What was asked.
    """
    best = contest.best
    if best is None:
        why = [f"{one.contender.title}: {one.reason}." for one in contest.entries if one.reason]
        return Verdict(
            best=None, cheapest_within=None, negative_transfer=(), below_control=(),
            sentences=("No arm has scores, so there is no verdict.", *why),
            next=("Run again with a larger --budget, or name other arms.",),
        )  # fmt: skip
    lifts = {a: pair for a, _, pair in contest.lifts}
    sentences = [_headline(best, task), *_against(contest, task, lifts)]
    sentences += _cold(contest)
    below = tuple({"arm": a, "control": b} for a, b, pair in contest.lifts if pair.winner == "b")
    negative = _below_scratch(contest, task)
    titles = {one.name: one.contender.title for one in contest.entries}
    for name in negative:
        sentences.append(f"Negative transfer: {titles[name]} is significantly below ids alone.")
    cut = [entry.contender.title for entry in contest.entries if entry.status == "cut"]
    short = [entry.contender.title for entry in contest.entries if entry.status == "shortened"]
    if short:
        sentences.append(f"Shortened by the budget: {', '.join(short)}.")
    if cut:
        sentences.append(f"Cut by the budget, so not judged: {', '.join(cut)}.")
    if task.split.random:
        sentences.append(
            "The split is random, so training saw what came after the events that it is judged by: "
            "these figures say nothing about the future."
        )
    return Verdict(
        best=best.name, cheapest_within=None, negative_transfer=negative, below_control=below,
        sentences=tuple(sentences), next=tuple(_next(contest, [*cut, *short], lifts)),
    )  # fmt: skip


def _headline(best: Entry, task: ContestTask) -> str:
    scores = best.scores["next_item"]
    score = scores.metrics[task.primary]
    seeds = f", the mean of {scores.seeds} seeds," if scores.seeds > 1 else ""
    within = ""
    if score.low is not None and score.high is not None:
        low, high = (metric_in_words(task.primary, value) for value in (score.low, score.high))
        within = f" (95 % interval {low} to {high})"
    return (
        f"{best.contender.title} is best on the validation events and reaches {task.primary} "
        f"{metric_in_words(task.primary, score.value)} on the test questions{seeds}{within}."
    )


def metric_in_words(metric: str, value: float) -> str:
    """A ranking metric in a sentence: shares in per cent, MRR as it is."""
    return f"{value:.3f}" if metric == "MRR" else f"{points(value)} %"


def _bare(metric: str, value: float) -> str:
    """A difference of two values as a number."""
    return f"{value:.3f}" if metric == "MRR" else points(value)


def _gap(metric: str, value: float) -> str:
    """A difference of two values in words."""
    return f"{_bare(metric, value)} {'of' if metric == 'MRR' else 'points of'} {metric}"


def _against(contest: Contest, task: ContestTask, lifts: dict[str, RankedPair]) -> list[str]:
    """The kept model beside the best tuned baseline."""
    kept, baseline = contest.kept, contest.baseline
    if baseline is None:
        return ["No baseline was run, so there is nothing to say of what the model is worth."]
    if kept is None or kept.name not in lifts:
        return []
    pair = lifts[kept.name]
    if pair.winner == "b":
        pair = pair.model_copy(
            update={"difference": -pair.difference, "low": -pair.high, "high": -pair.low}
        )
    shown = (
        f"{_gap(task.primary, pair.difference)} ({_bare(task.primary, pair.low)} to "
        f"{_bare(task.primary, pair.high)})"
    )
    who, other = kept.contender.title, baseline.contender.title
    if lifts[kept.name].winner == "a":
        return [f"{who} beats {other}, the best baseline, by {shown}, clearly."]
    if lifts[kept.name].winner == "b":
        return [
            f"{who} is below {other}, the best baseline, by {shown}. The baseline is the better "
            "choice for items that it knows."
        ]
    return [f"{who} cannot be told apart from {other}, the best baseline: {shown}."]


def _cold(contest: Contest) -> list[str]:
    """What becomes of items that training has never seen."""
    kept, baseline = contest.kept, contest.baseline
    if kept is None:
        return []

    def rate(entry: Entry) -> tuple[float, int] | None:
        scores = entry.scores["next_item"]
        found = scores.slices.get("item", {}).get("cold", {}).get(scores.primary)
        return None if found is None else (found.value, found.n)

    scores_of = kept.scores["next_item"].primary
    ours = rate(kept)
    if ours is None:
        return []
    text = (
        f"Of {ours[1]:,} questions whose answer is an item that training never saw, "
        f"{kept.contender.title} reaches {metric_in_words(scores_of, ours[0])}"
    )
    theirs = None if baseline is None else rate(baseline)
    if theirs is not None and baseline is not None:
        text += f", {baseline.contender.title} {metric_in_words(scores_of, theirs[0])}"
    return [f"{text}.", *_cold_lift(contest, kept)]


def _cold_lift(contest: Contest, kept: Entry) -> list[str]:
    """The track that reads texts beside the best that ranks by content or popularity alone."""
    readers = {a for a, _, _ in contest.cold_lifts}
    by_name = {entry.name: entry for entry in contest.entries}
    if not readers:
        return []
    metric = contest.cold_lifts[0][2].metric
    track = kept
    if kept.name not in readers:
        track = max((by_name[a] for a in readers), key=lambda one: one.validation[metric])
    other, pair = min(
        ((by_name[b], pair) for a, b, pair in contest.cold_lifts if a == track.name),
        key=lambda row: row[1].difference,
    )
    told = {"a": "clearly above", "b": "clearly below", None: "not to be told apart from"}
    return [
        f"There {track.contender.title} is {told[pair.winner]} {other.contender.title}, the best "
        f"of those that rank by content or popularity alone: a difference of "
        f"{_gap(metric, pair.difference)} ({_bare(metric, pair.low)} to "
        f"{_bare(metric, pair.high)})."
    ]


def _below_scratch(contest: Contest, task: ContestTask) -> tuple[str, ...]:
    """Arms with pretrained text that are significantly below ids alone."""
    scratch = next(
        (one for one in contest.entries if one.judged and one.name.split(":")[0] == "scratch"), None
    )
    if scratch is None:
        return ()
    found = []
    for entry in contest.entries:
        same = entry.name.split(":")[0] in ("scratch", "zero-shot")
        if not entry.judged or entry.contender.role != "arm" or same:
            continue
        pair = compare_recommenders(
            entry.ranks["next_item"], scratch.ranks["next_item"], task.next_item, task.primary
        )
        if pair.winner == "b":
            found.append(entry.name)
    return tuple(found)


def _next(contest: Contest, cut: list[str], lifts: dict[str, RankedPair]) -> list[str]:
    steps = []
    if cut:
        steps.append(f"Give more time (--budget): the budget limited {', '.join(cut)}.")
    kept = contest.kept
    if kept is None:
        steps.append("Train a model that can be served: --strategies two-tower.")
        return steps
    if kept.name in lifts and lifts[kept.name].winner != "a":
        steps.append("Before serving the model, see whether the baseline does: it costs less.")
    if any(one == kept.name and pair.winner == "b" for one, _, pair in contest.cold_lifts):
        name = kept.name.split(":")[0]
        steps.append(
            f"Where new items matter more than the others: {name}:new_items=auto, or a number such "
            "as new_items=0.07."
        )
    steps.append("Index its items with warmstart index, then answer with warmstart serve.")
    return steps
