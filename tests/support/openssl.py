"""A TLS client that says what each of its records holds, key updates included: OpenSSL itself, by ctypes."""

from __future__ import annotations

import _ssl
import ctypes
from collections.abc import Callable
from typing import Any

import trio

_SET_GROUPS = 92  # SSL_CTRL_SET_GROUPS_LIST

UPDATE_REQUESTED = 1
"""RFC 8446, 4.6.3: the other side is to update its keys too."""


def _functions() -> Callable[..., Any]:
    library = ctypes.CDLL(_ssl.__file__)  # it finds what that is linked to

    def function(name: str, result: Any, *arguments: Any) -> Any:
        found = getattr(library, name)
        found.restype = result
        found.argtypes = list(arguments)
        return found

    return function


class RecordClient:
    """Makes the records of a client without verifying the server. Bytes go in by `feed`, out by `take`.

    `groups` are those for the key exchange, by OpenSSL's names; OpenSSL's own list if there are none.
    """

    def __init__(self, *groups: str) -> None:
        function = _functions()
        pointer, number = ctypes.c_void_p, ctypes.c_int
        method = function("TLS_client_method", pointer)()
        self._context = function("SSL_CTX_new", pointer, pointer)(method)
        self._ssl = function("SSL_new", pointer, pointer)(self._context)
        memory = function("BIO_s_mem", pointer)()
        make = function("BIO_new", pointer, pointer)
        self._incoming, self._outgoing = make(memory), make(memory)
        function("SSL_set_bio", None, pointer, pointer, pointer)(self._ssl, self._incoming, self._outgoing)
        function("SSL_set_connect_state", None, pointer)(self._ssl)
        if groups:
            control = function("SSL_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, ctypes.c_char_p)
            assert control(self._ssl, _SET_GROUPS, 0, ":".join(groups).encode()) == 1
        self._handshake = function("SSL_do_handshake", number, pointer)
        self._update = function("SSL_key_update", number, pointer, number)
        self._write = function("SSL_write", number, pointer, ctypes.c_char_p, number)
        self._read = function("SSL_read", number, pointer, ctypes.c_char_p, number)
        self._bio_write = function("BIO_write", number, pointer, ctypes.c_char_p, number)
        self._bio_read = function("BIO_read", number, pointer, ctypes.c_char_p, number)
        self._free = function("SSL_free", None, pointer)
        self._free_context = function("SSL_CTX_free", None, pointer)

    def close(self) -> None:
        """Free what OpenSSL holds."""
        self._free(self._ssl)
        self._free_context(self._context)

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._bio_write(self._incoming, data, len(data))

    def take(self) -> bytes:
        """The bytes that are to be sent."""
        parts = []
        buffer = ctypes.create_string_buffer(65536)
        while (size := self._bio_read(self._outgoing, buffer, len(buffer))) > 0:
            parts.append(buffer.raw[:size])
        return b"".join(parts)

    def do_handshake(self) -> bool:
        """Go on with the handshake; is it done?"""
        return bool(self._handshake(self._ssl) == 1)

    def write(self, data: bytes) -> None:
        """Make one record of `data`."""
        assert self._write(self._ssl, data, len(data)) == len(data)

    def update_keys(self) -> None:
        """Make a record that changes our keys and asks for the same."""
        assert self._update(self._ssl, UPDATE_REQUESTED) == 1
        assert self._handshake(self._ssl) == 1

    def read(self) -> bytes:
        """What the server's records hold."""
        buffer = ctypes.create_string_buffer(65536)
        size = self._read(self._ssl, buffer, len(buffer))
        return buffer.raw[:size] if size > 0 else b""


class Peer:
    """The client: its records, and its stream."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, records: RecordClient) -> None:
        self.stream = stream
        self.records = records

    async def do_handshake(self) -> None:
        while not self.records.do_handshake():
            await self.flush()
            self.records.feed(bytes(await self.stream.receive_some(65536)))
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.records.take())

    async def read(self) -> bytes:
        """The next bytes of the application; b"" at the end."""
        while not (data := self.records.read()):
            received = bytes(await self.stream.receive_some(65536))
            if not received:
                return b""
            self.records.feed(received)
        return data
