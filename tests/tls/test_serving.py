"""HTTPS, as clients meet it: good ones, slow ones, silent ones, and those that speak something else."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.pairs import read_exactly
from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import CODECS, read_body, request, respond
from tests.support.openssl import RecordClient
from tests.support.sockets import SOON, Client, Log, logged, open_stream, port_of, run, secured, served
from trioasgi import Server
from trioasgi.net.hello import HANDSHAKE_FAILURE
from trioasgi.types import ASGIApp, Receive, Scope, Send

both_codecs = pytest.mark.parametrize("codec", CODECS)

MEGABYTE = 1 << 20
BIG = 20 * MEGABYTE


@asynccontextmanager
async def https(certificates: Certificates, app: ASGIApp, **options: object) -> AsyncIterator[Server]:
    async with served(app, **certificates.options, **options) as server:
        yield server


async def expect_answer(server: Server, certificates: Certificates) -> None:
    """The same server answers the next connection."""
    async with secured(server, certificates.context()) as client:
        assert (await client.get(request("/next"))).body == b"/next"


@contextmanager
def nothing_worse_than(level: int) -> Iterator[Log]:
    """Nothing is logged above `level`."""
    with logged() as log:
        yield log
    assert log.lines(level + 1) == []


# Good clients


@both_codecs
def test_httpx_verifies_the_certificate_and_the_name(codec: str, certificates: Certificates) -> None:
    async def main() -> None:
        async with https(certificates, Lived(), http=codec) as server:
            port = port_of(server)
            assert server.urls == (f"https://127.0.0.1:{port}",)
            url = f"https://localhost:{port}/verified"
            async with httpx.AsyncClient(verify=certificates.context()) as client:
                for _ in range(2):
                    assert (await client.get(url)).text == "/verified"
            async with httpx.AsyncClient() as stranger:  # does not know the CA
                with pytest.raises(httpx.ConnectError):
                    await stranger.get(url)
            async with httpx.AsyncClient(verify=certificates.context()) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(server.urls[0])  # the certificate is for the name alone
            await expect_answer(server, certificates)

    run(main)


@both_codecs
def test_the_scope_says_https(codec: str, certificates: Certificates) -> None:
    async def main() -> None:
        app = Lived()
        async with https(certificates, app, http=codec) as server:
            await expect_answer(server, certificates)
            assert app.scopes[0]["scheme"] == "https"
            assert app.scopes[0]["server"] == server.addresses[0]

    run(main)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
def test_versions_of_tls(version: ssl.TLSVersion, certificates: Certificates) -> None:
    async def main() -> None:
        async with https(certificates, Lived()) as server:
            context = certificates.context()
            context.minimum_version = context.maximum_version = version
            async with secured(server, context) as client:
                for path in ("/one", "/two"):
                    assert (await client.get(request(path))).body == path.encode()
                assert isinstance(client.stream, trio.SSLStream)
                assert client.stream.version() == version.name.replace("v1_", "v1.")

    run(main)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_versions_that_are_too_old_are_refused(certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived()) as server:
                context = certificates.context()
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
                context.set_ciphers("DEFAULT@SECLEVEL=0")
                with pytest.raises(trio.BrokenResourceError):
                    async with secured(server, context):
                        pass
                await log.wait_for(r"127\.0\.0\.1:\d+: TLS handshake failed")
                await expect_answer(server, certificates)

    run(main)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), ([], None)],
    ids=["http/1.1", "h2 or http/1.1", "none"],
)
def test_alpn(offered: list[str], chosen: str | None, certificates: Certificates) -> None:
    async def main() -> None:
        async with https(certificates, Lived()) as server:
            context = certificates.context()
            if offered:
                context.set_alpn_protocols(offered)
            async with secured(server, context) as client:
                assert isinstance(client.stream, trio.SSLStream)
                assert client.stream.selected_alpn_protocol() == chosen
                assert (await client.get(request("/"))).status == 200

    run(main)


def test_a_plain_blocking_client(certificates: Certificates) -> None:
    async def main() -> None:
        async with https(certificates, Lived()) as server:

            def ask() -> bytes:
                with (
                    socket.create_connection(("127.0.0.1", port_of(server)), timeout=SOON) as raw,
                    certificates.context().wrap_socket(raw, server_hostname="localhost") as secure,
                ):
                    secure.sendall(request("/blocking", "Connection: close"))
                    return b"".join(iter(lambda: secure.recv(65536), b""))

            assert (await trio.to_thread.run_sync(ask)).endswith(b"\r\n\r\n/blocking")

    run(main)


# Much data


@both_codecs
def test_a_big_download(codec: str, certificates: Certificates) -> None:
    body = bytes(range(256)) * (BIG // 256)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, body)

    async def main() -> None:
        async with (
            https(certificates, app, http=codec) as server,
            httpx.AsyncClient(verify=certificates.context()) as client,
        ):
            response = await client.get(f"https://localhost:{port_of(server)}/")
            assert response.content == body

    run(main, 40)


@both_codecs
def test_a_big_stream(codec: str, certificates: Certificates) -> None:
    piece = bytes(range(256)) * 4096

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        for _ in range(BIG // len(piece)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async with (
            https(certificates, app, http=codec) as server,
            httpx.AsyncClient(verify=certificates.context()) as client,
        ):
            response = await client.get(f"https://localhost:{port_of(server)}/")
            assert response.content == piece * (BIG // len(piece))

    run(main, 40)


@both_codecs
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_big_upload(chunked: bool, codec: str, certificates: Certificates) -> None:
    body = bytes(range(256)) * (BIG // 256)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, BIG, MEGABYTE):
            yield body[start : start + MEGABYTE]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        size, more = 0, True
        while more:
            message = await receive()
            piece: bytes = message["body"]
            assert body[size : size + len(piece)] == piece
            size, more = size + len(piece), message["more_body"]
        await respond(send, str(size).encode())

    async def main() -> None:
        async with (
            https(certificates, app, http=codec) as server,
            httpx.AsyncClient(verify=certificates.context()) as client,
        ):
            content = pieces() if chunked else body
            url = f"https://localhost:{port_of(server)}/"
            assert (await client.post(url, content=content)).text == str(BIG)

    run(main, 40)


def test_a_slow_reader_gets_everything(certificates: Certificates) -> None:
    size = 8 * MEGABYTE

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, bytes(size))

    async def main() -> None:
        async with (
            https(certificates, app, timeout_write=1) as server,
            secured(server, certificates.context()) as client,
        ):
            await client.send(request())
            assert isinstance(client.stream, trio.SSLStream)
            read = 0
            for _ in range(5):  # longer in all than the time-out, and never as long at a time
                await trio.sleep(0.3)
                read += len(await read_exactly(client.stream, MEGABYTE))
            read += len(await read_exactly(client.stream, size - read))
            assert read == size

    run(main)


def test_a_reader_that_has_stopped_is_given_up(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, bytes(BIG) if scope["path"] == "/big" else b"/next")

    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, app, timeout_write=0.3) as server:
                async with secured(server, certificates.context()) as client:
                    await client.send(request("/big"))
                    await log.wait_for("the client took nothing of the response for too long")
                await expect_answer(server, certificates)

    run(main)


# Those that leave


async def wait_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, or begin a stream, and go on until the client has gone."""
    assert scope["type"] == "http"
    if scope["path"] == "/next":
        await respond(send, b"/next")
        return
    await read_body(receive)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    assert (await receive())["type"] == "http.disconnect"
    scope["state"]["gone"].set()


class Watched:
    """`wait_for_the_end`, and an event that is set when it has seen its client go."""

    def __init__(self) -> None:
        self.gone = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await wait_for_the_end({**scope, "state": {"gone": self.gone}}, receive, send)


@both_codecs
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
@pytest.mark.parametrize("notifies", [True, False], ids=["close_notify", "ragged"])
def test_a_client_that_leaves_is_noticed(
    notifies: bool, version: ssl.TLSVersion, codec: str, certificates: Certificates
) -> None:
    async def main() -> None:
        app = Watched()
        context = certificates.context()
        context.minimum_version = context.maximum_version = version
        with nothing_worse_than(logging.INFO):
            async with https(certificates, app, http=codec) as server:
                raw = await open_stream(server)
                secure = trio.SSLStream(
                    raw, context, server_hostname="localhost", https_compatible=not notifies
                )
                await secure.send_all(request())
                assert b"begun" in await Client(secure).until(b"begun\r\n")  # type: ignore[arg-type]
                await secure.aclose()
                with trio.fail_after(SOON):
                    await app.gone.wait()
                await expect_answer(server, certificates)

    run(main)


@pytest.mark.parametrize("moment", ["idle", "within a head", "within a body"])
def test_a_client_that_leaves_without_close_notify(moment: str, certificates: Certificates) -> None:
    sent = {
        "idle": b"",
        "within a head": request()[:10],
        "within a body": request("/echo", "Content-Length: 10", method="POST") + b"12345",
    }

    async def main() -> None:
        with nothing_worse_than(logging.INFO):
            async with https(certificates, Lived()) as server:
                raw = await open_stream(server)
                secure = trio.SSLStream(
                    raw, certificates.context(), server_hostname="localhost", https_compatible=True
                )
                await secure.send_all(request("/first"))
                await Client(secure).until(b"/first")  # type: ignore[arg-type]
                if sent[moment]:
                    await secure.send_all(sent[moment])
                await raw.aclose()
                await expect_answer(server, certificates)
                await wait_all_tasks_blocked()

    run(main)


def test_a_reset_amid_a_response(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, bytes(BIG) if scope["path"] == "/big" else b"/next")

    async def main() -> None:
        with nothing_worse_than(logging.INFO):
            async with https(certificates, app) as server:
                async with secured(server, certificates.context()) as client:
                    await client.send(request("/big"))
                    await client.until(b"\r\n\r\n")
                await expect_answer(server, certificates)

    run(main)


# Handshakes that fail


def test_a_silent_client_is_given_up(certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived(), timeout_handshake=0.2) as server:
                async with await open_stream(server) as silent:
                    port = silent.socket.getsockname()[1]
                    await expect_answer(server, certificates)  # meanwhile
                    with trio.fail_after(SOON):
                        assert await Client(silent).is_closed()
                await log.wait_for(
                    rf"127\.0\.0\.1:{port}: TLS handshake failed: it took too long \(--timeout-handshake\)"
                )
                await expect_answer(server, certificates)

    run(main)


def test_plain_http_to_the_https_port(certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived()) as server:
                async with await open_stream(server) as stream:
                    await stream.send_all(request())
                    port = stream.socket.getsockname()[1]
                    await Client(stream).rest()
                await log.wait_for(
                    rf"127\.0\.0\.1:{port}: TLS handshake failed: http request \(use https://\)$"
                )
                await expect_answer(server, certificates)

    run(main)


def test_a_key_exchange_that_takes_too_long_is_refused(certificates: Certificates) -> None:
    """It would keep the worker from all others for a fifth of a second."""

    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log, closing(RecordClient("ffdhe8192")) as client:
            client.do_handshake()
            async with https(certificates, Lived()) as server:
                async with await open_stream(server) as stream:
                    await stream.send_all(client.take())
                    assert await Client(stream).rest() == HANDSHAKE_FAILURE
                await log.wait_for(r"handshake failed: .* key exchange that takes too long \(ffdhe8192\)$")
                await expect_answer(server, certificates)

    run(main)


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (client_hello() + b"\x15\x03\x03\x00\x02\x01\x00", "the client closed the connection"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
            r"wrong version number \(not TLS; for a PROXY header see --proxy-protocol\)",
        ),
    ],
    ids=["close_notify", "a PROXY header"],
)
def test_a_handshake_that_fails_is_explained(data: bytes, said: str, certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived()) as server:
                async with await open_stream(server) as stream:
                    await stream.send_all(data)
                    await Client(stream).rest()
                await log.wait_for(rf"127\.0\.0\.1:\d+: TLS handshake failed: {said}$")

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\xff\xff" + b"\xff" * 500,
        b"\x80\x2e\x01\x00\x02" + bytes(50),
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01",
    ],
    ids=["zeros", "a record too long", "SSL 2", "SSH", "a cut record"],
)
def test_garbage(data: bytes, certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived(), timeout_handshake=1) as server:
                async with await open_stream(server) as stream:
                    await stream.send_all(data)
                    await stream.send_eof()
                    await Client(stream).rest()
                line = await log.wait_for(r"127\.0\.0\.1:\d+: TLS handshake failed: .+")
                assert "Traceback" not in line
                await expect_answer(server, certificates)

    run(main)


def test_a_client_that_does_not_trust_the_certificate(certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived()) as server:
                await trio.to_thread.run_sync(refuse_certificate, server)
                line = await log.wait_for(r"127\.0\.0\.1:\d+: TLS handshake failed: .+")
                assert "unknown ca" in line
                await expect_answer(server, certificates)

    run(main)


def refuse_certificate(server: Server) -> None:
    """Do the handshake without knowing the CA, and send the alert, which Trio's client does not."""
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the client is the last to speak
    with (
        socket.create_connection(("127.0.0.1", port_of(server)), timeout=SOON) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
        context.wrap_socket(raw, server_hostname="localhost"),
    ):
        pass


@pytest.mark.parametrize("size", [0, 20], ids=["at once", "after a few bytes"])
def test_a_client_that_leaves_within_the_handshake(size: int, certificates: Certificates) -> None:
    async def main() -> None:
        with nothing_worse_than(logging.INFO) as log:
            async with https(certificates, Lived()) as server:
                async with await open_stream(server) as stream:
                    if size:
                        await stream.send_all((b"\x16\x03\x01\x02\x00" + bytes(100))[:size])
                await log.wait_for("TLS handshake failed")
                await expect_answer(server, certificates)

    run(main)


def test_a_drain_does_not_wait_for_silent_clients(certificates: Certificates) -> None:
    async def main() -> None:
        async with (
            https(certificates, Lived(), timeout_graceful_shutdown=0.3) as server,
            await open_stream(server),
        ):
            await expect_answer(server, certificates)
            with trio.fail_after(SOON), suppress(OSError):
                await server.drain()

    run(main)
