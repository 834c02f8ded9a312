"""The command line: arguments become a Config, and a Config is run.

`trioasgi MODULE:ATTR [options]` serves. Further commands stand beside that without anybody writing `serve`: a
first argument that is the name of a command is that command, anything else is serving. (An application is
always written with a colon, so a module may be named like a command.)

The serving options are made from `config/declaration.py`. Typer parses and documents them; what a value may
be is checked by Config alone, which knows where each came from.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand

import trioasgi
from trioasgi.cli.arguments import complete_certfile, options_for, spell_switches, typed_flags
from trioasgi.config import DEVELOPMENT, OPTIONS
from trioasgi.config.option import Kind, Option
from trioasgi.config.sources import read_config, remarks_on
from trioasgi.errors import ExitStatus, TrioasgiError
from trioasgi.process.imports import uncollected_imports

PROGRAM = "trioasgi"
DEMO_APP = "trioasgi.demo:app"

_COMMAND_SETTINGS = {"help_option_names": ["--help", "-h"]}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (`sys.argv` unless given) and exit with an ExitStatus."""
    arguments = spell_switches(complete_certfile(sys.argv[1:] if arguments is None else arguments))
    _declare(options_for(arguments))
    _typed.clear()
    _typed.update(typed_flags(arguments))
    chosen = commands if arguments and arguments[0] in command_names() else serving
    chosen(args=arguments, prog_name=PROGRAM)
    sys.exit(ExitStatus.OK)  # not reached: a Typer exits by itself


def command_names() -> list[str]:
    """The commands that stand beside serving."""
    return [
        *(info.name for info in commands.registered_commands if info.name),
        *(info.name for info in commands.registered_groups if isinstance(info.name, str)),
    ]


def _further_commands() -> list[tuple[str, str, str]]:
    """Each as the help shows it: what is typed, nothing to replace in it, and its first line."""
    return [
        (f"{PROGRAM} {info.name}", "", (inspect.getdoc(info.callback) or "").partition("\n")[0])
        for info in commands.registered_commands
    ]


class ServingCommand(TyperCommand):
    """A command that takes the serving options.

    Contexts are typed as Any: Typer has its own click in some versions and uses the public one in others.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse without converting: every value is a text or a switch, which Config checks.

        (What Typer converts with, be it pydantic, takes longer to load than all of this package.)
        """
        given, extra, _ = self.make_parser(ctx).parse_args(args=list(args))
        eager = any(param.is_eager and given.get(param.name) for param in self.get_params(ctx))
        if eager or extra:
            return super().parse_args(ctx, args)
        ctx.params = {
            name: value for name, value in given.items() if isinstance(value, str | bool | list | tuple)
        }
        ctx.args = []
        return []

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the signature is click's
        """Print the help, in panels."""
        from trioasgi.cli.help import Entry, print_help  # brings Rich, which serving does not need

        params = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        shown = {param.name for param in params}
        print_help(
            usage=ctx.command_path + ("" if ctx.parent else " MODULE:ATTR") + " [OPTIONS]",
            text=inspect.cleandoc(self.help or ""),
            options=[option for name, option in OPTIONS.items() if name in shown],
            others=[
                Entry(
                    ", ".join(sorted(param.opts, key=len)),
                    param.metavar or "",
                    getattr(param, "help", None) or "",
                )
                for param in params
                if param.name not in OPTIONS
            ],
            commands=[] if ctx.parent else [Entry(*command) for command in _further_commands()],
        )


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {trioasgi.__version__}")
        raise typer.Exit


def _flag_declarations(option: Option) -> list[str]:
    """As Typer wants to be told: `--flag`, or `--flag/--no-flag` for a switch."""
    if option.kind is not Kind.SWITCH:
        return [*option.flags, *option.hidden_flags]
    return [f"{flag}/{negative}" for flag, negative in zip(option.flags, option.negative_flags, strict=True)]


def _parameter(name: str, annotation: object, info: object, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _option_parameter(option: Option) -> inspect.Parameter:
    annotation = {Kind.SWITCH: bool | None, Kind.LIST: list[str] | None}.get(option.kind, str | None)
    info = typer.Option(*_flag_declarations(option), help=option.help, metavar=option.metavar or None)
    return _parameter(option.name, annotation, info)


_APP = _parameter("app", str | None, typer.Argument(metavar="MODULE:ATTR", help=OPTIONS["app"].help))
_CONFIG = _parameter(
    "config", str | None, typer.Option("--config", metavar="FILE", help="Read options from this TOML file.")
)
_VERSION = _parameter(
    "version",
    bool | None,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
)
_PLAIN = _parameter("plain", bool, typer.Option("--plain", help="Serve plain HTTP instead."), False)


_Command = Callable[..., None]


class _Parameters(NamedTuple):
    """What a command takes: parameters of its `own`, and all the options but `without`."""

    own: tuple[inspect.Parameter, ...]
    without: tuple[str, ...]


_parameters: dict[_Command, _Parameters] = {}


def _takes(*own: inspect.Parameter, without: tuple[str, ...]) -> Callable[[_Command], _Command]:
    """Note what a command takes, for `_declare` to tell Typer."""

    def register(command: _Command) -> _Command:
        _parameters[command] = _Parameters(own, without)
        return command

    return register


def _declare(options: Sequence[Option]) -> None:
    """Let Typer see these options: it reads a command's signature when it is about to run one."""
    for command, (own, without) in _parameters.items():
        taken = [_option_parameter(option) for option in options if option.name not in without]
        signature = inspect.Signature([*own, *taken])
        command.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature() documents it


_typed: dict[str, str] = {}
"""For an option's name, the flag that this command line has for it."""


serving = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
commands = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings=_COMMAND_SETTINGS
)
"""What stands beside serving. A command added here needs nothing else."""


@commands.callback()
def _commands() -> None:
    """Keep Typer from taking the only command for the whole program."""


@serving.command(cls=ServingCommand, context_settings=_COMMAND_SETTINGS)
@_takes(_APP, _CONFIG, _VERSION, without=("app",))
def serve(config: str | None = None, version: bool | None = None, **given: object) -> None:  # noqa: ARG001 - eager
    """Serve an ASGI application on Trio.

    trioasgi app:app --reload        while you write it
    trioasgi app:app --certfile      over HTTPS, with a certificate for localhost
    trioasgi app:app -b :8000 -w 4   four worker processes
    """
    _start(given, config_file=config)


@commands.command("demo", cls=ServingCommand, context_settings=_COMMAND_SETTINGS)
@_takes(_CONFIG, _PLAIN, without=("app", "factory", "app_dir"))
def demo(config: str | None = None, plain: bool = False, **given: object) -> None:
    """Serve the built-in demo over HTTPS.

    Without --certfile it uses a certificate for localhost, made for this run.
    """
    fixed: dict[str, object] = {"app": DEMO_APP, "factory": False, "app_dir": ""}
    if plain:
        fixed |= {"certfile": None, "keyfile": None, "keyfile_password": None}
    _start(given, config_file=config, fixed=fixed, defaults={"certfile": DEVELOPMENT})


def _start(
    given: Mapping[str, object],
    *,
    config_file: str | None,
    fixed: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> None:
    """Run what the flags `given` and the other sources amount to; `fixed` is what none of them can change."""
    flags: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    try:
        config = read_config(
            {**flags, **(fixed or {})}, typed=_typed, config_file=config_file, defaults=defaults
        )
        if config.app is None:
            _fail(
                "no application; say which one to serve, as in: trioasgi package.module:app", ExitStatus.USAGE
            )
        if config.app in command_names():
            _fail(f"{config.app} is a command; write it first: trioasgi {config.app} ...", ExitStatus.USAGE)
        with uncollected_imports():
            from trioasgi.process.run import run_config  # brings trio, which --help and errors do not need

        status = run_config(config, remarks_on(os.environ))
    except TrioasgiError as error:
        _fail(str(error), error.exit_status)
    raise typer.Exit(int(status))


def _fail(message: str, status: ExitStatus) -> NoReturn:
    typer.echo(f"{PROGRAM}: {message}", err=True)
    raise typer.Exit(int(status))
