"""Which column is the user, the item, the time and so on: by argument or by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

from warmstart.core.errors import DataError, nearest

__all__ = [
    "DESCRIPTION_NAMES",
    "IMAGE_NAMES",
    "ITEM_NAMES",
    "TAG_NAMES",
    "TITLE_NAMES",
    "USER_NAMES",
    "EventColumns",
    "by_name",
    "find_event_columns",
    "has_event_columns",
    "id_column",
    "squash",
]

USER_NAMES = (
    "userid", "user", "uid", "customerid", "customer", "clientid", "memberid", "member",
    "accountid", "visitorid", "reviewerid", "subscriberid", "listenerid", "readerid", "buyerid",
    "viewerid", "profileid", "personid", "sessionid", "session",
)  # fmt: skip
ITEM_NAMES = (
    "itemid", "item", "iid", "movieid", "movie", "filmid", "productid", "product", "trackid",
    "track", "songid", "song", "artistid", "bookid", "book", "articleid", "article", "newsid",
    "videoid", "video", "showid", "contentid", "documentid", "docid", "postid", "recipeid",
    "gameid", "appid", "animeid", "listingid", "businessid", "hotelid", "courseid", "jobid",
    "offerid", "asin", "parentasin", "isbn", "sku",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "time", "ts", "datetime", "date", "eventtime", "eventtimestamp", "eventdate",
    "createdat", "occurredat", "unixtime", "unixtimestamp", "unixreviewtime", "reviewtime",
    "ratedat", "viewedat", "watchedat", "playedat", "clickedat", "purchasedat", "purchasedate",
    "orderdate", "transactiondate", "tdat", "when",
)  # fmt: skip
EVENT_NAMES = (
    "event", "eventtype", "eventname", "action", "actiontype", "behavior", "behaviortype",
    "behaviour", "behaviourtype", "interaction", "interactiontype", "type", "kind",
)  # fmt: skip
RATING_NAMES = ("rating", "ratings", "score", "stars", "starrating", "overall", "rate")
WEIGHT_NAMES = ("weight", "weights", "confidence")

TITLE_NAMES = (
    "title", "name", "movietitle", "itemtitle", "producttitle", "tracktitle", "booktitle",
    "itemname", "productname", "prodname", "productdisplayname", "trackname", "songname",
    "moviename", "headline",
)  # fmt: skip
DESCRIPTION_NAMES = (
    "description", "overview", "plot", "synopsis", "summary", "abstract", "details", "detaildesc",
    "about", "blurb", "longdescription", "productdescription", "text", "content", "body",
)  # fmt: skip
TAG_NAMES = (
    "tags", "genres", "genre", "categories", "category", "keywords", "topics", "class", "classes",
    "tag", "topic", "maincategory",
)  # fmt: skip
IMAGE_NAMES = (
    "image", "imagepath", "imagefile", "img", "imgpath", "imgfile", "picture", "photo",
    "thumbnail", "cover",
)  # fmt: skip

_PARTS = re.compile(r"[^0-9a-z]+")


@dataclass(frozen=True)
class EventColumns:
    """Names of an interactions file's columns; None where there is none."""

    user: str
    item: str
    time: str
    event: str | None = None
    rating: str | None = None
    weight: str | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        found = (getattr(self, field.name) for field in fields(self))
        return tuple(name for name in found if name is not None)


_MEANINGS: Mapping[str, tuple[str, ...]] = {
    "user": USER_NAMES,
    "item": ITEM_NAMES,
    "time": TIME_NAMES,
    "event": EVENT_NAMES,
    "rating": RATING_NAMES,
    "weight": WEIGHT_NAMES,
}
_NEEDED = ("user", "item", "time")


def squash(name: str) -> str:
    """A column's name without what differs between writers: `User ID`, `user_id`, `userId`."""
    return _PARTS.sub("", name.lower())


def by_name(
    names: Sequence[str], wanted: Sequence[str], taken: Collection[str | None] = ()
) -> str | None:
    """The first of `wanted` (squashed) that is among `names`; columns of `taken` are passed by."""
    free: dict[str, str] = {}
    for name in names:
        if name not in taken:
            free.setdefault(squash(name), name)
    return next((free[name] for name in wanted if name in free), None)


def has_event_columns(names: Sequence[str], said: Mapping[str, str | None]) -> bool:
    """Whether user, item and time were all said, by meaning, or can be told by name."""
    return all(
        said.get(meaning) is not None or by_name(names, _MEANINGS[meaning]) is not None
        for meaning in _NEEDED
    )


def find_event_columns(
    names: Sequence[str],
    file: str,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    event: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
) -> EventColumns:
    """Decide the columns of an interactions file; each column has one meaning.

    Raises:
        DataError: Naming the file, the column that is missing and the nearest one.
    """
    said = {
        "user": user, "item": item, "time": time, "event": event, "rating": rating,
        "weight": weight,
    }  # fmt: skip
    found: dict[str, str | None] = {}
    for meaning, name in said.items():
        if name is None:
            continue
        if name not in names:
            raise DataError(
                f"{file} has no column {name!r} ({meaning}={name!r})." + nearest(name, names)
            )
        if name in found.values():
            raise DataError(f"{file}: the column {name!r} cannot be two things at once.")
        found[meaning] = name
    for meaning, wanted in _MEANINGS.items():
        if meaning in found:
            continue
        found[meaning] = by_name(names, wanted, tuple(found.values()))
        if found[meaning] is None and meaning in _NEEDED:
            likely = {"user": "user_id", "item": "item_id", "time": "timestamp"}[meaning]
            raise DataError(
                f"{file} has no column of the {meaning} that can be told by its name ({likely}, "
                f"...): say which with {meaning}=NAME (--{meaning} NAME)." + nearest(likely, names)
            )
    return EventColumns(**{key: name for key, name in found.items() if name})


def id_column(
    names: Sequence[str], wanted: Sequence[str], file: str, what: str, said: str | None
) -> str:
    """The id column of an items or users table: the interactions' own name of it, a known name, id.

    Raises:
        DataError: When there is none.
    """
    if said is not None:
        same = by_name(names, (squash(said),))
        if same is not None:
            return same
    found = by_name(names, (*wanted, "id"))
    if found is None:
        raise DataError(
            f"{file} has no column of {what} ids ({what}_id, ...); rename it to {what}_id."
            + nearest(f"{what}_id", names)
        )
    return found
