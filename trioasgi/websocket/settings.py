"""What is the same for all WebSockets of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.websocket.codec import FrameCodec
    from trioasgi.websocket.keepalive import Keepalive


class WebSocketSettings(msgspec.Struct, frozen=True):
    """What is the same for all sessions of a worker. Times are in seconds.

    `max_size` bounds a message in bytes; `max_queue` how many messages are read ahead of an application that
    does not receive, which all together have no more than about `max_size` bytes either. A `ping_interval`
    or `ping_timeout` of 0: none.
    """

    codec: Callable[..., FrameCodec]
    keepalive: Keepalive
    max_size: int
    max_queue: int
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    deflate: bool
