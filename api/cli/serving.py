"""`serve`: the store over HTTP, for a browser and for programs."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from ...schema.errors import ExtraMissing, PortTaken, TokenNeeded
from ..serve.hosts import is_loopback
from .options import Store

if TYPE_CHECKING:
    import uvicorn

_EXTRA = ("fastapi", "jinja2", "pydantic", "starlette", "uvicorn")
_TOKEN = re.compile(r"[!-~]{16,}")
_PATIENCE = 3  # seconds that answers in progress get after Ctrl-C


def serve(
    store: Store,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; another than this machine's own needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LENSBASE_TOKEN", help="What everybody who asks has to know, 16 letters or more."
        ),
    ] = None,
    image_root: Annotated[
        Path | None,
        typer.Option(help="Where the original images lie now, if not where they were at ingest."),
    ] = None,
    stored_texts_only: Annotated[
        bool, typer.Option("--stored-texts-only", help="Load no model for texts not in a pool.")
    ] = False,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Show the first page in a browser.")
    ] = False,
) -> None:
    """Serve a store to browsers and programs, read-only, until Ctrl-C."""
    loopback = is_loopback(host)
    token = _checked(token or None, host, loopback=loopback)
    try:
        import uvicorn

        from ..serve.app import create_app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        msg = (
            f"serving needs {error.name}, which is not installed; "
            '`pip install "lensbase[serve]"` installs it.'
        )
        raise ExtraMissing(msg) from error
    app = create_app(
        store,
        image_root=image_root,
        token=token,
        loopback=loopback,
        new_texts=not stored_texts_only,
    )
    with _listening(host, port) as listening:
        address = _address(host, listening.getsockname()[1])
        typer.echo(f"Serving {store} at {address} (Ctrl-C ends it)")
        if token is not None:
            typer.echo(f"In a browser, open {address}?token=TOKEN once.")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_PATIENCE,
            )
        )
        if open_browser:
            shown = address if token is None else f"{address}?token={quote(token, safe='')}"
            threading.Thread(target=_show, args=(server, shown), daemon=True).start()
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)


def _checked(token: str | None, host: str, *, loopback: bool) -> str | None:
    how = (
        "such as LENSBASE_TOKEN=\"$(python3 -c 'import secrets; print(secrets.token_urlsafe())')\""
    )
    if token is None and not loopback:
        msg = (
            f"others can reach {host}, so a token is needed: give --token or the environment "
            f"variable LENSBASE_TOKEN, {how}. To serve this machine alone, leave --host out."
        )
        raise TokenNeeded(msg)
    if token is not None and not _TOKEN.fullmatch(token):
        msg = f"a token is 16 or more ASCII letters, digits or signs without spaces, {how}."
        raise TokenNeeded(msg)
    return token


def _listening(host: str, port: int) -> socket.socket:
    try:
        (family, *_, where), *_ = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        msg = f"{host!r} is no address of this machine ({error.strerror}); try 127.0.0.1."
        raise PortTaken(msg) from error
    found = socket.socket(family)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(128)
    except OSError as error:
        found.close()
        msg = (
            f"cannot listen on port {port} of {host} ({error.strerror}); "
            "--port takes another, --port 0 a free one."
        )
        raise PortTaken(msg) from error
    return found


def _address(host: str, port: int) -> str:
    try:
        if ipaddress.ip_address(host.strip("[]")).version == 6:
            host = f"[{host.strip('[]')}]"
    except ValueError:
        pass
    return f"http://{host}:{port}/"


def _show(server: uvicorn.Server, address: str) -> None:
    import webbrowser

    while not server.started and not server.should_exit:
        time.sleep(0.05)
    if server.started:
        webbrowser.open(address)
