"""Serving: a recommender over HTTP, with a page, swapped whole while requests run."""

from .app import app
from .server import check_address, serve
from .service import ItemCard, RecommendService
from .settings import Settings
from .watching import Loader, point, pointed
from .workers import Adopted, adopt, run_workers

__all__ = [
    "Adopted",
    "ItemCard",
    "Loader",
    "RecommendService",
    "Settings",
    "adopt",
    "app",
    "check_address",
    "point",
    "pointed",
    "run_workers",
    "serve",
]
