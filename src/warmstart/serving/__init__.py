"""Serving: a recommender over HTTP, with a page, swapped whole while requests run."""

from .app import app
from .server import serve
from .service import ItemCard, RecommendService
from .settings import Settings
from .watching import Loader, point, pointed
from .workers import adopt, run_workers

__all__ = [
    "ItemCard",
    "Loader",
    "RecommendService",
    "Settings",
    "adopt",
    "app",
    "point",
    "pointed",
    "run_workers",
    "serve",
]
