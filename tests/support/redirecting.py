"""A server that redirects plain HTTP to https, and what its clients ask it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import Response
from tests.support.sockets import Client, served
from trioasgi import Server
from trioasgi.server.challenges import LARGEST

CHALLENGE = "/.well-known/acme-challenge/"


def redirecting_port(server: Server) -> int:
    (url,) = server.redirecting_urls
    return int(url.rpartition(":")[2])


@asynccontextmanager
async def plainly(server: Server) -> AsyncIterator[Client]:
    """A client of the socket that redirects."""
    async with await trio.open_tcp_stream("127.0.0.1", redirecting_port(server)) as stream:
        yield Client(stream)


@asynccontextmanager
async def redirecting(
    certificates: Certificates, app: Any = None, **options: object
) -> AsyncIterator[Server]:
    options = {"redirect_bind": "127.0.0.1:0", **certificates.options, **options}
    async with served(app or Lived(), **options) as server:
        yield server


def ask(
    target: str = "/", *fields: str, host: str | None = "h", method: str = "GET", version: str = "1.1"
) -> bytes:
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([f"{method} {target} HTTP/{version}", *hosts, *fields, "", ""]).encode("latin-1")


def location(response: Response) -> str:
    assert response.status == 308, response
    return dict(response.headers)[b"location"].decode()


def fill_directory(directory: Path) -> None:
    """Make a directory with a challenge, `tok_EN-1`, and with what is none."""
    directory.mkdir()
    (directory / "tok_EN-1").write_bytes(b"tok_EN-1.thumb")
    (directory / "large").write_bytes(b"x" * (LARGEST + 1))
    (directory / "full").write_bytes(b"x" * LARGEST)
    (directory / "folder").mkdir()
    (directory / "folder" / "inner").write_bytes(b"inner")
    (directory.parent / "secret").write_bytes(b"secret")
    if sys.platform != "win32":
        (directory / "link").symlink_to("../secret")
        (directory / "within").symlink_to("tok_EN-1")
        (directory / "dangling").symlink_to("nothing")
        os.mkfifo(directory / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            here = os.getcwd()
            os.chdir(directory)  # the path may be too long otherwise
            try:
                sock.bind("sock")
            finally:
                os.chdir(here)
