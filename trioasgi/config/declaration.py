"""The one declaration of every option.

Each field of `Declaration` is an option: type, bounds, default, help, panel and flags. All of these are made
from the fields: the command line, `TRIOASGI_*` in the environment, `[tool.trioasgi]` in a file, the Python
keywords, the dict for a worker, and the reference page. To add an option, add a field.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from . import uvicorn
from .cpus import usable_cpus
from .option import Group, Option, option, option_names, read_options

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEVELOPMENT = "development"
"""The value of `certfile` for a development certificate, which is made for this run."""

LOOPBACK = ("127.0.0.0/8", "::1")
FORWARDED_HEADERS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
"""The header fields in which proxies describe their clients."""

_YEAR = 365 * 24 * 3600
"""Seconds. The longest time that an option accepts. A clock cannot add infinity to its time."""

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_YEAR)]
WholeSeconds = Annotated[int, msgspec.Meta(ge=0, le=_YEAR)]
SomeSeconds = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]


class _Application(msgspec.Struct, frozen=True):
    """The one option that may be given by position."""

    app: Annotated[
        str | None, option("The application, as MODULE:ATTRIBUTE.", Group.APPLICATION, metavar="MODULE:ATTR")
    ] = None


class Declaration(_Application, frozen=True, kw_only=True):
    """The fields of `Config`, in the order in which they are shown."""

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
        Positive, option("Connections waiting to be accepted.", Group.LISTENING, metavar="N")
    ] = 2048
    defer_accept: Annotated[
        WholeSeconds,
        option("Wait so long for a client's data; 0: off.", Group.LISTENING, metavar="S"),
    ] = 0

    certfile: Annotated[
        NonEmpty | None,
        option(
            "Serve HTTPS; no FILE: for development.", Group.TLS, aliases=("ssl_certfile",), metavar="[FILE]"
        ),
    ] = None
    keyfile: Annotated[
        NonEmpty | None,
        option(
            "Its private key, if not in the same file.", Group.TLS, aliases=("ssl_keyfile",), metavar="FILE"
        ),
    ] = None
    keyfile_password: Annotated[
        str | None,
        option(
            "The key's password; better as a variable.",
            Group.TLS,
            aliases=("ssl_keyfile_password",),
            metavar="TEXT",
            secret=True,
        ),
    ] = None
    client_certs: Annotated[
        Literal["none", "optional", "required"],
        option(
            "none, optional or required.",
            Group.TLS,
            metavar="HOW",
            aliases=("ssl_cert_reqs",),
            spellings=uvicorn.CERT_REQS,
        ),
    ] = "none"
    ca_certs: Annotated[
        NonEmpty | None,
        option(
            "Authorities that sign client certificates.", Group.TLS, aliases=("ssl_ca_certs",), metavar="FILE"
        ),
    ] = None
    tls_version: Annotated[
        Literal["auto", "1.2", "1.3"],
        option(
            "auto (both), 1.2 or 1.3.",
            Group.TLS,
            aliases=("ssl_version",),
            metavar="V",
            spellings=uvicorn.TLS_VERSIONS,
            refused=uvicorn.BROKEN_TLS_VERSIONS,
        ),
    ] = "auto"
    ciphers: Annotated[
        NonEmpty | None,
        option("OpenSSL's list of TLS 1.2 ciphers.", Group.TLS, aliases=("ssl_ciphers",), metavar="LIST"),
    ] = None

    workers: Annotated[
        Positive,
        option(
            "Worker processes; auto: one for each CPU.",
            Group.PROCESSES,
            flags=("--workers", "-w"),
            environment_aliases=("WEB_CONCURRENCY",),
            metavar="N",
            computed={"auto": usable_cpus},
            expected="an integer of at least 1, or auto",
        ),
    ] = 1
    reload: Annotated[bool, option("Restart the workers when a file changes.", Group.PROCESSES)] = False
    reload_dirs: Annotated[
        tuple[str, ...],
        option(
            "Watch this directory; repeatable. [.]",
            Group.PROCESSES,
            flags=("--reload-dir",),
            separator=os.pathsep,
            metavar="DIR",
        ),
    ] = ()
    reload_includes: Annotated[
        tuple[str, ...],
        option(
            "Watch these files too; repeatable. [*.py]",
            Group.PROCESSES,
            flags=("--reload-include",),
            metavar="GLOB",
        ),
    ] = ()
    reload_excludes: Annotated[
        tuple[str, ...],
        option(
            "Never watch these files; repeatable.",
            Group.PROCESSES,
            flags=("--reload-exclude",),
            metavar="GLOB",
        ),
    ] = ()
    reload_templates: Annotated[bool, option("Watch templates too: *.html, *.jinja2 …", Group.PROCESSES)] = (
        False
    )
    reload_gitignore: Annotated[bool, option("Do not watch what git ignores.", Group.PROCESSES)] = True
    reload_delay: Annotated[
        Seconds, option("Seconds to wait for further changes.", Group.PROCESSES, metavar="S")
    ] = 0.02
    reload_grace: Annotated[
        Seconds, option("For running requests at a reload.", Group.PROCESSES, metavar="S")
    ] = 1.0
    standby: Annotated[bool, option("Keep one more worker ready, for a crash.", Group.PROCESSES)] = False
    smoke: Annotated[
        tuple[str, ...],
        option("Probe this before a roll goes on; repeatable.", Group.PROCESSES, metavar="PATH"),
    ] = ()
    smoke_timeout: Annotated[
        SomeSeconds, option("For all answers to --smoke.", Group.PROCESSES, metavar="S")
    ] = 10.0
    control: Annotated[
        NonEmpty | None,
        option("Unix socket for trioasgi status, roll, stop.", Group.PROCESSES, metavar="PATH"),
    ] = None
    worker_lifetime: Annotated[
        Seconds, option("Replace a worker after so long; 0: never.", Group.PROCESSES, metavar="S")
    ] = 0.0
    worker_max_rss: Annotated[
        Count, option("Replace a worker above this memory; 0: never.", Group.PROCESSES, metavar="BYTES")
    ] = 0

    pid_file: Annotated[
        NonEmpty | None, option("Write the process id into this file.", Group.PROCESSES, metavar="PATH")
    ] = None
    user: Annotated[
        NonEmpty | None, option("Become this user after binding.", Group.PROCESSES, metavar="NAME")
    ] = None
    group: Annotated[
        NonEmpty | None, option("Become this group. [the user's]", Group.PROCESSES, metavar="NAME")
    ] = None
    umask: Annotated[
        NonEmpty | None, option("Permissions that new files lack: 027.", Group.PROCESSES, metavar="MODE")
    ] = None

    http: Annotated[
        Literal["auto", "h1c", "h11", "httptools"],
        option(
            "The HTTP/1 parser.",
            Group.HTTP,
            spellings=uvicorn.HTTP_PROTOCOLS,
            refused=uvicorn.FOREIGN_CLASS,
        ),
    ] = "auto"
    server_header: Annotated[bool, option("Send a server header.", Group.HTTP)] = True
    date_header: Annotated[bool, option("Send a date header.", Group.HTTP)] = True
    header: Annotated[
        tuple[str, ...],
        option(
            "Add this to every response; repeatable.",
            Group.HTTP,
            aliases=("headers",),
            metavar="NAME:VALUE",
            joiner=": ",
        ),
    ] = ()

    proxy_headers: Annotated[bool, option("Use headers of trusted proxies.", Group.PROXIES)] = True
    forwarded_allow_ips: Annotated[
        tuple[str, ...],
        option(
            "Trusted proxies; repeatable. [loopback]",
            Group.PROXIES,
            environment_aliases=("FORWARDED_ALLOW_IPS",),
            separator=",",
            metavar="ADDR",
        ),
    ] = LOOPBACK
    forwarded_headers: Annotated[
        tuple[str, ...], option("Forwarded headers used; repeatable. [all]", Group.PROXIES, metavar="NAME")
    ] = FORWARDED_HEADERS
    proxy_protocol: Annotated[
        Literal["off", "on", "required"],
        option("PROXY headers: off, on or required.", Group.PROXIES, metavar="MODE"),
    ] = "off"
    proxy_protocol_trusted: Annotated[
        tuple[str, ...], option("May send PROXY headers; repeatable. [local]", Group.PROXIES, metavar="ADDR")
    ] = (*LOOPBACK, "unix")

    websocket: Annotated[
        Literal["auto", "wsproto", "websockets", "off"],
        option(
            "auto, wsproto, websockets or off.",
            Group.WEBSOCKET,
            aliases=("ws",),
            metavar="CODEC",
            spellings=uvicorn.WEBSOCKET_PROTOCOLS,
            refused=uvicorn.FOREIGN_CLASS,
        ),
    ] = "auto"
    websocket_max_size: Annotated[
        Positive,
        option(
            "Bytes of a message, decompressed.", Group.WEBSOCKET, aliases=("ws_max_size",), metavar="BYTES"
        ),
    ] = 16 * 1024 * 1024
    websocket_max_queue: Annotated[
        Positive,
        option("Messages queued for the app.", Group.WEBSOCKET, aliases=("ws_max_queue",), metavar="N"),
    ] = 32
    websocket_ping_interval: Annotated[
        Seconds,
        option(
            "Seconds between pings; 0: none.",
            Group.WEBSOCKET,
            aliases=("ws_ping_interval",),
            metavar="S",
            none=0.0,
        ),
    ] = 20.0
    websocket_ping_timeout: Annotated[
        Seconds,
        option(
            "Longest wait for a pong; 0: no limit.",
            Group.WEBSOCKET,
            aliases=("ws_ping_timeout",),
            metavar="S",
            none=0.0,
        ),
    ] = 20.0
    websocket_close_timeout: Annotated[
        Seconds, option("Longest wait for the peer's close.", Group.WEBSOCKET, metavar="S")
    ] = 10.0
    websocket_deflate: Annotated[
        bool,
        option("Compress if the client offers it.", Group.WEBSOCKET, aliases=("ws_per_message_deflate",)),
    ] = True

    log_config: Annotated[
        str | dict[str, Any],
        option(
            "Configure logging by this file.",
            Group.LOGGING,
            metavar="FILE",
            none={},
            expected="the path of a JSON, YAML or INI file (in Python also a dict for dictConfig(), or None)",
        ),
    ] = ""
    """Empty: the server's own handlers. An empty dict, or None: logging is left as it is."""
    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug", "trace"] | None,
        option(
            "critical, error, warning, info, debug or trace. [info]",
            Group.LOGGING,
            metavar="LEVEL",
            spellings=uvicorn.LOG_LEVELS,
        ),
    ] = None
    access_log: Annotated[bool, option("Log every request.", Group.LOGGING)] = True
    use_colors: Annotated[bool | None, option("Colour the log. [on a terminal]", Group.LOGGING)] = None

    limit_header_bytes: Annotated[
        Positive,
        option(
            "Bytes of a request's headers.",
            Group.LIMITS,
            aliases=("h11_max_incomplete_event_size",),
            metavar="BYTES",
        ),
    ] = 65536
    limit_header_count: Annotated[Positive, option("Headers of a request.", Group.LIMITS, metavar="N")] = 100
    limit_target: Annotated[
        Positive, option("Bytes of a request's target.", Group.LIMITS, metavar="BYTES")
    ] = 16384
    limit_body: Annotated[
        Count, option("Bytes of a request's body; 0: no limit.", Group.LIMITS, metavar="BYTES")
    ] = 0
    limit_concurrency: Annotated[
        Count, option("Requests at once (then 503); 0: no limit.", Group.LIMITS, metavar="N")
    ] = 0
    shed_latency: Annotated[
        Seconds, option("Delay of the loop (then 503); 0: off.", Group.LIMITS, metavar="S")
    ] = 0.0
    limit_exempt: Annotated[
        tuple[str, ...],
        option("A path without such a 503; repeatable.", Group.LIMITS, metavar="PATH"),
    ] = ()
    limit_connections: Annotated[
        Count, option("Connections at once; 0: no limit.", Group.LIMITS, metavar="N")
    ] = 0
    limit_max_requests: Annotated[
        Count, option("Requests a worker serves; 0: no limit.", Group.LIMITS, metavar="N")
    ] = 0
    limit_max_requests_jitter: Annotated[
        Count, option("Random extra for --limit-max-requests.", Group.LIMITS, metavar="N")
    ] = 0

    limit_body_rate: Annotated[
        Count, option("Slowest upload, bytes/s; 0: no minimum.", Group.LIMITS, metavar="BYTES/S")
    ] = 0

    request_timeout: Annotated[
        Seconds, option("Longest time for a response; 0: no limit.", Group.TIMEOUTS, metavar="S")
    ] = 0.0
    cancel_on_disconnect: Annotated[
        Literal["streams", "always", "never"],
        option("Cancel calls whose client has left.", Group.HTTP, metavar="WHICH"),
    ] = "streams"
    disconnect_grace: Annotated[
        Seconds, option("Wait before --cancel-on-disconnect acts.", Group.TIMEOUTS, metavar="S")
    ] = 1.0
    timeout_keep_alive: Annotated[
        Seconds, option("How long an idle connection is kept.", Group.TIMEOUTS, metavar="S")
    ] = 5.0
    timeout_headers: Annotated[
        SomeSeconds, option("Longest time for a request's headers.", Group.TIMEOUTS, metavar="S")
    ] = 30.0
    timeout_body: Annotated[
        SomeSeconds, option("Longest pause in a request's body.", Group.TIMEOUTS, metavar="S")
    ] = 60.0
    timeout_write: Annotated[
        SomeSeconds, option("How long a client may stop reading.", Group.TIMEOUTS, metavar="S")
    ] = 60.0
    timeout_handshake: Annotated[
        SomeSeconds, option("For the TLS handshake or PROXY header.", Group.TIMEOUTS, metavar="S")
    ] = 10.0
    timeout_graceful_shutdown: Annotated[
        Seconds, option("For running requests at a stop.", Group.TIMEOUTS, metavar="S")
    ] = 30.0
    timeout_startup: Annotated[
        SomeSeconds, option("For the lifespan's start-up.", Group.TIMEOUTS, metavar="S")
    ] = 60.0
    timeout_shutdown: Annotated[
        SomeSeconds, option("For the lifespan's shutdown.", Group.TIMEOUTS, metavar="S")
    ] = 30.0
    timeout_worker: Annotated[
        SomeSeconds,
        option(
            "Silence after which a worker is killed.",
            Group.TIMEOUTS,
            aliases=("timeout_worker_healthcheck",),
            metavar="S",
        ),
    ] = 60.0

    loop: Annotated[
        NonEmpty, option("Any name works: Trio is the loop.", Group.WITHOUT_EFFECT, metavar="NAME")
    ] = "auto"
    http2: Annotated[bool, option("HTTP/2 is not there yet.", Group.WITHOUT_EFFECT)] = False
    reset_contextvars: Annotated[
        bool, option("Each call always has its own context.", Group.WITHOUT_EFFECT)
    ] = False


OPTIONS: Mapping[str, Option] = read_options(Declaration)
"""Every option by name, in the order declared."""

NAMES: Mapping[str, str] = option_names(OPTIONS)
"""The own name of an option, by each name that it has in any source."""

SUPERVISED = ("reload", "standby", "smoke", "control", "worker_lifetime", "worker_max_rss", "user", "group")
"""The options that need a supervisor. So do more workers than one."""

LISTENING_WAYS: tuple[tuple[str, ...], ...] = (("bind",), ("host", "port"), ("uds",), ("fd",))
"""The groups of options for the listening address. A Config uses one group."""
