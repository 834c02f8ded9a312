"""What the attacker asks for: a large response, or one to a body that has been read."""

from __future__ import annotations

from trioasgi.types import Receive, Scope, Send

BIG = bytes(4 << 20)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/big` is 4 MiB; everything else reads the body and says ok."""
    assert scope["type"] == "http"
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    body = BIG if scope["path"] == "/big" else b"ok"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
