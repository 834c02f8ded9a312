"""What an HTTP/1 connection is doing, and what may follow (RFC 9112, 9)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class ConnectionPhase(Enum):
    """What a connection is doing."""

    NEW = "connected, and nothing has arrived yet"
    IDLE = "waiting for a request, of which nothing has arrived"
    HEAD = "reading the head of a request"
    BUSY = "a request is being answered"
    CLOSING = "no more requests will be read"


_NEW: Final = ConnectionPhase.NEW
_IDLE: Final = ConnectionPhase.IDLE
_HEAD: Final = ConnectionPhase.HEAD
_BUSY: Final = ConnectionPhase.BUSY
_CLOSING: Final = ConnectionPhase.CLOSING

TRANSITIONS: Final[Mapping[ConnectionPhase, Mapping[ConnectionPhase, str]]] = {
    _NEW: {
        _HEAD: "a part of a head arrives, or of a TLS record",
        _BUSY: "a request arrives",
        _CLOSING: "what arrives is no request",
    },
    _IDLE: {
        _HEAD: "a part of a head arrives, or of a TLS record",
        _BUSY: "a request arrives",
        _CLOSING: "what arrives is no request, or the last response was to close",
    },
    _HEAD: {
        _NEW: "the TLS record, of which a part has come, holds nothing",
        _IDLE: "the TLS record, of which a part has come, holds nothing",
        _BUSY: "the head is whole",
        _CLOSING: "it breaks a rule, or takes too long",
    },
    _BUSY: {
        _IDLE: "the response is complete, and its request's body read or dropped",
        _CLOSING: "the response was the last, or was cut",
    },
    _CLOSING: {},
}
"""The phases that may follow each phase, and when they do. Wherever it is, the client may just leave."""
