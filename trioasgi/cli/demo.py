"""The command `trioasgi demo`."""

from __future__ import annotations

import typer

from trioasgi.cli.serving import (
    COMMAND_SETTINGS,
    CONFIG_FILE,
    ServingCommand,
    commands,
    parameter,
    serve_typed,
    takes,
)
from trioasgi.config import DEVELOPMENT

APP = "trioasgi.demo:app"

_PLAIN = parameter("plain", bool, typer.Option("--plain", help="Serve plain HTTP instead."), False)


@commands.command("demo", cls=ServingCommand, context_settings=COMMAND_SETTINGS)
@takes(CONFIG_FILE, _PLAIN, without=("app", "factory", "app_dir"))
def demo(config: str | None = None, plain: bool = False, **given: object) -> None:
    """Serve the built-in demo over HTTPS.

    Without --certfile it uses a certificate for localhost, made for this run.
    """
    fixed: dict[str, object] = {"app": APP, "factory": False, "app_dir": ""}
    if plain:
        fixed |= {"certfile": (), "keyfile": (), "keyfile_password": None, "keyfile_password_file": None}
        fixed["ssl_context_factory"] = None
    serve_typed(given, config_file=config, fixed=fixed, defaults={"certfile": DEVELOPMENT})
