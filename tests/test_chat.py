"""A language model over HTTP: a real server on this machine, its answers and its failures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from commands import invoke

from lensbase.api.adversarial import chat_describer, describe, prompt
from lensbase.api.chat import KEY, MODEL, URL, ChatEndpoint
from lensbase.schema.errors import BadDescriptions, ChatFailed, ChatNotConfigured

SECRET = "sk-not-to-be-seen"


class Server(ThreadingHTTPServer):
    """Answers every POST as `reply` says, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[Handler], None] = lambda handler: handler.says("1. A dog.")
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        self.server.reply(self)

    def says(self, text: str | None, *, finish: str = "stop") -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        self.sends(json.dumps({"choices": [choice | {"finish_reason": finish}]}).encode())

    def sends(self, body: bytes, *, code: int = 200, length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if 300 <= code < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of this belongs on the screen."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setenv(URL, server.url)
        monkeypatch.setenv(MODEL, "some-model")
        monkeypatch.setenv(KEY, SECRET)
        yield server
        server.shutdown()


def ask(server: Server, **options: Any) -> Any:
    return ChatEndpoint(server.url, "some-model", SECRET, **options).ask("hello")


def test_a_prompt_is_sent_and_its_answer_filtered(server: Server) -> None:
    answer = (
        "Here you are:\n\n1. A dog beside an antler.\n2) **A dog and two deer.**\n"
        '3. "A forest at dawn."\n4. a dog beside an antler.\n\nAnything else?'
    )
    server.reply = lambda handler: handler.says(answer)
    text = prompt("dog", "deer", ["antler", "forest"], count=4)
    found = describe(text, shown="dog", mistaken_for="deer")
    assert found.kept == ["A dog beside an antler."]
    assert (found.mentioning, found.lacking, found.repeated) == (1, 1, 1)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {"model": "some-model", "messages": [{"role": "user", "content": text}]}


def test_a_whole_address_options_and_no_key(server: Server) -> None:
    url = f"{server.url}/chat/completions/"
    found = ChatEndpoint(url, "m", options={"temperature": 0.5, "model": "not this"}).ask("x")
    assert found == ("1. A dog.", False)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert (body["temperature"], body["model"]) == (0.5, "m")


def test_an_answer_that_broke_off_loses_its_last_item(server: Server) -> None:
    server.reply = lambda handler: handler.says("1. A dog.\n2. A dog in a fo", finish="length")
    assert describe("?", shown="dog", mistaken_for="deer").kept == ["A dog."]


def test_a_chat_is_a_describer(server: Server) -> None:
    found = chat_describer()("dog", "deer", ["antler"], count=7, seed=0)
    assert found == ["A dog."]
    assert "7 short image descriptions" in server.requests[0][2]["messages"][0]["content"]


def test_nothing_is_called_unless_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)
    for make in (chat_describer, lambda: describe("?", shown="dog", mistaken_for="deer")):
        with pytest.raises(ChatNotConfigured, match=f"set {URL} and {MODEL}"):
            make()
    monkeypatch.setenv(URL, "http://127.0.0.1:9")
    with pytest.raises(ChatNotConfigured, match=f"set {MODEL}"):
        chat_describer()


@pytest.mark.parametrize(
    "url",
    ["ftp://a/v1", "file:///etc/passwd", "localhost:8000", "http://", "http://a:b", "http://ä"],
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ChatNotConfigured, match=URL):
        ChatEndpoint(url, "m").ask("x")


def test_a_key_with_a_line_break_is_refused(server: Server) -> None:
    with pytest.raises(ChatNotConfigured, match=KEY):
        ChatEndpoint(server.url, "m", "a\nb").ask("x")
    assert not server.requests


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (401, KEY),
        (403, KEY),
        (404, MODEL),
        (429, "wait"),
        (500, "later"),
        (503, "later"),
        (400, URL),
    ],
)
def test_refusals_say_the_code_the_reason_and_what_to_do(
    server: Server, code: int, hint: str
) -> None:
    body = json.dumps({"error": {"message": f"no, {SECRET}"}}).encode()
    server.reply = lambda handler: handler.sends(body, code=code)
    with pytest.raises(ChatFailed, match=str(code)) as caught:
        ask(server)
    assert hint in str(caught.value)
    assert "no, ***" in str(caught.value)
    assert SECRET not in str(caught.value) + repr(ChatEndpoint("u", "m", SECRET))


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_no_redirect_takes_the_key_elsewhere(server: Server, code: int) -> None:
    server.reply = lambda handler: handler.sends(b"", code=code)
    with pytest.raises(ChatFailed, match=f"{code}.*the address that it sends to"):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": "  "}}]}',
        b'{"choices": [{"message": {"content": ["text"]}}]}',
        b'{"choices": 3}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_chat_completion_is_named(server: Server, body: bytes) -> None:
    server.reply = lambda handler: handler.sends(body)
    with pytest.raises(ChatFailed, match="no chat completion"):
        ask(server)


def test_an_answer_without_a_list_is_named(server: Server) -> None:
    server.reply = lambda handler: handler.says("I cannot help with that.")
    with pytest.raises(BadDescriptions, match="I cannot help"):
        describe("?", shown="dog", mistaken_for="deer")


def test_slow_and_dripping_servers_are_given_up(server: Server) -> None:
    def silent(_: Handler) -> None:
        time.sleep(1)

    def dripping(handler: Handler) -> None:
        handler.sends(b"", length=1000)
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    for reply in (silent, dripping):
        server.reply = reply
        began = time.monotonic()
        with pytest.raises(ChatFailed, match=r"within 0\.2 seconds"):
            ask(server, timeout=0.2)
        assert time.monotonic() - began < 0.9


def test_broken_and_absent_servers_are_named(server: Server) -> None:
    server.reply = lambda handler: handler.sends(b'{"choices"', length=1000)
    with pytest.raises(ChatFailed):
        ask(server, timeout=5)
    server.reply = lambda handler: handler.connection.close()
    with pytest.raises(ChatFailed, match="cannot be reached"):
        ask(server, timeout=5)
    with pytest.raises(ChatFailed, match="cannot be reached"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", timeout=5).ask("x")
    with pytest.raises(ChatFailed, match="cannot be reached"):
        ChatEndpoint("http://no-such-host.invalid/v1", "m", timeout=5).ask("x")


def test_the_command_asks_only_when_told_to(
    server: Server, world_store: Any, tmp_path: Any
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("sand\nbeach\n\nsand\n", encoding="utf-8")
    server.reply = lambda handler: handler.says("- a star on sand\n- a heart on a beach\n- a star")
    command = ("adversarial", world_store, "star", "heart", "--words", words, "--count", 9)
    told = invoke(*command)
    assert told.exit_code == 0, told.output
    assert "Words: sand, beach" in told.stdout
    assert "9 short image descriptions" in told.stdout
    assert not server.requests
    asked = invoke(*command, "--describe")
    assert asked.exit_code == 0, asked.output
    assert asked.stdout.splitlines() == ["a star on sand", "a star"]
    assert "2 descriptions; left out 1 that lack the class to be shown" in asked.stderr
    rows = json.loads(invoke(*command, "--describe", "--json").stdout)
    assert rows == [{"description": "a star on sand"}, {"description": "a star"}]
    server.reply = lambda handler: handler.sends(b"busy", code=503)
    failed = invoke(*command, "--describe")
    assert failed.exit_code == 2
    assert "503" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
