"""The commands `trioasgi status`, `roll`, `scale`, `stop` and `reopen-logs`, which speak to a supervisor."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from trioasgi.cli.control_client import Connection
from trioasgi.cli.output import say
from trioasgi.cli.serving import (
    COMMAND_SETTINGS,
    CONFIG_FILE,
    ServingCommand,
    commands,
    parameter,
    takes,
)
from trioasgi.cli.starting import fail
from trioasgi.config import OPTIONS
from trioasgi.config.sources import read_config
from trioasgi.errors import ConfigError, ExitStatus, TrioasgiError
from trioasgi.supervisor.control_messages import (
    Done,
    ReopenLogsRequest,
    Request,
    RollRequest,
    ScaleRequest,
    Shown,
    StatusRequest,
    StopRequest,
)

_WITHOUT = tuple(name for name in OPTIONS if name != "control")

_JSON = parameter("as_json", bool, typer.Option("--json", help="Print it as JSON."), False)
_NO_WAIT = parameter("no_wait", bool, typer.Option("--no-wait", help="Do not wait for the end."), False)
_COUNT = parameter("count", str, typer.Argument(metavar="N"))


def _command(name: str, *own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a command with its own parameters. It may raise what a connection does."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(**given: object) -> None:
            try:
                function(**given)
            except TrioasgiError as error:
                fail(str(error), error.exit_status)

        del run.__wrapped__  # its signature is that of `takes`
        command = takes(*own, CONFIG_FILE, without=_WITHOUT)(run)
        return commands.command(name, cls=ServingCommand, context_settings=COMMAND_SETTINGS)(command)

    return register


@_command("status", _JSON)
def status(control: str | None = None, config: str | None = None, as_json: bool = False) -> None:
    """Show the workers of a running server.

    The server must have been started with --control.
    """
    with _connect(control, config) as connection:
        answer = connection.ask(StatusRequest())
    if not isinstance(answer, Shown):
        raise connection.surprise()
    from trioasgi.cli.status import as_json_text, as_text  # brings Rich

    say(as_json_text(answer.status) if as_json else as_text(answer.status))


@_command("roll")
def roll(control: str | None = None, config: str | None = None) -> None:
    """Replace all workers one by one.

    It waits for the end. The exit status is 1 if a new worker fails. Those that
    were not replaced stay then.
    """
    _do(control, config, RollRequest(), "every worker is new", patience=None)


@_command("scale", _COUNT)
def scale(count: str | None = None, control: str | None = None, config: str | None = None) -> None:
    """Change the number of workers."""
    if count is None:
        raise ConfigError("say how many workers there are to be, as in: trioasgi scale 4")
    try:
        workers = int(count)
    except ValueError:
        raise ConfigError(f"bad value for N: {count!r}; expected a number of workers") from None
    _do(control, config, ScaleRequest(workers), f"{workers} workers")


@_command("stop", _NO_WAIT)
def stop(control: str | None = None, config: str | None = None, no_wait: bool = False) -> None:
    """Stop gracefully, and wait for the end.

    The exit status is 1 if a request was cancelled, or a worker had to be killed.
    """
    with _connect(control, config) as connection:
        answer = connection.ask(StopRequest())
        if no_wait:
            return
        ended = connection.wait_for_end(answer)
    if ended is not ExitStatus.OK:
        fail(f"the server has ended, with exit status {int(ended)}", ExitStatus.FAILED)


@_command("reopen-logs")
def reopen_logs(control: str | None = None, config: str | None = None) -> None:
    """Open log files anew, after they were renamed."""
    _do(control, config, ReopenLogsRequest(), "log files are open anew")


def _do(
    control: str | None, config: str | None, request: Request, said: str, patience: float | None = 10.0
) -> None:
    """Ask for something that is done or refused, and print what is said of it."""
    with _connect(control, config) as connection:
        answer = connection.ask(request, patience=patience)
    if not isinstance(answer, Done):
        raise connection.surprise()
    say(answer.said or said)


def _connect(control: str | None, config_file: str | None) -> Connection:
    """Connect to the supervisor. Raises TrioasgiError."""
    # Whoever says where the socket is need not have a valid configuration beside that.
    path = control or os.environ.get(OPTIONS["control"].environment)
    if not path:
        path = read_config({}, config_file=config_file).control
    if not path:
        raise ConfigError(
            "no control socket is named: give --control PATH, or set TRIOASGI_CONTROL, or control in the "
            "configuration file, as for the server"
        )
    return Connection(path)
