"""The dashboard in a real browser: every page whole and readable, all done with mouse or keys.

With LENSBASE_DEMO the store is that one, and LENSBASE_PICTURES is where to put pictures of its
pages. The docs' own come from

    LENSBASE_DEMO=demo/demo.lens LENSBASE_PICTURES=docs/images pytest tests/test_browser.py -k every
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from browser import (
    HEAD,
    IMAGE,
    PICTURES,
    QUERY,
    SHOWN,
    TEXT,
    Site,
    blank_pictures,
    contrasts,
    needs_chromium,
    settle,
    site_of,
)
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lensbase.api import open_store
from lensbase.api.run import RunView

pytestmark = [needs_chromium, pytest.mark.slow]

MOST_BYTES = 150_000
WITH_PICTURES = {"head", "neuron", "images", "image", "search", "rosetta", "concept", "unit"}
NAMES = (
    *("store", "run", "head", "neurons", "neuron", "images", "image", "search"),
    *("experiments", "rosetta", "concept", "unit", "sql"),
)


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Site]:
    if SHOWN is not None:
        store = Path(SHOWN)
    else:
        # Pages keep what they compute.
        copied = tmp_path_factory.mktemp("browser") / "s.lens"
        store = shutil.copytree(request.getfixturevalue("shown_zoo"), copied, symlinks=True)
    with site_of(store) as site:
        yield site


@pytest.fixture(scope="module")
def run(site: Site) -> Generator[RunView]:
    with open_store(site.store) as store:
        yield store.run()


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
def test_every_page(site: Site, name: str) -> None:
    """No complaint, every picture there, text of a contrast of 4.5 or more, all within 390 px."""
    with site.visit(color_scheme="light") as page:
        page.goto(site.pages[name])
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


def test_what_goes_on_beyond_an_edge_fades(site: Site) -> None:
    """Tabs and wide tables on 390 px, and long facets; few values need no scrolling."""
    with site.visit() as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(site.pages["neurons"])
        for box in (".tabs > ul", ".scroll"):
            expect(page.locator(box).first).to_contain_class("more-right")
        page.locator(".scroll").first.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        expect(page.locator(".scroll").first).not_to_contain_class("more-right")
        expect(page.locator(".scroll").first).to_contain_class("more-left")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(site.pages["images"])
        label = page.locator("details.facet[open] ul").first
        assert label.evaluate("one => [one.scrollHeight, one.scrollWidth]") == label.evaluate(
            "one => [one.clientHeight, one.clientWidth]"
        )
        copied = "one.append(one.firstElementChild.cloneNode(true))"
        label.evaluate(f"one => {{ for (const time of Array(20)) {copied}; }}")
        expect(label).to_contain_class("more-down")


def test_without_scripts_pages_are_whole(site: Site) -> None:
    """Pages have their content, and what is fetched later has a link to it."""
    with site.visit(java_script_enabled=False) as page:
        for name in ("run", "head", "images", "rosetta"):
            page.goto(site.pages[name], wait_until="domcontentloaded")
            assert page.locator("main h2").count() > 0, name
            assert (page.locator("main img").count() > 0) == (name in WITH_PICTURES), name
            # What only a script can do is not offered.
            assert page.locator("button[data-copy-address]:visible").count() == 0
        page.goto(site.pages["experiments"])
        page.get_by_role("link", name="Draw the curve").click()
        expect(page.locator("svg.chart polyline")).to_have_count(2)
        page.goto(site.pages["sql"])
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#rows tbody tr")).to_have_count(12)


def test_the_theme_is_the_system_s_until_it_is_chosen(site: Site) -> None:
    def ground(page: Page) -> str:
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    with site.visit(color_scheme="dark") as page:
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


def test_from_the_first_page_to_a_head_by_two_clicks(site: Site, run: RunView) -> None:
    with site.visit() as page:
        page.goto("/")
        page.locator("main a.card", has_text=run.name).first.click()
        page.locator(f"a.cell[aria-label^='{HEAD}:']").click()
        expect(page.locator("h1")).to_have_text(f"Head {HEAD}")
        rows = page.locator("#texts tbody tr")
        shown = [tuple(row.locator("td").all_inner_texts()) for row in rows.all()]
        page.locator("#texts tbody a").first.click()
        expect(page.locator("#along li")).to_have_count(12)
    spans = run.head(HEAD).textspan(m=20)
    assert [(int(rank), text) for rank, text, *_ in shown] == [
        (row["rank"], row["text"]) for row in spans
    ]
    for (*_, own, so_far), row in zip(shown, spans, strict=True):
        assert own == f"{100 * row['explained_variance']:.1f} %"
        assert so_far == f"{100 * row['cumulative']:.1f} %"


def test_all_is_reached_with_keys_alone(site: Site, run: RunView) -> None:
    """Whatever Tab comes to shows that it is there; the grid is one step, arrows walk over it."""
    with site.visit() as page:
        page.goto(site.pages["run"])
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        expect(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.goto(site.pages["run"])
        passed = [tab(page) for _ in range(40)]
        assert passed.count("a.cell") == 1, "a grid is one step"
        page.locator("a.cell[tabindex='0']").focus()
        for key in ("End", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp", "Home", "ArrowRight"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Head L6.H1")
        page.wait_for_load_state()  # keys are heard once the scripts have run
        page.keyboard.press("]")
        expect(page.locator("h1")).to_have_text("Head L6.H2")
        page.wait_for_load_state()
        page.keyboard.press("/")
        expect(page.locator("[data-search]")).to_be_focused()
        page.keyboard.type(TEXT)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text(TEXT)
        page.goto("/sql")
        page.locator("textarea").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("SELECT count(*) AS heads FROM heads")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#rows tbody td")).to_have_text(str(len(run.heads)))


def tab(page: Page) -> str:
    """Go on by one step of Tab, to something that shows it; its element and first class."""
    page.keyboard.press("Tab")
    return page.evaluate(
        """() => {
            const one = document.activeElement;
            const ring = getComputedStyle(one);
            const seen = ring.outlineStyle !== "none" && parseFloat(ring.outlineWidth) >= 2;
            const { width, height } = one.getBoundingClientRect();
            if (one !== document.body && !(seen && width && height)) throw new Error(one.outerHTML);
            return one.tagName.toLowerCase() + (one.classList.length ? "." + one.classList[0] : "");
        }"""
    )


def test_pictures_become_heatmaps_and_back(site: Site) -> None:
    with site.visit() as page:
        page.goto(site.pages["head"])
        toggle = page.locator("#directions").get_by_role("button", name="Heatmaps")
        pictures = page.locator("#directions .strip").first.locator("img")
        plain = seen(pictures)
        assert len(set(plain)) == 8
        toggle.click()
        expect(toggle).to_have_attribute("aria-pressed", "true")
        heated = seen(pictures)
        assert not set(heated) & set(plain)
        toggle.click()
        assert seen(pictures) == plain


def seen(pictures: Locator) -> list[str]:
    """What pictures show, pixel by pixel."""
    return pictures.evaluate_all(
        """(pictures) => Promise.all(pictures.map(async (one) => {
            one.loading = "eager";
            await one.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [one.naturalWidth, one.naturalHeight];
            canvas.getContext("2d").drawImage(one, 0, 0);
            return canvas.toDataURL();
        }))"""
    )


def test_a_heatmap_of_any_text_has_an_address(site: Site) -> None:
    with site.visit() as page:
        page.goto(site.pages["image"].partition("?")[0])
        pictures = page.locator("#where img")
        expect(pictures).to_have_count(0)
        page.get_by_label("Text", exact=True).fill("a red circle")
        page.get_by_label("Relative to").fill(TEXT)
        page.get_by_label("Through").select_option(HEAD)
        page.locator("#where").get_by_role("button", name="Show").click()
        expect(pictures).to_have_count(2)
        settle(page)
        assert not blank_pictures(page)
        assert "text=a+red+circle" in page.url
        assert f"head={HEAD}" in page.url
        expect(page.locator("#where figcaption").last).to_contain_text(f"through {HEAD}")


def test_an_experiment_is_its_address(site: Site, run: RunView) -> None:
    """Proposed heads are ticked with a click; the numbers are the library's, after reload too."""
    with site.visit() as page:
        page.goto(site.pages["run"] + "/experiments?by=background")
        page.locator("#spurious").scroll_into_view_if_needed()
        page.locator("#spurious a[aria-label^='Tick ']").first.click()
        ticked = page.locator("input[name=ablate]:checked")
        expect(ticked).to_have_count(1)
        proposed = ticked.get_attribute("value")
        page.locator("label.tick", has=page.locator("[value='L7.H1']")).click()
        page.locator("#ablate").get_by_role("button", name="Run").click()
        expect(ticked).to_have_count(2)
        shown = page.locator("#accuracy .change dd").all_inner_texts()
        page.reload()
        assert page.locator("#accuracy .change dd").all_inner_texts() == shown
        template = page.locator("[name=template]").input_value()
    classes = sorted({row["label"] for row in run.images.rows()})
    measured = run.accuracy(
        run.classifier(classes, templates=template), by="background", ablate=[proposed, "L7.H1"]
    )
    assert measured.before is not None
    assert shown[0] == f"{100 * measured.before.overall:.1f} → {100 * measured.overall:.1f} %"
    assert f"→ {100 * measured.worst_group:.1f} %" in " ".join(shown)


def test_rows_of_sql_come_as_csv(site: Site, run: RunView) -> None:
    with site.visit() as page:
        page.goto("/sql")
        page.locator("textarea").fill(QUERY)
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#rows tbody tr")).to_have_count(12)
        with page.expect_download() as coming:
            page.get_by_role("link", name="CSV").click()
        rows = list(csv.DictReader(coming.value.path().open(encoding="utf-8")))
        first = page.locator("#rows tbody td:first-child").all_inner_texts()
    assert [row["component"] for row in rows] == first
    best = max(run.heads, key=lambda row: row["variance"])
    assert first[0] == best["component"]
    assert float(rows[0]["variance"]) == pytest.approx(best["variance"])


def test_what_is_copied_runs(site: Site, run: RunView) -> None:
    with site.visit(permissions=["clipboard-read", "clipboard-write"]) as page:

        def copied(button: Locator) -> str:
            page.evaluate("() => document.querySelector('.toast')?.remove()")
            button.click()
            expect(page.get_by_role("status")).to_have_text("Copied")
            return page.evaluate("() => navigator.clipboard.readText()")

        page.goto(site.pages["head"])
        address = copied(page.get_by_role("button", name="Copy address"))
        code = copied(page.locator("#texts").get_by_role("button", name="Copy Python"))
        page.goto(site.pages["image"])
        another = copied(page.locator("#where").get_by_role("button", name="Copy Python"))
    assert address == site.home + site.pages["head"]
    assert code == f"store.run('{run.name}').head('{HEAD}').textspan(m=20)"
    assert another == f"store.run('{run.name}').image({IMAGE}).heatmap('{TEXT}')"
    with open_store(site.store) as store:
        assert eval(code, {"store": store}).rows() == run.head(HEAD).textspan(m=20).rows()
        assert repr(eval(another, {"store": store})) == repr(run.image(IMAGE).heatmap(TEXT))
