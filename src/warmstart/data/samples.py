"""Small real data to start with, each fetched from a package that carries it.

The repository holds no third-party data. A sample is fetched through the user's own package client,
checked against a pinned SHA-256, kept in the user's cache, and published as one folder with a
README.txt that tells the source, the licence and how the files were made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from warmstart.core import (
    MANIFEST,
    DataError,
    RunError,
    UsageError,
    nearest,
    publishing,
    read_json,
    verify_manifest,
)

from ._samples.fashion import fashion_mnist
from ._samples.fetch import PipFile, fetch_pip
from ._samples.pictures import digits, limited, write_folder
from ._samples.texts import movielens_tables, sentiment_tables, write_csv

__all__ = ["SAMPLES", "Sample", "SampleResult", "sample"]

VADER = PipFile(
    project="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    wheel=False,
)
RECBOLE = PipFile(
    project="recbole",
    version="1.2.1",
    filename="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    wheel=True,
)
_README: Final = "README.txt"
_FASHION_TRAIN_SHARE: Final = 6 / 7


@dataclass(frozen=True)
class Sample:
    """What a sample is, before it is fetched.

    Attributes:
        name: As the command line takes it.
        description: One line.
        licence: The terms as their owner states them, shortened.
        size: What is downloaded, in words.
        images: Whether it is an image folder, of which `rows` can take a part.
    """

    name: str
    description: str
    licence: str
    size: str
    images: bool = False


@dataclass(frozen=True)
class SampleResult:
    """A sample on disk.

    Attributes:
        name: Of the sample.
        folder: Where it lies.
        paths: What can be given to `read`: the tables, or the image folder.
        licence: The terms to keep to.
        source: The package that carried it.
        rows: Rows or images in all.
        counts: Rows by table, or images by split.
        notes: How the files were made.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...]
    licence: str
    source: str
    rows: int
    counts: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Made:
    source: str
    counts: dict[str, int]
    notes: tuple[str, ...]
    paths: tuple[str, ...]


_ALL = (
    Sample(
        "sentiment",
        "Sentences from tweets, film reviews, product reviews and editorials, positive or "
        "negative by the mean of 20 people's ratings (text, four domains).",
        "MIT, C.J. Hutto. Please cite Hutto and Gilbert, VADER, ICWSM 2014.",
        "2.5 MB",
    ),
    Sample(
        "movielens-100k",
        "100,000 timestamped film ratings with titles, genres and user attributes (interactions).",
        "GroupLens terms: research use; no redistribution and no commercial use without "
        "permission; acknowledge it in publications. "
        "https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
        "2.1 MB",
    ),
    Sample(
        "fashion-mnist",
        "Grey 28 x 28 photographs of clothes in 10 classes, 60,000 to train and 10,000 to test "
        "(images).",
        "MIT, Zalando SE.",
        "31 MB",
        images=True,
    ),
    Sample(
        "digits",
        "1,797 handwritten digits of 8 x 8 pixels in 10 classes (images).",
        "Creative Commons Attribution 4.0, E. Alpaydin and C. Kaynak (UCI Machine Learning "
        "Repository); carried by scikit-learn.",
        "nothing to download",
        images=True,
    ),
)
SAMPLES: Final = MappingProxyType({item.name: item for item in _ALL})


def sample(
    name: str,
    folder: str | Path,
    *,
    force: bool = False,
    if_missing: bool = False,
    rows: int | None = None,
) -> SampleResult:
    """Put a small real data set into `folder`.

    The folder appears whole or not at all. Files that were fetched are kept in
    `$WARMSTART_CACHE/samples` (by default ~/.cache/warmstart/samples), so a second call needs no
    network.

    Args:
        name: One of `SAMPLES`: sentiment, movielens-100k, fashion-mnist, digits.
        folder: Where to put it; made if missing. A folder that holds anything is refused.
        force: Replace a folder that an earlier `sample` wrote. Other folders stay refused, and so
            does a sample to which files were added, since replacing removes them.
        if_missing: Keep a whole sample of this name that is there already.
        rows: At most this many images, stratified by class (image samples only); train and test
            keep their shares.

    Raises:
        UsageError: For an unknown name or an unusable `rows`.
        DataError: When the folder is taken, the source cannot be reached, or a checksum differs.
    """
    kind = _known(name, rows)
    target = Path(folder).expanduser().resolve()
    if if_missing and (found := _already(target, kind)) is not None:
        return found
    _check_free(target, force)
    makers: dict[str, Callable[[Path, int | None], _Made]] = {
        "sentiment": _make_sentiment,
        "movielens-100k": _make_movielens,
        "fashion-mnist": _make_fashion,
        "digits": _make_digits,
    }
    facts: dict[str, object] = {}  # filled below; the manifest is written when the context ends
    try:
        with publishing(target, replace=target.exists(), sample=facts) as part:
            made = makers[name](part, rows)
            (part / _README).write_text(_readme(kind, made), encoding="utf-8")
            facts |= {"name": name, **asdict(made)}
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}.") from None
    return _result(target, kind, made)


def _known(name: str, rows: int | None) -> Sample:
    kind = SAMPLES.get(name)
    if kind is None:
        raise UsageError(f"There is no sample {name!r}.{nearest(name, SAMPLES)}")
    if rows is not None and not kind.images:
        raise UsageError(
            f"sample.rows takes a part of image samples; {name} is small and comes whole. "
            f"`limit` of read, fit and compare takes a part of any data."
        )
    if rows is not None and rows < 1:
        raise UsageError(
            f"sample.rows must be at least 1, got {rows}. Typical values: 500 to 6000."
        )
    return kind


def _already(target: Path, kind: Sample) -> SampleResult | None:
    """The sample that lies in `target` whole, or None when the folder is missing or empty."""
    if not target.is_dir() or not any(target.iterdir()):
        return None
    try:
        facts = verify_manifest(target).get("sample") or {}
        made = _Made(
            source=str(facts["source"]),
            counts={str(key): int(value) for key, value in facts["counts"].items()},
            notes=tuple(facts["notes"]),
            paths=tuple(facts["paths"]),
        )
        name = facts["name"]
    except RunError as error:
        raise DataError(f"{target} holds no whole sample: {error} Choose another folder.") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        name = "something else"
    if name != kind.name:
        raise DataError(f"{target} holds {name}, not {kind.name}. Choose another folder.")
    return _result(target, kind, made)


def _check_free(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target} is a file; a sample needs a folder. Choose another name.")
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not files and not any(target.iterdir()):
        return
    if not force:
        raise DataError(
            f"{target} is not empty. Choose another folder, or use force=True (--replace) where an "
            f"earlier sample may be replaced."
        )
    try:
        manifest = read_json(target / MANIFEST)
        listed = set(manifest["files"]) if "sample" in manifest else set()
    except (RunError, KeyError, TypeError):
        listed = set()
    strange = sorted(files - listed - {MANIFEST})
    if strange or not listed:
        first = strange[0] if strange else next(iter(sorted(files)), "folders")
        raise DataError(
            f"{target} holds {first}, which no sample wrote; replacing would remove it. "
            f"Choose another folder."
        )


def _result(target: Path, kind: Sample, made: _Made) -> SampleResult:
    return SampleResult(
        name=kind.name,
        folder=target,
        paths=tuple(target / path for path in made.paths),
        licence=kind.licence,
        source=made.source,
        rows=sum(made.counts.values()),
        counts=dict(made.counts),
        notes=made.notes,
    )


def _make_sentiment(part: Path, _rows: int | None) -> _Made:
    tables, neutral = sentiment_tables(fetch_pip(VADER))
    for domain, (columns, rows) in tables.items():
        write_csv(part / f"{domain}.csv", columns, rows)
    left_out = ", ".join(f"{domain} {count:,}" for domain, count in neutral.items())
    return _Made(
        source=f"the source archive of {VADER.project} {VADER.version} on PyPI",
        counts={domain: len(rows) for domain, (_, rows) in tables.items()},
        notes=(
            "Each sentence was rated by at least 20 people from -4 (most negative) to 4 (most "
            "positive). Rule: the label is the sign of the mean rating.",
            f"Sentences whose mean is closer to zero than 0.5 are neutral and left out: "
            f"{left_out}.",
        ),
        paths=tuple(f"{domain}.csv" for domain in tables),
    )


def _make_movielens(part: Path, _rows: int | None) -> _Made:
    tables = movielens_tables(fetch_pip(RECBOLE))
    for table, (columns, rows) in tables.items():
        write_csv(part / f"{table}.csv", columns, rows)
    return _Made(
        source=f"the wheel of {RECBOLE.project} {RECBOLE.version} on PyPI",
        counts={"interactions": len(tables["interactions"][1])},
        notes=(
            f"{len(tables['users'][1]):,} users, {len(tables['items'][1]):,} items. Timestamps "
            "are seconds since 1970, UTC. Rating is 1 to 5. Rows keep the order of the source.",
            "Genres are separated by spaces. Columns have plain names; values are unchanged.",
            "Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015.",
        ),
        paths=tuple(f"{table}.csv" for table in tables),
    )


def _make_fashion(part: Path, rows: int | None) -> _Made:
    splits, origin = fashion_mnist()
    counts = {}
    for split, pictures in splits.items():
        share = _FASHION_TRAIN_SHARE if split == "train" else 1 - _FASHION_TRAIN_SHARE
        count = len(pictures.labels_N) if rows is None else round(rows * share)
        taken = limited(pictures, count, name=f"fashion-mnist {split}")
        counts[split] = write_folder(taken, part / split, description=f"Writing {split}")
    return _Made(
        source=origin,
        counts=counts,
        notes=(_part_of(sum(counts.values()), 70_000), "The split is the data's own."),
        paths=(".",),
    )


def _make_digits(part: Path, rows: int | None) -> _Made:
    pictures = digits()
    total = len(pictures.labels_N)
    if rows is not None:
        pictures = limited(pictures, rows, name="digits")
    count = write_folder(pictures, part, description="Writing digits")
    return _Made(
        source="scikit-learn (sklearn.datasets.load_digits)",
        counts={"images": count},
        notes=(_part_of(count, total), "Grey levels 0 to 16 were spread over 0 to 255."),
        paths=(".",),
    )


def _part_of(count: int, total: int) -> str:
    if count == total:
        return f"All {total:,} images."
    return f"{count:,} of {total:,} images, drawn by class."


def _readme(kind: Sample, made: _Made) -> str:
    counts = "\n".join(f"  {name}: {count:,}" for name, count in made.counts.items())
    paragraphs = [
        f"{kind.name}",
        kind.description,
        f"Source: {made.source}.",
        f"Licence: {kind.licence}",
        *made.notes,
    ]
    text = "\n\n".join(textwrap.fill(item, 88, break_long_words=False) for item in paragraphs)
    return f"{text}\n\nRows:\n{counts}\n"
