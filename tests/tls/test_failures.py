"""Handshakes that fail: each is counted by endpoint and reason, and few are logged."""

from __future__ import annotations

import gc
import logging
import os
import re
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.http import request
from tests.support.sockets import SOON, Client, Log, logged, open_stream, port_of, run, secured, served
from trioasgi import Server
from trioasgi.net.connection_info import ConnectionInfo
from trioasgi.server.handshakes import FailedHandshakes
from trioasgi.server.plain_http import plain_answer
from trioasgi.tls.failures import HandshakeFailure


async def expect_count(server: Server, reason: str, count: int = 1) -> None:
    """Wait until so many handshakes have failed for this reason, and no other one has."""
    endpoint = f"127.0.0.1:{port_of(server)}"
    with trio.fail_after(SOON):
        while server.failed_handshakes.get(endpoint, {}).get(reason, 0) < count:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert server.failed_handshakes == {endpoint: {reason: count}}


def handshake(port: int, context: ssl.SSLContext, *, asks: bool = False) -> None:
    """One of a blocking client. With `asks` it then waits for an answer: in TLS 1.3 it learns only then that
    its certificate was refused.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                if asks:
                    client.sendall(request("/"))
                    client.recv(1000)
        except OSError:
            pass


def send_and_reset(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"\x16\x03\x01")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_and_close(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"\x16\x03\x01")


def send_garbage(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
        plain.recv(100)


def plain_http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(request("/"))
        assert plain.recv(1000).startswith(b"HTTP/1.1 400 ")


def insecure(**versions: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, version in versions.items():
        setattr(context, name, version)
    return context


def another_cipher(port: int) -> None:
    context = insecure(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA256:@SECLEVEL=0")
    handshake(port, context)


def too_old(port: int) -> None:
    context = insecure(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    handshake(port, context)


STRANGER = ssl.create_default_context()
"""It does not know the CA."""


def distrust(port: int) -> None:
    handshake(port, STRANGER)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (another_cipher, HandshakeFailure.NO_SHARED_CIPHER),
        (too_old, HandshakeFailure.WRONG_VERSION),
        (distrust, HandshakeFailure.DISTRUSTED),
        (send_garbage, HandshakeFailure.NOT_TLS),
        (send_and_reset, HandshakeFailure.RESET),
        (send_and_close, HandshakeFailure.CLOSED),
    ],
    ids=lambda value: value.name if isinstance(value, HandshakeFailure) else "",
)
def test_each_reason(
    act: Callable[[int], None], reason: HandshakeFailure, certificates: Certificates
) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(Lived(), **certificates.options) as server:
                await trio.to_thread.run_sync(act, port_of(server))
                await expect_count(server, reason.value)
                await expect_answer(server, certificates)
        log.expect_no_errors()

    run(main)


async def expect_answer(server: Server, certificates: Certificates) -> None:
    async with secured(server, certificates.context()) as client:
        assert (await client.get(request("/next"))).status == 200


def test_silence(certificates: Certificates) -> None:
    async def main() -> None:
        async with (
            served(Lived(), timeout_handshake=0.1, **certificates.options) as server,
            await open_stream(server) as silent,
        ):
            await Client(silent).is_closed()
            await expect_count(server, "timeout")

    run(main)


# Certificates of clients


def client_context(
    certificates: Certificates, issuer: trustme.CA | None, **dates: datetime
) -> ssl.SSLContext:
    context = certificates.context()
    if issuer is not None:
        issuer.issue_cert("client", **dates).configure_cert(context)  # type: ignore[arg-type]
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", "no client certificate"),
        ("unknown", "client certificate of unknown ca"),
        ("expired", "expired client certificate"),
    ],
)
def test_client_certificates(
    kind: str, reason: str, version: ssl.TLSVersion, certificates: Certificates, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issuer = {"none": None, "unknown": trustme.CA(), "expired": ca}[kind]
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(9), "not_after": now - timedelta(1)} if kind == "expired" else {}
    context = client_context(certificates, issuer, **dates)
    context.minimum_version = context.maximum_version = version
    options = {**certificates.options, "client_certs": "required", "ca_certs": str(tmp_path / "ca.pem")}

    async def main() -> None:
        with logged() as log:
            async with served(Lived(), **options) as server:
                await trio.to_thread.run_sync(lambda: handshake(port_of(server), context, asks=True))
                await expect_count(server, reason)
        log.expect_no_errors()

    run(main)


# The log


def lines_of(log: Log, level: int = logging.INFO) -> list[str]:
    return [line for line in log.lines(level) if "andshake" in line]


def test_a_line_for_each_reason_and_interval_and_the_number_of_further_ones() -> None:
    failed = FailedHandshakes()
    info = ConnectionInfo("https", ("192.0.2.1", 5), ("192.0.2.9", 443), "192.0.2.1:5")
    with logged() as log:
        for _ in range(2):
            for failure, count in ((HandshakeFailure.RESET, 100), (HandshakeFailure.NOT_TLS, 2)):
                for _ in range(count):
                    failed.note(info, "192.0.2.9:443", failure, "why")
            failed.flush()
        failed.flush()
    assert lines_of(log) == 2 * [
        "192.0.2.1:5: TLS handshake failed: why",
        "192.0.2.1:5: TLS handshake failed: why (not TLS; for a PROXY header see --proxy-protocol)",
        "TLS handshakes failed 99 more times on 192.0.2.9:443: reset",
        "TLS handshakes failed once more on 192.0.2.9:443: not tls",
    ]
    assert failed.counts() == {"192.0.2.9:443": {"reset": 200, "not tls": 4}}


def test_the_endpoints_are_bounded() -> None:
    failed = FailedHandshakes()
    info = ConnectionInfo("https", None, None, "x")
    for number in range(1000):
        failed.note(info, f"[2001:db8::{number:x}]:443", HandshakeFailure.RESET, "why")
    counts = failed.counts()
    assert len(counts) == 65
    assert sum(counts["other endpoints"].values()) == 1000 - 64


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_a_thousand_failures_leave_nothing_and_few_lines(certificates: Certificates) -> None:
    def fail_all(port: int) -> None:
        for _ in range(250):
            for act in (distrust, send_and_reset, send_and_close, plain_http):
                act(port)

    async def main() -> None:
        with logged(logging.INFO) as log:
            async with served(Lived(), **certificates.options) as server:
                await trio.to_thread.run_sync(fail_all, port_of(server))  # what is imported stays
                before, memory = await rest(server, 1000)
                await trio.to_thread.run_sync(fail_all, port_of(server))
                after, later = await rest(server, 2000)
                await expect_answer(server, certificates)
        assert after == before
        assert later - memory < 3 << 20
        assert 4 <= len(lines_of(log)) <= 8
        log.expect_no_errors()

    async def rest(server: Server, count: int) -> tuple[int, int]:
        with trio.fail_after(SOON):
            while server.connections or total(server) < count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        return held()

    run(main, seconds=100)


def held() -> tuple[int, int]:
    """The open descriptors and the resident memory of this process."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


def total(server: Server) -> int:
    return sum(sum(reasons.values()) for reasons in server.failed_handshakes.values())


# Plain HTTP


def test_plain_http_is_answered_in_plain_text(certificates: Certificates) -> None:
    async def main() -> None:
        async with served(Lived(), **certificates.options) as server:
            async with await open_stream(server) as stream:
                await stream.send_all(request("/x") + b"x" * 100_000)
                answer = await Client(stream).rest()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"https://" in answer
            await expect_count(server, "plain http")
            await expect_answer(server, certificates)

    run(main)


@pytest.mark.parametrize("line", ["DELETE /x", "OPTIONS *", "PATCH http://a/", "PROPFIND /", "CONNECT a:1"])
def test_plain_http_is_known_by_any_method(line: str, certificates: Certificates) -> None:
    """OpenSSL knows GET, HEAD, POST, PUT and CONNECT alone."""

    async def main() -> None:
        async with served(Lived(), **certificates.options) as server:
            async with await open_stream(server) as stream:
                await stream.send_all(f"{line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                answer = await Client(stream).rest()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            await expect_count(server, "plain http")

    run(main)


def test_plain_http_is_redirected_by_option(certificates: Certificates) -> None:
    async def main() -> None:
        async with served(Lived(), redirect_plain_http=True, **certificates.options) as server:
            port = port_of(server)
            async with await open_stream(server) as stream:
                await stream.send_all(f"GET /a?b HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                answer = await Client(stream).rest()
            assert answer.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
            assert f"\r\nlocation: https://localhost:{port}/a?b\r\n".encode() in answer
            await expect_answer(server, certificates)

    run(main)


def test_a_drain_does_not_wait_long_for_who_reads_the_answer(certificates: Certificates) -> None:
    async def main() -> None:
        async with served(Lived(), **certificates.options) as server, await open_stream(server) as stream:
            await stream.send_all(request("/x"))
            await stream.receive_some(1000)
            with trio.fail_after(SOON):
                await server.drain()

    run(main)


@pytest.mark.parametrize(
    ("received", "location"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"https://a/"),
        (b"GET /x?y HTTP/1.0\r\nhost: [::1]:8443\r\nA: b", b"https://[::1]:8443/x?y"),
        (b"POST //evil.example HTTP/1.1\r\nHost: a\r\n\r\n", b"https://a//evil.example"),
        (b"GET / HTTP/1.1\r\nHost: a", None),  # perhaps not all of it
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\rSet-Cookie: b\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", b"https://b/"),
        (b"GET HTTP://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", b"https://b:80/x?y"),
        (b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", b"https://b/"),
        (b"GET http://b?x=/y HTTP/1.1\r\nHost: a\r\n\r\n", b"https://b/?x=/y"),
        (b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET http://bx@y HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /\r\nHost: a\r\n\r\n", None),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"", None),
    ],
)
def test_where_it_is_redirected_to(received: bytes, location: bytes | None) -> None:
    found = re.search(rb"\r\nlocation: (.*)\r\n", plain_answer(received, redirects=True))
    assert (found and found[1]) == location
    assert plain_answer(received, redirects=False).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("redirects", [False, True])
def test_the_answer_has_the_date(redirects: bool) -> None:
    """RFC 9110, 6.6.1."""
    answer = plain_answer(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", redirects=redirects)
    assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", answer)


def test_an_answer_to_head_has_no_body() -> None:
    assert plain_answer(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", redirects=True).endswith(b"\r\n\r\n")
