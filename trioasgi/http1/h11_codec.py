"""The reference codec, by h11, which is always installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h11

from trioasgi.http1.codec import Codec, GrammarError

if TYPE_CHECKING:
    from trioasgi.http.request import Header

_REQUEST_LINE: Final = b"GET / HTTP/1.0\r\n"
"""h11 reads whole messages. The line of the request has been read before. In 1.0 it need not have a Host."""

_CONTROLS: Final = bytes({*range(32), 0x7F} - {*b"\t\r\n"})

# h11 merges equal Content-Lengths, and puts codings in lower case. The rules need the fields as they were
# sent.
_TIDIED: Final = frozenset({b"content-length", b"transfer-encoding"})


class H11Codec(Codec):
    """Reads each head with an `h11.Connection` of its own. h11 reads nothing but the head."""

    __slots__ = ()

    name = "h11"

    def read_fields(self, block: bytes) -> list[Header]:
        head = _REQUEST_LINE + block
        if _is_malformed(head):
            raise GrammarError("a control character or a line end where none may be")
        # The reader has checked the size of the head already.
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            # A frame of h11 in the traceback has a local variable for the error. This circle would keep our
            # frames too, with the whole connection, until the next garbage collection.
            exc.__traceback__ = None  # a statement of its own: mypyc drops what stands behind `from`
            raise GrammarError(str(exc)) from exc
        if not isinstance(event, h11.Request):
            raise GrammarError("the head does not end where its empty line is")
        fields = list(event.headers)
        for name, _ in fields:
            if name in _TIDIED:
                return _as_written(head)
        return fields


def _is_malformed(head: bytes) -> bool:
    """Does the head break a rule of RFC 9112 that h11 does not check? These are control characters (5.5), a
    bare CR (2.2), white space before a field, and line folding (2.2, 5.2). A bare LF is refused too, though a
    recipient may take it for a line end (2.2): such differences allow request smuggling.

    This is faster than a regular expression.
    """
    ends = head.count(b"\r\n")
    return (
        head.count(b"\n") != ends
        or head.count(b"\r") != ends
        or b"\n " in head
        or b"\n\t" in head
        or len(head.translate(None, _CONTROLS)) != len(head)
    )


def _as_written(head: bytes) -> list[Header]:
    """Read the fields of a head whose grammar has been checked."""
    lines = head.split(b"\r\n")[1:-2]
    parts = (line.partition(b":") for line in lines)
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parts]
