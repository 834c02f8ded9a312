"""What is the same for all HTTP/1 connections of a worker."""

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
    """What is the same for all HTTP/1 connections of a worker. Times are in seconds.

    `body_rate` is the least speed of a request's body, in bytes a second (0: any). `request_timeout` is how
    long a response may take (0: any time), `gives_up` which calls are cancelled when their client has gone,
    and `disconnect_grace` how long after that.
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
