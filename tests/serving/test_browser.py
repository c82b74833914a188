"""`warmstart serve` in a real browser: a user or a history by search, titles, pictures, the like.

Skipped where no Chromium is found; `make browser` insists on one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.workflow import fit

from .browser import VARIABLE, Page, found_browser

WORDS = ("Alpha", "Bravo", "Coral", "Delta", "Ember", "Frost")
ITEMS, USERS = 18, 40
BARE = 5  # the item without a picture
needs_browser = pytest.mark.skipif(
    found_browser() is None, reason=f"no Chromium is installed, and {VARIABLE} names none"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `warmstart serve` answers, over a run that was fitted for it."""
    root = tmp_path_factory.mktemp("page")
    data = root / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    events = [
        f"u{user},i{int(generator.integers(ITEMS))},{1_000_000_000 + 100 * step + user}"
        for step in range(8)
        for user in range(USERS)
    ]
    (data / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(events))
    titles = [
        f"i{i},{WORDS[i % 6]} {WORDS[5 - i // 6]} <b>{i}</b>,{'even' if i % 2 == 0 else 'odd'},"
        f"{'' if i == BARE else f'pictures/{i}.png'}"
        for i in range(ITEMS)
    ]
    (data / "items.csv").write_text("item_id,title,tags,image\n" + "\n".join(titles))
    (data / "pictures").mkdir()
    for i in range(ITEMS):
        Image.new("RGB", (width_of(i), 24), (10 * i, 90, 40)).save(data / f"pictures/{i}.png")
    users = [f"u{u},{'red' if u % 2 else 'blue'},{20.5 + u}" for u in range(USERS)]
    (data / "users.csv").write_text("user_id,team,age\n" + "\n".join(users))
    settings = {"width": 8, "layers": 1, "epochs": 1, "history": 8}
    run = fit(
        data, strategy="scratch", settings=settings, controls="none", out=root / "run",
        device="cpu",
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", str(run.folder), "--port", str(port), "--device", "cpu", "--deadline", "30s"]
    log = root / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", "from warmstart.cli import main; main()", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=told,
        )
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, log.read_text()


def width_of(item: int) -> int:
    """Pixels across the picture of an item: it tells whose picture is shown."""
    return 20 + item


def _wait_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server was never ready: {log.read_text()}")


def ask(address: str, route: str = "recommend", **body: Any) -> list[dict[str, Any]]:
    """The items that the service recommends, or that are like one."""
    request = urllib.request.Request(
        f"{address}/v1/{route}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found: list[dict[str, Any]] = json.load(response)["items"]
    return found


def shown(page: Page, heading: str) -> list[str]:
    """Titles of the recommendations, once the page shows those of this heading."""
    page.wait(
        f"document.getElementById('heading')?.textContent === {json.dumps(heading)} && "
        "document.getElementById('results').getAttribute('aria-busy') === 'false' && "
        "document.querySelectorAll('.results > li').length > 0"
    )
    return page.texts(".results > li .title")


def history_of(address: str, user: str) -> list[str]:
    """Titles of what a user had, newest first."""
    with urllib.request.urlopen(f"{address}/v1/users/{user}", timeout=60) as response:
        return [item["title"] for item in json.load(response)["history"]]


def choose(page: Page, name: str, value: str) -> None:
    """Take one of the values of a list."""
    page.look(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}'; "
        "s.dispatchEvent(new Event('change')); })()"
    )


def type_user(page: Page, user: str) -> None:
    """Write over what stands in the field of users."""
    page.click("#user")
    page.look("document.getElementById('user').select()")
    page.write(user)


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Page]:
    """The page as it opens."""
    program = found_browser()
    assert program is not None
    with Page(program, tmp_path / "profile") as found:
        found.ask("Page.navigate", url=address)
        yield found


@needs_browser
def test_the_page_in_a_real_browser(address: str, page: Page) -> None:
    # it loads and shows the first known user
    titles = shown(page, "For user u0")
    assert titles == [item["title"] for item in ask(address, user="u0")]
    assert f"{ITEMS} items" in page.text("#facts")
    assert page.texts("#history li")

    # a search builds a history: by the keyboard, then by the mouse
    page.click("#mode-history")
    page.wait("document.activeElement.id === 'item'")
    page.write("coral")
    page.wait("document.querySelector('#item-options li[aria-selected=true]')!==null")
    assert all("Coral" in option for option in page.texts("#item-options li span"))
    page.press("Enter")
    assert shown(page, "For this history")
    page.click("#item")
    page.write("delta 3")
    page.wait("document.querySelectorAll('#item-options li').length === 1")
    page.click("#item-options li")
    page.wait("document.querySelectorAll('#history li').length === 2")
    chosen = page.texts("#history .title")
    assert chosen == ["Delta Frost <b>3</b>", "Coral Frost <b>2</b>"], "newest first, as text"
    titles = shown(page, "For this history")
    wanted = ask(address, history=["i2", "i3"])
    assert titles == [item["title"] for item in wanted]
    assert page.texts(".results .score span:last-child")[0] == f"{wanted[0]['score']:.3f}"

    # what is known of the person changes the answer
    page.click("#about summary")
    assert page.texts("#about-fields label") == ["team", "age"]
    page.click("#about-1")
    page.write("30")
    page.press("Tab")
    choose(page, "about-0", "red")
    page.wait("document.getElementById('about-count').textContent === '2'")
    about = {"team": "red", "age": 30}
    told = ask(address, history=["i2", "i3"], attributes=about)
    assert [item["score"] for item in told] != [item["score"] for item in wanted]
    assert shown(page, "For this history") == [item["title"] for item in told]

    # somebody new, and only items with a tag
    page.click("#clear")
    nobody = [item["title"] for item in ask(address, history=[], attributes=about)]
    assert shown(page, "For somebody new") == nobody
    page.click("#tags button")
    tag = page.text("#tags button[aria-pressed=true]")
    filtered = ask(address, history=[], attributes=about, tags=[tag])
    page.wait(f"document.querySelectorAll('.results > li').length === {len(filtered)}")
    assert shown(page, "For somebody new") == [item["title"] for item in filtered]
    assert set(page.texts(".results > li .tags")) == {tag}
    assert page.faults == []


@needs_browser
def test_each_item_has_its_own_picture(address: str, page: Page) -> None:
    shown(page, "For user u0")
    choose(page, "k", "20")
    titles = [*history_of(address, "u0"), *shown(page, "For user u0")]
    assert page.texts(".items .title") == titles
    numbers = [int(title.split("<b>")[1].split("<")[0]) for title in titles]
    assert set(numbers) == set(range(ITEMS)), "seen or recommended, all are there"
    page.wait(  # a picture is fetched when it comes near the screen
        "(() => { const tiles = [...document.querySelectorAll('.items .tile[data-path]')]; "
        "const next = tiles.find((tile) => !tile.querySelector('img')?.naturalWidth); "
        "next?.scrollIntoView(); return tiles.length > 0 && !next; })()"
    )
    widths = page.look(
        "[...document.querySelectorAll('.items .tile')]"
        ".map((tile) => tile.querySelector('img')?.naturalWidth)"
    )
    assert widths == [None if number == BARE else width_of(number) for number in numbers]
    bare = numbers.index(BARE)
    assert page.texts(".items .tile")[bare] == titles[bare][0], "a letter in its place"
    assert page.faults == []


@needs_browser
def test_items_like_one_of_the_answer(address: str, page: Page) -> None:
    first, *_ = ask(address, user="u0")
    before = shown(page, "For user u0")
    page.click(".results > li [aria-label^='More like']")
    like = [item["title"] for item in ask(address, "similar", item=first["id"])]
    assert shown(page, f"Like “{first['title']}”") == like
    assert len(like) == 10
    assert first["title"] not in like
    page.click("#back")
    assert shown(page, "For user u0") == before
    assert page.faults == []


@needs_browser
def test_a_user_is_typed(address: str, page: Page) -> None:
    shown(page, "For user u0")
    type_user(page, "u3")
    page.wait("document.querySelectorAll('#user-options li').length === 11")
    assert page.texts("#user-options li") == ["u3", *(f"u3{place}" for place in range(10))]
    page.press("ArrowDown")
    page.press("Enter")
    titles = shown(page, "For user u30")
    assert titles == [item["title"] for item in ask(address, user="u30")]
    assert page.texts("#history .title") == history_of(address, "u30")
    assert page.look("location.hash") == "#user=u30"
    assert page.faults == []

    type_user(page, "nobody")
    page.wait("document.querySelector('#user-options .nothing') !== null")
    page.press("Enter")
    page.wait("document.querySelector('.problem') !== null")
    assert "nobody" in page.text(".problem p")
    assert page.texts("#history li") == []
    assert ["404" in fault for fault in page.faults] == [True]
