"""Is this the authority of a request (RFC 9110, 4.2 and 7.2)?"""

from __future__ import annotations

import socket
from typing import Final

from trioasgi.http.abnf import AUTHORITY
from trioasgi.patterns import compiled_later

_AUTHORITY: Final = compiled_later(AUTHORITY)


def is_authority(text: bytes) -> bool:
    """Does `text` match `abnf.AUTHORITY`, with an IPv6 address that is one?"""
    if _AUTHORITY.fullmatch(text) is None:
        return False
    return text[:1] != b"[" or text[1:2] in b"vV" or _is_ipv6(text[1 : text.index(b"]")])


def _is_ipv6(text: bytes) -> bool:
    # The grammar of RFC 3986, 3.2.2, as a regular expression takes milliseconds to compile.
    try:
        socket.inet_pton(socket.AF_INET6, text.decode("ascii"))
    except OSError:
        return False
    return True
