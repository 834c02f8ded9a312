"""The WSGI adapter: PEP 3333, sentence by sentence, over real sockets and in real threads."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from wsgiref.validate import validator

import pytest
import trio

from tests.support.http import Response, request
from tests.support.sockets import Client, connected, logged, run, served
from trioasgi.asgi.types import Receive, Scope, Send
from trioasgi.asgi.wsgi import FileWrapper, WSGIMiddleware, is_wsgi, make_environ

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

PATIENCE = 10.0


def get(app: App, sent: bytes | None = None, method: str = "GET", **options: object) -> Response:
    """Serve `app`, send one request, and return the response."""
    responses: list[Response] = []

    async def main() -> None:
        async with served(WSGIMiddleware(app), **options) as server, connected(server) as client:
            responses.append(await client.get(sent or request(method=method), method))

    run(main)
    return responses[0]


def environ_of(sent: bytes, **options: object) -> Environ:
    """The environ that an application gets for a request."""
    environs: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environs.append(environ)
        start_response("200 OK", [])
        return [b"ok"]

    assert get(app, sent, **options).status == 200
    return environs[0]


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
        (validator(plain), True),
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


# The response


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


def test_status_and_headers() -> None:
    response = get(
        respond(
            [b"no"], ("X-A", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), status="404 Gone fishing"
        )
    )
    assert response.status == 404
    assert response["x-a"] == b"1"
    assert [value for name, value in response.headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert response.body == b"no"


@pytest.mark.parametrize(
    ("app", "body", "length"),
    [
        (respond([b"one"]), b"one", b"3"),
        (respond((b"one",)), b"one", b"3"),
        (respond([]), b"", None),
        (respond([b""]), b"", b"0"),
        (respond([b"one", b"two"]), b"onetwo", None),
        (respond(iter([b"one"])), b"one", None),
        (respond([b"one", b"", b"two"], ("Content-Length", "6")), b"onetwo", b"6"),
        (respond([b"two"], before=[b"one"]), b"onetwo", None),
        (respond([], ("Content-Length", "6"), before=[b"one", b"two"]), b"onetwo", b"6"),
    ],
)
def test_the_body_and_its_length(app: App, body: bytes, length: bytes | None) -> None:
    response = get(app)
    assert (response.body, response["content-length"], response.cut) == (body, length, False)


def test_a_head_request_has_the_head_alone() -> None:
    response = get(respond([], ("Content-Length", "6")), method="HEAD")
    assert (response["content-length"], response.body) == (b"6", b"")
    assert get(respond([b""]), method="HEAD")["content-length"] is None


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_a_body_has_none(status: str) -> None:
    response = get(respond([b""], status=status))
    assert (response["content-length"], response.body) == (None, b"")


def test_the_head_waits_for_the_first_piece_that_is_not_empty() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oh", [("X-Second", "1")], sys.exc_info())
        yield b"sorry"

    response = get(app)
    assert (response.status, response["x-second"], response.body) == (500, b"1", b"sorry")


def test_exc_info_is_raised_once_the_head_has_been_sent() -> None:
    raised: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"so far"
        try:
            raise ValueError("mine")
        except ValueError:
            try:
                start_response("500 Oh", [], sys.exc_info())
            except ValueError as error:
                raised.append(error)
                raise

    response = get(app)
    assert response.cut
    assert str(raised[0]) == "mine"


WRONG: dict[str, tuple[App, str]] = {
    "no start_response": (lambda environ, start_response: [b"body"], "before start_response"),
    "nothing at all": (lambda environ, start_response: [], "before start_response"),
    "a status without a code": (respond([b""], status="OK"), "must be a code of three digits"),
    "a text body": (respond(["text"]), "made of bytes, not str"),  # type: ignore[list-item]
    "a header that is not Latin-1": (respond([b""], ("X", "\u20ac")), "latin-1"),
    "a header with a line break": (respond([b""], ("X", "a\r\nb: c")), "line break"),
    "None": (lambda environ, start_response: None, "not iterable"),  # type: ignore[dict-item,return-value]
}


def twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


WRONG["start_response twice"] = (twice, "called twice")


@pytest.mark.parametrize("name", WRONG)
def test_what_an_application_may_not_do_is_said_and_answered_500(name: str) -> None:
    app, said = WRONG[name]
    with logged() as log:
        assert get(app).status == 500
    record = next(record for record in log.records if "The application failed" in record.getMessage())
    assert record.exc_info is not None
    assert said in str(record.exc_info[1])


@pytest.mark.parametrize("length", ["2", "4"])
def test_a_body_that_is_not_as_long_as_was_said_is_cut(length: str) -> None:
    with logged() as log:
        response = get(respond([b"one", b""], ("Content-Length", length)))
    assert response.status == 500 or response.cut
    assert log.count("The application failed") == 1


def test_the_traceback_of_an_application_begins_with_the_application() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise ValueError("mine")

    with logged() as log:
        assert get(app).status == 500
    record = next(record for record in log.records if "The application failed" in record.getMessage())
    assert record.exc_info is not None
    traceback = record.exc_info[2]
    assert traceback is not None
    assert traceback.tb_frame.f_code.co_name == "app"
    assert traceback.tb_next is None


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


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        (Closing(b"one", b"two"), ()),
        (Closing(b"one", b"two", fails=True), ()),
        (Closing(b"one"), (("Content-Length", "2"),)),
        (Closing(), (("X", "\n"),)),
        (Closing(b"one"), (("Content-Length", "3"),)),
    ],
)
def test_close_is_called_once_whatever_happens(pieces: Closing, headers: tuple[tuple[str, str], ...]) -> None:
    with logged():
        get(respond(pieces, *headers))
    assert pieces.closed.wait(PATIENCE)
    assert pieces.count == 1


def test_a_file_is_wrapped() -> None:
    file = io.BytesIO(b"x" * 200_000)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 10_000)
        return wrapped

    assert get(app).body == b"x" * 200_000
    assert file.closed
    FileWrapper(iter(())).close()  # type: ignore[arg-type]  # what cannot be closed need not be


def test_the_standard_librarys_validator_has_no_complaint() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read(100)
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return [body, b" returned"]

    with logged() as log:
        sent = request("/a?b=c", "Content-Type: text/plain", "Accept: */*", method="POST", body=b"sent")
        assert get(validator(app), sent, "POST").body == b"written sent returned"  # type: ignore[arg-type]
    log.expect_no_errors()


# Threads, and the end of a request


def test_pieces_reach_the_client_one_by_one() -> None:
    seen = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        assert seen.wait(PATIENCE)
        yield b"second"

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            await client.until(b"first")
            seen.set()
            await client.until(b"second\r\n0\r\n\r\n")

    run(main)


def test_request_and_response_stream_at_once() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            yield line.upper()

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
            for word in (b"one", b"two", b"three"):
                await client.send(b"%x\r\n%b\n\r\n" % (len(word) + 1, word))
                await client.until(word.upper() + b"\n\r\n")
            await client.send(b"0\r\n\r\n")
            await client.until(b"0\r\n\r\n")

    run(main)


def test_a_client_that_does_not_read_holds_the_application_up() -> None:
    piece = b"x" * 65536
    given = [0]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            given[0] += 1
            yield piece

    async def main() -> None:
        async with served(WSGIMiddleware(app)) as server, connected(server) as client:
            await client.send(request())
            await client.until(b"\r\n\r\n")
            before = -1
            while before != given[0]:  # until it stands still
                before = given[0]
                await trio.sleep(0.3)
            assert given[0] * len(piece) < 32 * 1024 * 1024  # what the kernel holds for both sides

    run(main)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_ends_the_stream_with_an_oserror(how: str) -> None:
    errors: list[BaseException] = []
    pieces = Closing()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"x" * 1000)
        except OSError as error:
            errors.append(error)
            raise
        return pieces

    async def main() -> None:
        with logged() as log:
            async with served(WSGIMiddleware(app)) as server:
                async with connected(server) as client:
                    await client.send(request())
                    await client.until(b"\r\n\r\n")
                    if how == "reset":
                        assert isinstance(client.stream, trio.SocketStream)
                        client.stream.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER, on, for no time
                await log.wait_for("went away|has gone")
            log.expect_no_errors()

    run(main)
    assert len(errors) == 1


def test_only_so_many_threads_at_once() -> None:
    lock = threading.Lock()
    go = threading.Event()
    now, most = [0], [0]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                go.set()
        assert go.wait(PATIENCE)
        with lock:
            now[0] -= 1
        start_response("200 OK", [])
        return [b"ok"]

    async def main() -> None:
        async with served(app, threads=2) as server:  # type: ignore[arg-type]

            async def ask() -> None:
                async with connected(server) as client:
                    assert (await client.get(request())).body == b"ok"

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(ask)
            limiter = trio.to_thread.current_default_thread_limiter()
            assert limiter.total_tokens == 2

    run(main)
    assert most[0] == 2


def test_a_thread_that_does_not_end_cannot_keep_the_server_from_stopping() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        go.wait(PATIENCE)
        write = start_response("200 OK", [])
        try:
            write(b"too late")
        except OSError as error:
            errors.append(error)
        finally:
            ended.set()
        return []

    async def main() -> None:
        async with served(WSGIMiddleware(app), timeout_graceful_shutdown=0.2) as server:
            async with connected(server) as client:
                await client.send(request())
                assert await trio.to_thread.run_sync(begun.wait, PATIENCE)
                with trio.fail_after(PATIENCE):
                    await server.drain()
        go.set()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)

    with logged() as log:
        run(main)
    assert [type(error).__name__ for error in errors] == ["ClientDisconnected"]
    assert log.count("cut") == 1


def test_a_cancelled_request_wakes_the_thread_that_waits_for_its_client() -> None:
    errors: list[BaseException] = []
    ended = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
        finally:
            ended.set()
        return []

    async def main() -> None:
        async with served(WSGIMiddleware(app), timeout_graceful_shutdown=0.2) as server:
            async with connected(server) as client:
                await client.send(request("/", "Expect: 100-continue", "Content-Length: 9", method="POST"))
                await client.until(b"100 Continue")
                await server.drain()
        assert await trio.to_thread.run_sync(ended.wait, PATIENCE)

    with logged():
        run(main)
    assert [type(error).__name__ for error in errors] == ["ClientDisconnected"]


@pytest.mark.parametrize("lifespan", ["auto", "on", "off"])
def test_the_lifespan_is_none_of_the_applications_business(lifespan: str) -> None:
    with logged() as log:
        assert get(respond([b"ok"]), lifespan=lifespan).body == b"ok"
    log.expect_no_errors()


def test_a_websocket_is_refused() -> None:
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    async def main() -> None:
        await WSGIMiddleware(plain)({"type": "websocket"}, receive, send)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'mail'"):
            await WSGIMiddleware(plain)({"type": "mail"}, receive, send)  # type: ignore[arg-type]

    run(main)
    assert sent == [{"type": "websocket.close"}]


def test_serve_takes_a_wsgi_application_as_it_is() -> None:
    async def main() -> None:
        for interface in ("auto", "wsgi"):
            async with served(respond([b"ok"]), interface=interface) as server:  # type: ignore[arg-type]
                async with connected(server) as client:
                    assert (await client.get(request())).body == b"ok"
                    assert isinstance(client, Client)

    run(main)
