"""What a browser may keep, and for how long: ETags of what is said, 304, and gzip."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANSWER = "private, no-cache"

_SMALL = 1024
_LARGE = 64 * 1024
_COMPRESSED = ("text/", "application/json", "application/javascript", "image/svg+xml")
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[0-9.]+)\s*)?(?=,|$)", re.IGNORECASE)
_STARTED = "http.response.start"


class Caching:
    """Gives every answer an ETag, says 304 where the asker has it, compresses texts.

    The ETag is a hash of what is said: roles and kept results change without a new generation. An
    answer is kept by browsers only to be asked about again, unless it says otherwise itself. HEAD
    is answered as GET without the body.
    """

    def __init__(self, app: ASGIApp, *, secret: bool = False) -> None:
        self._app = app
        self._vary = "Accept-Encoding, Cookie, Authorization" if secret else "Accept-Encoding"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
        head = scope["method"] == "HEAD"
        start: Message | None = None

        async def send_on(message: Message) -> None:
            nonlocal start
            if message["type"] == _STARTED:
                start = message
                return
            body = message.get("body", b"")
            if start is None:
                await send({**message, "body": b"" if head else body})
                return
            begun, start = start, None
            if not message.get("more_body"):
                large = len(body) > _LARGE
                work = (self._told, begun, body, asked)
                begun, body = await anyio.to_thread.run_sync(*work) if large else work[0](*work[1:])
            else:
                self._kept(begun)
            await send(begun)
            await send({**message, "body": b"" if head else body})

        await self._app({**scope, "method": "GET"} if head else scope, receive, send_on)

    def _told(
        self, begun: Message, body: bytes, asked: Mapping[bytes, str]
    ) -> tuple[Message, bytes]:
        """How an answer starts and its body, as they are sent."""
        headers = self._kept(begun)
        if begun["status"] != 200:
            return begun, body
        if b"etag" not in headers:
            # Weak: compressed or not, it is the same answer.
            headers[b"etag"] = b'W/"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
            if _matches(asked.get(b"if-none-match"), headers[b"etag"].decode("latin-1")):
                kept = (b"etag", b"cache-control", b"vary")
                left = [(name, headers[name]) for name in kept if name in headers]
                return {**begun, "status": 304, "headers": left}, b""
        kind = headers.get(b"content-type", b"").decode("latin-1")
        if (
            len(body) >= _SMALL
            and kind.startswith(_COMPRESSED)
            and b"content-encoding" not in headers
            and _takes_gzip(asked.get(b"accept-encoding", ""))
        ):
            body = gzip.compress(body, 5, mtime=0)
            headers[b"content-encoding"] = b"gzip"
            headers[b"content-length"] = str(len(body)).encode()
        return {**begun, "headers": list(headers.items())}, body

    def _kept(self, begun: Message) -> dict[bytes, bytes]:
        """The headers of an answer, with those that say who may keep it."""
        headers = dict(begun.get("headers", ()))
        good = begun["status"] < 400
        headers.setdefault(b"cache-control", ANSWER.encode() if good else b"no-store")
        headers[b"vary"] = self._vary.encode()
        begun["headers"] = list(headers.items())
        return headers


def _matches(wanted: str | None, etag: str) -> bool:
    """Whether one of the ETags that an asker has is this one, weak or not."""
    if wanted is None:
        return False
    given = [one.strip().removeprefix("W/") for one in wanted.split(",")]
    return "*" in given or etag.removeprefix("W/") in given


def _takes_gzip(accepted: str) -> bool:
    found = _GZIP.search(accepted)
    try:
        return found is not None and float(found["q"] or 1) > 0
    except ValueError:
        return False
