"""How far the word distributions of two sets of texts lie apart, and which words move most.

The Jensen-Shannon divergence of the two distributions of words, in bits: 0 where every word has the
same share on both sides, 1 where no word stands on both. A word w with the shares p and q adds

    ½ [p log2(p / r) + q log2(q / r)],   r = (p + q) / 2,

never less than 0, so that words can be put in the order of what they add.
Source: Lin, Divergence Measures Based on the Shannon Entropy, 1991.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.sparse import csr_matrix

from warmstart.core import Config, DataError, Streams
from warmstart.models.tfidf import new_vectorizer

from .distance_halves import deal, halves_of, spread_interval
from .distance_inputs import Estimate, Floats, at_least

__all__ = ["MovedWord", "WordDivergence", "word_divergence", "words_of"]

_GROUPS, _HALVES = 20, 100
# Scripts that are written without spaces: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"


class MovedWord(Config):
    """A word and its share of all words on either side.

    Attributes:
        word: In lower case.
        source: Its share among the words of the source.
        target: Its share among the words of the target.
        adds: What it adds to the divergence, in bits.
    """

    word: str
    source: float
    target: float
    adds: float


class WordDivergence(Estimate):
    """Jensen-Shannon divergence of word distributions, in bits.

    Attributes:
        moved: The words that add most.
        vocabulary: Different words on either side together.
        words: Words in all, of source and target.
    """

    moved: tuple[MovedWord, ...]
    vocabulary: int
    words: tuple[int, int]


@cache
def _pattern() -> re.Pattern[str]:
    spaced = new_vectorizer().token_pattern
    return re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])(?:{spaced}))")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits and marks of any script.

    Scripts without spaces between words give single letters.
    """
    return _pattern().findall(text.lower())


def word_divergence(
    source: Sequence[str],
    target: Sequence[str],
    *,
    top: int = 20,
    halves: int = 0,
    seed: int = 0,
) -> WordDivergence:
    """Compare the words of two sets of texts.

    Args:
        source: Texts of the source, at least 2.
        target: Texts of the target, at least 2.
        top: How many moved words are named.
        halves: Random halvings of the source for the yardstick; 0 for none.
        seed: Of the halves.

    Raises:
        DataError: Where a side has fewer than two texts, or no word at all.
    """
    at_least("word_divergence", "top", top, 0, "10 to 50")
    at_least("word_divergence", "halves", halves, 0, "20")
    streams = Streams(seed).child("shift", "words")
    place: dict[str, int] = {}
    sides = [
        _by_group(texts, name, place, streams.numpy(name))
        for name, texts in (("source", source), ("target", target))
    ]
    counts = [_wide(one, len(place)) for one in sides]
    whole = [one.sum(axis=0) for one in counts]
    for name, one in zip(("source", "target"), whole, strict=True):
        if one.sum() == 0:
            raise DataError(f"word_divergence: no text of the {name} holds a word.")
    adds_V = _adds(whole[0], whole[1])
    value = float(adds_V.sum())
    interval, method = None, "fewer than 4 texts on a side: no interval"
    rows = (len(source), len(target))
    if min(rows) >= 4:
        generator = streams.numpy("halves")
        takes = [halves_of(len(one), _HALVES, generator) for one in counts]
        values_R = _values(counts[0], takes[0], counts[1], takes[1])
        groups = min(len(one) for one in counts)
        interval = spread_interval(value, values_R, groups, ceiling=1.0)
        method = f"half-sampling over {groups} groups of texts"
    yardstick = None
    if halves and rows[0] >= 4:
        take_RG = halves_of(len(counts[0]), halves, streams.numpy("yardstick"))
        yardstick = float(_values(counts[0], take_RG, counts[0], 1 - take_RG).max())
    names = list(place)
    share = [one / one.sum() for one in whole]
    first = sorted(range(len(names)), key=lambda v: (-adds_V[v], names[v]))[:top]
    moved = tuple(
        MovedWord(
            word=names[v], source=float(share[0][v]), target=float(share[1][v]),
            adds=float(adds_V[v]),
        )
        for v in first
    )  # fmt: skip
    return WordDivergence(
        name="word_divergence", value=value, interval=interval, method=method, rows=rows,
        halves=yardstick, moved=moved, vocabulary=len(names),
        words=(int(whole[0].sum()), int(whole[1].sum())),
    )  # fmt: skip


def _by_group(
    texts: Sequence[str], name: str, place: dict[str, int], generator: np.random.Generator
) -> csr_matrix:
    """Word counts (G, V) of random groups of texts; new words get a place."""
    if len(texts) < 2:
        raise DataError(
            f"word_divergence: the {name} must have at least 2 texts, got {len(texts)}."
        )
    group_N = deal(len(texts), min(_GROUPS, len(texts)), generator)
    counters: list[Counter[str]] = [Counter() for _ in range(int(group_N.max()) + 1)]
    for text, group in zip(texts, group_N.tolist(), strict=True):
        counters[group].update(words_of(text))
    at, columns, values = [], [], []
    for group, counter in enumerate(counters):
        for word, count in counter.items():
            at.append(group)
            columns.append(place.setdefault(word, len(place)))
            values.append(float(count))
    return csr_matrix((values, (at, columns)), shape=(len(counters), len(place)))


def _wide(counts_GV: csr_matrix, words: int) -> Floats:
    """The counts as a full array, with a column for words of the other side too."""
    found = np.zeros((counts_GV.shape[0], words))
    found[:, : counts_GV.shape[1]] = counts_GV.toarray()
    return found


def _adds(source_V: Floats, target_V: Floats) -> Floats:
    """What each word adds to the divergence, in bits; counts or shares."""
    shares = [source_V / source_V.sum(), target_V / target_V.sum()]
    middle_V = (shares[0] + shares[1]) / 2
    parts = [
        np.where(one_V > 0, one_V * np.log2(np.where(one_V > 0, one_V, 1.0) / middle_V), 0.0)
        for one_V in shares
    ]
    return np.asarray((parts[0] + parts[1]) / 2)


def _values(source_GV: Floats, take_RG: Floats, target_GV: Floats, other_RG: Floats) -> Floats:
    """The divergence of unions of groups; 0 where one has no word."""
    found = np.zeros(len(take_RG))
    for r, (ours_G, theirs_G) in enumerate(zip(take_RG, other_RG, strict=True)):
        ours_V, theirs_V = ours_G @ source_GV, theirs_G @ target_GV
        both_V = ours_V + theirs_V > 0
        if ours_V.any() and theirs_V.any():
            found[r] = _adds(ours_V[both_V], theirs_V[both_V]).sum()
    return found
