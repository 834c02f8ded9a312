"""`python -m trioasgi.worker.rehearse`: the child of `trioasgi check` (`process/rehearsal.py`).

It does with the application what a worker does, but listens nowhere: its clients are in this process.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import trio

from trioasgi.config import Config
from trioasgi.config.env_file import load_env_file
from trioasgi.errors import LifespanError, TLSError, TrioasgiError, leaves_of
from trioasgi.observe.errors import asyncio_hint
from trioasgi.observe.tracebacks import has_users_frames
from trioasgi.process.lifecycle import explain
from trioasgi.process.loading import declare_worker, load_app
from trioasgi.process.paths import anchored, current_directory
from trioasgi.process.rehearsal import Over, Rehearsal, read_line
from trioasgi.server.block import for_block
from trioasgi.server.given import NOTHING_GIVEN
from trioasgi.server.hosted_application import HostedTree
from trioasgi.supervisor import handover
from trioasgi.worker.__main__ import claim_stdin
from trioasgi.worker.notes import Notes
from trioasgi.worker.trials import Trials

if TYPE_CHECKING:
    from trioasgi.types import ASGIApp, Message, Receive, Scope, Send

_LONGEST_ORDER = 1 << 20

_FOR_MEMORY = {
    # Clients in memory are no proxies, and few; the application is asked a few times and no more.
    "proxy_protocol": "off",
    "access_log": False,
    "limit_connections": 0,
    "limit_concurrency": 0,
    "limit_max_requests": 0,
    "limit_max_requests_jitter": 0,
    "shed_latency": 0.0,
    # They have no certificate.
    "client_certs": "none",
    "ca_certs": None,
    "crl": None,
}
"""The options that are not as in production."""


def main() -> NoReturn:
    """Read the order on stdin, carry it out, and exit. What was found is reported."""
    commands = claim_stdin()
    order: Rehearsal = read_line(_line_of(commands), Rehearsal)
    _thread.start_new_thread(_end_with_parent, (commands,))
    notes = Notes(handover.take(order.reports))
    notes.collect_log()
    _carry_out(order, notes)
    notes.send(Over())
    sys.exit(0)


def _line_of(commands: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(commands, _LONGEST_ORDER)
        if not data:
            sys.exit("trioasgi.worker.rehearse is started by `trioasgi check`")
        line += data
    return bytes(line)


def _end_with_parent(commands: int) -> None:
    """End this process, and what it has started, when the pipe of commands ends: its parent is gone."""
    os.read(commands, 1)
    if sys.platform != "win32" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _carry_out(order: Rehearsal, notes: Notes) -> None:
    try:
        config = Config.from_dict(order.config, order.origins)
        if config.env_file is not None:
            load_env_file(config.env_file, os.environ, config.origins.get("env_file"))
    except TrioasgiError as error:
        notes.fail(error, "options", "options", "correct the option")
        return
    directory = current_directory()
    app: ASGIApp = _answer_nothing
    if order.with_app:
        named = str(config.app)
        notes.begin("application.import", named)
        try:
            declare_worker()
            app = load_app(config)
        except TrioasgiError as error:
            notes.fail(error, "application.import", named, _import_fix(error))
            return
        notes.succeed("application.import", named, "imported")
    changes = {**_FOR_MEMORY, "interface": "asgi", "lifespan": config.lifespan if order.with_app else "off"}
    config = anchored(config, directory).replace(**changes)
    _run(app, config, order, notes)


def _import_fix(error: TrioasgiError) -> str:
    cause = error.__cause__
    if cause is not None and (isinstance(cause, SyntaxError) or has_users_frames(cause)):
        return asyncio_hint(cause) or "correct it; the end of its traceback is shown"
    return "name the application as MODULE:ATTRIBUTE, and its directory with --app-dir"


def _run(app: ASGIApp, config: Config, order: Rehearsal, notes: Notes) -> None:
    try:
        trio.run(_host, app, config, order, notes)
    except BaseException as error:  # noqa: BLE001 - whatever ends the run is what was to be found out
        fault = next((leaf for leaf in leaves_of(error) if isinstance(leaf, TrioasgiError)), None)
        failure = TrioasgiError(explain(error, has_served=False).message) if fault is None else fault
        if isinstance(fault, TLSError):
            notes.fail(fault, "tls.settings", "TLS", fault.fix or "correct the option that the reason names")
        else:
            text = explain(error, has_served=False).message
            notes.fail(failure, *notes.under_way, _lifespan_fix(failure), text=text)


def _lifespan_fix(error: TrioasgiError) -> str:
    if isinstance(error, LifespanError):
        return "correct the application's lifespan; the reason is its own"
    return "correct the application"


async def _host(app: ASGIApp, config: Config, order: Rehearsal, notes: Notes) -> None:
    named = str(config.app)
    watched = _Watched(app)
    if config.ssl_context_factory is not None:
        notes.begin("tls.settings", "TLS")
        tree = HostedTree(watched, config, NOTHING_GIVEN)  # calls it
        notes.begin("application.startup", named)
    else:
        if order.with_app:
            notes.begin("application.startup", named)
        tree = HostedTree(watched, config, NOTHING_GIVEN)
    async with for_block(tree.serve) as hosted:
        if order.with_app:
            _report_startup(watched, config, notes)
        await Trials(hosted, config, order, notes).run()
        if order.with_app:
            notes.begin("application.shutdown", named)
    if order.with_app:
        said = "stopped" if watched.has_started else "nothing to stop"
        notes.succeed("application.shutdown", named, said)


def _report_startup(watched: _Watched, config: Config, notes: Notes) -> None:
    if watched.has_started:
        said = "started"
    elif config.lifespan == "auto" and (warned := notes.logged()) is not None:
        # The server would serve it all the same.
        fix = "correct the start-up of its lifespan; if it has none, give --lifespan off"
        notes.fail(LifespanError(), "application.startup", str(config.app), fix, text=warned)
        return
    elif config.lifespan == "off":
        said = "not started: the option lifespan is off"
    else:
        said = "has no lifespan, which is allowed"
    notes.succeed("application.startup", str(config.app), said)


class _Watched:
    """The application. It is noted whether its lifespan has started."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def watch(message: Message) -> None:
            await send(message)
            if message.get("type") == "lifespan.startup.complete":
                self.has_started = True

        await self._app(scope, receive, watch)


async def _answer_nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Stands in for an application that does not start."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    main()
