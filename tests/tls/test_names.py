"""Several certificates, chosen by the name that the client asks for (SNI)."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trustme

from tests.supervisor.apps import write_app
from tests.support.http import Calls, echo, request
from tests.support.processes import start_server
from tests.support.sockets import SOON, Client, logged, open_stream, port_of, run, served
from trioasgi import Config, Server
from trioasgi.errors import ConfigError, TLSError
from trioasgi.server.assembly_tls import server_tls
from trioasgi.tls import rotation

PAIRS = (("default.test",), ("*.wild.test", "wild.test"), ("exact.wild.test", "other.test"))


class Pairs:
    """A CA, and the files of three certificates that it has signed."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.certfiles, self.keyfiles = (
            [str(directory / f"{kind}{number}.pem") for number in range(len(PAIRS))]
            for kind in ("cert", "key")
        )
        self.leaves = [self.put(number) for number in range(len(PAIRS))]

    def put(self, number: int) -> bytes:
        leaf = self.ca.issue_cert(*PAIRS[number])
        leaf.cert_chain_pems[0].write_to_path(self.certfiles[number])
        leaf.private_key_pem.write_to_path(self.keyfiles[number])
        return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())

    @property
    def options(self) -> dict[str, object]:
        return {"certfile": self.certfiles, "keyfile": self.keyfiles}

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.cert_pem.bytes().decode())
        context.check_hostname = False
        return context


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    return Pairs(tmp_path)


@asynccontextmanager
async def asking(
    server: Server, context: ssl.SSLContext, name: str | None
) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    async with await open_stream(server) as plain:
        stream = trio.SSLStream(plain, context, server_hostname=name, https_compatible=True)
        await stream.do_handshake()
        yield stream


ASKED = [
    ("default.test", 0),
    ("a.wild.test", 1),
    ("A.WILD.test", 1),
    ("wild.test", 1),
    ("exact.wild.test", 2),
    ("other.test", 2),
    ("a.b.wild.test", 0),
    ("unknown.test", 0),
    (None, 0),
]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_the_name_chooses(version: ssl.TLSVersion, pairs: Pairs) -> None:
    calls = Calls(echo)
    context = pairs.context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1"])

    async def main() -> None:
        async with served(calls, lifespan="off", **pairs.options) as server:
            for name, number in ASKED:
                async with asking(server, context, name) as stream:
                    assert stream.getpeercert(binary_form=True) == pairs.leaves[number], name
                    assert stream.selected_alpn_protocol() == "http/1.1"
                    assert (
                        await Client(cast("trio.abc.HalfCloseableStream", stream)).get(request())
                    ).status == 200
                shown = calls.scopes[-1]["extensions"]["tls"]["server_cert"]
                assert ssl.PEM_cert_to_DER_cert(shown) == pairs.leaves[number]

    run(main)


def test_unknown_names_are_refused_by_option(pairs: Pairs) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(Calls(echo), lifespan="off", unknown_names="refuse", **pairs.options) as server:
                for name, number in ASKED:
                    if number or name == "default.test":
                        async with asking(server, pairs.context(), name) as stream:
                            assert stream.getpeercert(binary_form=True) == pairs.leaves[number]
                        continue
                    with pytest.raises(trio.BrokenResourceError) as caught:
                        async with asking(server, pairs.context(), name):
                            pass
                    assert "UNRECOGNIZED_NAME" in str(caught.value.__cause__)
                counts = server.failed_handshakes[f"127.0.0.1:{port_of(server)}"]
        assert counts == {"unknown server name": 3}
        assert log.count("the server name that the client asks for is refused") == 3
        log.expect_no_errors()

    run(main)


def test_a_session_is_resumed_with_the_certificate_of_its_name(pairs: Pairs) -> None:
    def twice(port: int) -> list[bool]:
        context, session, reused = pairs.context(), None, []
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
                client = context.wrap_socket(plain, server_hostname="other.test", session=session)
                with client:
                    client.sendall(request())
                    client.recv(1000)
                    session = client.session
                    reused.append(bool(client.session_reused))
        return reused

    calls = Calls(echo)

    async def main() -> None:
        async with served(calls, lifespan="off", **pairs.options) as server:
            assert await trio.to_thread.run_sync(twice, port_of(server)) == [False, True]
        for scope in calls.scopes:
            shown = scope["extensions"]["tls"]["server_cert"]
            assert ssl.PEM_cert_to_DER_cert(shown) == pairs.leaves[2]

    run(main)


def test_each_pair_may_be_replaced(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LOOK_EVERY", 0.02)

    async def shown(server: Server, name: str) -> bytes | None:
        async with asking(server, pairs.context(), name) as stream:
            shown: bytes | None = stream.getpeercert(binary_form=True)
            return shown

    async def main() -> None:
        async with served(Calls(echo), lifespan="off", **pairs.options) as server:
            new = pairs.put(2)
            with trio.fail_after(SOON):
                while await shown(server, "other.test") != new:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert await shown(server, "a.wild.test") == pairs.leaves[1]

    run(main)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a" * 255, b"..", b"*.wild.test", b"x\r\ny", b"xn--a"])
def test_names_that_are_none(name: bytes, pairs: Pairs, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        with logged() as log:
            async with served(Calls(echo), lifespan="off", **pairs.options) as server:
                async with await open_stream(server) as stream:
                    await stream.send_all(hello(name))
                    await stream.send_eof()
                    await Client(stream).rest()
                async with asking(server, pairs.context(), "other.test") as stream:
                    assert stream.getpeercert(binary_form=True) == pairs.leaves[2]
        log.expect_no_errors()

    run(main)
    assert "Traceback" not in capfd.readouterr().err


def hello(name: bytes) -> bytes:
    """A ClientHello that asks for this name."""
    outgoing = ssl.MemoryBIO()
    placeholder = "p" * 63 + ".test"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=placeholder)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    data = outgoing.read()
    old, new = (_named(each) for each in (placeholder.encode(), name))
    at = data.index(old)
    grown = len(new) - len(old)
    message = bytearray(data[:at] + new + data[at + len(old) :])
    message[3:5] = struct.pack("!H", len(message) - 5)
    message[6:9] = struct.pack("!I", len(message) - 9)[1:]
    session = message[5 + 4 + 34]
    suites = 5 + 4 + 34 + 1 + session
    extensions = suites + 2 + int.from_bytes(message[suites : suites + 2], "big")
    extensions += 1 + message[extensions]
    size = int.from_bytes(message[extensions : extensions + 2], "big")
    message[extensions : extensions + 2] = struct.pack("!H", size + grown)
    return bytes(message)


def _named(name: bytes) -> bytes:
    """The extension server_name (RFC 6066, 3)."""
    entry = b"\0" + struct.pack("!H", len(name)) + name
    names = struct.pack("!H", len(entry)) + entry
    return b"\0\0" + struct.pack("!H", len(names)) + names


# What cannot be used


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"certfile": ["a", "b"], "keyfile": "k"}, "are no pairs"),
        ({"certfile": ["a"], "keyfile": ["k", "l"]}, "are no pairs"),
        ({"certfile": ["a", "development"]}, "stands alone"),
        ({"certfile": ["a", ""]}, "bad value for certfile"),
    ],
)
def test_options_that_are_no_pairs(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config.from_dict(options)


def test_the_pair_that_cannot_be_loaded_is_named(pairs: Pairs) -> None:
    keyfiles = [pairs.keyfiles[0], pairs.keyfiles[2], pairs.keyfiles[1]]
    with pytest.raises(TLSError, match=r"key2\.pem.*cert1\.pem"):
        server_tls(Config.from_dict({**pairs.options, "keyfile": keyfiles}))


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--reload",)], ids=["one", "workers", "reload"])
def test_pairs_on_the_command_line(options: tuple[str, ...], pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    write_app(tmp_path / "app", "yes")
    given = [
        word
        for certfile, keyfile in zip(pairs.certfiles, pairs.keyfiles, strict=True)
        for word in ("--certfile", certfile, "--keyfile", keyfile)
    ]
    with start_server("app:app", *options, *given, cwd=tmp_path / "app") as server:
        for name, number in ASKED * 2:
            with (
                socket.create_connection(("127.0.0.1", server.port()), timeout=10) as plain,
                pairs.context().wrap_socket(plain, server_hostname=name) as client,
            ):
                assert client.getpeercert(binary_form=True) == pairs.leaves[number]
        assert server.stop() == 0
