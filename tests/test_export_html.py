"""Pages as files: they link only each other, show what the store says, and open from disk."""

from __future__ import annotations

import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import blank_pictures, chromium, needs_chromium, settle, visit
from commands import invoke
from PIL import Image
from playwright.sync_api import expect

from lensbase.api import open_store
from lensbase.api.exporting import export_html
from lensbase.api.serve.pages import heads
from lensbase.schema.errors import BadQuestion, ExtraMissing, FolderTaken

NEURONS, CONCEPTS = 3, 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(shown_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "pages"
    told: list[tuple[int, int]] = []
    with open_store(shown_zoo) as store, pytest.MonkeyPatch.context() as patch:
        # Five directions of each head have too many heatmaps for a test.
        patch.setattr(heads, "DIRECTIONS", 1)
        made = export_html(
            store, folder, NEURONS, concepts=CONCEPTS, progress=lambda *said: told.append(said)
        )
    assert made.pages == len(list(folder.rglob("*.html"))) == told[-1][1]
    assert made.pictures == len(list(folder.glob("pictures/*.webp"))) > 150
    assert made.bytes < 20_000_000
    return folder


class Links(HTMLParser):
    """Everything that a page points to, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("href", "src", "action", "data-heat", "data-lazy")
        self.targets += [value for name, value in attrs if name in names and value is not None]


def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


def test_there_is_a_page_of_each_head_and_of_the_most_active_neurons(
    site: Path, shown_zoo: Path
) -> None:
    with open_store(shown_zoo) as store:
        kept = set(store.run().heads["component"])
        neurons = store.sql(
            f"SELECT component FROM neurons ORDER BY mean_norm DESC LIMIT {NEURONS}"
        )
        expected = {*neurons["component"], "index"}
    assert {path.stem for path in site.glob("runs/r/heads/*.html")} == kept
    assert {path.stem for path in site.glob("runs/r/neurons/*.html")} == expected
    assert len(list(site.glob("rosetta/scenes/concepts/*.html"))) == CONCEPTS
    assert "neurons/index.html" in parsed(site / "runs/r/index.html").targets


def test_every_link_is_relative_and_leads_to_a_file(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    seen: set[Path] = set()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "http" not in text
        assert "localhost" not in text
        for target in parsed(page).targets:
            assert not target.startswith(("/", "?")), (page, target)
            path, _, fragment = target.partition("#")
            found = (page.parent / unquote(path)).resolve() if path else page
            assert found.is_file(), (page, target)
            assert found.is_relative_to(site.resolve())
            seen.add(found)
            if fragment and found.suffix == ".html":
                assert f'id="{fragment}"' in found.read_text(encoding="utf-8")
    written = {path.resolve() for path in site.rglob("*") if path.is_file()}
    unseen = {path for path in written - seen if path.parent.name != "static"}
    assert not unseen - {(site / "index.html").resolve()}, "what is written is linked"


def test_nothing_that_asks_is_left(site: Path) -> None:
    for page in site.rglob("*.html"):
        tags = parsed(page).tags
        assert "form" not in tags
        assert "input" not in tags
        assert "data-lazy" not in page.read_text(encoding="utf-8")


def test_a_head_s_page_has_the_numbers_of_the_library(site: Path, shown_zoo: Path) -> None:
    page = unescape((site / "runs/r/heads/L6.H2.html").read_text(encoding="utf-8"))
    with open_store(shown_zoo) as store:
        rows = store.run().head("L6.H2").textspan().rows()
    shown = re.findall(
        r'<td class="text">([^<]+)</td>|<tr class="middle"><td class="number">', page
    )
    assert len(shown) >= len(rows)
    for row in rows:
        assert row["text"] in page
        assert f"{100 * row['explained_variance']:.1f} %" in page
    assert f"{100 * rows[-1]['cumulative']:.1f} %" in page


def test_pictures_are_small_and_shared(site: Path) -> None:
    pictures = list(site.glob("pictures/*"))
    assert {path.suffix for path in pictures} == {".webp"}
    for path in pictures[::40]:
        with Image.open(path) as picture:
            assert min(picture.size) <= 224
    shown = [
        target
        for page in site.rglob("*.html")
        for target in parsed(page).targets
        if "pictures/" in target
    ]
    assert len(shown) > 2 * len(pictures)


def test_the_command_writes_both_kinds(
    world_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "DIRECTIONS", 0)
    done = invoke(
        "export", world_store, tmp_path / "out", "--html", "--parquet", "--limit-neurons", 0
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"index.html: \d+ pages, \d+ pictures, [\d.]+ [KM]iB", done.output)
    assert re.search(r"\*.parquet: \d+ views, [\d,]+ rows, [\d.]+ [KM]iB", done.output)
    assert (tmp_path / "out" / "index.html").exists()
    assert (tmp_path / "out" / "heads.parquet").exists()
    again = invoke("export", world_store, tmp_path / "out", "--parquet")
    assert again.exit_code == 2
    assert "--force" in again.output
    assert invoke("export", world_store, tmp_path / "out", "--parquet", "--force").exit_code == 0
    assert (tmp_path / "out" / "index.html").exists()
    assert "--html" in invoke("export", world_store, tmp_path / "new").output


def test_without_its_libraries_pages_name_the_extra(
    world_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.startswith("lensbase.api.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with open_store(world_store) as store, pytest.raises(ExtraMissing, match="serve"):
        export_html(store, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(world_store: Path, tmp_path: Path) -> None:
    with open_store(world_store) as store:
        with pytest.raises(BadQuestion, match="neurons"):
            export_html(store, tmp_path / "out", -1)
        with pytest.raises(FolderTaken):
            export_html(store, world_store, force=True)


@needs_chromium
def test_pages_open_from_disk(site: Path) -> None:
    """In a browser nothing is asked from elsewhere, links lead on, and all pictures are there."""
    with chromium() as browser, visit(browser, site.as_uri()) as page:

        def whole(heading: str) -> None:
            expect(page.locator("h1")).to_contain_text(heading)
            settle(page)
            assert not blank_pictures(page)
            # Where a style is missing, nothing is round.
            expect(page.locator(".section").first).to_have_css("border-radius", "10px")

        page.goto(f"{site.as_uri()}/index.html")
        page.locator("a.card[href*='runs']").click()
        page.locator("a.cell[aria-label^='L6.H2:']").click()
        whole("Head L6.H2")
        assert page.locator("main img").count() == 8
        page.get_by_role("button", name="Heatmaps").first.click()
        whole("Head L6.H2")
        page.locator("a[rel=next]").first.click()
        whole("Head L6.H3")
        page.get_by_role("link", name="Store", exact=True).click()
        page.locator("a.card[href*='rosetta']").click()
        whole("Zoo")
        page.locator("th a", has_text="1").first.click()
        whole("Concept 1")
