"""A blocking client for tests that drive a whole process: one connection a request, everything checked."""

from __future__ import annotations

import http.client
import ssl
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from .processes import PATIENCE

TRUSTING_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of httpx that speak plain HTTP: each would load the authorities of the system, for 25 ms."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: str


def get(url: str, path: str = "/", *, cafile: str | None = None, patience: float = PATIENCE) -> Answer:
    """GET on a connection of its own. Over https the certificate and the host's name are verified."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=cafile)
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=patience, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=patience)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


class Background:
    """A `get` in a thread, for an answer that comes later; `answer()` waits for it."""

    def __init__(self, url: str, path: str = "/", *, cafile: str | None = None) -> None:
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(url, path, cafile), daemon=True)
        self._thread.start()

    def _run(self, url: str, path: str, cafile: str | None) -> None:
        try:
            self._answer = get(url, path, cafile=cafile)
        except (OSError, http.client.HTTPException) as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether there is an answer, or an error."""
        return not self._thread.is_alive()

    def answer(self, *, patience: float = PATIENCE) -> Answer:
        """The answer; raises the connection's error, or AssertionError if none comes."""
        self._thread.join(patience)
        if self._error is not None:
            raise self._error
        assert self._answer is not None, "no answer in time"
        return self._answer


_PAUSE = 0.002
"""Seconds between an answer and the next request: without, one test takes a whole core."""


class Hammer:
    """Asks every few milliseconds, on new connections, from a thread, and keeps every answer and error."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.bodies: list[str] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Hammer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE):
            try:
                answer = get(self._url)
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(error)
            else:
                self.bodies.append(answer.body if answer.status == 200 else f"status {answer.status}")
