"""Checks the header fields of a response, as the application gives them.

Names are remembered once they were checked: an application has few. Values are not: one pass over all of them
costs less than to look one up. All fields of a response are remembered together, but of those that are new
only one in `SAMPLE`: fields that come again are known soon, and fields that never do cost little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Final

from trioasgi.asgi.shorten import shorten
from trioasgi.errors import ASGIMessageError
from trioasgi.http.abnf import NO_FIELD_CHARS, TOKEN

if TYPE_CHECKING:
    from trioasgi.http.request import Header

ByteString = bytes | bytearray | memoryview
"""ASGI's byte strings are bytes. The other types are accepted too."""

_NAME: Final = re.compile(TOKEN)
"""A field name (RFC 9110, 5.1)."""

_BAD_VALUE: Final = re.compile(rb"[" + NO_FIELD_CHARS + rb"]")
"""Control characters, which no field value may have (RFC 9110, 5.5): some would end the field."""

_MAX_NAMES: Final = 1024
_MAX_NAME_SIZE: Final = 64
"""How many names are remembered at most, and the most bytes of each."""

_known_names: dict[ByteString, bytes] = {}
"""Checked names: as the application writes them, and in lower case."""


CheckedHeaders = tuple[Sequence["Header"], int | None]
"""Header fields without Content-Length, and its value. The fields are a tuple if they are remembered."""

SAMPLE: Final = 16
_is_sample: Final = cycle([False] * (SAMPLE - 1) + [True]).__next__
_MAX_KNOWN: Final = 256
_MAX_KNOWN_SIZE: Final = 1024
"""The fields of how many responses are remembered at most, and the most bytes of each response's."""

_known_headers: dict[tuple[tuple[ByteString, ...], ...], CheckedHeaders] = {}
"""The checked fields of responses, by the fields as the application writes them."""


def check_headers(headers: Iterable[Iterable[ByteString]]) -> CheckedHeaders:
    """Check header fields. Return them with names in lower case and without Content-Length, and its value as
    a number.

    ASGI: an iterable of two-item iterables of byte strings. There may be one Content-Length, a number (RFC
    9110, 8.6).
    """
    try:
        given = tuple(map(tuple, headers))
    except TypeError as exc:
        raise _malformed_headers(headers) from exc
    try:
        known = _known_headers.get(given)
    except (TypeError, ValueError):
        known = None  # unhashable: a value may be a bytearray, or a view of one
    if known is not None:
        return known
    checked = _check_fields(given)
    if _is_sample():
        _remember(given, checked)
    return checked


def _check_fields(headers: tuple[tuple[ByteString, ...], ...]) -> CheckedHeaders:
    names = _known_names
    fields: list[Header] = []
    values: list[bytes] = []
    length: int | None = None
    try:
        for given, value in headers:
            name = names.get(given) or _learn_name(given)
            if name == b"content-length":
                length = _check_length(value, length)
                continue
            # Others may change, and their `len()` may differ from the number of their bytes.
            content = value if type(value) is bytes else bytes(memoryview(value))
            fields.append((name, content))
            values.append(content)
        if _BAD_VALUE.search(b"".join(values)):
            _reject_value(fields)
    except (TypeError, ValueError, AttributeError) as exc:
        raise _malformed_headers(headers) from exc
    return fields, length


def _remember(given: tuple[tuple[ByteString, ...], ...], checked: CheckedHeaders) -> None:
    if any(type(part) is not bytes for field in given for part in field):
        return  # a bytearray may change
    if sum(len(part) for field in given for part in field) > _MAX_KNOWN_SIZE:
        return
    if len(_known_headers) >= _MAX_KNOWN:
        _known_headers.clear()
    fields, length = checked
    _known_headers[given] = tuple(fields), length


def _learn_name(given: ByteString) -> bytes:
    # A subclass of bytes may have a `lower()` of its own. A view of a known name would be found among them.
    if (
        not isinstance(given, bytes | memoryview)
        or _NAME.fullmatch(content := bytes(memoryview(given))) is None
    ):
        raise ASGIMessageError(f"header name {given!r} must be a byte string that is a token (RFC 9110, 5.1)")
    name = content.lower()
    if len(_known_names) < _MAX_NAMES and len(given) <= _MAX_NAME_SIZE and type(given) is bytes:
        _known_names[given] = name
    return name


def _check_length(value: ByteString, seen: int | None) -> int:
    if seen is not None:
        raise ASGIMessageError("content-length is given twice; it must be one number")
    if not isinstance(value, bytes | bytearray):
        raise _malformed_headers(value)
    digits = value if type(value) is bytes else bytes(memoryview(value))
    if not digits.isdigit():
        raise ASGIMessageError(f"content-length must be one non-negative number, not {value!r}")
    return int(digits)


def _reject_value(fields: list[Header]) -> None:
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise ASGIMessageError(
                f"header {name.decode()} has a value with a control character in it: {shorten(value)}"
            )


def _malformed_headers(headers: object) -> ASGIMessageError:
    return ASGIMessageError(
        f"headers must be an iterable of [name, value] pairs of byte strings, not {shorten(headers)}; "
        "encode str as latin-1 first"
    )
