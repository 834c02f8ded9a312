"""`application`: one lifespan for the connections that the program opens itself."""

from __future__ import annotations

import functools
import gc
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import trio
import trio.testing
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.applications import Lived
from tests.support.freeing import uncollected
from tests.support.http import Calls, Client, echo, on_trio, request, respond
from tests.support.sockets import logged, run
from tests.support.transports import certificates
from tests.support.websocket import WebSocketClient, accept
from trioasgi import (
    ConfigError,
    HostedApplication,
    LifespanError,
    LoadError,
    ServerPhase,
    application,
    serve_stream,
)
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.types import Receive, Scope, Send


class MyError(Exception):
    pass


@asynccontextmanager
async def client_of(hosted: HostedApplication, **said: Any) -> AsyncIterator[Client]:
    """A client with a connection of its own, which it closes at the end."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(hosted.serve_stream, theirs, **said))
        yield Client(ours)
        await ours.aclose()


class Failing(trio.abc.HalfCloseableStream):
    """A stream of the program's own: its second read raises what no stream should."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self._reads = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._reads += 1
        if self._reads == 2:
            await trio.lowlevel.checkpoint()
            raise MyError("a mistake in the stream")
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


# One lifespan


def test_tcp_connections_of_trios_own_server_have_one_lifespan() -> None:
    async def main() -> None:
        app = Lived()
        async with application(app) as hosted, trio.open_nursery() as nursery:
            start = functools.partial(trio.serve_tcp, hosted.serve_stream, 0, host="127.0.0.1")
            (listener,) = await nursery.start(start)
            for _ in range(3):
                async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
                    assert (await Client(stream).get(request())).status == 200
                    assert app.scopes[-1]["client"] == stream.socket.getsockname()
                    assert app.scopes[-1]["server"] == listener.socket.getsockname()
            assert hosted.requests == 3
            nursery.cancel_scope.cancel()
        assert app.events == ["startup", "shutdown"]

    run(main)


@on_trio
async def test_connections_are_served_at_once_and_one_that_fails_ends_no_other() -> None:
    app = Lived()
    async with application(app) as hosted, client_of(hosted) as busy, client_of(hosted) as other:
        await busy.send(request("/wait"))
        await app.entered.wait()
        with logged() as log:
            assert (await other.get(request("/fail"))).status == 500
        assert "failed as it was told to" in str(log.records[0].exc_info)
        assert (hosted.connections, hosted.calls) == (2, 1)
        app.release.set()
        assert (await busy.response()).body == b"waited"
    assert app.events == ["startup", "answered", "shutdown"]


@on_trio
async def test_limits_hold_for_all_connections_together() -> None:
    app = Lived()
    async with application(app, limit_concurrency=1, limit_max_requests=2) as hosted:
        async with client_of(hosted) as busy, client_of(hosted) as other:
            await busy.send(request("/wait"))
            await app.entered.wait()
            with logged():
                assert (await other.get(request())).status == 503
            app.release.set()
            await busy.response()
            assert (await busy.get(request())).status == 200
        await hosted.wait_closed()
        assert hosted.has_reached_limit


@on_trio
async def test_addresses_in_the_settings_have_no_effect() -> None:
    async with application(Lived(), bind="127.0.0.1:1") as hosted:
        assert (hosted.addresses, hosted.urls) == ((), ())
        assert repr(hosted).startswith("<trioasgi.HostedApplication: serving, 0 connections")


# The scope


@on_trio
async def test_the_program_says_who_the_peers_are() -> None:
    calls = Calls(echo)
    said = {"client": ("192.0.2.7", 4711), "server": ("192.0.2.1", 443), "scheme": "https"}
    async with application(calls, lifespan="off") as hosted, client_of(hosted, **said) as client:
        await client.get(request())
        assert {name: calls.scopes[0][name] for name in said} == said
        async with client_of(hosted) as unknown:
            await unknown.get(request())
            assert [calls.scopes[1][name] for name in said] == [None, None, "http"]


@on_trio
async def test_a_websocket_of_the_scheme_https_is_wss() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await accept(receive, send)

    schemes: list[str] = []
    async with application(app, lifespan="off") as hosted, client_of(hosted, scheme="https") as http:
        await WebSocketClient(http).shake_hands()
    assert schemes == ["wss"]


@on_trio
async def test_another_scheme_is_an_error_and_the_stream_is_closed() -> None:
    ours, theirs = memory_stream_pair()
    async with application(echo, lifespan="off") as hosted:
        with pytest.raises(ValueError, match="scheme must be 'http' or 'https', not 'ftp'"):
            await hosted.serve_stream(theirs, scheme="ftp")
    assert await ours.receive_some() == b""


@pytest.mark.parametrize("peer", ["192.0.2.7", ("::1", 4711, 0, 0), ("192.0.2.7", "4711"), ()])
@pytest.mark.parametrize("which", ["client", "server"])
@on_trio
async def test_what_is_no_address_is_an_error_and_the_stream_is_closed(which: str, peer: Any) -> None:
    ours, theirs = memory_stream_pair()
    async with application(echo, lifespan="off") as hosted:
        with pytest.raises(TypeError, match=rf"{which} must be a tuple \(host, port\), not"):
            await hosted.serve_stream(theirs, **{which: peer})
    assert await ours.receive_some() == b""


def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    async def main() -> None:
        both, calls = certificates(tmp_path), Calls(echo)
        options: Any = both.options
        ours, theirs = memory_stream_pair()
        tls = trio.SSLStream(ours, both.context(), server_hostname="localhost", https_compatible=True)
        async with (
            application(calls, lifespan="off", **options) as hosted,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(hosted.serve_stream, theirs)
            client = Client(cast("trio.abc.HalfCloseableStream", tls))
            assert (await client.get(request())).status == 200
            await tls.aclose()
        assert calls.scopes[0]["scheme"] == "https"
        assert calls.scopes[0]["extensions"]["tls"]["tls_version"]

    run(main)


# The caller


@on_trio
async def test_a_caller_that_is_cancelled_ends_its_connection_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep(50)
            await respond(send)
        except trio.Cancelled:
            cancelled.append(scope["path"])
            raise

    cancelled: list[str] = []
    ours, theirs = memory_stream_pair()
    async with application(app, lifespan="off") as hosted, client_of(hosted) as other:
        await other.send(request("/other"))
        await ours.send_all(request("/mine"))
        with trio.move_on_after(10) as scope:
            await hosted.serve_stream(theirs)
        assert scope.cancelled_caught
        assert cancelled == ["/mine"]
        assert await ours.receive_some() == b""
        assert (await other.response()).status == 200
    assert hosted.requests == 2


@on_trio
async def test_what_a_cancelled_call_shields_ends_with_its_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with trio.CancelScope(shield=True):
            assert (await receive())["type"] == "http.disconnect"
        told.append(trio.current_time())

    told: list[float] = []
    ours, theirs = memory_stream_pair()
    async with application(app, lifespan="off") as hosted:
        await ours.send_all(request())
        started = trio.current_time()
        with trio.move_on_after(10):
            await hosted.serve_stream(theirs)
    assert told == [pytest.approx(started + 10 + LAST_MOMENTS)]


var: ContextVar[str] = ContextVar("var", default="unset")


@on_trio
async def test_calls_do_not_see_the_callers_context_nor_change_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(var.get())
        var.set("of a call")
        await respond(send)

    async def serve(hosted: HostedApplication, stream: trio.abc.Stream) -> None:
        var.set("of the caller")
        await hosted.serve_stream(stream)
        seen.append(var.get())

    seen: list[str] = []
    var.set("of the program")
    ours, theirs = memory_stream_pair()
    async with application(app, lifespan="off") as hosted, trio.open_nursery() as nursery:
        nursery.start_soon(serve, hosted, theirs)
        client = Client(ours)
        await client.get(request())
        await client.get(request())
        await ours.aclose()
    assert seen == ["of the program", "of the program", "of the caller"]


# The end of the block


@on_trio
async def test_at_the_end_a_request_in_another_task_is_answered_within_the_grace() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(20)
        await respond(send)

    async with trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        client = Client(ours)
        async with application(app, lifespan="off") as hosted:
            nursery.start_soon(hosted.serve_stream, theirs)
            await client.send(request())
            await wait_all_tasks_blocked()
        assert trio.current_time() >= 20
        response = await client.response()
        assert (response.status, response.closes) == (200, True)
        assert hosted.phase is ServerPhase.CLOSED


@on_trio
async def test_at_the_end_a_request_that_takes_longer_than_the_grace_is_cut() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        async with application(app, lifespan="off", timeout_graceful_shutdown=7) as hosted:
            nursery.start_soon(hosted.serve_stream, theirs)
            await ours.send_all(request())
            await wait_all_tasks_blocked()
            started = trio.current_time()
        assert trio.current_time() == pytest.approx(started + 7)
        assert hosted.has_cut


@on_trio
async def test_a_block_that_raises_ends_connections_of_other_tasks_at_once() -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        app, error = Lived(), MyError()
        started = trio.current_time()
        with pytest.raises(MyError) as caught:
            async with application(app) as hosted:
                nursery.start_soon(hosted.serve_stream, theirs)
                await ours.send_all(request("/wait"))
                await app.entered.wait()
                raise error
        assert caught.value is error
        assert trio.current_time() == pytest.approx(started)
        assert app.events == ["startup", "cancelled", "shutdown"]


@on_trio
async def test_a_connection_that_comes_while_it_drains_gets_one_request() -> None:
    app = Lived()
    async with application(app) as hosted, client_of(hosted) as busy:
        await busy.send(request("/wait"))
        await app.entered.wait()
        hosted.begin_drain()
        await wait_all_tasks_blocked()
        async with client_of(hosted) as late:
            response = await late.get(request())
            assert (response.status, response.closes) == (200, True)
            assert await late.is_closed()
        app.release.set()


@on_trio
async def test_after_the_end_a_stream_is_closed_and_that_is_an_error() -> None:
    ours, theirs = memory_stream_pair()
    async with application(Lived()) as hosted:
        await hosted.drain()
        with pytest.raises(trio.ClosedResourceError, match="the application has ended"):
            await hosted.serve_stream(theirs)
    assert await ours.receive_some() == b""


@on_trio
async def test_no_connection_is_taken_after_the_grace() -> None:
    """They would come again and again, and the drain would not end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(6)
        await respond(send, b"ok")

    async with application(app, lifespan="off") as hosted, client_of(hosted) as busy:
        await busy.send(request())
        await wait_all_tasks_blocked()
        hosted.begin_drain(grace=5)
        await trio.sleep(5.5)
        assert hosted.phase is ServerPhase.DRAINING
        ours, theirs = memory_stream_pair()
        await ours.send_all(request("/", "Connection: close"))
        with pytest.raises(trio.ClosedResourceError, match="the application has ended"):
            await hosted.serve_stream(theirs)


@on_trio
async def test_while_it_is_cancelled_a_stream_is_closed_and_that_is_an_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    async def come_later(hosted: HostedApplication) -> None:
        await trio.sleep(0.5)
        with pytest.raises(trio.ClosedResourceError, match="the application has ended"):
            await hosted.serve_stream(late)
        assert await late_client.receive_some() == b""

    late_client, late = memory_stream_pair()
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(MyError):
            async with application(app, lifespan="off") as hosted:
                nursery.start_soon(hosted.serve_stream, theirs)
                await ours.send_all(request())
                await wait_all_tasks_blocked()
                nursery.start_soon(come_later, hosted)
                raise MyError


@on_trio
async def test_what_is_no_stream_is_refused() -> None:
    async with application(Lived()) as hosted:
        for wrong in (None, 42, memory_stream_pair()):
            text = re.escape(f"stream must be a trio.abc.Stream, not {type(wrong).__name__}")
            with pytest.raises(TypeError, match=text):
                await hosted.serve_stream(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=text):
                await serve_stream(Lived(), wrong)  # type: ignore[arg-type]


@on_trio
async def test_the_stream_of_serve_stream_is_closed_if_the_start_fails() -> None:
    for app, options, error in [(42, {}, LoadError), (Lived(), {"state": 3}, ConfigError)]:
        ours, theirs = memory_stream_pair()
        with pytest.raises(error):
            await serve_stream(app, theirs, **options)  # type: ignore[arg-type]
        assert await ours.receive_some() == b""


@on_trio
async def test_a_lifespan_that_crashes_lets_it_drain() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep(5)
        raise MyError

    with logged(), pytest.raises(LifespanError):
        async with application(app) as hosted:
            await hosted.wait_draining()
            await hosted.wait_closed()
            assert isinstance(hosted.error, LifespanError)


@on_trio
async def test_a_lifespan_that_crashes_is_told_also_if_the_block_raises_first() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await entered.wait()
            raise KeyError
        entered.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    entered = trio.Event()
    with logged() as log, pytest.RaisesGroup(MyError):
        async with application(app) as hosted, client_of(hosted) as client:
            await client.send(request())
            await hosted.wait_draining()
            raise MyError
    assert isinstance(hosted.error, LifespanError)
    assert any("crashed" in line for line in log.lines())


@pytest.mark.parametrize("way", ["drained", "cancelled"])
@on_trio
async def test_calls_that_shield_themselves_for_ever_are_told(way: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    started = trio.current_time()
    with logged() as log, trio.CancelScope() as scope:
        async with application(app, lifespan="off") as hosted, client_of(hosted) as client:
            await client.send(request())
            await wait_all_tasks_blocked()
            if way == "drained":
                await hosted.drain(grace=1)
            else:
                scope.cancel()
                await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(60)
    assert sum("they shield what they wait for" in line for line in log.lines()) == 1


# What is left


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@on_trio
async def test_tasks_that_a_call_leaves_behind_are_waited_for() -> None:
    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        done.append(trio.current_time())

    async def items() -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded)
            yield 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept.append(items())
            await anext(kept[0])
            await respond(send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        assert done, "the application was shut down before its tasks had ended"
        await send({"type": "lifespan.shutdown.complete"})

    done: list[float] = []
    kept: list[AsyncIterator[int]] = []
    with logged():
        async with application(app) as hosted, client_of(hosted) as client:
            assert (await client.get(request())).status == 200
    assert len(done) == 1


def nurseries() -> int:
    return sum(type(each) is trio.Nursery for each in gc.get_objects())


@on_trio
async def test_nothing_is_kept_of_a_connection_that_has_ended() -> None:
    async with application(echo, lifespan="off") as hosted:
        async with client_of(hosted) as client:
            await client.get(request())
        with uncollected() as found:
            before = nurseries()
            for _ in range(20):
                async with client_of(hosted) as client:
                    await client.get(request())
            await wait_all_tasks_blocked()
            assert (hosted.connections, nurseries()) == (0, before)
        assert found == []


@pytest.mark.parametrize("way", ["watched for its end", "looked at"])
@on_trio
async def test_a_stream_that_raises_in_a_task_of_the_server_ends_its_connection_alone(way: str) -> None:
    """The server reads from it also beside the application: to see that the client goes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await respond(send, b"served")
            return
        if way == "looked at":
            with trio.move_on_after(0):
                await receive()
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await trio.sleep_forever()

    option: Literal["always", "streams"] = "always" if way == "looked at" else "streams"
    body = ("Content-Length: 1",) if way == "looked at" else ()
    with trio.fail_after(60), logged() as log:
        async with application(app, lifespan="off", cancel_on_disconnect=option) as hosted:
            ours, theirs = memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hosted.serve_stream, Failing(theirs))
                await ours.send_all(request("/", *body, method="POST"))
                await wait_all_tasks_blocked()
                async with client_of(hosted) as client:
                    assert (await client.get(request("/other"))).body == b"served"
                nursery.cancel_scope.cancel()
    assert len([line for line in log.lines() if "the others go on" in line]) == 1


@on_trio
async def test_a_caller_that_is_cancelled_with_the_application_is_told_of_that_alone() -> None:
    """`trio.serve_tcp` may have begun to serve a connection in that moment: that is no failure."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery, application(Lived(), lifespan="off") as hosted:
        nursery.cancel_scope.cancel()
        hosted.begin_drain(grace=0)
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.Cancelled):
            await hosted.serve_stream(theirs)
    assert await ours.receive_some() == b""


def test_a_stream_that_the_program_closes_is_a_client_that_has_gone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        waits.set()
        seen.append((await receive())["type"])

    waits = trio.Event()
    seen: list[str] = []

    async def main() -> None:
        async with application(app, lifespan="off") as hosted, trio.open_nursery() as nursery:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(hosted.serve_stream, theirs)
            await ours.send_all(request("/"))
            await waits.wait()
            await wait_all_tasks_blocked()
            await theirs.aclose()

    run(main, seconds=5)  # a clock that jumps would stand still for ever if a task never waits
    assert seen == ["http.disconnect"]


@on_trio
async def test_a_tls_stream_that_the_program_cuts_is_no_failure_of_the_server(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    ours, theirs = memory_stream_pair()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(made.certfile, made.keyfile)
    tls = trio.SSLStream(theirs, server_side, server_side=True)
    client = trio.SSLStream(ours, made.context(), server_hostname="localhost")
    with trio.fail_after(30), logged() as log:
        async with application(Lived(), lifespan="off") as hosted, trio.open_nursery() as nursery:
            nursery.start_soon(hosted.serve_stream, tls)
            await client.send_all(request())
            assert b"200 OK" in await client.receive_some()
            await wait_all_tasks_blocked()
            await trio.aclose_forcefully(tls)
    log.expect_no_errors()
