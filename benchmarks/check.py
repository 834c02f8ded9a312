"""Whether a server answers a case as it should: asked once, before anything is measured."""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
from collections.abc import Iterator

from . import apps, frames
from .cases import Case, Kind
from .process import Failed
from .traffic import Mixed, Traffic, fresh

ANSWER = 5.0
"""Seconds in which an answer has to come from a server that does nothing else."""


def check(case: Case, port: int) -> None:
    """Raise Failed unless status and body are right, on a new connection and on one that is kept."""
    try:
        if case.kind is Kind.WEBSOCKET:
            _check_echo(case, port)
            return
        if case.traffic is None:
            _check_answers(case, port)
        else:
            _check_traffic(case, case.traffic, port)
        if case.resumed:
            _check_resumption(case, port)
        if case.pipelined > 1:
            _check_pipelined(case, port)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"does not answer: {error!r}") from error


def connect(port: int, *, tls: bool, session: ssl.SSLSession | None = None) -> socket.socket:
    """Open a connection; its certificate is taken as it is. Raises OSError, also for a `session` that is not
    resumed.
    """
    plain = socket.create_connection(("127.0.0.1", port), ANSWER)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return plain
    wrapped = client_context().wrap_socket(plain, session=session)
    if session is not None and not wrapped.session_reused:
        wrapped.close()
        raise ConnectionError("a TLS session was not resumed")
    return wrapped


@functools.cache
def client_context() -> ssl.SSLContext:
    """A context that trusts anybody: the server was started here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _client(case: Case, port: int) -> Iterator[http.client.HTTPConnection]:
    client: http.client.HTTPConnection
    if case.tls:
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=ANSWER, context=client_context())
    else:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER)
    try:
        yield client
    finally:
        client.close()


def _check_answers(case: Case, port: int) -> None:
    with _client(case, port) as client:
        client.connect()
        used = client.sock
        for _ in range(2):
            client.request(case.method, case.target, body=case.payload or None, headers=dict(case.headers))
            response = client.getresponse()
            body = response.read()
            if (response.status, body) != (200, case.body):
                raise Failed(
                    f"answers {response.status} {body[:60]!r} ({len(body)} bytes): not what it should"
                )
            if case.reconnect:
                if not response.will_close:
                    raise Failed("keeps the connection open that it was asked to close")
                return
        if client.sock is not used:
            raise Failed("closes the connection after a response")


def _check_traffic(case: Case, traffic: Traffic, port: int) -> None:
    """Send some of the requests on one connection, and compare each answer with the application's own."""
    first = fresh()
    with connect(port, tls=case.tls) as connection:
        for number in range(first, first + 20):
            connection.sendall(traffic.request(number))
            with http.client.HTTPResponse(connection, method="GET") as response:
                response.begin()
                body, fields = response.read(), response.getheaders()
            wanted: list[tuple[bytes, bytes]] = []
            expected = case.body
            if case.anew:
                assert isinstance(traffic, Mixed), "the answer is made from the request's id"
                wanted, expected = apps.api_answer(traffic.request_id(number))
            if (response.status, body) != (200, expected):
                raise Failed(
                    f"answers {response.status} {body[:60]!r} ({len(body)} bytes): not what it should"
                )
            got = {(name.lower().encode(), value.encode()) for name, value in fields}
            if not got.issuperset(wanted):
                raise Failed(f"answers with other fields than it should: {fields}")


def _check_resumption(case: Case, port: int) -> None:
    session = None
    for _ in range(3):
        with connect(port, tls=True, session=session) as connection:
            connection.sendall(case.request())
            while connection.recv(65536):
                pass
            assert isinstance(connection, ssl.SSLSocket), "it was asked for"
            session = connection.session


def _check_pipelined(case: Case, port: int) -> None:
    request = f"GET {case.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with connect(port, tls=case.tls) as connection:
        connection.sendall(request * case.pipelined)
        received = b""
        while received.count(case.body) < case.pipelined:
            data = connection.recv(65536)
            if not data:
                raise Failed(f"answers {received.count(case.body)} of {case.pipelined} pipelined requests")
            received += data


def _check_echo(case: Case, port: int) -> None:
    with connect(port, tls=case.tls) as connection:
        rest = frames.open_websocket(connection, case.target)
        for _ in range(2):
            connection.sendall(frames.masked(case.payload))
            expected = frames.unmasked(case.body)
            while len(rest) < len(expected):
                data = connection.recv(65536)
                if not data:
                    raise Failed("closes the WebSocket instead of echoing")
                rest += data
            if rest != expected:
                raise Failed(f"echoes {rest[:60]!r} ({len(rest)} bytes): not what was sent")
            rest = b""
