"""Connections that begin with a PROXY header: what becomes of them, and of those that should have one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from tests.support.certificates import make_certificates
from tests.support.http import Calls, Client, on_trio, request, respond, serving
from tests.support.sockets import connected, logged, port_of, run, served
from trioasgi.net.proxy import SIGNATURE_V2
from trioasgi.observe.text import escaped
from trioasgi.types import Receive, Scope, Send

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 443\r\n"
LOCAL = SIGNATURE_V2 + b"\x20\x00\x00\x00"
UNIX = SIGNATURE_V2 + b"\x21\x31\x00\xd8" + b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("boom")


@pytest.fixture(params=["h11", "httptools"])
def codec(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("mode", ["on", "required"])
@on_trio
async def test_the_client_is_whom_the_header_names(codec: str, mode: str) -> None:
    calls = Calls(answer)
    with logged() as log:
        async with serving(calls, codec, proxy_protocol=mode, proxy_protocol_trusted="*") as client:
            # In one piece with two requests behind it: nothing is lost, nothing comes twice.
            assert (await client.get(HEADER + request("/a") + request("/b"))).body == b"ok"
            assert (await client.response()).body == b"ok"
        assert log.count(r'^192\.0\.2\.7:4711 "GET /[ab]') == 2
    assert [scope["path"] for scope in calls.scopes] == ["/a", "/b"]
    assert calls.scopes[0]["client"] == ("192.0.2.7", 4711)
    assert calls.scopes[0]["server"] == ("198.51.100.2", 443)
    assert calls.scopes[0]["scheme"] == "http"


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
@on_trio
async def test_a_header_that_names_nobody_changes_nothing(codec: str, header: bytes) -> None:
    calls = Calls(answer)
    async with serving(calls, codec, proxy_protocol="required", proxy_protocol_trusted="*") as client:
        await client.get(header + request("/"))
    assert calls.scopes[0]["client"] is None


@on_trio
async def test_both_ends_of_a_unix_socket(codec: str) -> None:
    calls = Calls(answer)
    async with serving(calls, codec, proxy_protocol="required", proxy_protocol_trusted="*") as client:
        await client.get(UNIX + request("/"))
    assert calls.scopes[0]["client"] == ("/client", None)
    assert calls.scopes[0]["server"] == ("/server", None)


@on_trio
async def test_without_a_header_a_connection_is_served_where_none_is_required(codec: str) -> None:
    async with serving(answer, codec, proxy_protocol="on", proxy_protocol_trusted="*") as client:
        assert (await client.get(request("/", method="POST", body=b"abc"))).body == b"ok"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "closed: no PROXY header$"),
        (b"PROXY TCP4 192.0.2.7 4711\r\n", "closed: malformed PROXY line: b'PROXY TCP4 192.0.2.7 4711'"),
        (SIGNATURE_V2 + b"\x31\x11\x00\x00", "closed: unknown version 3 of the binary PROXY header"),
        (b"PROXY TCP4 ", "closed: no PROXY header in time"),
        (b"", "closed: no PROXY header in time"),
    ],
)
@on_trio
async def test_what_is_wrong_closes_the_connection_and_is_logged(codec: str, sent: bytes, said: str) -> None:
    calls = Calls(answer)
    with logged() as log:
        async with serving(calls, codec, proxy_protocol="required", proxy_protocol_trusted="*") as client:
            await client.send(sent)
            assert await client.is_closed()
        assert log.count(said) == 1, log.text
    assert calls.scopes == []


@on_trio
async def test_a_connection_that_is_cut_within_its_header(codec: str) -> None:
    with logged() as log:
        async with serving(answer, codec, proxy_protocol="on", proxy_protocol_trusted="*") as client:
            await client.send(b"PROXY TCP4 192.0")
            await client.send_eof()
            assert await client.is_closed()
        assert log.count("ended within a PROXY header") == 1


@pytest.mark.parametrize("name", [b"\\", b'"', b"\xff", b"\r\n"])
@on_trio
async def test_a_client_with_a_path_is_shown_as_such(codec: str, name: bytes) -> None:
    """Each character is escaped once at most, and none begins a line."""
    path = b"/run/" + name
    header = UNIX.replace(b"/client".ljust(108, b"\0"), path.ljust(108, b"\0"))
    shown = escaped(path.decode("utf-8", "surrogateescape"))
    with logged() as log:
        async with serving(fail, codec, proxy_protocol="on", proxy_protocol_trusted="*") as client:
            assert (await client.get(header + request("/"))).status == 500
        assert log.lines()[-1].startswith(f'{shown} "GET / HTTP/1.1" 500')
        assert f'"GET /" from {shown}' in log.text


def test_a_header_is_no_request_where_the_protocol_is_off() -> None:
    async def main() -> None:
        with logged():
            async with served(answer) as server, connected(server) as client:
                await client.send(HEADER + request("/"))
                assert (await client.response()).status == 400

    run(main)


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.0/24"])
def test_header_fields_are_believed_of_whom_the_header_names(trusted: str) -> None:
    calls = Calls(answer)

    async def main() -> None:
        options = {"proxy_protocol": "required", "forwarded_allow_ips": trusted, "lifespan": "off"}
        async with served(calls, **options) as server, connected(server) as client:
            await client.get(HEADER + request("/", "X-Forwarded-For: 203.0.113.9"))

    run(main)
    expected = ("192.0.2.7", 4711) if trusted == "127.0.0.1" else ("203.0.113.9", 0)
    assert calls.scopes[0]["client"] == expected


@pytest.mark.parametrize("header", [HEADER, b""])
@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_tls_begins_behind_the_header(header: bytes, pieces: int, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    calls = Calls(answer)

    async def main() -> None:
        options = {"proxy_protocol": "on", "lifespan": "off", **certificates.options}
        async with served(calls, **options) as server:
            plain = await trio.open_tcp_stream("127.0.0.1", port_of(server))
            async with Behind(plain, header, pieces) as behind:
                stream = trio.SSLStream(
                    behind, certificates.context(), server_hostname="localhost", https_compatible=True
                )
                client = Client(cast("trio.abc.HalfCloseableStream", stream))
                assert (await client.get(request("/", method="POST", body=b"x" * 100_000))).body == b"ok"

    run(main)
    (scope,) = calls.scopes
    assert scope["scheme"] == "https"
    assert (scope["client"] == ("192.0.2.7", 4711)) is bool(header)


class Behind(trio.abc.Stream):
    """A stream whose first bytes are sent together with `header`, in pieces of a size."""

    def __init__(self, stream: trio.SocketStream, header: bytes, size: int) -> None:
        self._stream = stream
        self._header = header
        self._size = size
        stream.setsockopt(6, 1, 1)  # TCP_NODELAY

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._header:
            await self._stream.send_all(data)
            return
        whole, self._header = self._header + bytes(data), b""
        for start in range(0, len(whole), self._size):
            await self._stream.send_all(whole[start : start + self._size])
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def test_a_proxy_that_does_not_speak_tls_behind_its_header_is_logged_as_its_client(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)

    async def main() -> None:
        with logged() as log:
            options = {"proxy_protocol": "required", "lifespan": "off", **certificates.options}
            async with served(answer, **options) as server, connected(server) as client:
                await client.send(HEADER + request("/"))
                await log.wait_for(r"^192\.0\.2\.7:4711: TLS handshake failed")

    run(main)


def test_a_client_of_a_unix_socket_may_send_a_header_and_no_header_fields(tmp_path: Path) -> None:
    """Unless `unix` is among forwarded_allow_ips: the defaults."""
    calls = Calls(answer)

    async def main() -> None:
        options: dict[str, object] = {"uds": str(tmp_path / "s"), "lifespan": "off"}
        sent = request("/", "X-Forwarded-For: 192.0.2.9")
        async with served(calls, **options) as server, connected(server) as client:
            await client.get(sent)
        async with (
            served(calls, forwarded_allow_ips="unix", **options) as server,
            connected(server) as client,
        ):
            await client.get(sent)
        async with served(calls, proxy_protocol="on", **options) as server, connected(server) as client:
            await client.get(HEADER + sent)

    run(main)
    assert [scope["client"] for scope in calls.scopes] == [None, ("192.0.2.9", 0), ("192.0.2.7", 4711)]
