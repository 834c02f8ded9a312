"""Finds out whether a client's hello (RFC 8446, 4.1.2) asks for a key exchange that takes too long.

The client chooses the group of the key exchange. With an elliptic curve the server's part takes a few
milliseconds at most. With a finite field of 3072 bits or more (RFC 7919) one call of OpenSSL takes up to 200
milliseconds, and the client can leave its own part out. No client needs these groups: in TLS 1.3 each must
support a curve (RFC 8446, 9.1). Python's `ssl` cannot remove them from OpenSSL's list. So this module reads
the hello before OpenSSL gets it.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Final

SLOW_GROUPS: Final = {0x0101: "ffdhe3072", 0x0102: "ffdhe4096", 0x0103: "ffdhe6144", 0x0104: "ffdhe8192"}
"""RFC 7919, 2, and RFC 8446, 4.2.7."""

HANDSHAKE_FAILURE: Final = b"\x15\x03\x03\x00\x02\x02\x28"
"""An unencrypted record with this fatal alert (RFC 8446, 5.1 and 6.2)."""

UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""The same with another alert (RFC 6066, 3)."""

_RECORD_HEADER: Final = 5
_HANDSHAKE: Final = 22
_MESSAGE_HEADER: Final = 4
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_KEY_SHARE: Final = 51
_EXTENSION_HEADER: Final = Struct("!HH")
"""Its type, and the length of its data."""
_KEY_SHARE_BYTES: Final = _KEY_SHARE.to_bytes(2, "big")
_SLOW_GROUP: Final = re.compile(b"|".join(re.escape(group.to_bytes(2, "big")) for group in SLOW_GROUPS))
_MAX_HELLOS: Final = 2
"""The server may ask once for a second one (RFC 8446, 4.1.4)."""

_SERVER_HELLO: Final = 2
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random bytes of a ServerHello that asks for a second hello (RFC 8446, 4.1.3)."""
_HELLO_AT: Final = _RECORD_HEADER + _MESSAGE_HEADER
"""The offset of the hello in the first record of either side."""
_RETRY_AT: Final = _HELLO_AT + 2
"""The offset of the random bytes in the server's answer. The version comes before them."""

_NAME_AT: Final = 2 + 1 + 2
"""The offset of the first server name in its extension. The length of the list, the kind of the name and its
length come before it.
"""

_SESSION_AT: Final = 2 + 32
"""The offset of the session id. The version and the random bytes come before it."""


class HelloReader:
    """Reads up to two hellos from the records of a client. It skips encrypted records, because early data may
    come before the second hello (RFC 8446, 4.2.10).

    At the third hello, or at another message, it stops: OpenSSL checks all of them. OpenSSL gets the same
    bytes and refuses a hello that is too long, so this holds no more bytes than a hello may have.
    """

    __slots__ = ("_done", "_hello", "_hellos", "_messages", "_reads_names", "_records", "has_foreign_name")

    def __init__(self, *, reads_names: bool = False) -> None:
        self._reads_names = reads_names
        self.has_foreign_name = False
        """Has a hello that was searched asked for a server name that is not ASCII? Only if `reads_names`."""
        self._hello = b""  # one that came whole in one record, which was all that had come
        self._records = bytearray()
        self._messages = bytearray()  # the data of handshake records; a message may take several
        self._hellos = 0
        self._done = False

    def feed(self, data: bytes) -> bool:
        """Take received bytes. True if a ClientHello is whole now: then call `find_slow_group`."""
        if self._done:
            return False
        if _is_one_hello(data) and not (self._hello or self._records or self._messages):
            self._hello = data[_HELLO_AT:]
            return True
        self._records += data
        while len(self._records) >= _RECORD_HEADER:
            end = _RECORD_HEADER + int.from_bytes(self._records[3:5], "big")
            if len(self._records) < end:
                break
            if self._records[0] == _HANDSHAKE:
                self._messages += self._records[_RECORD_HEADER:end]
            del self._records[:end]
        return self._has_hello()

    def note_answer(self, answer: bytes) -> None:
        """Take what the server answers to a hello. If it does not ask for a second one, none is read: OpenSSL
        refuses that.
        """
        if (
            answer[0] == _HANDSHAKE
            and answer[_RECORD_HEADER] == _SERVER_HELLO
            and not answer.startswith(_RETRY, _RETRY_AT)
        ):
            self._finish()

    def find_slow_group(self) -> str:
        """The name of a slow group for which a whole hello has a key share; "" if there is none.

        It searches each hello once. This can take milliseconds: a hello may have sixteen thousand extensions.
        """
        found, hello = "", self._hello
        if hello:
            self._hello = b""
            found = self._search(hello)
        # A client can send both hellos at once, because it can predict the server's answer to the first.
        while self._messages and not found and self._has_hello():
            found = self._search(self._take_hello())
        return found

    def _search(self, hello: bytes) -> str:
        self._hellos += 1
        if self._hellos == _MAX_HELLOS:
            self._finish()
        if self._reads_names:
            name = _find_extension(hello, _extensions_at(hello), _SERVER_NAME)[_NAME_AT:]
            self.has_foreign_name |= not name.isascii()
        return find_slow_group(hello)

    def _has_hello(self) -> bool:
        if len(self._messages) < _MESSAGE_HEADER:
            return False
        if self._messages[0] != _CLIENT_HELLO:
            self._finish()
            return False
        return len(self._messages) >= self._hello_end()

    def _hello_end(self) -> int:
        return _MESSAGE_HEADER + int.from_bytes(self._messages[1:_MESSAGE_HEADER], "big")

    def _take_hello(self) -> bytes:
        end = self._hello_end()
        hello = bytes(self._messages[_MESSAGE_HEADER:end])
        del self._messages[:end]
        return hello

    def _finish(self) -> None:
        self._done = True
        self._records.clear()
        self._messages.clear()


def _is_one_hello(data: bytes) -> bool:
    """Is it one record that holds one whole ClientHello and nothing else? That of most clients is. It is read
    without a copy of its records and messages, which saves 1 % of the time of a connection with one request.
    """
    size = len(data)
    return (
        size > _HELLO_AT
        and data[0] == _HANDSHAKE
        and data[_RECORD_HEADER] == _CLIENT_HELLO
        and _RECORD_HEADER + (data[3] << 8 | data[4]) == size
        and _HELLO_AT + (data[6] << 16 | data[7] << 8 | data[8]) == size
    )


def find_slow_group(hello: bytes) -> str:
    """The name of a slow group for which a ClientHello has a key share; "" if there is none."""
    at = _extensions_at(hello)
    # Most hellos have none of these numbers behind the first that may be of the extension. To find that out
    # takes two calls, and to go through the extensions three hundred instructions of Python.
    first = hello.find(_KEY_SHARE_BYTES, at)
    if first < 0 or _SLOW_GROUP.search(hello, first) is None:
        return ""
    return _find_slow_share(_find_extension(hello, at, _KEY_SHARE))


def _extensions_at(hello: bytes) -> int:
    """The offset of the extensions, which begin with their length.

    ::

        struct {
            ProtocolVersion legacy_version; Random random; opaque legacy_session_id<0..32>;
            CipherSuite cipher_suites<2..2^16-2>; opaque legacy_compression_methods<1..2^8-1>;
            Extension extensions<8..2^16-1>;
        } ClientHello;                                                          (RFC 8446, 4.1.2)
    """
    at = _SESSION_AT
    try:
        at += 1 + hello[at]
        at += 2 + (hello[at] << 8 | hello[at + 1])
        return at + 1 + hello[at]
    except IndexError:
        return len(hello)  # it ends before: OpenSSL refuses it


def _find_extension(hello: bytes, at: int, wanted: int) -> bytes:
    """The data of the first extension of this type; empty if there is none, or the hello is malformed."""
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")  # OpenSSL refuses a hello that is longer
    end = min(end, len(hello))
    at += 2
    while at + 4 <= end:
        kind, size = _EXTENSION_HEADER.unpack_from(hello, at)
        at += 4
        if kind == wanted:
            return hello[at : at + size]
        at += size
    return b""


def _find_slow_share(shares: bytes) -> str:
    """Search the key shares, a list of groups with the client's part of each exchange (RFC 8446, 4.2.8)."""
    at = 2
    while at + 4 <= len(shares):
        group = SLOW_GROUPS.get(int.from_bytes(shares[at : at + 2], "big"))
        if group is not None:
            return group
        at += 4 + int.from_bytes(shares[at + 2 : at + 4], "big")
    return ""
