"""The options of the groups Application and Listening (see `declaration.py`)."""

from typing import Annotated, Literal

import msgspec

from .bounded import DEFAULT_HOST, DEFAULT_PORT, Backlog, Count, NonEmpty, Port, WholeSeconds
from .option import Group, option


class Application(msgspec.Struct, frozen=True):
    """The one option that may be given by position."""

    app: Annotated[
        str | None, option("The application, as MODULE:ATTRIBUTE.", Group.APPLICATION, metavar="MODULE:ATTR")
    ] = None


class ApplicationAndListening(Application, frozen=True, kw_only=True):
    """Which application is served, and where."""

    factory: Annotated[bool, option("Call ATTR to get the application.", Group.APPLICATION)] = False
    app_dir: Annotated[
        str, option("Import from here instead of the current dir.", Group.APPLICATION, metavar="DIR")
    ] = ""
    env_file: Annotated[
        NonEmpty | None,
        option("Set environment variables from this file.", Group.APPLICATION, metavar="FILE"),
    ] = None
    interface: Annotated[
        Literal["auto", "asgi", "asgi2", "wsgi"],
        option("auto, asgi, asgi2 or wsgi.", Group.APPLICATION, metavar="KIND", spellings={"asgi3": "asgi"}),
    ] = "auto"
    threads: Annotated[
        Count, option("Threads for synchronous code; 0 means 40.", Group.APPLICATION, metavar="N")
    ] = 0
    lifespan: Annotated[
        Literal["auto", "on", "off"], option("Run the application's lifespan.", Group.APPLICATION)
    ] = "auto"
    pathsend: Annotated[bool, option("Offer to send files by their paths.", Group.APPLICATION)] = True
    """The extension `http.response.pathsend`. Middleware that changes or counts bodies may not know it."""
    root_path: Annotated[
        str, option("Where the application is mounted: /api.", Group.APPLICATION, metavar="PATH")
    ] = ""

    bind: Annotated[
        tuple[str, ...],
        option(
            "TCP, unix:PATH, fd:N, systemd:N; repeatable.",
            Group.LISTENING,
            flags=("--bind", "-b"),
            metavar="ADDR",
        ),
    ] = ()
    host: Annotated[
        str | None, option(f"Listen on this address. [{DEFAULT_HOST}]", Group.LISTENING, metavar="HOST")
    ] = None
    """Empty: every interface, in each family."""
    port: Annotated[
        Port | None,
        option(f"Listen on this port; 0: a free one. [{DEFAULT_PORT}]", Group.LISTENING, metavar="PORT"),
    ] = None
    uds: Annotated[NonEmpty | None, option("Listen on a Unix socket.", Group.LISTENING, metavar="PATH")] = (
        None
    )
    fd: Annotated[
        Count | None, option("Listen on an inherited file descriptor.", Group.LISTENING, metavar="N")
    ] = None
    backlog: Annotated[
        Backlog, option("Connections waiting to be accepted.", Group.LISTENING, metavar="N")
    ] = 2048
    defer_accept: Annotated[
        WholeSeconds,
        option("Wait so long for a client's data; 0: off.", Group.LISTENING, metavar="S"),
    ] = 0
