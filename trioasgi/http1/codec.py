"""`Codec`: reads the header fields of a request (RFC 9112, 5).

There are three, in `h11_codec`, `httptools_codec` and `h1c_codec`. `reader` finds where messages begin and
end, and `rules` checks what a head means. All codecs follow the same rules, because these modules stand above
them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.http.request import Header


class GrammarError(Exception):
    """The codec refuses the head."""


class Codec:
    """Reads the heads of requests, each by itself.

    One codec serves all connections of a worker. So it keeps nothing of a head: nothing of one can affect the
    next.
    """

    __slots__ = ()

    name: str
    """Its name in the start-up line and for `--http`."""

    @abstractmethod
    def read_fields(self, block: bytes) -> list[Header]:
        """Read the header fields of a head: all behind its request line, to the end of the empty line.

        Names are as received, or in lower case. Values have no white space around them. The order is that of
        the wire. Raises GrammarError. A codec may raise it for the meaning of a field too: `rules` reads each
        refused head once more, by the grammar alone.
        """
