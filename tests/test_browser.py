"""Every page in a real browser: nothing fails or asks elsewhere, and all can read it.

With LENSBASE_DEMO the pages are those of that store, and LENSBASE_PICTURES is where to put
pictures of them; the docs' own come from

    LENSBASE_DEMO=demo/demo.lens LENSBASE_PICTURES=docs/images pytest tests/test_browser_pages.py
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from browser import (
    PICTURES,
    SHOWN,
    blank_pictures,
    chromium,
    contrasts,
    needs_chromium,
    pages_of,
    settle,
    visit,
)
from PIL import Image
from playwright.sync_api import Browser, Page
from served import served

pytestmark = needs_chromium

MOST_BYTES = 150_000
WITH_PICTURES = {"head", "neuron", "images", "image", "search", "rosetta", "concept", "unit"}
NAMES = (
    *("store", "run", "head", "neurons", "neuron", "images", "image", "search"),
    *("experiments", "rosetta", "concept", "unit", "sql"),
)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SHOWN is not None:
        return Path(SHOWN)
    made: Path = request.getfixturevalue("shown_zoo")
    return shutil.copytree(made, tmp_path_factory.mktemp("browser") / "s.lens", symlinks=True)


@pytest.fixture(scope="module")
def addresses(store: Path) -> dict[str, str]:
    return pages_of(store)


@pytest.fixture(scope="module")
def home(store: Path) -> Generator[str]:
    with served(store, "--stored-texts-only") as (address, _):
        yield address


def keep_picture(page: Page, name: str) -> None:
    """A picture of what a window shows now, for the docs, if they are asked for."""
    if PICTURES is None:
        return
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    written = Path(PICTURES) / f"dashboard-{name}.webp"
    shown.save(written, quality=84, method=6)
    assert shown.width == 1280
    assert written.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_every_page(browser: Browser, home: str, addresses: dict[str, str], name: str) -> None:
    """No complaint, every picture there, text of a contrast of 4.5 or more, all within 390 px."""
    with visit(browser, home, color_scheme="light") as page:
        page.goto(addresses[name])
        settle(page)
        assert len(page.title()) > 2
        assert page.locator("h1").count() == 1
        assert (page.locator("main img").count() > 0) == (name in WITH_PICTURES)
        assert not blank_pictures(page)
        unreadable = {"light": [one for one in contrasts(page) if one[0] < 4.5]}
        keep_picture(page, name)
        page.emulate_media(color_scheme="dark")
        unreadable["dark"] = [one for one in contrasts(page) if one[0] < 4.5]
        if name == "head":
            keep_picture(page, f"{name}-dark")
        assert unreadable == {"light": [], "dark": []}
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390


def test_without_scripts_pages_are_whole(
    browser: Browser, home: str, addresses: dict[str, str]
) -> None:
    """Every page has its content, and what is fetched later has a link to it."""
    with visit(browser, home, java_script_enabled=False) as page:
        for name in NAMES:
            page.goto(addresses[name])
            assert page.locator("main h2").count() > 0, name
            assert (page.locator("main img").count() > 0) == (name in WITH_PICTURES), name
            # What only a script can do is not offered.
            assert page.locator("button[data-copy-address]:visible").count() == 0
        page.goto(addresses["experiments"])
        page.get_by_role("link", name="Draw the curve").click()
        assert page.locator("svg.chart polyline").count() == 2
        page.goto(addresses["sql"])
        page.get_by_role("button", name="Run").click()
        assert page.locator("#rows tbody tr").count() == 12


def test_the_theme_is_the_system_s_until_it_is_chosen(browser: Browser, home: str) -> None:
    def ground(page: Page) -> str:
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    with visit(browser, home, color_scheme="dark") as page:
        page.goto("/")
        dark = ground(page)
        page.emulate_media(color_scheme="light")
        light = ground(page)
        assert light != dark
        page.get_by_role("button", name="Switch between light and dark").click()
        assert ground(page) == dark
        page.goto("/sql")
        assert ground(page) == dark, "a choice stays on other pages"
        page.get_by_role("button", name="Switch between light and dark").click()
        page.emulate_media(color_scheme="dark")
        assert ground(page) == light, "and against the system"
