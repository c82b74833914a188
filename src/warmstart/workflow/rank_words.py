"""A ranking of backbones in words: who comes first, how sure that is, what size alone would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.evaluation import METRICS

__all__ = ["rank_sentences"]

_MASKED = "mask"


def rank_sentences(results: Mapping[str, Any]) -> list[str]:
    """What a ranking comes to.

    Args:
        results: The JSON of a ranking, its backbones in order.
    """
    ranked = results["backbones"]
    found = [_first(results)]
    if len(ranked) > 1:
        found += [_sure(results), _size(results)]
    found += _masked(ranked)
    found += _source_classes(ranked)
    found += [f"{one['name']} is left out: {one['reason']}" for one in results["failed"]]
    return found


def _first(results: Mapping[str, Any]) -> str:
    ranked, by, used = results["backbones"], results["by"], results["data"]["used"]
    score = ranked[0]["scores"][by]
    value = f"{_value(results, score['value'])} ({_range(results, score['low'], score['high'])})"
    how = f"{_title(results)} {value} on {used:,} training rows"
    if results["scores"][by]["predicts"]:
        how += f", {results['folds']}-fold cross-validated"
    if len(ranked) == 1:
        return f"{ranked[0]['label']}: {how}. One backbone has no order; name several to rank them."
    return f"{ranked[0]['label']} comes first of {len(ranked)}: {how}."


def _sure(results: Mapping[str, Any]) -> str:
    """Who cannot be told apart from the first, and how far the next lies below."""
    ranked = results["backbones"]
    near = [one for one in ranked[1:] if not one["gap"]["sure"]]
    share = f"{ranked[0]['first_share']:.0%}".replace("%", " %")
    if near:
        names = "; ".join(f"{one['label']}, {_difference(results, one['gap'])}" for one in near[:5])
        more = f" and {len(near) - 5} more" if len(near) > 5 else ""
        return (
            f"Not told apart from it by these rows: {names}{more}. It comes first in {share} of "
            "the resamples; choose among these by size, speed and licence, or give more rows."
        )
    following = ranked[1]
    return (
        f"These rows tell it apart from every other one; the next, {following['label']}, lies "
        f"{_difference(results, following['gap'])} from it. It comes first in {share} of the "
        "resamples."
    )


def _size(results: Mapping[str, Any]) -> str:
    """The plain list by size beside the order."""
    ranked, largest = results["backbones"], results["size_order"][0]
    agreement = next(
        (
            one
            for one in results["agreement"]
            if one["first"] == results["by"] and one["second"] == "size"
        ),
        None,
    )
    if len({one["parameters"] for one in ranked}) == 1:
        return "All have the same number of parameters, so a list by size says nothing."
    same = "also begins with it" if largest == ranked[0]["label"] else f"begins with {largest}"
    words = f"A list by size alone {same}"
    if agreement is None:
        return f"{words}."
    shown = [f"{agreement[key]:.2f}".replace("-", "−") for key in ("tau", "low", "high")]
    tau = f"{shown[0]} ({shown[1]} to {shown[2]} over resamples)"
    return f"{words}; Kendall's tau of the two orders is {tau}."


def _masked(ranked: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [
        one["label"] for one in ranked if _MASKED in str(one["card"].get("objective") or "").lower()
    ]
    if not names:
        return []
    return [
        f"Pretrained by masking: {', '.join(names)}. Such networks tune better than their "
        "untouched vectors tell; `warmstart compare` with finetune shows it."
    ]


def _source_classes(ranked: Sequence[Mapping[str, Any]]) -> list[str]:
    without = [one for one in ranked if one["source_classes"] is None]
    if not without:
        return []
    if len({one["source_reason"] for one in without}) == 1:
        told = f"{', '.join(one['label'] for one in without)}: {without[0]['source_reason']}"
    else:
        told = "; ".join(f"{one['label']}: {one['source_reason']}" for one in without)
    return [f"LEEP and NCE need source classes. {told}."]


def _title(results: Mapping[str, Any]) -> str:
    by = results["by"]
    title = str(results["scores"][by]["title"])
    if not results["scores"][by]["predicts"]:
        return title
    return f"{title} {METRICS[results['metric']].words}"


def _percent(results: Mapping[str, Any]) -> bool:
    predicts = results["scores"][results["by"]]["predicts"]
    return bool(predicts and METRICS[results["metric"]].percent)


def _value(results: Mapping[str, Any], value: float) -> str:
    return f"{100 * value:.1f} %" if _percent(results) else _plain(value)


def _range(results: Mapping[str, Any], low: float, high: float) -> str:
    if _percent(results):
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{_plain(low)} to {_plain(high)}"


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _difference(results: Mapping[str, Any], gap: Mapping[str, float]) -> str:
    if _percent(results):
        values = [f"{100 * gap[key]:+.1f}" for key in ("difference", "low", "high")]
        unit = " points"
    else:
        values, unit = [f"{gap[key]:+.3f}" for key in ("difference", "low", "high")], ""
    shown = [value.replace("-", "−") for value in values]
    return f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"
