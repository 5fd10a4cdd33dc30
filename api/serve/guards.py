"""What is refused before any question is looked at, and what every answer forbids a browser."""

from __future__ import annotations

import hashlib
import hmac
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...schema.stages import quiet
from .hosts import is_loopback_authority
from .rendering import render

MOST_URL = 8 * 1024
MOST_BODY = 64 * 1024

POSTED = "/api/sql"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_LENGTH = re.compile(r"[0-9]{1,20}")
_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class _Refusal:
    status: int
    error: str
    message: str


class Guards:
    """Refuses what nobody with good intentions asks, and adds the headers of `HEADERS`.

    `loopback` allows only the names of this machine as Host, against sites that point a name of
    theirs here. `token` has to come as `Authorization: Bearer`, or once as `?token=`, which leaves
    a cookie.
    """

    def __init__(self, app: ASGIApp, *, token: str | None = None, loopback: bool = False) -> None:
        self._app = app
        self._loopback = loopback
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or have it answered."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(n.lower().encode(), v.encode()) for n, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST":
            body = await _whole(receive)
            refusal = _TOO_LARGE if body is None else None
            receive = _replay(body or b"")
        answer = _answer(scope, refusal) if refusal else self._admission(scope, headers)
        with quiet():  # whoever started the server did not ask
            await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, str]) -> _Refusal | None:
        url = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
        if sum(map(len, url)) > MOST_URL:
            msg = f"an address may be {MOST_URL} bytes long; POST {POSTED} takes longer queries."
            return _Refusal(414, "AddressTooLong", msg)
        if any(map(_unreadable, url)):
            msg = "this address is no UTF-8 text, percent-encoded and without NUL."
            return _Refusal(400, "BadAddress", msg)
        if scope["method"] not in ("GET", "HEAD") and not _is_posted(scope):
            msg = f"the store is read-only: ask with GET or HEAD, or POST {POSTED}."
            return _Refusal(405, "MethodNotAllowed", msg)
        length = headers.get(b"content-length", "0")
        if not _LENGTH.fullmatch(length) or int(length) > MOST_BODY:
            return _TOO_LARGE
        host = headers.get(b"host", "")
        if self._loopback and not is_loopback_authority(host):
            msg = f"{host!r} is no name of this machine; ask 127.0.0.1 or localhost."
            return _Refusal(403, "UnknownHost", msg)
        if _is_cross_site(scope, headers, host):
            msg = "this request comes from another site's page, and only links may."
            return _Refusal(403, "CrossSite", msg)
        return None

    def _admission(self, scope: Scope, headers: Mapping[bytes, str]) -> Response | None:
        """None for who may go on; otherwise what to say instead."""
        if self._token is None or scope["path"].startswith("/static/"):
            return None
        given = headers.get(b"authorization", "")
        kind, _, bearer = given.partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_cookie(_cookie(headers.get(b"cookie", ""), _cookie_name(scope))):
            return None
        asked = parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True)
        tokens = [value for name, value in asked if name == "token"]
        if len(tokens) == 1 and not _is_api(scope) and self._is_token(tokens[0]):
            return self._entry(scope, [pair for pair in asked if pair[0] != "token"])
        return _locked(scope, wrong=bool(given or tokens))

    def _entry(self, scope: Scope, asked: list[tuple[str, str]]) -> Response:
        """The same page without the token, which a cookie has from now on."""
        assert self._token is not None
        # An address that began with two slashes would be one of another host.
        path = "/" + scope.get("raw_path", b"/").decode("ascii").lstrip("/\\")
        response = RedirectResponse(path + (f"?{urlencode(asked)}" if asked else ""), 303)
        response.set_cookie(
            _cookie_name(scope),
            self._cookie_value(),
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    def _cookie_value(self) -> str:
        assert self._token is not None
        return hmac.new(self._token, b"lensbase cookie", hashlib.sha256).hexdigest()

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _is_cookie(self, given: str) -> bool:
        wanted = self._cookie_value().encode()
        return hmac.compare_digest(given.encode("utf-8", "replace"), wanted)


_TOO_LARGE = _Refusal(413, "BodyTooLarge", f"a question may be {MOST_BODY // 1024} KiB long.")


def _is_posted(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] == POSTED


def _is_api(scope: Scope) -> bool:
    return scope["path"] == "/api" or scope["path"].startswith("/api/")


def _unreadable(part: bytes) -> bool:
    if _MALFORMED.search(part) or not part.isascii():
        return True
    try:
        return "\0" in unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        return True


def _is_cross_site(scope: Scope, headers: Mapping[bytes, str], host: str) -> bool:
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        link = (
            scope["method"] in ("GET", "HEAD")
            and headers.get(b"sec-fetch-mode") == "navigate"
            and headers.get(b"sec-fetch-dest") == "document"
            and not _is_api(scope)
        )
        return site not in ("same-origin", "none") and not link
    origin = headers.get(b"origin")
    return origin is not None and origin.partition("://")[2].lower() != host.lower()


async def _whole(receive: Receive) -> bytes | None:
    """The request's body; None for one that is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes) -> Receive:
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return left.pop() if left else {"type": "http.disconnect"}

    return receive


def _answer(scope: Scope, refusal: _Refusal) -> Response:
    headers = {"Cache-Control": "no-store"}
    if refusal.status == 405:
        headers["Allow"] = "GET, HEAD, POST" if scope["path"] == POSTED else "GET, HEAD"
    if _is_api(scope):
        problem = {"error": refusal.error, "message": refusal.message}
        return JSONResponse(problem, refusal.status, headers)
    page = f"<!doctype html><title>{refusal.error}</title><p>{html.escape(refusal.message)}</p>\n"
    return HTMLResponse(page, refusal.status, headers)


def _locked(scope: Scope, *, wrong: bool) -> Response:
    message = (
        "this is not the token that the server was started with."
        if wrong
        else "this server was started with a token: send `Authorization: Bearer TOKEN`, or open "
        "the first page with `?token=TOKEN`."
    )
    headers = {"Cache-Control": "no-store", "WWW-Authenticate": 'Bearer realm="lensbase"'}
    if _is_api(scope):
        return JSONResponse({"error": "TokenNeeded", "message": message}, 401, headers)
    request = Request(scope)
    page = render(request.app.state.environment, "token.html", message, request=request)
    return HTMLResponse(page, 401, headers)


def _cookie_name(scope: Scope) -> str:
    # Browsers send the cookies of one port to all ports of a host.
    return f"lensbase-{(scope.get('server') or ('', 0))[1]}"


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value
