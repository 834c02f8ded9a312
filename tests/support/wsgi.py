"""WSGI applications, and a server for one request to one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from trioasgi.wsgi.middleware import WSGIMiddleware

from .http import Response, request
from .sockets import connected, run, served

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

PATIENCE = 10.0


def get(app: App, sent: bytes = b"", method: str = "GET", *, root_path: str = "") -> Response:
    """Serve `app`, send one request, and return the response."""
    responses: list[Response] = []

    async def main() -> None:
        async with served(WSGIMiddleware(app), root_path=root_path) as server, connected(server) as client:
            responses.append(await client.get(sent or request(method=method), method))

    run(main)
    return responses[0]


def environ_of(sent: bytes, *, root_path: str = "") -> Environ:
    """The environ that an application gets for a request."""
    environs: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environs.append(environ)
        start_response("200 OK", [])
        return [b"ok"]

    assert get(app, sent, root_path=root_path).status == 200
    return environs[0]


def respond(
    pieces: Iterable[bytes], *headers: tuple[str, str], status: str = "200 OK", before: Sequence[bytes] = ()
) -> App:
    """An application that writes `before` and returns `pieces`."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(status, list(headers))
        for piece in before:
            write(piece)
        return pieces

    return app


class Closing:
    """An iterable of pieces that notes when it is closed; `fails` raises instead of the second piece."""

    def __init__(self, *pieces: bytes, fails: bool = False) -> None:
        self._pieces = pieces
        self._fails = fails
        self.closed = threading.Event()
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield piece
            if self._fails:
                raise ValueError("mine")

    def close(self) -> None:
        self.count += 1
        self.closed.set()
