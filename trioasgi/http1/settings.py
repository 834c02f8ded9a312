"""The settings that all HTTP/1 connections of a worker share."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits
    from trioasgi.http1.codec import Codec
    from trioasgi.http1.encoder import HeadEncoder
    from trioasgi.observe.access import AccessLog


class GivesUp(Enum):
    """Which calls are cancelled when their client has gone."""

    NEVER = "none"
    STREAMS = "those whose response is under way"
    ALWAYS = "all"


class HTTP1Settings(msgspec.Struct, frozen=True):
    """Shared by all HTTP/1 connections of a worker. Times are in seconds.

    `body_rate` is the slowest speed of a request's body, in bytes per second (0: no minimum).
    `request_timeout` is the longest time for a response (0: no limit). `gives_up` says which calls are
    cancelled when their client has gone, and `disconnect_grace` how long after that.
    """

    codec: Codec
    limits: Limits
    heads: HeadEncoder
    timeout_keep_alive: float
    timeout_headers: float
    timeout_body: float
    timeout_write: float
    body_rate: int
    request_timeout: float
    gives_up: GivesUp
    disconnect_grace: float
    access_log: AccessLog | None
