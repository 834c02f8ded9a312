"""Shared by the commands that serve, as Typer knows them: their options, and the parsing of these.

The options come from `config/declaration.py`. Typer parses them and shows the help. Only Config checks the
values, because it knows where each value comes from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from typer.core import TyperCommand

from trioasgi.cli.output import accept_all_characters
from trioasgi.cli.starting import COMMANDS, PROGRAM, refuse_mistaken_command, start
from trioasgi.config import OPTIONS, Config
from trioasgi.config.option import Kind, Option
from trioasgi.config.sources import read_config

COMMAND_SETTINGS = {"help_option_names": ["--help", "-h"]}

commands = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings=COMMAND_SETTINGS
)
"""The commands beside serving. The name of one that is added here also goes to `COMMANDS`."""


@commands.callback()
def _commands() -> None:
    """A callback. Without it Typer would make a single command the whole program."""


def _further_commands() -> list[tuple[str, str, str]]:
    """The other commands for the help: what to type, no placeholder, and the first line of the docstring."""
    single = [(info.name, inspect.getdoc(info.callback) or "") for info in commands.registered_commands]
    grouped = [
        (info.name, str(info.typer_instance.info.help))
        for info in commands.registered_groups
        if info.typer_instance
    ]
    return [(f"{PROGRAM} {name}", "", text.partition("\n")[0]) for name, text in [*single, *grouped]]


class ServingCommand(TyperCommand):
    """A command that takes the serving options.

    Contexts are typed as Any: Typer has its own click in some versions and uses the public one in others.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse without converting values: Config checks them. So Typer need not import its converters."""
        given, extra, _ = self.make_parser(ctx).parse_args(args=list(args))
        eager = any(param.is_eager and given.get(param.name) for param in self.get_params(ctx))
        if extra and ctx.parent is None:
            refuse_mistaken_command(str(given.get("app")), extra)
            if extra[0] in COMMANDS:
                refuse_mistaken_command(extra[0])
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

        accept_all_characters()
        params = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        shown = {param.name for param in params}
        print_help(
            usage=" ".join(
                [ctx.command_path, *(argument.metavar or "" for argument in arguments), "[OPTIONS]"]
            ),
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


def _flag_declarations(option: Option) -> list[str]:
    """The flags in Typer's form: `--flag`, or `--flag/--no-flag` for a switch."""
    if option.kind is not Kind.SWITCH:
        return [*option.flags, *option.hidden_flags]
    return [f"{flag}/{negative}" for flag, negative in zip(option.flags, option.negative_flags, strict=True)]


def parameter(name: str, annotation: object, info: object, default: object = None) -> inspect.Parameter:
    """A parameter of a command, in the form that Typer reads."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _option_parameter(option: Option) -> inspect.Parameter:
    annotation = {Kind.SWITCH: bool | None, Kind.LIST: list[str] | None}.get(option.kind, str | None)
    info = typer.Option(*_flag_declarations(option), help=option.help, metavar=option.metavar or None)
    return parameter(option.name, annotation, info)


CONFIG_FILE = parameter(
    "config", str | None, typer.Option("--config", metavar="FILE", help="Read options from this TOML file.")
)

APP = parameter("app", str | None, typer.Argument(metavar="MODULE:ATTR", help=OPTIONS["app"].help))

_Command = Callable[..., None]


class _Parameters(msgspec.Struct, frozen=True):
    """The parameters of a command: its `own`, and all options but those in `without`."""

    own: tuple[inspect.Parameter, ...]
    without: tuple[str, ...]


_parameters: dict[_Command, _Parameters] = {}


def takes(*own: inspect.Parameter, without: tuple[str, ...]) -> Callable[[_Command], _Command]:
    """Note the parameters of a command; `declare` passes them to Typer."""

    def register(command: _Command) -> _Command:
        _parameters[command] = _Parameters(own, without)
        return command

    return register


def declare(options: Sequence[Option], typed: Mapping[str, str]) -> None:
    """Put these options into the signatures of the commands, which Typer reads when it runs one.

    `typed` has the flag of each option in this command line, by the option's name.
    """
    _typed.clear()
    _typed.update(typed)
    for command, parameters in _parameters.items():
        taken = [_option_parameter(option) for option in options if option.name not in parameters.without]
        signature = inspect.Signature([*parameters.own, *taken])
        command.__signature__ = signature  # type: ignore[attr-defined]  # inspect.signature() documents it


_typed: dict[str, str] = {}
"""The flag of each option in this command line, by the option's name."""


def read_typed(given: Mapping[str, object], *, config_file: str | None) -> Config:
    """The Config of the flags of this command line and of the other sources. Raises ConfigError."""
    flags = {name: value for name, value in given.items() if value is not None}
    return read_config(flags, typed=_typed, config_file=config_file)


def serve_typed(
    given: Mapping[str, object],
    *,
    config_file: str | None,
    fixed: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> NoReturn:
    """As `start`, with the flags of this command line."""
    start(given, _typed, config_file=config_file, fixed=fixed, defaults=defaults)
