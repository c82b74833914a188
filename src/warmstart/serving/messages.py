"""What requests and answers look like: strict models, with the server's limits in their schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
    model_validator,
)

from warmstart.retrieval.index import ItemId

from .settings import Settings

__all__ = [
    "Attribute",
    "CatalogueAnswer",
    "Health",
    "Item",
    "ItemsAnswer",
    "RecommendAnswer",
    "RecommendRequest",
    "Scored",
    "SimilarAnswer",
    "SimilarRequest",
    "UserAnswer",
    "UsersAnswer",
    "limited",
]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    k: int = Field(default=10, description="How many items; fewer come where fewer are eligible")
    exclude: list[ItemId] = Field(default=[], description="Items to leave out")
    tags: list[str] = Field(default=[], description="Only items with these tags")
    match: Literal["any", "all"] = Field(
        default="any", description="Whether an item needs one of the tags or all of them"
    )


class RecommendRequest(_Request):
    """For whom: `user`, or `history` for anyone, new users too."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["user"]}, {"required": ["history"]}]}
    )
    user: ItemId | None = Field(default=None, description="Id of a known user")
    history: list[ItemId] | None = Field(
        default=None, description="Items of the catalogue, oldest first; in place of `user`"
    )
    attributes: dict[str, str | float | bool | None] | None = Field(
        default=None,
        description="What is known of whoever asks, by the names that /v1/catalogue lists, in "
        "place of what is known of a known user; what is left out, null or blank is not known",
    )
    exclude_seen: bool = Field(default=True, description="Leave out the items of the history")

    @model_validator(mode="after")
    def _one_of_two(self) -> RecommendRequest:
        if (self.user is None) == (self.history is None):
            raise ValueError("give either user or history")
        return self


class SimilarRequest(_Request):
    """To which item."""

    item: ItemId = Field(description="Id of an item")


class Item(BaseModel):
    """An item of the catalogue."""

    id: ItemId
    title: str
    tags: list[str]
    description: str
    thumbnail: str | None = Field(description="Path of a small picture on this server")


class Scored(Item):
    """An item of an answer."""

    score: float = Field(description="Inner product of the query and the item; higher is nearer")


class _Answer(BaseModel):
    model: str = Field(description="Name of the model that answered")
    index: str = Field(description="Name of the index that answered")


class RecommendAnswer(_Answer):
    """Recommendations, best first."""

    user: ItemId | None
    items: list[Scored]
    unknown: list[ItemId] = Field(description="Items of the request that the catalogue lacks")
    unknown_tags: list[str] = Field(description="Tags of the request that no item has")


class SimilarAnswer(_Answer):
    """Near items, best first."""

    item: ItemId
    items: list[Scored]
    unknown: list[ItemId]
    unknown_tags: list[str]


class ItemsAnswer(_Answer):
    """Items that a search found."""

    items: list[Item]


class UserAnswer(_Answer):
    """A known user."""

    user: ItemId
    history: list[Item] = Field(description="The newest items, newest first")
    total: int = Field(description="Items of the whole history")


class UsersAnswer(_Answer):
    """Some known users."""

    users: list[ItemId]
    total: int = Field(description="Known users in all")


class TagCount(BaseModel):
    """A tag and how many items have it."""

    tag: str
    items: int


class Attribute(BaseModel):
    """An attribute of users that the model reads."""

    name: str
    kind: Literal["category", "number"]
    values: list[str] = Field(description="Of a category: those that training knows well")
    typical: float | None = Field(description="Of a number: the mean in training")


class CatalogueAnswer(_Answer):
    """What is served."""

    items: int
    users: int
    tags: list[TagCount] = Field(description="The commonest tags")
    attributes: list[Attribute] = Field(description="What a request may tell of a user")


class Health(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


_T = TypeVar("_T", bound=_Request)
LARGEST_ID = 9 * 10**18
"""Below 2^63, and a number that is the same as a float: schemas hold limits as floats."""


def _whole(value: Any) -> Any:
    """JSON does not tell 62 from 62.0, and its schemas call both integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def limited(model: type[_T], settings: Settings) -> type[_T]:
    """The model with the server's limits, which then stand in its schema too."""
    text = Annotated[str, StringConstraints(max_length=settings.max_text)]
    whole = Annotated[int, Field(ge=-LARGEST_ID, le=LARGEST_ID), BeforeValidator(_whole)]
    count = Annotated[int, Field(ge=1, le=settings.max_k), BeforeValidator(_whole)]
    item: Any = text | whole
    many: Any = list[item]
    number = Annotated[float, Field(ge=-LARGEST_ID, le=LARGEST_ID)]
    told: Any = dict[text, text | number | bool | None]
    fields: dict[str, Any] = {}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "k": (count, {}),
        "exclude": (many, {"max_length": settings.max_history}),
        "tags": (list[text], {"max_length": settings.max_tags}),
        "user": (item, {}),  # left out, not null
        "history": (many, {"max_length": settings.max_history}),
        "attributes": (told, {"max_length": settings.max_attributes}),
        "item": (item, {}),
    }
    for name, (kind, limits) in kinds.items():
        if name in model.model_fields:
            known = model.model_fields[name]
            default = ... if known.is_required() else known.default
            fields[name] = (kind, Field(default, description=known.description, **limits))
    made: type[_T] = create_model(model.__name__, __base__=model, **fields)
    made.__doc__ = model.__doc__
    return made
