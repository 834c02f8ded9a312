"""The application that answers while the user's own does not start (`--reload`).

Each request gets the status 500 with the reason: a browser an HTML page, other clients plain text or JSON, as
they accept it. The page asks for its own URL once more, with a header field of its own, and that answer ends
when something has changed: then the page loads itself again.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.server.handle import is_in_last_drain
from trioasgi.worker.broken_page import ID_FIELD, OVER, policy, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioasgi.types import ASGIApp, Message, Receive, Scope, Send

    _: type[ASGIApp]

_SIGN_OF_LIFE: Final = 10.0
"""Seconds between two pieces of the answer that ends when something has changed."""
_TYPES: Final = ("text/plain", "application/json", "text/html")
"""What it can answer, the first if the client does not mind."""
_STATUS: Final = 500


class Broken:
    """An ASGI application that shows `breakage`, whose first line is the summary, to every client."""

    def __init__(self, breakage: str) -> None:
        self._breakage = breakage
        self._id = secrets.token_hex(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a WebSocket's handshake."""
        headers = dict(scope["headers"])
        if scope["type"] == "websocket":
            await receive()
            await self._answer(send, "websocket.http.response", *self._text())
        elif ID_FIELD in headers:
            await self._answer_at_change(scope, send, headers[ID_FIELD])
        else:
            accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
            match preferred(accept.decode("latin-1")):
                case "text/html":
                    nonce = secrets.token_urlsafe(16)
                    body = render(self._breakage, self._id, nonce, repeats=scope["method"] in ("GET", "HEAD"))
                    content = (
                        body,
                        "text/html; charset=utf-8",
                        [(b"content-security-policy", policy(nonce))],
                    )
                    await self._answer(send, "http.response", *content)
                case "application/json":
                    await self._answer(send, "http.response", *self._json())
                case _:
                    await self._answer(send, "http.response", *self._text())

    def _text(self) -> tuple[str, str]:
        return f"{self._breakage}\n", "text/plain; charset=utf-8"

    def _json(self) -> tuple[str, str]:
        summary, _, detail = self._breakage.partition("\n")
        return json.dumps({"error": summary, "detail": detail.strip()}) + "\n", "application/json"

    async def _answer(
        self, send: Send, kind: str, body: str, media: str, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        content = body.encode(errors="backslashreplace")
        length = (b"content-length", str(len(content)).encode())
        await send(self._head(kind, media, [length, *(more or [])]))
        await send({"type": f"{kind}.body", "body": content})

    def _head(self, kind: str, media: str, more: list[tuple[bytes, bytes]]) -> Message:
        headers = [
            (b"content-type", media.encode()),
            (b"cache-control", b"no-store"),
            (b"vary", b"accept"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (ID_FIELD, self._id.encode()),
            *more,
        ]
        return {"type": f"{kind}.start", "status": _STATUS, "headers": headers}

    async def _answer_at_change(self, scope: Scope, send: Send, known: bytes) -> None:
        """Answer the page, which shows the error `known`: with OVER, at once if that is another one, or when
        this worker is replaced. If the server stops, the answer ends without OVER.
        """
        await send(self._head("http.response", "text/plain", []))
        given = scope["extensions"]["trio"]
        draining: trio.Event = given["draining"]
        while known == self._id.encode() and not draining.is_set():
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            with trio.move_on_after(_SIGN_OF_LIFE):
                await draining.wait()
        is_over = not (draining.is_set() and is_in_last_drain(given["server"]))
        await send({"type": "http.response.body", "body": OVER if is_over else b""})


def preferred(accept: str) -> str:
    """Which of _TYPES a client wants, by its Accept field (RFC 9110, 12.5.1): the one of the highest quality;
    of equals the one that is named first, and named ones before what a wildcard allows.
    """
    ranges = list(_ranges(accept)) or [("*/*", 1.0)]
    rank: dict[str, tuple[float, int]] = {}
    for media in _TYPES:
        # The most specific range counts.
        for wanted in (media, f"{media.partition('/')[0]}/*", "*/*"):
            found = [(quality, place) for place, (name, quality) in enumerate(ranges) if name == wanted]
            if found:
                quality, place = found[0]
                rank[media] = (quality, -place if wanted == media else -len(ranges))
                break
    best = max(rank, key=lambda media: rank[media], default=_TYPES[0])
    return best if rank.get(best, (0.0, 0))[0] > 0 else _TYPES[0]


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.split(",")[:50]:
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if not name:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        yield name, quality
