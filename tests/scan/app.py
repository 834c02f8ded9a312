"""What the scanners ask for: a page with the fields that they look for, which are the application's."""

from __future__ import annotations

from trioasgi.types import Receive, Scope, Send

HEADERS = [
    (b"content-type", b"text/plain"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say ok to everything."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok\n"})
