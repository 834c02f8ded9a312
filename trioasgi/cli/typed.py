"""The command line as Typer reads it: serving, the other commands, the help, and mistakes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

import trioasgi
import trioasgi.cli.cert  # adds its commands
import trioasgi.cli.check  # adds its command
import trioasgi.cli.control  # adds its commands
import trioasgi.cli.demo  # adds its command
from trioasgi.cli.arguments import options_for, typed_flags
from trioasgi.cli.serving import (
    APP,
    COMMAND_SETTINGS,
    CONFIG_FILE,
    ServingCommand,
    commands,
    declare,
    parameter,
    serve_typed,
    takes,
)
from trioasgi.cli.starting import COMMANDS, PROGRAM, refuse_mistaken_command
from trioasgi.errors import ExitStatus


def run(arguments: Sequence[str]) -> NoReturn:
    """Run the command of these arguments and exit with an ExitStatus."""
    chosen = serving
    if arguments and arguments[0] in COMMANDS:
        chosen = commands
    elif arguments:
        refuse_mistaken_command(arguments[0], arguments[1:])
    declare(options_for(arguments), typed_flags(arguments))
    chosen(args=arguments, prog_name=PROGRAM)
    sys.exit(ExitStatus.OK)  # not reached: a Typer exits by itself


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {trioasgi.__version__}")
        raise typer.Exit


_VERSION = parameter(
    "version",
    bool | None,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
)


serving = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@serving.command(cls=ServingCommand, context_settings=COMMAND_SETTINGS)
@takes(APP, CONFIG_FILE, _VERSION, without=("app",))
def serve(config: str | None = None, version: bool | None = None, **given: object) -> None:  # noqa: ARG001 - eager
    """Serve an ASGI application on Trio.

    trioasgi app:app --reload        while you write it
    trioasgi app:app --certfile      over HTTPS, with a certificate for localhost
    trioasgi app:app -b :8000 -w 4   four worker processes
    """
    serve_typed(given, config_file=config)
