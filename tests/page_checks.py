"""What every page of the dashboard has to be: sound HTML, by whose rules assistive tools go."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from fastapi.testclient import TestClient

_VOID = {"meta", "link", "input", "img", "hr", "br"}
_LOADED = {"img": "src", "script": "src", "link": "href"}


class Page(HTMLParser):
    """A page's elements, in order; `problems` says what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.headings: list[int] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self._within: list[str] = []
        self.feed(text)
        self.close()
        self._conclude()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "option" and self._open[-1:] == ["option"]:
            self._open.pop()
        if tag not in _VOID:
            self._open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if tag in _LOADED:
            self.loaded.append(str(given[_LOADED[tag]]))
        if given.get("data-heat"):
            self.loaded.append(str(given["data-heat"]))
        self._check(tag, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Of SVG, where an element may close itself.
        if tag in _VOID:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1] == "option" != tag:
            self._open.pop()  # whose end may be left out
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes another element")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script" and data.strip():
            self.problems.append(f"a script within the page: {data[:40]}")

    def _check(self, tag: str, given: dict[str, Any]) -> None:
        where = f"<{tag}> at {self.getpos()}"
        for name in given:
            if name == "style" or name.startswith("on"):
                self.problems.append(f"{where} has {name}, which the policy forbids")
        if tag == "img" and not given.get("alt"):
            self.problems.append(f"{where} has no text instead of it")
        labelled = "label" in self._open or given.get("aria-label")
        if (
            tag in ("input", "select", "textarea")
            and given.get("type") != "hidden"
            and not labelled
        ):
            self.problems.append(f"{where} has no label")
        if tag == "form" and given.get("method", "get").lower() != "get":
            self.problems.append(f"{where} changes something")

    def _conclude(self) -> None:
        if self._open:
            self.problems.append(f"never closed: {self._open}")
        if self.headings.count(1) != 1 or self.headings[0] != 1:
            self.problems.append(f"headings are {self.headings}")
        steps = zip(self.headings, self.headings[1:], strict=False)
        if any(after > before + 1 for before, after in steps):
            self.problems.append(f"a heading is passed over: {self.headings}")
        if len(self.ids) != len(set(self.ids)):
            self.problems.append(f"an id stands twice: {sorted(self.ids)}")
        outside = [one for one in self.links + self.loaded if urlsplit(one).netloc]
        if outside:
            self.problems.append(f"other hosts are named: {outside}")


def checked(client: TestClient, path: str, **asked: Any) -> str:
    """A page's text, after it was found to be sound."""
    answer = client.get(path, params=asked or None)
    assert answer.status_code == 200, f"{path}: {answer.text}"
    page = Page(answer.text)
    assert not page.problems, f"{path}: {page.problems}"
    return answer.text


def crawled(client: TestClient, start: str, most: int) -> dict[str, int]:
    """Statuses of the addresses reached from a page, breadth first; pages are checked.

    The console's addresses are left out: each is a query, in a process of its own.
    """
    statuses: dict[str, int] = {}
    waiting = [start]
    seen = set(waiting)
    while waiting and len(statuses) < most:
        path = waiting.pop(0)
        answer = client.get(path)
        statuses[path] = answer.status_code
        if not answer.content.startswith(b"<!doctype html>"):
            continue  # data, a picture, or a part of a page
        page = Page(answer.text)
        assert not page.problems, f"{path}: {page.problems}"
        for found in page.links + page.loaded:
            address = urljoin(path, found).split("#")[0]
            if address not in seen and not address.startswith(("/sql", "/api/sql")):
                seen.add(address)
                waiting.append(address)
    return statuses
