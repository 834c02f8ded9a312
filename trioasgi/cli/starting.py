"""Serves with what the command line has given. Knows nothing of Typer: most starts can do without."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from trioasgi.config.sources import read_config, remarks_on
from trioasgi.errors import ExitStatus, TrioasgiError
from trioasgi.process.imports import lasting_directory, uncollected_imports

if TYPE_CHECKING:
    from trioasgi.config import Config

PROGRAM: Final = "trioasgi"

COMMANDS: Final = frozenset({"check", "cert", "demo", "reopen-logs", "roll", "scale", "status", "stop"})
"""The names of the commands beside serving."""

_INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit status of a program that Ctrl-C has ended, as a shell says it."""


def start(
    given: Mapping[str, object],
    typed: Mapping[str, str],
    *,
    config_file: str | None = None,
    fixed: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> NoReturn:
    """Serve with the flags `given` and the values of the other sources, and exit with an ExitStatus.

    `typed` has the flag of each option in this command line, by the option's name. `fixed` overrides all.
    """
    flags: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    read = partial(
        read_config, {**flags, **(fixed or {})}, typed=typed, config_file=config_file, defaults=defaults
    )
    try:
        config = read()
        require_app(config)

        directory = lasting_directory()

        def reread(in_use: Config) -> Config:
            with contextlib.suppress(OSError):  # it was removed: what follows says what is missing
                os.chdir(directory)  # a link to it may lead to the next release by now
            return read(before=in_use)

        with uncollected_imports():
            from trioasgi.process.run import run_config  # brings trio, which --help and errors do not need

        status = run_config(config, remarks_on(os.environ, config.env_file), reread)
    except TrioasgiError as error:
        fail(str(error), error.exit_status)
    except KeyboardInterrupt:  # not of a signal: the application has raised it
        sys.exit(_INTERRUPTED)
    sys.exit(int(status))


def require_app(config: Config, command: str = PROGRAM) -> None:
    """Fail unless the config names an application."""
    if config.app is None:
        fail(f"no application; say which one to serve, as in: {command} package.module:app", ExitStatus.USAGE)
    if config.app in COMMANDS or (command == PROGRAM and ":" not in config.app):
        refuse_mistaken_command(config.app)


def refuse_mistaken_command(word: str, following: Sequence[str] = ()) -> None:
    """Fail if `word`, which should be an application, looks like a command. `following` are the arguments
    after it.
    """
    from trioasgi.cli.mistakes import what_was_meant  # only a mistake pays for it

    meant = what_was_meant(word, following, COMMANDS)
    if meant is not None:
        fail(meant, ExitStatus.USAGE)


def fail(message: str, status: ExitStatus) -> NoReturn:
    """Say what is wrong, and exit."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(int(status))
