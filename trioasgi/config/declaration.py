"""The one declaration of every option.

Each field of `Declaration` is an option: type, bounds, default, help, panel and flags. All of these are made
from the fields: the command line, `TRIOASGI_*` in the environment, `[tool.trioasgi]` in a file, the Python
keywords, the dict for a worker, and the reference page. To add an option, add a field.

It is one table. Its first groups stand in files of their own, `declared_*.py`, each of which adds to the one
before.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from . import uvicorn
from .bounded import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEVELOPMENT,
    FORWARDED_HEADERS,
    LOOPBACK,
    Count,
    NonEmpty,
    Positive,
    Seconds,
    SomeSeconds,
)
from .declared_processes import ProcessesToo
from .option import Group, Option, option, option_names, read_options

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEVELOPMENT",
    "FORWARDED_HEADERS",
    "LISTENING_WAYS",
    "LOOPBACK",
    "NAMES",
    "OPTIONS",
    "SUPERVISED",
    "Declaration",
]


class Declaration(ProcessesToo, frozen=True, kw_only=True):
    """The fields of `Config`, in the order in which they are shown."""

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
