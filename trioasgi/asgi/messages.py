"""Checks the messages of the application before they are sent.

Each check raises ASGIMessageError in the application. It says what was sent and what would be right.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Final, cast

from trioasgi.errors import ASGIMessageError
from trioasgi.http.abnf import NO_FIELD_CHARS, TOKEN
from trioasgi.http.request import Header

if TYPE_CHECKING:
    from trioasgi.types import Message

_NAME: Final = re.compile(TOKEN)
"""A field name (RFC 9110, 5.1)."""

_BAD_VALUE: Final = re.compile(rb"[" + NO_FIELD_CHARS + rb"]")
"""Control characters, which no field value may have (RFC 9110, 5.5): some would end the field."""

_MAX_KNOWN_NAMES: Final = 1024

ByteString = bytes | bytearray | memoryview
"""ASGI's byte strings are bytes. The other types are accepted too."""

# Without O_NONBLOCK opening a pipe would wait. Without O_BINARY Windows would read the file as text.
_OPEN_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_known_names: dict[ByteString, bytes] = {}
"""Checked header names: as the application writes them, and in lower case."""

CheckedHeaders = tuple[tuple[Header, ...], int | None]
"""Header fields without Content-Length, and its value."""

_MAX_KNOWN_HEADERS: Final = 256
_MAX_KNOWN_SIZE: Final = 1024  # bytes of the values of one response

_known_headers: dict[tuple[tuple[ByteString, ...], ...], CheckedHeaders] = {}
"""The checked fields of responses, by the fields as the application writes them."""


def check_headers(headers: Iterable[Iterable[ByteString]]) -> CheckedHeaders:
    """Check header fields. Return them with names in lower case and without Content-Length, and its value as
    a number.

    ASGI: an iterable of two-item iterables of byte strings. There may be one Content-Length, a number (RFC
    9110, 8.6). Checked fields are remembered, as applications send the same fields often.
    """
    try:
        fields = tuple(map(tuple, headers))
    except TypeError as exc:
        raise _malformed_headers(headers) from exc
    try:
        known = _known_headers.get(fields)
    except TypeError:
        known = None  # unhashable: a value may be a bytearray, for example
    return known or _check_fields(fields)


def _check_fields(fields: tuple[tuple[ByteString, ...], ...]) -> CheckedHeaders:
    names = _known_names
    checked: list[tuple[bytes, ByteString]] = []
    values: list[ByteString] = []
    length: int | None = None
    try:
        for given, value in fields:
            name = names.get(given) or _learn_name(given)
            if name == b"content-length":
                length = _check_length(value, length)
                continue
            checked.append((name, value))
            values.append(value)
        # One pass over all values: join() raises if one is not bytes.
        joined = b"".join(values)
        if _BAD_VALUE.search(joined):
            _reject_value(checked)
        result = (
            tuple(
                [
                    (name, value if type(value) is bytes else bytes(memoryview(value)))
                    for name, value in checked
                ]
            ),
            length,
        )
        if len(joined) <= _MAX_KNOWN_SIZE:
            _remember(fields, result)
    except (TypeError, ValueError, AttributeError) as exc:
        raise _malformed_headers(fields) from exc
    return result


def _remember(fields: tuple[tuple[ByteString, ...], ...], checked: CheckedHeaders) -> None:
    if any(type(part) is not bytes for field in fields for part in field):
        return  # a bytearray may change
    if len(_known_headers) >= _MAX_KNOWN_HEADERS:
        _known_headers.clear()
    _known_headers[fields] = checked


def _learn_name(given: ByteString) -> bytes:
    if not isinstance(given, bytes) or _NAME.fullmatch(given) is None:
        raise ASGIMessageError(f"header name {given!r} must be a byte string that is a token (RFC 9110, 5.1)")
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names[given] = given.lower()
    return given.lower()


def _check_length(value: ByteString, seen: int | None) -> int:
    if seen is not None:
        raise ASGIMessageError("content-length is given twice; it must be one number")
    if not isinstance(value, bytes | bytearray):
        raise _malformed_headers(value)
    if not value.isdigit():
        raise ASGIMessageError(f"content-length must be one non-negative number, not {value!r}")
    return int(value)


def _reject_value(headers: list[tuple[bytes, ByteString]]) -> None:
    for name, value in headers:
        if _BAD_VALUE.search(value):
            raise ASGIMessageError(
                f"header {name.decode()} has a value with a control character in it: {_shorten(value)}"
            )


def _malformed_headers(headers: object) -> ASGIMessageError:
    return ASGIMessageError(
        f"headers must be an iterable of [name, value] pairs of byte strings, not {_shorten(headers)}; "
        "encode str as latin-1 first"
    )


def check_status(status: object) -> int:
    """A final status code (RFC 9110, 15): an int from 200 to 999."""
    if type(status) is int and 200 <= status <= 999:
        return status
    if isinstance(status, int) and 200 <= status <= 999:  # http.HTTPStatus
        return int(status)
    raise ASGIMessageError(
        f"status {status!r} must be an int from 200 to 999; interim responses are not sent this way"
    )


def check_body(body: object) -> bytes:
    """Check the body of an `http.response.body` message, and return it as bytes. Other bytes-like objects are
    copied, also instances of subclasses of bytes: their `len()` may differ from the number of their bytes.
    """
    if type(body) is bytes:
        return body
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(memoryview(body))
    raise ASGIMessageError(f"body must be a byte string, not {type(body).__name__}; encode str first")


def check_links(links: object) -> list[bytes]:
    """Check the `links` of an `http.response.early_hint` message: values for Link (RFC 8288, 3)."""
    if isinstance(links, bytes | str) or not isinstance(links, Iterable):
        raise ASGIMessageError(f"links must be an iterable of byte strings, not {_shorten(links)}")
    checked, _ = check_headers([(b"link", link) for link in links])
    return [value for _, value in checked]


def open_file(path: object) -> int:
    """Open the `path` of an `http.response.pathsend` message: the absolute path of a regular file. The caller
    closes the descriptor.

    Raises OSError, with the path, for anything else.
    """
    if not isinstance(path, str) or not os.path.isabs(path):
        raise ASGIMessageError(f"path must be a str, and absolute, not {path!r}")
    fd = os.open(path, _OPEN_FLAGS)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "this is no regular file", path)


def check_range(file: object, offset: object, count: object) -> tuple[int, int | None, int | None]:
    """Check `file`, `offset` and `count` of an `http.response.zerocopysend` message. Return the file's
    descriptor, and the other two in bytes.
    """
    try:
        fd = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined] # that is the question
    except (AttributeError, OSError, ValueError) as exc:
        raise ASGIMessageError(f"file must be an open file of the operating system, not {file!r}") from exc
    for name, value in (("offset", offset), ("count", count)):
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise ASGIMessageError(f"{name} must be a number of bytes, not {value!r}")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ASGIMessageError(f"file must be a regular file, not {file!r}")
    return fd, cast("int | None", offset), cast("int | None", count)


def check_message(message: object) -> Message:
    """Check that a message is a dict or another mapping."""
    if isinstance(message, MutableMapping):
        return message
    raise ASGIMessageError(f"a message must be a dict with a 'type', not {_shorten(message)}")


def check_type(message: Message, *expected: str) -> str:
    """The type of a message. It must be one of `expected`."""
    kind = check_message(message).get("type")
    if isinstance(kind, str) and kind in expected:
        return kind
    what = "a message without a 'type'" if kind is None else f"unexpected message {_shorten(kind)}"
    raise ASGIMessageError(f"{what}: expected {_either(expected)}")


def _either(expected: tuple[str, ...]) -> str:
    return " or ".join(expected)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
