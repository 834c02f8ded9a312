"""Answers a client that speaks plain HTTP to a port with TLS."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import AUTHORITY
from trioasgi.http.authority import is_authority
from trioasgi.http.fields import http_date
from trioasgi.http1.closing import LINGER_SECONDS, linger

if TYPE_CHECKING:
    from trioasgi.net.channel import Channel

_BODY: Final = b"This port speaks HTTPS. Use https:// in the address.\n"
_REDIRECTED: Final = b"This port speaks HTTPS.\n"

_REQUEST_LINE: Final = re.compile(
    rb"[A-Z]{1,20} (?:[Hh][Tt][Tt][Pp]://("
    + AUTHORITY
    + rb")(?=[/? ])|(?=/))([\x21\x22\x24-\x7e]*) HTTP/1\.[01]"
)
"""The target in absolute-form or in origin-form: its authority, and the rest (RFC 9112, 3.2.1 and 3.2.2)."""
_HOST: Final = re.compile(rb"[Hh][Oo][Ss][Tt]:[\t ]*(" + AUTHORITY + rb")[\t ]*")


def plain_answer(received: bytes, *, redirects: bool) -> bytes:
    """The response to what a client has sent: 400 in plain text, or with `redirects` 308 to the same address
    with https, if the request line and the one Host field are there and valid.
    """
    head, _, _ = received.partition(b"\r\n\r\n")
    location = _https_address(head, is_whole=len(head) < len(received)) if redirects else None
    status = b"400 Bad Request" if location is None else b"308 Permanent Redirect"
    body = _BODY if location is None else _REDIRECTED
    fields = [
        b"HTTP/1.1 " + status,
        b"date: " + http_date(time.time()),
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    if location is not None:
        fields.append(b"location: " + location)
    return b"\r\n".join([*fields, b"", b"" if received.startswith(b"HEAD ") else body])


def _https_address(head: bytes, *, is_whole: bool) -> bytes | None:
    lines = head.split(b"\r\n")
    if not is_whole:
        lines.pop()  # perhaps not all of it
    request_line = _REQUEST_LINE.fullmatch(lines[0]) if lines else None
    hosts = [line for line in lines[1:] if line[:5].lower() == b"host:"]
    if request_line is None or len(hosts) != 1:
        return None
    host = _HOST.fullmatch(hosts[0])
    if host is None or not is_authority(authority := request_line[1] or host[1]):
        return None
    rest = request_line[2]
    return b"https://" + authority + (rest if rest.startswith(b"/") else b"/" + rest)


async def answer_plainly(channel: Channel, received: bytes, *, redirects: bool) -> None:
    """Answer what a client has sent, and wait a moment for it to take the answer. Raises no OSError."""
    channel.write_timeout = LINGER_SECONDS
    try:
        channel.send_nowait(plain_answer(received, redirects=redirects))
    except OSError:
        return
    await linger(channel)
