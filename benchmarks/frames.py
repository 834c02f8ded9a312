"""As much of RFC 6455 as a client of an echo needs."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct

BINARY = 0x82
"""FIN and opcode 2."""
_KEY = base64.b64encode(b"benchmarks of it")
_ACCEPT = base64.b64encode(
    hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)
_END = b"\r\n\r\n"


def masked(payload: bytes) -> bytes:
    """Return the frame that a client sends (section 5.3)."""
    mask = os.urandom(4)
    stream = (mask * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return _header(len(payload), 0x80) + mask + mixed.to_bytes(len(payload), "big")


def unmasked(payload: bytes) -> bytes:
    """Return the frame that a server sends, unfragmented and with the shortest length."""
    return _header(len(payload), 0) + payload


def _header(size: int, mask_bit: int) -> bytes:
    if size < 126:
        return bytes((BINARY, mask_bit | size))
    if size < 65536:
        return struct.pack(">BBH", BINARY, mask_bit | 126, size)
    return struct.pack(">BBQ", BINARY, mask_bit | 127, size)


def opening(target: str) -> bytes:
    """Return the request that opens a WebSocket; no extension is offered."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {_KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def open_websocket(connection: socket.socket, target: str) -> bytes:
    """Shake hands on a blocking connection; return what came after. Raises OSError, also for a refusal."""
    connection.sendall(opening(target))
    received = b""
    while _END not in received:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"closed during the handshake after {received[:60]!r}")
        received += data
    head, _, rest = received.partition(_END)
    if not head.startswith(b"HTTP/1.1 101") or _ACCEPT not in head:
        raise ConnectionError(f"the handshake is answered {head.splitlines()[0]!r}")
    return rest
