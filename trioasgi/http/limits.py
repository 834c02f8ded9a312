"""How much a client may send, in every version of HTTP."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """The most that a client may send: bytes of header fields, their number, bytes of the target, bytes of a
    body (0: no limit).
    """

    header_bytes: int
    header_count: int
    target: int
    body: int
