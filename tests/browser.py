"""A browser in tests: Debian's Chromium, watched, over a store that `lensbase serve` serves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from served import served

from lensbase.api import open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="there is no Chromium to drive; Debian's `apt-get install chromium` installs one",
)

SHOWN = os.environ.get("LENSBASE_DEMO")
"""A store to look at instead of the tests' own: that of `lensbase demo`, for the docs' pictures."""
PICTURES = os.environ.get("LENSBASE_PICTURES")
"""The folder that pictures of the pages go to; without it none are taken."""

HEAD, NEURON, IMAGE = "L7.H7", "L4.N29", 130
TEXT = "a purple star"
MILLISECONDS = 20_000
expect.set_options(timeout=MILLISECONDS)

QUERY = """SELECT component, variance, mean_norm, texts[1] AS first_text
FROM heads ORDER BY variance DESC LIMIT 12"""


def pages_of(store: Path) -> dict[str, str]:
    """An address of each kind of page, by the kind's name."""
    with open_store(store) as opened:
        run, zoo = opened.run().name, opened.rosetta()
        unit = zoo.concepts()[0]["unit"]
    base, text = f"/runs/{run}", urlencode({"text": TEXT})
    experiment = {"by": "size", "ablate": ["L2.H1", "L7.H6", "L4.H5", "L1.H4"]}
    return {
        "store": "/",
        "run": base,
        "head": f"{base}/heads/{HEAD}?{text}&to={IMAGE}",
        "neurons": f"{base}/neurons",
        "neuron": f"{base}/neurons/{NEURON}",
        "images": f"{base}/images?{urlencode({'facet': 'label:star'})}",
        "image": f"{base}/images/{IMAGE}?{text}",
        "search": f"{base}/search?{text}",
        "experiments": f"{base}/experiments?{urlencode(experiment, doseq=True)}",
        "rosetta": f"/rosetta/{zoo.name}",
        "concept": f"/rosetta/{zoo.name}/concepts/0",
        "unit": f"/rosetta/{zoo.name}/units/{unit}",
        "sql": f"/sql?{urlencode({'query': QUERY})}",
    }


@dataclass(frozen=True)
class Site:
    """A served store: `home` is its address, `pages` one of each kind of page within it."""

    store: Path
    home: str
    pages: dict[str, str]
    browser: Browser

    def visit(self, **options: Any) -> AbstractContextManager[Page]:
        """A window of its own; see `visit`."""
        return visit(self.browser, self.home, **options)


@contextmanager
def site_of(store: Path) -> Generator[Site]:
    """Serve a store to a browser."""
    with served(store, "--stored-texts-only") as (home, _), chromium() as browser:
        yield Site(store, home, pages_of(store), browser)


@contextmanager
def chromium() -> Generator[Browser]:
    """The browser. While it is open, nothing else in this thread can run an event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, home: str, **options: Any) -> Generator[Page]:
    """A window of its own, whose pages may load from `home` alone, and without any complaint."""
    still: dict[str, Any] = {"reduced_motion": "reduce", "viewport": {"width": 1280, "height": 900}}
    context = browser.new_context(base_url=home, **(still | options))
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    troubles = watch(page, home)
    try:
        yield page
    finally:
        context.close()
    assert not troubles, "\n".join(troubles)


def watch(page: Page, home: str) -> list[str]:
    """What will be wrong with the pages of a window; policies that are broken are errors too."""
    troubles: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            troubles.append(f"{page.url}: {message.type}: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith((home, "data:")):
            troubles.append(f"{page.url}: asks {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            troubles.append(f"{page.url}: {response.status} from {response.url}")

    def failed(request: Request) -> None:
        # What is still loading when somebody goes on is given up: that is no failure.
        if request.failure != "net::ERR_ABORTED":
            troubles.append(f"{page.url}: {request.failure} from {request.url}")

    page.on("console", said)
    page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
    page.on("request", asked)
    page.on("response", answered)
    page.on("requestfailed", failed)
    return troubles


def settle(page: Page) -> None:
    """Wait for all pictures and for parts that are fetched later, as after scrolling down."""
    page.evaluate(
        """() => {
            for (const box of document.querySelectorAll("[data-lazy]")) box.dataset.awaited = "";
            for (const img of document.images) img.loading = "eager";
        }"""
    )
    for box in page.locator("[data-awaited]").all():
        box.scroll_into_view_if_needed()
        part = box.element_handle()
        page.wait_for_function("box => !box.querySelector(':scope > a') && !box.ariaBusy", arg=part)
    page.wait_for_function("() => [...document.images].every((img) => img.complete)")
    page.evaluate("() => scrollTo(0, 0)")


def blank_pictures(page: Page) -> list[str]:
    """Addresses of pictures that did not load."""
    return page.evaluate(
        "() => [...document.images].filter((img) => !img.naturalWidth).map((img) => img.src)"
    )


CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const known = new Map();
    function paint(color) {
        if (!known.has(color)) {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
            known.set(color, [r, g, b, a / 255]);
        }
        return known.get(color);
    }
    const over = ([r, g, b, a], under) =>
        [r, g, b].map((one, i) => one * a + under[i] * (1 - a)).concat(1);
    function ground(element) {
        const behind = [];
        for (let one = element; one; one = one.parentElement) {
            behind.push(paint(getComputedStyle(one).backgroundColor));
            if (behind.at(-1)[3] === 1) break;
        }
        return behind.reduceRight((under, one) => over(one, under), [255, 255, 255, 1]);
    }
    function light(color) {
        const [r, g, b] = color.slice(0, 3).map((one) => one / 255)
            .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const words = texts.currentNode.data.trim();
        if (!words || element.closest("title, .visually-hidden, .skip")) continue;
        if (!element.checkVisibility({ visibilityProperty: true })) continue;
        const under = ground(element);
        const text = over(paint(getComputedStyle(element).color), under);
        const [least, most] = [light(text), light(under)].sort((a, b) => a - b);
        found.push([(most + 0.05) / (least + 0.05), words.slice(0, 40)]);
    }
    return found;
}"""


def contrasts(page: Page) -> list[tuple[float, str]]:
    """Of every visible text, its contrast to what is behind it, as WCAG 2 counts, lowest first."""
    return sorted((ratio, text) for ratio, text in page.evaluate(CONTRASTS))
