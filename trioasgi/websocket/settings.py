"""The settings that all WebSockets of a worker share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.websocket.codec import FrameCodec
    from trioasgi.websocket.keepalive import Keepalive


class WebSocketSettings(msgspec.Struct, frozen=True):
    """Shared by all sessions of a worker. Times are in seconds.

    `max_size` is the longest message, in bytes. While an application does not receive, at most `max_queue`
    messages are queued for it, and no more once they have `max_size` bytes together. `ping_interval` 0: no
    pings. `ping_timeout` 0: a pong may take any time.
    """

    codec: Callable[..., FrameCodec]
    keepalive: Keepalive
    max_size: int
    max_queue: int
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    deflate: bool
