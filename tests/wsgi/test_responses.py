"""What a WSGI application answers: start_response, write, the iterable and its end (PEP 3333)."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator
from wsgiref.validate import validator

import pytest

from tests.support.http import request
from tests.support.sockets import logged
from tests.support.wsgi import PATIENCE, App, Closing, Environ, StartResponse, get, respond
from trioasgi.wsgi.environ import FileWrapper

# The response


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
    "a status without a code": (respond([b""], status="OK"), "must be a str of three digits"),
    "a status that is a number": (respond([b""], status=200), "must be a str of three digits"),  # type: ignore[arg-type]
    "a status with other digits": (respond([b""], status="²⁰⁰ OK"), "must be a str of three digits"),
    "a name in bytes": (respond([b""], (b"X", "1")), "tuples of str"),  # type: ignore[arg-type]
    "a text body": (respond(["text"]), "made of bytes, not str"),  # type: ignore[list-item]
    "a header that is not Latin-1": (respond([b""], ("X", "\u20ac")), "latin-1"),
    "a header with a line break": (respond([b""], ("X", "a\r\nb: c")), "header x has a value"),
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
    closed = threading.Event()

    class File(io.BytesIO):
        def close(self) -> None:
            super().close()
            closed.set()

    file = File(b"x" * 200_000)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 10_000)
        return wrapped

    assert get(app).body == b"x" * 200_000
    assert closed.wait(10)  # the thread does that once the response is out
    FileWrapper(iter(())).close()  # type: ignore[arg-type]  # what cannot be closed need not be


def test_the_standard_librarys_validator_has_no_complaint() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read(100)
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return [body, b" returned"]

    with logged() as log:
        sent = request("/a?b=c", "Content-Type: text/plain", "Accept: */*", method="POST", body=b"sent")
        assert get(validator(app), sent, "POST").body == b"written sent returned"
    log.expect_no_errors()
