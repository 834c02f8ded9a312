"""A Ctrl-C cannot come in the middle of the start of a task.

Trio runs `nursery.start_soon` and `task_status.started` as part of their caller. A KeyboardInterrupt in them
can leave a nursery that waits for ever. Each call of the server's code must be protected.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from trio.lowlevel import currently_ki_protected

import trioasgi
import trioasgi.net.borrowed
from tests.support.applications import Lived
from tests.support.http import request
from tests.support.sockets import FREE, connected, run
from tests.support.transports import certificates
from trioasgi.types import Receive, Scope, Send

from .test_cancelling_anywhere import ENTRIES, SCENARIOS, is_cancelled_after

PACKAGE = os.path.join(Path(trioasgi.__file__).parent, "")
TRIO = os.path.join(Path(trio.__file__).parent, "")
OURS = {
    "Hub._dispatch",
    "Hub._flush",
    "HubChannel.close",
    "ReadingHalf.receive",
    "Background.hold_open",
    "GivenStream._serve_admitted",
    "GivenStream.discard",
    "Hosting.run",
    "Hub.run",
    "Keepalive.keep_ticking",
    "Lifespan._call_to_the_end",
    "Listeners.close",
    "Listeners.serve_sockets",
    "Listeners.serve_streams",
    "Progress.begin_drain",
    "_ProtectedContext.__aexit__",
    "_serve_hosted",
    "abort_when_cancelled",
}
"""What of the server must not be left half done."""
UNPROTECTED = {"Runner.spawn_impl", "_TaskStatus.started"}
"""What of Trio must not be interrupted, and does not see to it."""


class Calls:
    """Notes the calls that the server's code makes of such functions, and those that are not protected."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.unprotected: list[str] = []

    def look(self, frame: FrameType, event: str, _: object) -> None:
        """The function for `sys.setprofile`."""
        name = frame.f_code.co_qualname if event == "call" else ""
        if name in OURS and not currently_ki_protected():
            self.unprotected.append(name)
        if name not in UNPROTECTED:
            return
        caller: FrameType | None = frame
        while caller is not None and caller.f_code.co_filename.startswith(TRIO):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename.startswith(PACKAGE):
            self.seen.add(name)
            if not currently_ki_protected():
                self.unprotected.append(f"{name} from {caller.f_code.co_qualname}")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_each_start_of_a_task_is_protected_from_ctrl_c(entry: str, scenario: str, tmp_path: Path) -> None:
    play, tls = SCENARIOS[scenario]
    options: dict[str, Any] = {"access_log": True, **(certificates(tmp_path).options if tls else {})}
    calls = Calls()

    async def main() -> None:
        before = sys.getprofile()
        sys.setprofile(calls.look)
        try:
            await is_cancelled_after(1 << 30, ENTRIES[entry](), play, tmp_path, options)
        finally:
            sys.setprofile(before)

    run(main)
    assert calls.unprotected == []
    assert calls.seen == UNPROTECTED


def test_the_application_can_be_interrupted() -> None:
    """In its lifespan call and in a request."""
    protected: dict[str, bool] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        protected[scope["type"]] = currently_ki_protected()
        await Lived()(scope, receive, send)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(trioasgi.serve, app, bind=FREE))
            async with connected(server) as client:
                await client.get(request())
            await server.drain()

    run(main)
    assert protected == {"lifespan": False, "http": False}


def test_the_function_that_admits_connections_can_be_interrupted(tmp_path: Path) -> None:
    """It is the program's, and may take long."""
    protected: list[bool] = []

    def admit(_: object) -> None:
        protected.append(currently_ki_protected())

    async def main() -> None:
        for entry in ENTRIES.values():
            await is_cancelled_after(
                1 << 30, entry(), SCENARIOS["requests"][0], tmp_path, {"on_connection": admit}
            )

    run(main)
    assert protected == [False] * len(ENTRIES)


@pytest.mark.parametrize("given", [False, True], ids=["opened", "given"])
def test_a_ctrl_c_cannot_come_between_a_socket_and_what_closes_it(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(place: str) -> None:
        function = getattr(sys.modules[place.rpartition(".")[0]], place.rpartition(".")[2])

        def noting(*args: Any) -> object:
            protected[place] = currently_ki_protected()
            return function(*args)

        monkeypatch.setattr(place, noting)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as own:
            async with trio.open_nursery() as nursery:
                sockets = [own] if given else None
                config = trioasgi.Config() if given else trioasgi.Config(bind=FREE)
                serve = partial(trioasgi.serve, Lived(), config, sockets=sockets)
                server = await nursery.start(serve)
                await server.drain()

    protected: dict[str, bool] = {}
    note("trioasgi.net.listeners._open_all")
    note("trioasgi.net.borrowed.borrow_listeners")
    run(main)
    assert list(protected.values()) == [True]
