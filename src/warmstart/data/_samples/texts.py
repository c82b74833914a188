"""The samples made of tables: sentiment in four domains, and MovieLens-100K."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from warmstart.core import DataError

from .archives import tar_member, zip_member

__all__ = [
    "DOMAINS",
    "movielens_tables",
    "read_valences",
    "sentiment_label",
    "sentiment_tables",
    "write_csv",
]

NEUTRAL_BELOW = 0.5
DOMAINS = {
    "tweets": "tweets_GroundTruth.txt",
    "movie_reviews": "movieReviewSnippets_GroundTruth.txt",
    "product_reviews": "amazonReviewSnippets_GroundTruth.txt",
    "nyt_editorials": "nytEditorialSnippets_GroundTruth.txt",
}
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_ML100K = "recbole/dataset_example/ml-100k/ml-100k"
_ML100K_COLUMNS = {
    "interactions": (".inter", ("user_id", "item_id", "rating", "timestamp")),
    "items": (".item", ("item_id", "title", "year", "genres")),
    "users": (".user", ("user_id", "age", "gender", "occupation", "zip_code")),
}
_LIMIT = 32 * 2**20

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def sentiment_label(valence: float) -> str | None:
    """`positive` or `negative` by the sign of a mean valence in [-4, 4]; None when neutral.

    Neutral is a mean closer to zero than 0.5.
    """
    if abs(valence) < NEUTRAL_BELOW:
        return None
    return "positive" if valence > 0 else "negative"


def read_valences(raw: bytes, name: str) -> list[tuple[float, str]]:
    """Mean valence and text of each row of a ground-truth file (id, mean, text; tab-separated).

    Raises:
        DataError: Naming the file and the line that is not of this form.
    """
    rows: list[tuple[float, str]] = []
    for number, line in enumerate(_lines(raw, name), start=1):
        parts = line.split("\t", 2)
        try:
            valence = float(parts[1])
            text = parts[2].strip()
        except (IndexError, ValueError):
            raise DataError(
                f"{name}, line {number}: expected id, mean valence and text between tabs, "
                f"got {line[:60]!r}."
            ) from None
        if not (math.isfinite(valence) and -4 <= valence <= 4):
            raise DataError(f"{name}, line {number}: valence must be in [-4, 4], got {parts[1]}.")
        rows.append((valence, text))
    return rows


def sentiment_tables(archive: bytes) -> tuple[dict[str, Table], dict[str, int]]:
    """The four domains of the vaderSentiment source archive as tables `text, label`.

    Returns:
        Tables by domain, and how many neutral rows each domain lost.
    """
    inner = tar_member(archive, _INNER, archive="vaderSentiment-3.3.2.tar.gz", limit=_LIMIT)
    tables: dict[str, Table] = {}
    neutral: dict[str, int] = {}
    for domain, file in DOMAINS.items():
        member = f"hutto_ICWSM_2014/{file}"
        raw = tar_member(inner, member, archive="hutto_ICWSM_2014.tar.gz", limit=_LIMIT)
        rated = read_valences(raw, file)
        labelled = [(text, sentiment_label(valence)) for valence, text in rated]
        kept = [(text, label) for text, label in labelled if label is not None]
        tables[domain] = (("text", "label"), list(kept))
        neutral[domain] = len(rated) - len(kept)
    return tables, neutral


def movielens_tables(wheel: bytes) -> dict[str, Table]:
    """Interactions, items and users of MovieLens-100K from the RecBole wheel.

    RecBole's atomic files are tab-separated with `name:type` headers; the values stay as they are
    and the columns get plain names.

    Raises:
        DataError: Naming the file and line that has another number of columns.
    """
    tables: dict[str, Table] = {}
    for table, (suffix, columns) in _ML100K_COLUMNS.items():
        member = _ML100K + suffix
        raw = zip_member(wheel, member, archive="the RecBole wheel", limit=_LIMIT)
        rows: list[tuple[str, ...]] = []
        for number, line in enumerate(_lines(raw, member), start=1):
            values = tuple(line.split("\t"))
            if len(values) != len(columns):
                raise DataError(
                    f"{member}, line {number}: expected {len(columns)} columns, got {len(values)}."
                )
            rows.append(values)
        tables[table] = (columns, rows[1:])
    return tables


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a UTF-8 CSV with a header and line feeds."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")


def _lines(raw: bytes, name: str) -> list[str]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 at byte {error.start}.") from None
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]
