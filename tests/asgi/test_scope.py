"""The scope of an HTTP call, key by key (ASGI's HTTP & WebSocket specification, "HTTP Connection Scope")."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.http import Calls, connected, echo, listening, on_trio, request, respond, serving
from tests.support.streams import scheme_over
from trioasgi.types import Receive, Scope, Send


async def scope_of(codec: str, data: bytes, **options: Any) -> Scope:
    """The scope of the call that `data` leads to."""
    calls = Calls(echo)
    async with serving(calls, codec, **options) as client:
        assert (await client.get(data, data.split()[0].decode())).status == 200
    (scope,) = calls.scopes
    return scope


@on_trio
async def test_the_scope_is_complete(codec: str, streams: str) -> None:
    scope = await scope_of(codec, request("/a%20b?c=d%20e", "X-One: 1", "x-TWO:\t2 ", "X-One: 3"))
    assert isinstance(scope.pop("extensions"), dict)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": scheme_over(streams),
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d%20e",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"x-one", b"1"), (b"x-two", b"2"), (b"x-one", b"3")],
        "client": None,
        "server": None,
    }


@on_trio
async def test_the_types_are_the_specifications(codec: str) -> None:
    scope = await scope_of(codec, request("/a?b", method="PUT", version="1.0"))
    assert type(scope) is dict
    types = {"method": str, "path": str, "raw_path": bytes, "query_string": bytes, "http_version": str}
    assert {key: type(scope[key]) for key in types} == types
    assert (scope["method"], scope["http_version"]) == ("PUT", "1.0")
    assert all(type(part) is bytes for field in scope["headers"] for part in field)


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/", "/", b"/", b""),
        ("/?", "/", b"/", b""),
        ("/a?b?c", "/a", b"/a", b"b?c"),
        ("/caf%C3%A9", "/caf\xe9", b"/caf%C3%A9", b""),
        ("/%E2%82%AC/%f0%9f%90%8d", "/\u20ac/\U0001f40d", b"/%E2%82%AC/%f0%9f%90%8d", b""),
        ("/a%2Fb%3Fc%23d", "/a/b?c#d", b"/a%2Fb%3Fc%23d", b""),
        ("/a+b?c+d", "/a+b", b"/a+b", b"c+d"),
        ("/%2525", "/%25", b"/%2525", b""),
        ("/a/../b//c/.", "/a/../b//c/.", b"/a/../b//c/.", b""),
        ("/%zz%4%", "/%zz%4%", b"/%zz%4%", b""),
        ("/%00%0d%0a", "/\0\r\n", b"/%00%0d%0a", b""),
        ("http://example.com/a%20b?c", "/a b", b"/a%20b", b"c"),
    ],
)
@on_trio
async def test_the_path_is_decoded_and_the_raw_one_kept(
    codec: str, target: str, path: str, raw_path: bytes, query: bytes
) -> None:
    scope = await scope_of(codec, request(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


@pytest.mark.parametrize("target", ["/%ff", "/caf%E9", "/%C3", "/a%80b", "/%ED%A0%80"])
@on_trio
async def test_a_path_that_is_not_utf_8_is_served_all_the_same(codec: str, target: str) -> None:
    scope = await scope_of(codec, request(target))
    assert scope["raw_path"] == target.encode()
    assert "\N{REPLACEMENT CHARACTER}" in scope["path"]
    scope["path"].encode()  # no lone surrogates, which nobody could write anywhere


@on_trio
async def test_root_path_stands_before_the_path(codec: str) -> None:
    scope = await scope_of(codec, request("/a%20b?c"), root_path="/api")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/a b", b"/api/a%20b")


@on_trio
async def test_root_path_does_not_change_a_request_for_the_server_itself(codec: str) -> None:
    scope = await scope_of(codec, request("*", method="OPTIONS"), root_path="/api")
    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


@on_trio
async def test_root_path_is_encoded_in_the_raw_path(codec: str) -> None:
    scope = await scope_of(codec, request("/a"), root_path="/caf\xe9 1")
    assert (scope["root_path"], scope["path"]) == ("/caf\xe9 1", "/caf\xe9 1/a")
    assert scope["raw_path"] == b"/caf%C3%A9%201/a"


# What must not leak from one call to another


@on_trio
async def test_each_call_has_a_scope_of_its_own(codec: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "mine" not in scope
        scope["mine"] = scope["asgi"]["mine"] = scope["extensions"]["mine"] = True
        scope["headers"].append((b"mine", b"yes"))
        seen.append(len(scope["headers"]) + len(scope["asgi"]) + len(scope["extensions"]))
        await respond(send)

    seen: list[int] = []
    async with serving(app, codec) as client:
        for _ in range(3):
            assert (await client.get(request("/"))).status == 200
    assert len(seen) == 3
    assert len(set(seen)) == 1


@on_trio
async def test_the_lifespans_state_is_copied_for_each_request(codec: str) -> None:
    shared: list[int] = []
    states: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"].update(shared=shared, name="lifespan")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            states.append(scope["state"])
            return
        states.append(dict(scope["state"]))
        scope["state"]["shared"].append(1)
        scope["state"]["name"] = "request"
        await respond(send)

    async with serving(app, codec, lifespan="on") as client:
        for _ in range(2):
            assert (await client.get(request("/"))).status == 200
    # A shallow copy: names are each request's own, and what they stand for is everybody's.
    assert states == [{"shared": shared, "name": "lifespan"}] * 3
    assert shared == [1, 1]


@pytest.mark.parametrize("lifespan", ["off", "auto"])
@on_trio
async def test_there_is_no_state_without_a_lifespan(codec: str, lifespan: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await respond(send, str("state" in scope).encode())

    async with serving(app, codec, lifespan=lifespan) as client:
        assert (await client.get(request("/"))).body == b"False"


# Addresses


async def tell_addresses(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, repr((scope["client"], scope["server"])).encode())


async def check_addresses(address: object) -> None:
    async with connected(address) as client:
        assert isinstance(client.stream, trio.SocketStream)
        ours, theirs = client.stream.socket.getsockname(), client.stream.socket.getpeername()
        assert (await client.get(request("/"))).body == repr((ours, theirs)).encode()


def test_client_and_server_are_addresses(codec: str) -> None:
    async def main() -> None:
        async with listening(tell_addresses, codec) as server:
            await check_addresses(server.addresses[0])

    trio.run(main)


def test_client_and_server_are_addresses_behind_a_wildcard(codec: str) -> None:
    async def main() -> None:
        async with listening(tell_addresses, codec, bind=("0.0.0.0:0",)) as server:
            (address,) = server.addresses
            await check_addresses(("127.0.0.1", address[1]))

    trio.run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
def test_a_unix_socket_has_a_path_and_no_client(codec: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def main() -> None:
        async with listening(tell_addresses, codec, bind=(f"unix:{path}",)), connected(path) as client:
            assert (await client.get(request("/"))).body == repr((None, (path, None))).encode()

    trio.run(main)


@on_trio
async def test_what_an_application_does_to_its_scope_is_of_no_concern_to_the_next(codec: str) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(
            {**scope, **{name: scope[name].copy() for name in ("headers", "asgi")}}
            | {"extensions": sorted(scope["extensions"])}
        )
        for name in "headers", "asgi", "extensions":
            scope[name].clear()
        scope.update(dict.fromkeys(scope), more=1)
        await respond(send, b"")

    async with serving(app, codec) as client:
        for _ in range(2):
            await client.get(request("/", "A: b"))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0]["headers"] == [(b"host", b"example.org"), (b"a", b"b")]
