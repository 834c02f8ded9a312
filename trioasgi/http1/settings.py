"""The settings that all HTTP/1 connections of a worker share."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits
    from trioasgi.http1.codec import Codec
    from trioasgi.http1.encoder import HeadEncoder
    from trioasgi.observe.access import AccessLog


FIRST_REQUEST_SECONDS: Final = 1.0
LAST_REQUEST_SECONDS: Final = 0.5
"""How long a draining server waits for a request: the first of a new client, or the next of one that was
answered. Such a request may be on its way, and would be lost. Its response says that it is the last.
"""
RELOAD_SECONDS: Final = 0.1
"""How long it waits for either under `--reload`: the old code answers it. Clients are near."""


class GivesUp(Enum):
    """Which calls are cancelled when their client has gone."""

    NEVER = "none"
    STREAMS = "those whose response is under way"
    ALWAYS = "all"


class HTTP1Settings(msgspec.Struct, frozen=True):
    """Shared by all HTTP/1 connections of a worker. Times are in seconds.

    `body_rate` is the slowest speed of a request's body, in bytes per second (0: no minimum).
    `request_timeout` is the longest time for a response (0: no limit). `gives_up` says which calls are
    cancelled when their client has gone, and `disconnect_grace` how long after that. `last_first_request` and
    `last_request` are as FIRST_REQUEST_SECONDS and LAST_REQUEST_SECONDS.
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
    last_first_request: float = FIRST_REQUEST_SECONDS
    last_request: float = LAST_REQUEST_SECONDS
