"""A WebSocket client whose every bit is the test's to set, on top of the scripted HTTP client.

Its frames are written and read here, with nothing of what the server uses: a fault cannot cancel itself out.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.support.http import Client, Response, serving
from trioasgi.types import ASGIApp, Receive, Scope, Send

WEBSOCKET_CODECS = ("wsproto", "websockets")

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455, 1.3: the key of its example, and the answer to it."""

MASK = b"\x37\xfa\x21\x3d"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """RFC 6455, 5.3: each byte with that of the mask in turn; as two numbers, for the speed."""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    size: int = 0,
) -> bytes:
    """A client's frame. `rsv` has three bits; `length` is what it claims to be, `size` how many bytes that is
    written in besides the first (0: as few as it takes).
    """
    length = len(payload) if length is None else length
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if mask is not None else 0
    if size == 8 or length > 65535:
        header = struct.pack("!BBQ", first, flag | 127, length)
    elif size == 2 or length > 125:
        header = struct.pack("!BBH", first, flag | 126, length)
    else:
        header = struct.pack("!BB", first, flag | length)
    return header + (b"" if mask is None else mask + masked(payload, mask))


def close_payload(code: int, reason: str = "") -> bytes:
    """What a Close carries."""
    return struct.pack("!H", code) + reason.encode()


def close(code: int = 1000, reason: str = "") -> bytes:
    """A client's Close."""
    return frame(CLOSE, close_payload(code, reason))


@dataclass(frozen=True)
class ServerFrame:
    """A frame as the server sent it."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self) -> int:
        """The code of a Close."""
        assert self.opcode == CLOSE, self
        return int(struct.unpack("!H", self.payload[:2])[0])

    @property
    def reason(self) -> str:
        """The reason of a Close."""
        return self.payload[2:].decode()


def handshake(
    *fields: str, target: str = "/", method: str = "GET", version: str = "1.1", without: str = ""
) -> bytes:
    """The request of RFC 6455, 1.3, with further fields; `without` names one to leave off."""
    own = {
        "host": "example.org",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    for field in fields:
        own.pop(field.partition(":")[0].lower(), None)
    own.pop(without, None)
    lines = [f"{name}: {value}" for name, value in own.items()]
    return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, *fields, "", ""]).encode("latin-1")


class WebSocketClient:
    """The client's side of one connection, frame by frame."""

    def __init__(self, client: Client) -> None:
        self.http = client
        self._data = bytearray()
        self.response = Response()

    async def shake_hands(self, *fields: str, target: str = "/", behind: bytes = b"") -> Response:
        """Ask for a WebSocket, with the bytes `behind` the request in the same packet; the answer."""
        await self.http.send(handshake(*fields, target=target) + behind)
        while b"\r\n\r\n" not in self._data:
            piece = await self._more()
            assert piece, f"closed within the answer: {self._data!r}"
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        line, *lines = bytes(head).split(b"\r\n")
        self.response = Response(
            status=int(line.split()[1]),
            headers=[
                (name.lower(), value.strip()) for name, _, value in (part.partition(b":") for part in lines)
            ],
        )
        return self.response

    async def send(self, *frames: bytes) -> None:
        """Send bytes as they are."""
        await self.http.send(b"".join(frames))

    async def frame(self) -> ServerFrame:
        """The next frame; an error if the connection ends."""
        while (found := self._read()) is None:
            assert await self._more(), f"closed, with {bytes(self._data)!r} left"
        return found

    async def message(self) -> str | bytes:
        """The next frame, which has to be an uncompressed message."""
        found = await self.frame()
        assert found.fin, found
        assert not found.rsv, found
        assert found.opcode in (TEXT, BINARY), found
        return found.payload.decode() if found.opcode == TEXT else found.payload

    async def until_close(self) -> tuple[list[ServerFrame], int]:
        """The frames up to the server's Close, and its code."""
        before = []
        while (found := await self.frame()).opcode != CLOSE:
            before.append(found)
        return before, found.code if found.payload else 1005

    async def close_code(self) -> int:
        """The code of the Close that has to come next."""
        found = await self.frame()
        return found.code if found.payload else 1005

    async def is_closed(self) -> bool:
        """Has the server closed without another byte?"""
        return not self._data and await self.http.is_closed()

    async def _more(self) -> bytes:
        piece = await self.http._receive()
        self._data += piece
        return piece

    def _read(self) -> ServerFrame | None:
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        assert second < 0x80, "a server must not mask"
        length, start = second, 2
        if length > 125:
            start = 4 if length == 126 else 10
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        end = start + length
        if len(data) < end:
            return None
        payload = bytes(data[start:end])
        del data[:end]
        return ServerFrame(first & 0xF, payload, first >= 0x80, first >> 4 & 7)


@contextlib.asynccontextmanager
async def websocket(
    app: ASGIApp, codec: str = "websockets", *fields: str, **options: Any
) -> AsyncIterator[WebSocketClient]:
    """A WebSocket over memory streams, on a clock that jumps, which the application has accepted."""
    async with serving(app, "h11", websocket=codec, **options) as http:
        client = WebSocketClient(http)
        response = await client.shake_hands(*fields)
        assert response.status == 101, response
        yield client


# Applications


async def accept(receive: Receive, send: Send, **answer: object) -> None:
    """Go through the handshake."""
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **answer})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every message back, until either side closes."""
    assert scope["type"] == "websocket"
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
