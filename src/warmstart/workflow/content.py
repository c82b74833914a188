"""What is known of items and users beside their events: texts, pictures, tags, attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from warmstart.backbones import Backbone
from warmstart.core import progress
from warmstart.data import Interactions, from_inputs
from warmstart.retrieval import Content, ItemTexts, item_titles

__all__ = ["image_vectors", "read_content"]


def read_content(data: Interactions, text: Backbone | None, images: Backbone | None) -> Content:
    """Vectors of the items' texts and pictures, through the feature cache, and their tags."""
    return Content(
        item_ids=data.item_ids,
        text_IE=_text_vectors(data, text) if text is not None else None,
        image_IE=_image_vectors(data, images) if images is not None else None,
        tags=_tags(data),
        users=data.users,
        texts=None
        if text is None
        else ItemTexts(text, data.items["text"].fill_null("").to_list(), item_titles(data.items)),
    )


def image_vectors(
    paths: Sequence[str | None], folder: Path, backbone: Backbone
) -> np.ndarray | None:
    """Vectors (N, G) of pictures; zeros for items without, None where no item has one.

    Args:
        paths: Of each item's picture.
        folder: What they are relative to.
        backbone: An image encoder, or CLIP.
    """
    told = [place for place, path in enumerate(paths) if path]
    if not told:
        return None
    rows = from_inputs([str(folder / str(paths[place])) for place in told], "image")
    found = backbone.features(rows).vectors_ND
    vectors_NG = np.zeros((len(paths), found.shape[1]), dtype=np.float32)
    vectors_NG[told] = found
    return vectors_NG


def _text_vectors(data: Interactions, backbone: Backbone) -> np.ndarray | None:
    """Vectors (I, E); None where no item has a text, zeros for those without."""
    texts = data.items["text"].to_list()
    told = [place for place, text in enumerate(texts) if text and text.strip()]
    if not told:
        progress.note("No item has a title or any other text: tracks that read texts are left out.")
        return None
    rows = from_inputs([texts[place] for place in told], "text")
    found = backbone.features(rows).vectors_ND
    vectors_IE = np.zeros((data.n_items, found.shape[1]), dtype=np.float32)
    vectors_IE[told] = found
    if len(told) < len(texts):
        progress.note(f"{len(texts) - len(told):,} of {len(texts):,} items have no text.")
    return vectors_IE


def _image_vectors(data: Interactions, backbone: Backbone) -> np.ndarray | None:
    """Vectors (I, G); None where no item has a picture."""
    found = image_vectors(data.items["image"].to_list(), data.folder or Path(), backbone)
    if found is None:
        progress.note("No item has a picture: image_backbone is not used.")
    return found


def _tags(data: Interactions) -> list[list[str]] | None:
    tags = [list(found or ()) for found in data.items["tags"].to_list()]
    return tags if any(tags) else None
