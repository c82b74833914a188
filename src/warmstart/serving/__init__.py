"""Serving: a recommender over HTTP, with a page, swapped whole while requests run."""

from .app import app
from .server import serve
from .service import ItemCard, RecommendService
from .settings import Settings
from .watching import Loader, point, pointed

__all__ = [
    "ItemCard",
    "Loader",
    "RecommendService",
    "Settings",
    "app",
    "point",
    "pointed",
    "serve",
]
