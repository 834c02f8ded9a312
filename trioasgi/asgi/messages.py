"""Checks of what an application sends, before any of it reaches the wire.

Each raises ASGIMessageError in the application, with what it sent and what would be right.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trioasgi.errors import ASGIMessageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioasgi.asgi.types import Message
    from trioasgi.exchange import Header

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A field name (RFC 9110, 5.1), in lower case."""

_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]")
"""What ends a field, or hides the rest of it, for some recipient (RFC 9110, 5.5)."""

_MAX_KNOWN_NAMES: Final = 1024
_known_names: set[bytes] = set()


def check_headers(headers: Iterable[Iterable[bytes]]) -> list[Header]:
    """Check header fields and put their names in lower case (ASGI: an iterable of two-item iterables of
    byte strings).
    """
    checked: list[Header] = []
    try:
        for name, value in headers:
            name = name.lower()
            if name not in _known_names:
                _learn_name(name)
            checked.append((name, value))
        # One pass over all the values: join() raises for what is not bytes.
        if _BAD_VALUE.search(b"".join([value for _, value in checked])):
            _reject_value(checked)
    except (TypeError, ValueError, AttributeError) as exc:
        raise _malformed_headers(headers) from exc
    return checked


def _learn_name(name: bytes) -> None:
    if not isinstance(name, bytes) or _NAME.fullmatch(name) is None:
        raise ASGIMessageError(f"header name {name!r} must be a byte string that is a token (RFC 9110, 5.1)")
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(name)


def _reject_value(headers: list[Header]) -> None:
    for name, value in headers:
        if _BAD_VALUE.search(value):
            raise ASGIMessageError(
                f"header {name.decode()} has a value with a line break or NUL in it: {value!r}"
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


def check_content_length(headers: list[Header]) -> None:
    """At most one Content-Length, and a number (RFC 9110, 8.6)."""
    seen = [value for name, value in headers if name == b"content-length"]
    if len(seen) > 1 or (seen and not seen[0].isdigit()):
        raise ASGIMessageError(f"content-length must be one non-negative number, not {b', '.join(seen)!r}")


def check_body(message: Message) -> bytes:
    """The body of an `http.response.body` message: a byte string; other bytes-like objects are copied."""
    body = message.get("body", b"")
    if isinstance(body, bytes):
        return body
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    raise ASGIMessageError(f"body must be a byte string, not {type(body).__name__}; encode str first")


def check_type(message: object, expected: str) -> str:
    """The type of a message. `expected` says what would be right, for the error."""
    try:
        kind = message["type"]  # type: ignore[index] # whether it can be indexed is what is checked here
    except (TypeError, KeyError, IndexError) as exc:
        raise ASGIMessageError(
            f"a message must be a dict with a 'type', not {_shorten(message)}; {expected}"
        ) from exc
    if not isinstance(kind, str):
        raise ASGIMessageError(f"a message's 'type' must be a str, not {kind!r}; {expected}")
    return kind


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
