"""Checks the header fields of a response, as the application gives them (RFC 9110, 5).

ASGI: a field is a two-item iterable of byte strings. Nothing is remembered here: each version of HTTP
remembers what it makes of a field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from trioasgi.errors import ASGIMessageError, shorten
from trioasgi.http.abnf import LENGTH_DIGITS, NO_FIELD_CHARS, TOKEN
from trioasgi.patterns import compiled_later

if TYPE_CHECKING:
    from trioasgi.http.request import Header

ByteString = bytes | bytearray | memoryview
"""ASGI's byte strings are bytes. The other types are accepted too."""

GivenField = Iterable[ByteString]
"""A field as the application gives it: its name and its value."""

CONTENT_LENGTH: Final = b"content-length"

_NAME: Final = compiled_later(TOKEN)
"""A field name (RFC 9110, 5.1)."""

_BAD_VALUE: Final = re.compile(rb"[" + NO_FIELD_CHARS + rb"]")
"""Control characters, which no field value may have (RFC 9110, 5.5): some would end the field."""

_CLEANED: Final = bytes(ord("?") if _BAD_VALUE.match(bytes((char,))) else char for char in range(256))
"""A table for `bytes.translate`, which is several times faster than to search with a regular expression."""


def check_name(given: ByteString) -> bytes:
    """Check a name. Return it in lower case.

    Raises ASGIMessageError.
    """
    # A subclass of bytes may have a `lower()` of its own.
    if (
        not isinstance(given, bytes | memoryview)
        or _NAME.fullmatch(content := bytes(memoryview(given))) is None
    ):
        raise ASGIMessageError(f"header name {given!r} must be a byte string that is a token (RFC 9110, 5.1)")
    return content.lower()


def are_sendable(values: Sequence[bytes]) -> bool:
    """Are the values of fields free of control characters?"""
    joined = b"".join(values)
    return joined.translate(_CLEANED) == joined


def unsendable_value(values: Sequence[bytes], fields: Iterable[Sequence[bytes]]) -> ASGIMessageError:
    """The error for values that are not sendable. `fields` have them, each behind the name of its field."""
    bad = next(value for value in values if _BAD_VALUE.search(value))
    name = next(name for name, value in fields if value is bad)
    return ASGIMessageError(
        f"header {name.decode()} has a value with a control character in it: {shorten(bad)}"
    )


def check_fields(headers: Iterable[GivenField]) -> list[Header]:
    """Check the fields of a part of a response that has no length, such as an interim response or trailers.
    Return them with names in lower case, and without Content-Length.

    Raises ASGIMessageError.
    """
    try:
        fields = [(check_name(name), bytes(memoryview(value))) for name, value in headers]
    except (TypeError, ValueError, AttributeError) as exc:
        raise malformed_fields(headers) from exc
    values = [value for _, value in fields]
    if not are_sendable(values):
        raise unsendable_value(values, fields)
    length: int | None = None
    sent: list[Header] = []
    for name, value in fields:
        if name == CONTENT_LENGTH:
            length = check_length(value, length)
        else:
            sent.append((name, value))
    return sent


def check_length(digits: bytes, seen: int | None) -> int:
    """The number that a Content-Length gives (RFC 9110, 8.6). `seen`: what one before it has given.

    Raises ASGIMessageError.
    """
    if seen is not None:
        raise ASGIMessageError("content-length is given twice; it must be one number")
    if not digits.isdigit() or len(digits) > LENGTH_DIGITS:
        raise ASGIMessageError(f"content-length must be one non-negative number, not {shorten(digits)}")
    return int(digits)


def malformed_fields(given: object) -> ASGIMessageError:
    """The error for what is no header field, or no iterable of them."""
    return ASGIMessageError(
        f"headers must be an iterable of [name, value] pairs of byte strings, not {shorten(given)}; "
        "encode str as latin-1 first"
    )
