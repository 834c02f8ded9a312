"""`Codec`: reads the header fields of a request. A whole head goes in, its fields come out (RFC 9112, 5).

There are two, in `h11_codec` and `httptools_codec`. `reader` finds where messages begin and end, and `rules`
checks what a head means. Both codecs follow the same rules, because these modules stand above them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.http.request import Header


class GrammarError(Exception):
    """The codec refuses the head."""


class Codec(ABC):
    """Reads the heads of requests, each by itself.

    One codec serves all connections of a worker. So it keeps nothing of a head: nothing of one can affect the
    next.
    """

    __slots__ = ()

    name: str
    """Its name in the start-up line and for `--http`."""

    @abstractmethod
    def read_fields(self, head: bytes) -> list[Header]:
        """Read the header fields of a head. It begins with the request line and ends with CRLF CRLF.

        Names are in lower case, values have no white space around them, and the order is that of the wire.
        Raises GrammarError, also for a malformed request line. A codec may raise it for the meaning of a
        field too: `rules` reads each refused head once more, by the grammar alone.
        """
