"""Asking a language model over HTTP: any endpoint that speaks OpenAI's chat completions.

Nothing is asked unless the environment says where: LENSBASE_CHAT_URL, LENSBASE_CHAT_MODEL and,
where the endpoint needs one, LENSBASE_CHAT_KEY.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..schema.errors import ChatFailed, ChatNotConfigured

URL = "LENSBASE_CHAT_URL"
KEY = "LENSBASE_CHAT_KEY"
MODEL = "LENSBASE_CHAT_MODEL"

_PATH = "/chat/completions"
_LARGEST = 16 << 20  # of an answer, in bytes
_CHUNK = 1 << 16


class Answer(NamedTuple):
    """What a model wrote, and whether it broke off before it was done."""

    text: str
    cut: bool


@dataclass(frozen=True)
class ChatEndpoint:
    """Where a chat model is: `url` up to `/chat/completions`, which may be left out.

    `timeout` are the seconds that an answer may take; `options` are further fields of the request,
    such as `{"temperature": 1}`.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_environment(cls, *, timeout: float = 120.0) -> ChatEndpoint:
        """The endpoint that the environment names; raises `ChatNotConfigured`."""
        url, model, key = (os.environ.get(name, "").strip() for name in (URL, MODEL, KEY))
        missing = [name for name, value in ((URL, url), (MODEL, model)) if not value]
        if missing:
            msg = (
                f"no language model is configured: set {' and '.join(missing)}. {URL} is the base "
                f"address of an endpoint that speaks OpenAI's chat completions, {MODEL} the "
                f"model's name there, and {KEY} the key, where it needs one. Without them the "
                "prompt can be printed and its answer brought by hand."
            )
            raise ChatNotConfigured(msg)
        return cls(url, model, key or None, timeout)

    def ask(self, prompt: str) -> Answer:
        """Send one message; give the answer. Raises `ChatNotConfigured` or `ChatFailed`."""
        request = self._request(prompt)
        opener = urllib.request.build_opener(_NoRedirects())
        try:
            with opener.open(request, timeout=self.timeout) as response:
                content = self._content(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ChatFailed(self._refused(error)) from error
        except ChatFailed:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                msg = f"{self._name} did not answer within {self.timeout:g} seconds; ask again."
                raise ChatFailed(msg) from error
            what = str(reason) or type(reason).__name__
            msg = f"{self._name} cannot be reached ({what}); see that {URL} is right and it runs."
            raise ChatFailed(msg) from error
        return self._answer(content)

    @property
    def _name(self) -> str:
        # Without the address: it may hold a name and a password.
        return f"the chat endpoint of model {self.model!r}"

    def _request(self, prompt: str) -> urllib.request.Request:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            msg = (
                f"{URL} is no address of a chat endpoint: it has to begin with http:// or https://."
            )
            raise ChatNotConfigured(msg)
        url = self.url.rstrip("/")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            if not self.key.isascii() or not self.key.isprintable():
                msg = f"{KEY} is no key: it may hold printable ASCII characters only."
                raise ChatNotConfigured(msg)
            headers["Authorization"] = f"Bearer {self.key}"
        message = {"role": "user", "content": prompt}
        body = {**self.options, "model": self.model, "messages": [message]}
        return urllib.request.Request(
            url if url.endswith(_PATH) else url + _PATH,
            data=json.dumps(body).encode(),
            headers=headers,
            method="POST",
        )

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        """The body of a response, which may neither drip on for ever nor have no end."""
        until = time.monotonic() + self.timeout
        parts: list[bytes] = []
        size = 0
        while part := response.read1(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > _LARGEST:
                msg = f"{self._name} answered with more than {_LARGEST >> 20} MB: that is no list."
                raise ChatFailed(msg)
            if time.monotonic() > until:
                raise TimeoutError
        return b"".join(parts)

    def _answer(self, content: bytes) -> Answer:
        try:
            choice = json.loads(content)["choices"][0]
            text, finished = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            text = finished = None
        if not isinstance(text, str) or not text.strip():
            msg = f"{self._name} answered no chat completion with a text: {self._shown(content)!r}."
            raise ChatFailed(msg)
        return Answer(text, cut=finished == "length")

    def _refused(self, error: urllib.error.HTTPError) -> str:
        try:
            said = self._shown(error.read(_CHUNK))
        except (OSError, http.client.HTTPException):
            said = ""
        hints = {
            401: f"see that {KEY} is right",
            403: f"see that {KEY} is right",
            404: f"see that {URL} and {MODEL} are right",
            429: "wait, and ask again",
        }
        hint = hints.get(error.code, "ask again later" if error.code >= 500 else f"see {URL}")
        if 300 <= error.code < 400:
            hint = f"set {URL} to the address that it sends to"
        return f"{self._name} answered {error.code} {error.reason} ({said}); {hint}."

    def _shown(self, content: bytes) -> str:
        """The beginning of an answer, on one line and without the key."""
        text = " ".join(content.decode("utf-8", "replace").split())
        return (text.replace(self.key, "***") if self.key else text)[:200]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: it becomes an HTTPError."""
