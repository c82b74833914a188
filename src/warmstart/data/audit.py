"""What is wrong or remarkable with the data, found before any training, in plain sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.core.errors import UsageError
from warmstart.data.dataset import Dataset
from warmstart.data.findings import Audit, Finding, Severity
from warmstart.data.near import CAP, NearPair, near_duplicates
from warmstart.data.rejects import summary
from warmstart.data.splits import Split

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["audit"]

RARE_SHARE = 0.05
SHORT_TEXT = 3
LONG_TEXT_WORDS = 380
SMALL_IMAGE = 32
_SHOWN = 5


def audit(
    dataset: Dataset,
    split: Split | None = None,
    *,
    group: str | None = None,
    vectors_ND: npt.NDArray[np.floating[Any]] | None = None,
    near: float = 0.97,
) -> Audit:
    """Look through the data.

    Args:
        dataset: Rows as read.
        split: The division to check for leaks; without it a division that the data gives.
        group: Column whose values should not stand in two parts.
        vectors_ND: One embedding a row, in row order, to find near duplicates.
        near: Cosine similarity from which two rows count as near duplicates, in (0, 1].

    Raises:
        UsageError: When `near` or the vectors do not fit.
        DataError: When the group column is missing.
    """
    parts: list[str | None] = (
        split.parts_of(dataset) if split is not None else list(dataset.parts or [])
    ) or [None] * len(dataset)
    known = [i for i, part in enumerate(parts) if part != "test"]
    findings = [
        *_size(dataset, parts),
        *_skipped(dataset),
        *_classes(dataset, known),
        *_names(dataset),
        *_duplicates(dataset, parts, split),
        *_conflicts(dataset, known),
    ]
    group = group or (split.group if split is not None else None)
    if group is not None:
        findings += _groups(dataset, parts, group)
    if vectors_ND is not None:
        findings += _near(dataset, parts, np.asarray(vectors_ND), near)
    findings += _texts(dataset) if dataset.modality == "text" else _images(dataset)
    counts = Counter(dataset.labels_N[known].tolist()) if known else Counter[int]()
    return Audit(
        rows=len(dataset),
        classes={name: counts.get(i, 0) for i, name in enumerate(dataset.label_names)},
        parts=dict(Counter(part for part in parts if part is not None)),
        findings=tuple(findings),
    )


# --- size and classes ----------------------------------------------------------------------------


def _size(dataset: Dataset, parts: Sequence[str | None]) -> list[Finding]:
    counts = Counter(part for part in parts if part is not None)
    said = ", ".join(f"{counts[p]:,} {p}" for p in ("train", "validation", "test") if counts[p])
    kind = "texts" if dataset.modality == "text" else "images"
    message = f"{len(dataset):,} {kind} in {len(dataset.label_names)} classes" + (
        f" ({said})." if said else "."
    )
    return [Finding(severity="fact", code="size", message=message, count=len(dataset))]


def _skipped(dataset: Dataset) -> list[Finding]:
    if not dataset.skipped:
        return []
    places = tuple(f"{s.file}:{s.row}" if s.row else s.file for s in dataset.skipped[:_SHOWN])
    return [
        Finding(
            severity="warning",
            code="skipped",
            message=summary(dataset.skipped),
            count=len(dataset.skipped),
            examples=places,
        )
    ]


def _classes(dataset: Dataset, known: Sequence[int]) -> list[Finding]:
    names = dataset.label_names
    labels = [i for i in dataset.labels_N[list(known)].tolist() if i >= 0]
    what = "Rows" if len(known) == len(dataset) else "Training and validation rows"
    if not names or not labels:
        return []
    counts = Counter(labels)
    by_size = sorted(range(len(names)), key=lambda c: (-counts.get(c, 0), c))
    whole = len(names) <= _SHOWN + 1
    told = [f"{names[c]} {counts.get(c, 0):,}" for c in by_size]
    shown = ", ".join(told) if whole else f"{', '.join(told[:_SHOWN])}, ... {told[-1]}"
    findings = [
        Finding(
            severity="fact",
            code="classes",
            message=f"{what} of each class: {shown}.",
            count=len(names),
        )
    ]
    absent = [names[c] for c in range(len(names)) if not counts.get(c)]
    single = [names[c] for c in range(len(names)) if counts.get(c) == 1]
    if absent:
        findings.append(
            _listing("problem", "unlearnable", "Classes without a training row", absent)
        )
    if single:
        findings.append(_listing("warning", "single", "Classes with one example", single))
    rarest = by_size[-1]
    share = counts.get(rarest, 0) / len(labels)
    if share < RARE_SHARE:
        findings.append(
            Finding(
                severity="fact",
                code="rare",
                message=f"The rarest class, {names[rarest]}, has {share:.1%} of the rows: accuracy "
                "says little about it, macro F1 more.",
                count=counts.get(rarest, 0),
            )
        )
    return findings


def _listing(severity: Severity, code: str, what: str, names: Sequence[str]) -> Finding:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return Finding(
        severity=severity,
        code=code,
        message=f"{what}: {', '.join(names[:_SHOWN])}{more}.",
        count=len(names),
        examples=tuple(names[:_SHOWN]),
    )


def _names(dataset: Dataset) -> list[Finding]:
    """Class names that differ in case alone are mostly one class."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for name in dataset.label_names:
        spelt[name.casefold()].append(name)
    alike = [" / ".join(names) for names in spelt.values() if len(names) > 1]
    if not alike:
        return []
    return [_listing("warning", "spelling", "Class names that differ in case only", alike)]


# --- duplicates and leaks ------------------------------------------------------------------------


def _duplicates(
    dataset: Dataset, parts: Sequence[str | None], split: Split | None
) -> list[Finding]:
    findings = []
    places: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(dataset.contents):
        places[content].append(i)
    sets = [rows for rows in places.values() if len(rows) > 1]
    ids = dataset.ids
    if sets:
        extra = sum(len(rows) - 1 for rows in sets)
        findings.append(
            Finding(
                severity="fact",
                code="duplicates",
                message=f"Exact repeats of another row: {extra:,} "
                f"(contents that stand more than once: {len(sets):,}).",
                count=extra,
                examples=tuple(" = ".join(ids[i] for i in rows[:2]) for rows in sets[:_SHOWN]),
            )
        )
    across = [rows for rows in sets if len({parts[i] for i in rows} - {None}) > 1]
    if across:
        findings.append(
            Finding(
                severity="problem" if split is not None else "warning",
                code="duplicates_across",
                message=f"Contents that stand in more than one part: {len(across):,}"
                + (": the split leaks." if split is not None else "; splitting drops them."),
                count=len(across),
                examples=tuple(" = ".join(ids[i] for i in rows[:2]) for rows in across[:_SHOWN]),
            )
        )
    if split is not None and split.dropped:
        findings.append(
            Finding(
                severity="warning",
                code="dropped",
                message=f"Training and validation rows dropped because their content"
                f"{' or group' if split.group else ''} stands in a part that judges them: "
                f"{split.dropped:,}.",
                count=split.dropped,
            )
        )
    return findings


def _conflicts(dataset: Dataset, known: Sequence[int]) -> list[Finding]:
    labels, contents, ids = dataset.labels_N, dataset.contents, dataset.ids
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for i in known:
        if labels[i] >= 0:
            seen[contents[i]].setdefault(int(labels[i]), ids[i])
    torn = [by_label for by_label in seen.values() if len(by_label) > 1]
    if not torn:
        return []
    examples = tuple(
        " / ".join(f"{row_id} {dataset.label_names[c]}" for c, row_id in by_label.items())
        for by_label in torn[:_SHOWN]
    )
    return [
        Finding(
            severity="warning",
            code="conflicts",
            message=f"Contents with different labels in different rows: {len(torn):,}, for example "
            f"{examples[0]}.",
            count=len(torn),
            examples=examples,
        )
    ]


def _groups(dataset: Dataset, parts: Sequence[str | None], group: str) -> list[Finding]:
    where: dict[str, set[str]] = defaultdict(set)
    for value, part in zip(dataset.column(group), parts, strict=True):
        if part is not None:
            where[str(value)].add(part)
    torn = sorted(value for value, found in where.items() if len(found) > 1)
    if not torn:
        return []
    return [
        _listing(
            "problem", "group_leak", f"Values of {group!r} that stand in more than one part", torn
        )
    ]


def _near(
    dataset: Dataset, parts: Sequence[str | None], vectors_ND: npt.NDArray[Any], near: float
) -> list[Finding]:
    if not 0 < near <= 1:
        raise UsageError(f"near must be above 0 and at most 1, got {near}. Typical: 0.95 to 0.99.")
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(dataset):
        raise UsageError(
            f"vectors_ND must have one vector for each of the {len(dataset)} rows, got the shape "
            f"{vectors_ND.shape}."
        )
    if not np.isfinite(vectors_ND).all():
        raise UsageError("vectors_ND holds values that are not finite.")
    found = near_duplicates(vectors_ND, dataset.contents, parts, near, cap=CAP)
    ids = dataset.ids

    def name(pair: NearPair) -> str:
        return f"{ids[pair.i]} ~ {ids[pair.j]} ({pair.similarity:.3f})"

    findings = []
    judged = any(part in ("validation", "test") for part in parts)
    if found.sampled:
        findings.append(
            Finding(
                severity="fact",
                code="near_sampled",
                message=f"Too many rows to compare every pair: {found.compared:,} rows"
                f"{' of validation and test' if judged else ''} were drawn and each was compared "
                f"with all {found.rows:,}.",
                count=found.compared,
            )
        )
    if found.pairs:
        what = ", one of them drawn," if found.sampled else ""
        findings.append(
            Finding(
                severity="fact",
                code="near",
                message=f"Pairs of rows{what} that are nearly the same (similarity {near} or "
                f"more): {found.pairs:,}.",
                count=found.pairs,
                examples=tuple(name(pair) for pair in found.closest),
            )
        )
    if found.leaking:
        of = f" of the {found.compared:,} drawn" if found.sampled else ""
        findings.append(
            Finding(
                severity="warning",
                code="near_across",
                message=f"Validation and test rows that nearly repeat a row of another part "
                f"(similarity {near} or more): {found.leaking:,}{of}. Results on them may flatter.",
                count=found.leaking,
                examples=tuple(name(pair) for pair in found.closest_across),
            )
        )
    return findings


# --- inputs --------------------------------------------------------------------------------------


def _texts(dataset: Dataset) -> list[Finding]:
    if not len(dataset):
        return []
    texts: list[str] = dataset.inputs()
    words = np.asarray([len(text.split()) for text in texts])
    letters = np.asarray([len(text.strip()) for text in texts])
    findings = [
        Finding(
            severity="fact",
            code="length",
            message=f"Words a text: {int(np.median(words)):,} in the middle, 95 % have at most "
            f"{int(np.percentile(words, 95)):,}, the longest {int(words.max()):,}.",
            count=int(np.median(words)),
        )
    ]
    ids = dataset.ids
    for code, mask, what in (
        ("short", letters < SHORT_TEXT, f"Texts of fewer than {SHORT_TEXT} characters"),
        (
            "long",
            words > LONG_TEXT_WORDS,
            f"Texts of more than {LONG_TEXT_WORDS} words, which a backbone of 512 tokens cuts",
        ),
    ):
        places = np.flatnonzero(mask)
        if len(places):
            findings.append(
                Finding(
                    severity="warning" if code == "short" else "fact",
                    code=code,
                    message=f"{what}: {len(places):,}.",
                    count=len(places),
                    examples=tuple(ids[i] for i in places[:_SHOWN]),
                )
            )
    return findings


def _images(dataset: Dataset) -> list[Finding]:
    if not len(dataset) or not {"width", "height"} <= set(dataset.column_names):
        return []
    sizes = [
        (int(w), int(h))
        for w, h in zip(dataset.column("width"), dataset.column("height"), strict=True)
        if isinstance(w, int) and isinstance(h, int)
    ]
    if not sizes:
        return []
    (width, height), n = Counter(sizes).most_common(1)[0]
    least, most = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    message = (
        f"All images have {width} x {height} pixels."
        if n == len(sizes)
        else f"Image sizes from {least[0]} x {least[1]} to {most[0]} x {most[1]} pixels, mostly "
        f"{width} x {height}."
    )
    findings = [Finding(severity="fact", code="image_size", message=message, count=len(sizes))]
    small = sum(min(size) < SMALL_IMAGE for size in sizes)
    if small:
        findings.append(
            Finding(
                severity="fact",
                code="small_images",
                message=f"Images smaller than {SMALL_IMAGE} pixels on a side, which enlarging "
                f"gives no detail: {small:,}.",
                count=small,
            )
        )
    return findings
