"""Checks the messages of the application before they are sent.

Each check raises ASGIMessageError in the application. It says what was sent and what would be right.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Final, cast

from trioasgi.errors import ASGIMessageError, shorten
from trioasgi.http.response_fields import check_fields

if TYPE_CHECKING:
    from trioasgi.types import Message

# Without O_NONBLOCK opening a pipe would wait. Without O_BINARY Windows would read the file as text.
_OPEN_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def check_status(status: object) -> int:
    """A final status code (RFC 9110, 15): an int from 200 to 999, or one of a subclass as http.HTTPStatus."""
    if isinstance(status, int):
        number = int.__index__(status)  # a subclass may say anything of itself
        if 200 <= number <= 999:
            return number
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
        raise ASGIMessageError(f"links must be an iterable of byte strings, not {shorten(links)}")
    return [value for _, value in check_fields([(b"link", link) for link in links])]


def open_file(path: object) -> int:
    """Open the `path` of an `http.response.pathsend` message: the path of a regular file. The caller closes
    the descriptor.

    ASGI has an absolute one. Starlette sends what its FileResponse was given, a relative one too.

    Raises OSError, with the path, for anything else; ASGIMessageError if it is no str.
    """
    if not isinstance(path, str):
        raise ASGIMessageError(f"path must be a str, not {path!r}")
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except ValueError as exc:  # a NUL: a client may have sent it
        raise OSError(errno.EINVAL, str(exc), path) from exc
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
    raise ASGIMessageError(f"a message must be a dict with a 'type', not {shorten(message)}")


def check_type(message: Message, *expected: str) -> str:
    """The type of a message. It must be one of `expected`."""
    kind = check_message(message).get("type")
    if isinstance(kind, str) and kind in expected:
        return kind
    what = "a message without a 'type'" if kind is None else f"unexpected message {shorten(kind)}"
    raise ASGIMessageError(f"{what}: expected {_either(expected)}")


def _either(expected: tuple[str, ...]) -> str:
    return " or ".join(expected)
