"""What a WSGI application is told apart by, and what it is given: environ and its input (PEP 3333)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from wsgiref.validate import validator

import pytest

from tests.support.http import request
from tests.support.sockets import connected, logged, run, served
from tests.support.wsgi import App, Environ, StartResponse, environ_of, get
from trioasgi.types import Message, Receive, Scope, Send
from trioasgi.wsgi.detect import is_wsgi
from trioasgi.wsgi.environ import FileWrapper, make_environ
from trioasgi.wsgi.middleware import WSGIMiddleware

# What is one


class Sync:
    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        return []

    def method(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        return []


class Asynchronous:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Two:
    async def __call__(self, one: object, two: object) -> None: ...


class Made:
    def __init__(self, environ: Environ, start_response: StartResponse) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class Pair:
    def __init__(self, one: object, two: object) -> None: ...


def plain(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


def three(one: object, environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


def optional(environ: Environ, start_response: StartResponse, more: object = None) -> list[bytes]:
    return []


def anything(*args: object) -> None: ...


async def asgi(scope: Scope, receive: Receive, send: Send) -> None: ...


async def two(one: object, two: object) -> None: ...


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (plain, True),
        (partial(three, 1), True),
        (Sync(), True),
        (Sync().method, True),
        (Made, True),
        (asgi, False),
        (two, False),
        (Asynchronous(), False),
        (Two(), False),
        (Asynchronous, False),
        (Pair, False),
        (WSGIMiddleware(plain), False),
        (three, False),
        (optional, False),  # it might be either, and ASGI is what is served here
        (anything, False),
        (validator(plain), False),
        (len, False),
        (3, False),
    ],
)
def test_a_wsgi_application_is_known_by_its_signature(app: object, expected: bool) -> None:
    assert is_wsgi(app) is expected


# environ


def test_environ_holds_the_request() -> None:
    environ = environ_of(
        request("/a%20b/%E4%BD%A0%ff?x=%20&y", "Accept: text/html", "Accept: */*", "X-A-B: 1", method="PUT")
    )
    assert environ["REQUEST_METHOD"] == "PUT"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == b"/a b/\xe4\xbd\xa0\xff".decode("latin-1")
    assert environ["QUERY_STRING"] == "x=%20&y"
    assert environ["REQUEST_URI"] == "/a%20b/%E4%BD%A0%ff?x=%20&y"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["SERVER_NAME"] == "127.0.0.1"
    assert int(environ["SERVER_PORT"]) > 0
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert int(environ["REMOTE_PORT"]) > 0
    assert environ["wsgi.input_terminated"] is True
    assert environ["HTTP_HOST"] == "example.org"
    assert environ["HTTP_ACCEPT"] == "text/html,*/*"
    assert environ["HTTP_X_A_B"] == "1"
    assert "CONTENT_LENGTH" not in environ
    assert "CONTENT_TYPE" not in environ
    assert type(environ) is dict


def test_environ_holds_what_wsgi_says_of_the_server() -> None:
    environ = environ_of(request())
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.errors"] is sys.stderr
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.file_wrapper"] is FileWrapper


def test_content_length_and_type_have_names_of_their_own() -> None:
    environ = environ_of(request("/", "Content-Type: text/x", method="POST", body=b"abc"))
    assert environ["CONTENT_LENGTH"] == "3"
    assert environ["CONTENT_TYPE"] == "text/x"
    assert "HTTP_CONTENT_LENGTH" not in environ
    assert "HTTP_CONTENT_TYPE" not in environ


def test_cookies_are_joined_as_cookies_are() -> None:
    assert environ_of(request("/", "Cookie: a=1", "Cookie: b=2"))["HTTP_COOKIE"] == "a=1; b=2"


def test_a_header_with_an_underscore_cannot_pass_for_one_with_a_dash() -> None:
    environ = environ_of(request("/", "X_Real_User: evil"))
    assert "HTTP_X_REAL_USER" not in environ
    assert environ_of(request("/", "X_Real_User: evil", "X-Real-User: me"))["HTTP_X_REAL_USER"] == "me"


def test_script_name_is_where_the_application_is_mounted() -> None:
    environ = environ_of(request("/items/1"), root_path="/\u00e4pi")
    assert environ["SCRIPT_NAME"] == "/\u00e4pi".encode().decode("latin-1")
    assert environ["PATH_INFO"] == "/items/1"


def test_what_a_trusted_proxy_says_reaches_environ() -> None:
    environ = environ_of(
        request(
            "/items",
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: example.com",
            "X-Forwarded-Prefix: /a%20b",
        )
    )
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["REMOTE_PORT"] == ""
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("example.com", "443")
    assert environ["HTTP_HOST"] == "example.com"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a b", "/items")


def test_environ_of_a_unix_socket_and_of_an_unknown_server_names_some_server() -> None:
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/\u00e4",
        "query_string": b"",
        "headers": [],
        "client": None,
    }
    for server in (("/run/app.sock", None), None):
        environ = make_environ({**scope, "server": server}, io.BytesIO(), multiprocess=True)  # type: ignore[arg-type]
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "443")
        assert environ["PATH_INFO"] == "/\u00e4".encode().decode("latin-1")
        assert "REMOTE_ADDR" not in environ
        assert environ["wsgi.multiprocess"] is True


# wsgi.input

BODY = b"first line\nsecond line\n" + b"x" * 200_000 + b"\nlast"


def reading(read: Callable[[Any], bytes]) -> App:
    """An application that answers with what `read` gets from its input."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = read(environ["wsgi.input"])
        start_response("200 OK", [])
        return [body]

    return app


def in_pieces(file: io.BufferedIOBase) -> bytes:
    return b"".join(iter(lambda: file.read(1000), b""))


READERS: dict[str, Callable[[Any], bytes]] = {
    "read()": lambda file: bytes(file.read()),
    "read(size)": in_pieces,
    "read(length of the body)": lambda file: bytes(file.read(len(BODY))),
    "read(more)": lambda file: bytes(file.read(10_000_000)),
    "readline()": lambda file: b"".join(iter(file.readline, b"")),
    "readline(size)": lambda file: b"".join(iter(lambda: file.readline(7), b"")),
    "readlines()": lambda file: b"".join(file.readlines()),
    "iteration": lambda file: b"".join(file),
    "read() at its end": lambda file: bytes(file.read() + file.read() + file.read(1) + file.readline()),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_read_in_every_way(name: str, chunked: bool) -> None:
    if chunked:
        sizes = [BODY[at : at + 30_000] for at in range(0, len(BODY), 30_000)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in sizes)
        sent = request("/", "Transfer-Encoding: chunked", method="POST") + chunks + b"0\r\n\r\n"
    else:
        sent = request(method="POST", body=BODY)
    assert get(reading(READERS[name]), sent, "POST").body == BODY


@pytest.mark.parametrize("name", READERS)
def test_without_a_body_there_is_an_empty_one(name: str) -> None:
    assert get(reading(READERS[name])).body == b""


def test_lines_are_lines() -> None:
    app = reading(lambda file: b"|".join([file.readline(), *file.readlines()]))
    assert get(app, request(method="POST", body=b"a\nb\nc"), "POST").body == b"a\n|b\n|c"


def test_a_client_that_waits_is_told_to_send_once_the_application_reads() -> None:
    sent = request("/", "Expect: 100-continue", "Content-Length: 3", method="POST")

    async def main() -> None:
        async with served(WSGIMiddleware(reading(READERS["read()"]))) as server, connected(server) as client:
            await client.send(sent)
            assert b" 100 Continue" in await client.until(b"\r\n\r\n")
            await client.send(b"abc")
            assert (await client.response("POST")).body == b"abc"

    run(main)


def test_reading_a_body_whose_client_goes_is_an_oserror() -> None:
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
            raise
        raise AssertionError("the body was whole")

    async def main() -> None:
        with logged() as log:
            async with served(WSGIMiddleware(app)) as server:
                async with connected(server) as client:
                    await client.send(request("/", "Content-Length: 100", method="POST") + b"abc")
                await log.wait_for("went away|has gone")
            log.expect_no_errors()

    run(main)
    assert len(errors) == 1


def test_a_body_is_read_though_no_field_announces_it() -> None:
    """HTTP/2 needs neither Content-Length nor Transfer-Encoding for one (RFC 9113, 8.1.1)."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert "CONTENT_LENGTH" not in environ
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    async def main() -> None:
        messages: list[Message] = []
        pieces = [
            {"type": "http.request", "body": b"a bo", "more_body": True},
            {"type": "http.request", "body": b"dy", "more_body": False},
        ]

        async def receive() -> Message:
            return pieces.pop(0)

        async def send(message: Message) -> None:
            messages.append(message)

        scope: Scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [],
        }
        await WSGIMiddleware(app)(scope, receive, send)
        assert b"".join(message.get("body", b"") for message in messages) == b"a body"

    run(main)
