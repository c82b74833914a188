"""The page holds all it needs; pictures come from the catalogue's folder alone."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.serving import ItemCard

from .fakes import Fake, call, get, is_error, make, post

# --- the page ------------------------------------------------------------------------------------


def page() -> tuple[str, dict[str, str]]:
    response = get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in response.headers["content-security-policy"].split(";")
    )
    return response.text, policy


def test_the_policy_allows_this_style_and_this_script_alone() -> None:
    html, policy = page()
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html, _ = page()
    assert not re.findall(r"(?:https?:)?//[a-z]", html.replace("// ---", ""))
    sources = re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', html)
    assert sources == ["data:,"]
    assert "@import" not in html
    assert "url(" not in html


def test_text_is_never_markup() -> None:
    html, _ = page()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "DOMParser",
    ):
        assert way not in html
    assert not re.findall(r"\son\w+\s*=\s*\"", html)  # no handlers in attributes
    assert not re.findall(r"\sstyle\s*=\s*\"", html)  # the policy would drop them


def test_the_page_asks_only_for_routes_that_there_are() -> None:
    html, _ = page()
    asked = set(re.findall(r'"(/v1/[a-z/]*)', html))
    paths = get("/openapi.json").json()["paths"]
    assert asked
    for path in asked:
        assert any(known.startswith(path.rstrip("/")) for known in paths), path


def test_the_page_works_with_a_keyboard_and_for_screen_readers() -> None:
    html, _ = page()
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<label for="([^"]+)"', html)) <= set(ids)
    assert set(re.findall(r'aria-controls="([^"]+)"', html)) <= set(ids)
    assert set(re.findall(r'\$\("([a-z-]+)"\)', html)) <= set(ids)
    assert '<html lang="en">' in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "prefers-reduced-motion" in html


def test_the_page_asks_for_what_the_model_reads_of_users() -> None:
    """The form is made from /v1/catalogue alone, and what it sends is what the route takes."""
    html, _ = page()
    assert "drawAbout(served.attributes)" in html
    assert "{ attributes: Object.fromEntries(state.about) }" in html
    for one in get("/v1/catalogue").json()["attributes"]:
        chosen = one["values"][0] if one["kind"] == "category" else one["typical"]
        body = {"history": [], "attributes": {one["name"]: chosen}}
        assert post("/v1/recommend", body).status_code == 200


# --- pictures ------------------------------------------------------------------------------------


def with_pictures(folder: Path, images: list[str | None]) -> Fake:
    fake = Fake(items=len(images) + 1, images=(folder,))
    fake.cards = {
        item: ItemCard(card.title, card.tags, card.description, image)
        for (item, card), image in zip(fake.cards.items(), [None, *images], strict=True)
    }
    return fake


def save(path: Path, width: int = 400, height: int = 300, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(shades).save(path, **settings)


def thumbnail_of(fake: Fake, item: str, **settings: Any) -> Any:
    made = make(fake, **settings)
    body = {"item": "a-0", "k": 100}
    items = call(made, "POST", "/v1/similar", stays=True, json=body).json()["items"]
    (path,) = [found["thumbnail"] for found in items if found["id"] == item]
    assert path is not None
    return call(made, "GET", path)


@pytest.mark.parametrize("name", ["picture.png", "deep/picture.jpg", "picture.webp"])
def test_a_picture_becomes_small(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    response = thumbnail_of(with_pictures(tmp_path, [name]), "a-1", thumbnail_size=64)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/jpeg"
    assert "max-age" in response.headers["cache-control"]
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (64, 48)


def test_absolute_paths_inside_the_folder_are_served(tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    assert (
        thumbnail_of(with_pictures(tmp_path, [str(tmp_path / "x.png")]), "a-1").status_code == 200
    )


def _outside(tmp_path: Path) -> str:
    save(tmp_path / "secret.png")
    return "../secret.png"


def _absolute(tmp_path: Path) -> str:
    save(tmp_path / "secret.png")
    return str(tmp_path / "secret.png")


def _link(tmp_path: Path) -> str:
    save(tmp_path / "secret.png")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    return "link.png"


def _folder_link(tmp_path: Path) -> str:
    save(tmp_path / "secret.png")
    (tmp_path / "images" / "out").symlink_to(tmp_path)
    return "out/secret.png"


def _loop(tmp_path: Path) -> str:
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    return "loop.png"


def _nul(tmp_path: Path) -> str:
    return "x\0.png"


def _is_folder(tmp_path: Path) -> str:
    (tmp_path / "images" / "folder.png").mkdir()
    return "folder.png"


def _no_image(tmp_path: Path) -> str:
    (tmp_path / "images" / "x.png").write_text("no picture")
    return "x.png"


def _missing(tmp_path: Path) -> str:
    return "gone.png"


def _huge(tmp_path: Path) -> str:
    save(tmp_path / "images" / "huge.png", 1000, 1001)
    return "huge.png"


@pytest.mark.parametrize(
    "bad",
    [_outside, _absolute, _link, _folder_link, _loop, _nul, _is_folder, _no_image, _missing, _huge],
)
def test_what_is_no_picture_of_the_catalogue(tmp_path: Path, bad: Any) -> None:
    (tmp_path / "images").mkdir()
    fake = with_pictures(tmp_path / "images", [bad(tmp_path)])
    response = thumbnail_of(fake, "a-1", max_pixels=1_000_000)
    assert is_error(response, 404, "no_picture")


def test_without_a_folder_there_are_no_pictures(tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    fake = with_pictures(tmp_path, ["x.png"])
    fake.images = ()
    items = post("/v1/similar", {"item": "a-0"}, fake).json()["items"]
    assert items[0]["thumbnail"] is None


def test_pictures_are_kept_within_their_room(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        save(tmp_path / name)
    made = make(with_pictures(tmp_path, [*names]), thumbnail_cache_bytes=20_000)
    shared = made.state.warmstart
    codes = sorted(shared.live.snapshot.pictures)
    sizes = [len(shared.thumbnails.jpeg(shared.live.snapshot, code)) for code in codes]
    assert sum(sizes) > 20_000
    assert 0 < shared.thumbnails._bytes <= 20_000
    assert shared.thumbnails._bytes == sum(map(len, shared.thumbnails._made.values()))
    for name in names:
        (tmp_path / name).unlink()
    last = shared.thumbnails.jpeg(shared.live.snapshot, codes[-1])
    assert len(last) == sizes[-1]  # from memory


def test_a_code_tells_nothing_of_the_path_and_outlives_a_swap(tmp_path: Path) -> None:
    one = make(with_pictures(tmp_path, ["a/b.png"])).state.warmstart.live.snapshot
    other = make(with_pictures(tmp_path, [None, "a/b.png"])).state.warmstart.live.snapshot
    assert one.pictures == other.pictures
    (code,) = one.pictures
    assert re.fullmatch("[0-9a-f]{32}", code)
