"""`serve` and the names that it listens on: a slow resolver holds up nobody else."""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.support.applications import Lived
from tests.support.http import request
from tests.support.sockets import SOON, connected, run
from trioasgi import BindError, serve

real: Callable[..., Any] = socket.getaddrinfo


class SlowResolver:
    """Stands in for `socket.getaddrinfo`. It knows the name `slow.test`, and answers once it is released."""

    def __init__(self, *, answer: Exception | None = None) -> None:
        self.asked = trio.Event()
        self.released = threading.Event()
        self.was_released: list[bool] = []
        self._answer = answer
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, host: object, port: object, *rest: int, **named: int) -> Any:
        if host not in {"slow.test", b"slow.test"} or _flags(*rest, **named) & socket.AI_NUMERICHOST:
            return real(host, port, *rest, **named)
        self._token.run_sync_soon(self.asked.set)
        self.was_released.append(self.released.wait(SOON))
        if self._answer is not None:
            raise self._answer
        return real("127.0.0.1", port, *rest, **named)


def _flags(_family: int = 0, _type: int = 0, _proto: int = 0, flags: int = 0, **_: int) -> int:
    return flags


def test_other_tasks_run_while_a_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = SlowResolver()
        monkeypatch.setattr(socket, "getaddrinfo", resolver)

        async def release() -> None:
            await resolver.asked.wait()
            resolver.released.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            server = await nursery.start(functools.partial(serve, Lived(), host="slow.test", port=0))
            async with connected(server) as client:
                assert (await client.get(request("/named"))).body == b"/named"
            nursery.cancel_scope.cancel()
        assert resolver.was_released == [True]

    run(main)


def test_a_name_that_is_not_found_in_the_end_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = SlowResolver(answer=socket.gaierror(socket.EAI_NONAME, "not known"))
        resolver.released.set()
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        with pytest.raises(BindError, match=r"slow\.test:80: the host's name could not be resolved"):
            await serve(Lived(), bind="slow.test:80")

    run(main)


def _descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []


def test_cancelling_it_while_a_name_is_resolved_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = SlowResolver()
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        app = Lived()
        before = _descriptors()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                # The first address needs no resolver.
                start = functools.partial(serve, app, bind=("127.0.0.1:0", "slow.test:0"))
                nursery.start_soon(start)
                await resolver.asked.wait()
                scope.cancel()
        assert scope.cancelled_caught
        assert resolver.was_released == []  # it has not waited for the resolver
        assert _descriptors() == before
        assert app.events == []
        resolver.released.set()

    run(main)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", ":0", "*:0", "0"])
def test_an_ip_address_needs_no_thread(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a server that is bound to one starts without a thread, and at once under a mock clock."""
    asked: list[tuple[int, int]] = []

    def note(host: object, port: object, *rest: int, **named: int) -> Any:
        asked.append((threading.get_ident(), _flags(*rest, **named) & socket.AI_NUMERICHOST))
        return real(host, port, *rest, **named)

    async def main() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", note)
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(serve, Lived(), bind=bind))
            monkeypatch.undo()
            nursery.cancel_scope.cancel()
        assert asked == [(threading.get_ident(), socket.AI_NUMERICHOST)]

    run(main)
