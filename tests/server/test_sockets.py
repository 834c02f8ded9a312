"""`serve(sockets=…)`: which sockets of the program's it serves on, and what it says about others."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.http import request
from tests.support.sockets import Client, connected, open_stream, run
from trioasgi import Config, ConfigError, Server, serve
from trioasgi.types import ASGIApp

ADDRESS = ("127.0.0.1", 0)


@contextlib.asynccontextmanager
async def serving(sockets: Any, app: ASGIApp | None = None) -> AsyncIterator[Server]:
    """A server on these sockets; drained at the end."""
    async with trio.open_nursery() as nursery:
        start = functools.partial(serve, app or Lived(), sockets=sockets)
        server = await nursery.start(start)
        assert isinstance(server, Server)
        yield server
        await server.drain()


async def expect_served(server: Server, which: int = 0) -> None:
    async with connected(server, which) as client:
        assert (await client.get(request("/served"))).body == b"/served"


def blocking() -> socket.socket:
    return socket.create_server(ADDRESS)


def non_blocking() -> socket.socket:
    sock = socket.create_server(ADDRESS)
    sock.setblocking(False)
    return sock


def with_a_timeout() -> socket.socket:
    sock = socket.create_server(ADDRESS)
    sock.settimeout(5)
    return sock


# What can be served


Make = Callable[[AsyncExitStack], Awaitable[object]]


def plain(make: Callable[[], socket.socket], wrap: Callable[[socket.socket], object]) -> Make:
    async def made(stack: AsyncExitStack) -> object:
        return wrap(stack.enter_context(make()))

    return made


async def trio_socket(stack: AsyncExitStack) -> object:
    return trio.socket.from_stdlib_socket(stack.enter_context(blocking()))


async def a_socket_listener(stack: AsyncExitStack) -> object:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return await stack.enter_async_context(listeners[0])


async def socket_listeners(stack: AsyncExitStack) -> object:
    return [await a_socket_listener(stack)]


async def sockets_of_anyio(stack: AsyncExitStack) -> object:
    listeners = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
    return [listener.extra(anyio.abc.SocketAttribute.raw_socket) for listener in listeners.listeners]


KINDS: dict[str, Make] = {
    "blocking": plain(blocking, lambda sock: [sock]),
    "non-blocking": plain(non_blocking, lambda sock: [sock]),
    "with a timeout": plain(with_a_timeout, lambda sock: (sock,)),
    "from a generator": plain(blocking, lambda sock: (one for one in [sock])),
    "a single one": plain(blocking, lambda sock: sock),
    "of Trio": trio_socket,
    "a listener of Trio": a_socket_listener,
    "listeners of Trio": socket_listeners,
    "of listeners of AnyIO": sockets_of_anyio,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_listening_socket_is_served(kind: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(2):  # it stays the caller's, and open
                sockets = await KINDS[kind](stack)
                async with serving(sockets) as server:
                    await expect_served(server)
                    await expect_served(server)

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets on Windows")
def test_a_unix_socket_is_served_and_its_file_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")

    async def main() -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(path)
            sock.listen()
            async with serving(sock) as server:
                assert server.urls == (f"unix:{path}",)
                await expect_served(server)

    run(main)
    assert Path(path).is_socket()


def test_several_sockets_of_several_kinds_are_served() -> None:
    async def main() -> None:
        with blocking() as first, non_blocking() as second:
            async with serving([first, trio.socket.from_stdlib_socket(second)]) as server:
                for which in (0, 1):
                    await expect_served(server, which)

    run(main)


# They stay the caller's


unix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say whether a socket blocks")


def blocks(sock: socket.socket) -> bool:
    """Does the socket itself block? (Python's object has a mode of its own.)"""
    if sys.platform == "win32":
        raise NotImplementedError
    return os.get_blocking(sock.fileno())


def accept_one(sock: socket.socket) -> None:
    """Accept as a program does that has a blocking socket."""
    with socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        accepted.close()


@unix_only
@pytest.mark.parametrize("end", ["drained", "cancelled", "failed"])
def test_a_blocking_socket_blocks_again_when_the_server_has_ended(end: str) -> None:
    async def main() -> None:
        with blocking() as sock:
            with contextlib.suppress(ExceptionGroup):
                async with serving(sock) as server, trio.open_nursery() as nursery:
                    assert not blocks(sock)
                    await expect_served(server)
                    if end == "failed":
                        raise ZeroDivisionError
                    if end == "cancelled":
                        nursery.cancel_scope.cancel()
            assert sock.gettimeout() is None
            assert blocks(sock)
            accept_one(sock)

    run(main)


@unix_only
@pytest.mark.parametrize("ends_first", [0, 1])
def test_a_blocking_socket_is_non_blocking_until_the_last_of_its_servers_has_ended(ends_first: int) -> None:
    """The mode belongs to the socket, not to its duplicates: if one server's end made it blocking, the other
    server would freeze at its next connection.
    """

    async def main() -> None:
        with blocking() as sock:
            async with serving(sock) as one, serving(sock) as other:
                servers = [one, other]
                await servers.pop(ends_first).drain()
                assert not blocks(sock)
                await expect_served(servers[0])
                await expect_served(servers[0])
            assert blocks(sock)

    run(main)


def test_two_servers_on_one_socket_share_its_clients() -> None:
    async def main() -> None:
        with blocking() as sock:
            async with serving(sock) as one, serving([sock]) as other:
                assert one.addresses == other.addresses
                for _ in range(8):
                    await expect_served(one)
                await one.drain()
                await expect_served(other)

    run(main)


@pytest.mark.parametrize("kind", ["blocking", "of Trio", "a listener of Trio"])
def test_a_server_goes_on_when_the_caller_closes_its_socket(kind: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack, AsyncExitStack() as closed_earlier:
            sockets = await KINDS[kind](closed_earlier)
            server = await stack.enter_async_context(serving(sockets))
            await expect_served(server)
            await closed_earlier.aclose()
            await expect_served(server)

    run(main)


def test_a_socket_that_the_caller_has_closed_refuses_clients_as_soon_as_the_server_drains() -> None:
    async def main() -> None:
        with blocking() as sock:
            app = Lived()
            async with serving(sock, app) as server, connected(server) as client:
                sock.close()
                await client.send(request("/wait"))
                await app.entered.wait()
                server.begin_drain()
                await wait_all_tasks_blocked()
                with pytest.raises(OSError, match="all attempts to connect"):
                    await open_stream(server)
                app.release.set()

    run(main)


# What cannot


class Refused:
    """What is given as `sockets`, made and closed by a context manager, and what the error says."""

    def __init__(self, make: Callable[[ExitStack], object], *said: str) -> None:
        self.make = make
        self.said = said


def opened(stack: ExitStack, *kind: int) -> socket.socket:
    return stack.enter_context(socket.socket(*kind))


def unlistening(stack: ExitStack) -> socket.socket:
    sock = opened(stack)
    sock.bind(ADDRESS)
    return sock


def datagrams(stack: ExitStack) -> socket.socket:
    sock = opened(stack, socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(ADDRESS)
    return sock


def a_connection(stack: ExitStack) -> socket.socket:
    return stack.enter_context(
        socket.create_connection(stack.enter_context(socket.create_server(ADDRESS)).getsockname())
    )


def closed(_: ExitStack) -> socket.socket:
    sock = socket.create_server(ADDRESS)
    sock.close()
    return sock


def closed_listener(stack: ExitStack) -> trio.SocketListener:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(stack.enter_context(blocking())))
    listener.socket.close()
    return listener


def with_tls(stack: ExitStack) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return stack.enter_context(context.wrap_socket(blocking(), server_side=True))


def tls_listener(stack: ExitStack) -> object:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(stack.enter_context(blocking())))
    return trio.SSLListener(listener, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


REFUSED = {
    "not listening": Refused(lambda s: [unlistening(s)], "sockets[0]", "does not listen", "listen()"),
    "unbound": Refused(lambda s: [opened(s)], "sockets[0]", "has no address", "bind() and listen()"),
    "datagrams": Refused(lambda s: [datagrams(s)], "SOCK_DGRAM", "SOCK_STREAM"),
    "a connection": Refused(lambda s: [a_connection(s)], "is a connection", "trioasgi.serve_stream"),
    "closed": Refused(lambda s: [closed(s)], "sockets[0]", "is closed"),
    "a closed listener": Refused(closed_listener, "sockets is closed"),
    "a socket with TLS": Refused(lambda s: [with_tls(s)], "SSLSocket", "certfile"),
    "a listener with TLS": Refused(tls_listener, "SSLListener", "transport_listener", "certfile"),
    "a number": Refused(lambda _: 3, "sockets is the int 3", "bind='fd:3'"),
    "numbers": Refused(lambda _: [3], "sockets[0] is the int 3", "bind='fd:3'"),
    "an address": Refused(lambda _: ":80", "sockets is the str ':80'", "bind=':80'"),
    "addresses": Refused(lambda _: [":80"], "sockets[0] is the str ':80'", "bind=':80'"),
    "a stream": Refused(lambda _: memory_stream_pair()[0], "of type StapledStream", "socket.create_server()"),
    "nothing": Refused(lambda _: [], "sockets is empty", "leave it out"),
    "the second": Refused(lambda s: [s.enter_context(blocking()), closed(s)], "sockets[1] is closed"),
}


@contextlib.contextmanager
def no_descriptor_is_left() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_served_is_one_error_before_the_start(what: str) -> None:
    app = Lived()

    async def main() -> None:
        refused = REFUSED[what]
        with ExitStack() as stack:
            sockets = refused.make(stack)
            with no_descriptor_is_left(), pytest.raises(ConfigError) as caught:
                await serve(app, sockets=sockets)  # type: ignore[arg-type]  # bad on purpose
        for said in refused.said:
            assert said in str(caught.value)
        assert app.events == []

    run(main)


@unix_only
def test_a_refused_list_leaves_the_mode_of_its_sockets_alone() -> None:
    async def main() -> None:
        with blocking() as sock:
            with pytest.raises(ConfigError):
                await serve(Lived(), sockets=[sock, None])  # type: ignore[list-item]  # bad on purpose
            assert blocks(sock)

    run(main)


@pytest.mark.parametrize(
    "address", [{"bind": "127.0.0.1:0"}, {"host": "127.0.0.1"}, {"port": 0}, {"uds": "x.sock"}, {"fd": 0}]
)
@pytest.mark.parametrize("as_config", [False, True], ids=["keyword", "Config"])
def test_an_address_beside_sockets_is_refused(address: dict[str, object], as_config: bool) -> None:
    [name] = address
    options: dict[str, object] = {"config": Config.from_dict(address)} if as_config else address

    async def main() -> None:
        with blocking() as sock:
            with pytest.raises(ConfigError, match="exclude each other") as caught:
                await serve(Lived(), sockets=[sock], **options)  # type: ignore[arg-type]
            assert f"{name} = " in str(caught.value)
            assert f"(from keyword {name})" in str(caught.value)
            assert "sockets" in str(caught.value)

    run(main)


def test_a_client_that_waits_when_the_server_begins_is_served() -> None:
    async def main() -> None:
        with blocking() as sock:
            async with await trio.open_tcp_stream(*sock.getsockname()) as stream, serving(sock):
                assert (await Client(stream).get(request("/early"))).body == b"/early"

    run(main)
