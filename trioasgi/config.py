"""The one declaration of every option.

Each field of `Config` is an option: type, bounds, default, help, panel and flags. The command line,
`TRIOASGI_*` in the environment, `[tool.trioasgi]` in a file, the Python keywords, the dict that crosses to a
worker and the reference page are all made from these fields. Adding an option is adding a field.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import msgspec
import msgspec.structs

from trioasgi.errors import ConfigError
from trioasgi.options import Group, Option, Origins, option, option_names, read_options, unknown_option

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEVELOPMENT = "development"
"""The `certfile` that stands for a certificate made up for this run."""

LOOPBACK = ("127.0.0.0/8", "::1")
FORWARDED_HEADERS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
"""The header fields in which proxies tell whom they speak for."""

_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
"""`field-name ":" field-value` of RFC 9110 5.1 and 5.5, the value as Latin-1 with its white space."""

_IPV6 = re.compile(r"\[?[0-9A-Fa-f:.]+(%\w+)?\]?")

_FRAMING = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "trailer",
        "te",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "http2-settings",
    }
)
"""The fields that say where a message ends, and what becomes of its connection (RFC 9110 7.6.1); those of a
WebSocket's handshake (RFC 6455 11.3) are refused with them."""

_FOREIGN_CLASS = {r".*[.:].*": "a class for asyncio cannot run on Trio"}
"""Why a protocol of somebody's own is refused that uvicorn takes."""

_YEAR = 365 * 24 * 3600
"""Above any wait that makes sense, and below what a clock cannot add to its time (infinity)."""

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_YEAR)]
SomeSeconds = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]


class _ConfigMeta(msgspec.StructMeta):
    """Lets the constructor know every name of an option, and say of a mistake what is wrong with it."""

    def __call__(self, *arguments: object, **options: object) -> Any:
        if len(arguments) > 1:
            raise ConfigError(
                f"Config takes one argument by position, the application, not {len(arguments)}; "
                "give options by keyword"
            )
        if arguments and "app" in options:
            raise ConfigError("app is given twice (by position and from keyword app); remove one of them")
        values = {**options, "app": arguments[0]} if arguments else options
        return msgspec.convert(_settle(_by_own_name(values), {}), self)


class _Served(msgspec.Struct, frozen=True, metaclass=_ConfigMeta):
    """The one option that may be given by position."""

    app: Annotated[
        str | None,
        option("The application, as MODULE:ATTRIBUTE.", Group.APPLICATION, metavar="MODULE:ATTR"),
    ] = None


class Config(_Served, frozen=True, kw_only=True, omit_defaults=True):
    """Every option of a server, checked.

    Construction raises ConfigError for a value of the wrong type, out of bounds, or at odds with another.
    A list does where a tuple is declared, and a single string where the tuple would have one entry. Options
    have uvicorn's names too (`ssl_certfile`), and None is their default where it is not a value by itself.
    """

    factory: Annotated[
        bool,
        option("Call ATTR to get the application.", Group.APPLICATION),
    ] = False
    app_dir: Annotated[
        str,
        option(
            "Import from here instead of the current dir.",
            Group.APPLICATION,
            metavar="DIR",
        ),
    ] = ""
    env_file: Annotated[
        NonEmpty | None,
        option("Set environment variables from this file.", Group.APPLICATION, metavar="FILE"),
    ] = None
    interface: Annotated[
        Literal["auto", "asgi", "asgi2", "wsgi"],
        option(
            "auto, asgi, asgi2 or wsgi.",
            Group.APPLICATION,
            metavar="KIND",
            spellings={"asgi3": "asgi"},
        ),
    ] = "auto"
    threads: Annotated[
        Count,
        option(
            "Threads for synchronous code; 0 means 40.",
            Group.APPLICATION,
            metavar="N",
        ),
    ] = 0
    lifespan: Annotated[
        Literal["auto", "on", "off"],
        option("Run the application's lifespan.", Group.APPLICATION),
    ] = "auto"
    root_path: Annotated[
        str,
        option("Where the application is mounted: /api.", Group.APPLICATION, metavar="PATH"),
    ] = ""

    bind: Annotated[
        tuple[str, ...],
        option(
            "HOST:PORT, unix:PATH or fd:N; repeatable.",
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
        Count | None,
        option("Listen on an inherited file descriptor.", Group.LISTENING, metavar="N"),
    ] = None
    backlog: Annotated[
        Positive,
        option("Connections waiting to be accepted.", Group.LISTENING, metavar="N"),
    ] = 2048

    certfile: Annotated[
        NonEmpty | None,
        option(
            "Serve HTTPS; no FILE: for development.",
            Group.TLS,
            aliases=("ssl_certfile",),
            metavar="[FILE]",
        ),
    ] = None
    keyfile: Annotated[
        NonEmpty | None,
        option(
            "Its private key, if not in the same file.",
            Group.TLS,
            aliases=("ssl_keyfile",),
            metavar="FILE",
        ),
    ] = None
    keyfile_password: Annotated[
        str | None,
        option(
            "Better as TRIOASGI_KEYFILE_PASSWORD.",
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
            spellings={"0": "none", "1": "optional", "2": "required"},
        ),
    ] = "none"
    ca_certs: Annotated[
        NonEmpty | None,
        option(
            "Authorities that sign client certificates.",
            Group.TLS,
            aliases=("ssl_ca_certs",),
            metavar="FILE",
        ),
    ] = None
    tls_version: Annotated[
        Literal["auto", "1.2", "1.3"],
        option(
            "auto (both), 1.2 or 1.3.",
            Group.TLS,
            aliases=("ssl_version",),
            metavar="V",
            # The numbers of ssl.PROTOCOL_TLS, PROTOCOL_TLS_SERVER and PROTOCOL_TLSv1_2.
            spellings={"2": "auto", "17": "auto", "5": "1.2"},
            refused={
                "[013-4]": "the ssl module's numbers 0, 1, 3 and 4 are SSL 2 and 3, TLS 1.0 and 1.1, "
                "which are broken and not spoken any more (RFC 8996)",
                "16": "the ssl module's number 16 is a client's; a server's is 17",
            },
        ),
    ] = "auto"
    ciphers: Annotated[
        NonEmpty | None,
        option(
            "OpenSSL's list of TLS 1.2 ciphers.",
            Group.TLS,
            aliases=("ssl_ciphers",),
            metavar="LIST",
        ),
    ] = None

    workers: Annotated[
        Positive,
        option(
            "Worker processes.",
            Group.PROCESSES,
            flags=("--workers", "-w"),
            environment_aliases=("WEB_CONCURRENCY",),
            metavar="N",
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
    reload_delay: Annotated[
        Seconds,
        option("Seconds to wait for further changes.", Group.PROCESSES, metavar="S"),
    ] = 0.05

    http: Annotated[
        Literal["auto", "h11", "httptools"],
        option(
            "The HTTP/1 parser.",
            Group.HTTP,
            spellings={
                "zttp": "auto",
                "uvicorn.protocols.http.auto:autohttpprotocol": "auto",
                "uvicorn.protocols.http.zttp_impl:zttpprotocol": "auto",
                "uvicorn.protocols.http.h11_impl:h11protocol": "h11",
                "uvicorn.protocols.http.httptools_impl:httptoolsprotocol": "httptools",
            },
            refused=_FOREIGN_CLASS,
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

    proxy_headers: Annotated[
        bool,
        option("Use headers of trusted proxies.", Group.PROXIES),
    ] = True
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
        tuple[str, ...],
        option("Forwarded headers used; repeatable. [all]", Group.PROXIES, metavar="NAME"),
    ] = FORWARDED_HEADERS
    proxy_protocol: Annotated[
        Literal["off", "on", "required"],
        option("PROXY headers: off, on or required.", Group.PROXIES, metavar="MODE"),
    ] = "off"
    proxy_protocol_trusted: Annotated[
        tuple[str, ...],
        option("May send PROXY headers; repeatable. [local]", Group.PROXIES, metavar="ADDR"),
    ] = (*LOOPBACK, "unix")

    websocket: Annotated[
        Literal["auto", "wsproto", "websockets", "off"],
        option(
            "auto, wsproto, websockets or off.",
            Group.WEBSOCKET,
            aliases=("ws",),
            metavar="CODEC",
            spellings={
                "none": "off",
                "websockets-sansio": "websockets",
                "uvicorn.protocols.websockets.auto:autowebsocketsprotocol": "auto",
                "uvicorn.protocols.websockets.websockets_impl:websocketprotocol": "websockets",
                "uvicorn.protocols.websockets.websockets_sansio_impl:websocketssansioprotocol": "websockets",
                "uvicorn.protocols.websockets.wsproto_impl:wsprotocol": "wsproto",
            },
            refused=_FOREIGN_CLASS,
        ),
    ] = "auto"
    websocket_max_size: Annotated[
        Positive,
        option(
            "Bytes of a message, decompressed.",
            Group.WEBSOCKET,
            aliases=("ws_max_size",),
            metavar="BYTES",
        ),
    ] = 16 * 1024 * 1024
    websocket_max_queue: Annotated[
        Positive,
        option(
            "Messages queued for the app.",
            Group.WEBSOCKET,
            aliases=("ws_max_queue",),
            metavar="N",
        ),
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
        Seconds,
        option("Longest wait for the peer's close.", Group.WEBSOCKET, metavar="S"),
    ] = 10.0
    websocket_deflate: Annotated[
        bool,
        option(
            "Compress if the client offers it.",
            Group.WEBSOCKET,
            aliases=("ws_per_message_deflate",),
        ),
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
    """Empty: the server's own handlers. An empty dict, which None stands for: logging is left as it is."""
    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug", "trace"] | None,
        option(
            "critical, error, warning, info, debug or trace. [info]",
            Group.LOGGING,
            metavar="LEVEL",
            spellings={
                "50": "critical",
                "40": "error",
                "30": "warning",
                "20": "info",
                "10": "debug",
                "5": "trace",
            },
        ),
    ] = None
    access_log: Annotated[bool, option("Log every request.", Group.LOGGING)] = True
    use_colors: Annotated[
        bool | None,
        option("Colour the log. [on a terminal]", Group.LOGGING),
    ] = None

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
        Count,
        option("Requests at once (then 503); 0: no limit.", Group.LIMITS, metavar="N"),
    ] = 0
    limit_max_requests: Annotated[
        Count,
        option("Requests a worker serves; 0: no limit.", Group.LIMITS, metavar="N"),
    ] = 0
    limit_max_requests_jitter: Annotated[
        Count,
        option("Random extra for --limit-max-requests.", Group.LIMITS, metavar="N"),
    ] = 0

    limit_body_rate: Annotated[
        Count,
        option("Slowest upload; 0: no minimum.", Group.LIMITS, metavar="BYTES/S"),
    ] = 0

    request_timeout: Annotated[
        Seconds,
        option("Longest time for a response; 0: no limit.", Group.TIMEOUTS, metavar="S"),
    ] = 0.0
    cancel_on_disconnect: Annotated[
        Literal["streams", "always", "never"],
        option("Cancel calls whose client has left.", Group.HTTP, metavar="WHICH"),
    ] = "streams"
    disconnect_grace: Annotated[
        Seconds,
        option("Wait before --cancel-on-disconnect acts.", Group.TIMEOUTS, metavar="S"),
    ] = 1.0
    timeout_keep_alive: Annotated[
        Seconds,
        option("How long an idle connection is kept.", Group.TIMEOUTS, metavar="S"),
    ] = 5.0
    timeout_headers: Annotated[
        SomeSeconds,
        option("Longest time for a request's headers.", Group.TIMEOUTS, metavar="S"),
    ] = 30.0
    timeout_body: Annotated[
        SomeSeconds,
        option("Longest pause in a request's body.", Group.TIMEOUTS, metavar="S"),
    ] = 60.0
    timeout_write: Annotated[
        SomeSeconds,
        option("How long a client may stop reading.", Group.TIMEOUTS, metavar="S"),
    ] = 60.0
    timeout_handshake: Annotated[
        SomeSeconds,
        option("For the TLS handshake or PROXY header.", Group.TIMEOUTS, metavar="S"),
    ] = 10.0
    timeout_graceful_shutdown: Annotated[
        Seconds,
        option("For running requests at a stop.", Group.TIMEOUTS, metavar="S"),
    ] = 30.0
    timeout_startup: Annotated[
        SomeSeconds,
        option("For the lifespan's start-up.", Group.TIMEOUTS, metavar="S"),
    ] = 60.0
    timeout_shutdown: Annotated[
        SomeSeconds,
        option("For the lifespan's shutdown.", Group.TIMEOUTS, metavar="S"),
    ] = 30.0
    timeout_worker: Annotated[
        SomeSeconds,
        option(
            "When a silent worker is killed.",
            Group.TIMEOUTS,
            aliases=("timeout_worker_healthcheck",),
            metavar="S",
        ),
    ] = 60.0

    loop: Annotated[
        NonEmpty,
        option("Any name works: Trio is the loop.", Group.WITHOUT_EFFECT, metavar="NAME"),
    ] = "auto"
    http2: Annotated[
        bool,
        option("HTTP/2 is not there yet.", Group.WITHOUT_EFFECT),
    ] = False
    reset_contextvars: Annotated[
        bool,
        option("Each call always has its own context.", Group.WITHOUT_EFFECT),
    ] = False

    def __post_init__(self) -> None:
        chosen = _chosen(self)
        for name, value in _settle(chosen, {}).items():
            if value is not chosen[name]:
                msgspec.structs.force_setattr(self, name, value)

    def __repr__(self) -> str:
        shown = (f"{name}={OPTIONS[name].show(value)}" for name, value in _chosen(self).items())
        return f"Config({', '.join(shown)})"

    @classmethod
    def from_dict(cls, values: Mapping[str, object], origins: Origins | None = None) -> Self:
        """Make a Config of options by name, with `origins` for the errors' messages.

        Raises ConfigError as the constructor does, and for an unknown name with the nearest one there is.
        """
        return msgspec.convert(_settle(_by_own_name(values), origins or {}), cls)

    def to_dict(self) -> dict[str, object]:
        """The options that are not at their default, in types that JSON has."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in _chosen(self).items()
        }

    def replace(self, **changes: object) -> Self:
        """A copy with some options changed; raises ConfigError as `from_dict` does."""
        return type(self).from_dict({**_chosen(self), **_by_own_name(changes)})

    def remarks(self) -> list[str]:
        """What to say of options that were given and have no effect here."""
        return [remark for given, remark in _remarks(self) if given]

    @property
    def binds(self) -> tuple[str, ...]:
        """The addresses to listen on, as `bind` spells them; never empty."""
        if self.bind:
            return self.bind
        if self.uds is not None:
            return (f"unix:{self.uds}",)
        if self.fd is not None:
            return (f"fd:{self.fd}",)
        host = DEFAULT_HOST if self.host is None else self.host
        port = DEFAULT_PORT if self.port is None else self.port
        return (f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}",)


OPTIONS: Mapping[str, Option] = read_options(Config)
"""Every option by name, in the order declared."""

NAMES: Mapping[str, str] = option_names(OPTIONS)
"""For every name that an option has, in any source, the option's own."""

LISTENING_WAYS: tuple[tuple[str, ...], ...] = (("bind",), ("host", "port"), ("uds",), ("fd",))
"""The ways to say where to listen; a Config uses one of them."""


def _chosen(config: Config) -> dict[str, object]:
    """What is not at its default. (1 is not True here, although it is equal.)"""
    values = ((option, getattr(config, option.name)) for option in OPTIONS.values())
    return {
        option.name: value
        for option, value in values
        if value is not option.default
        and (type(value) is not type(option.default) or value != option.default)
    }


def _by_own_name(values: Mapping[str, object]) -> dict[str, object]:
    """`values` by the options' own names; names that no option has stay. Raises ConfigError."""
    named: dict[str, object] = {}
    for name, value in values.items():
        own = NAMES.get(name, name)
        if own in named:
            raise ConfigError(f"{own} is given twice, the second time as {name}; remove one of the two")
        named[own] = value
    return named


def _remarks(config: Config) -> Iterator[tuple[bool, str]]:
    """Whether there is a reason to say so, and what."""
    yield (
        config.loop not in ("auto", "trio"),
        f"loop = {config.loop!r} has no effect: this server runs on Trio, which is the loop",
    )
    yield (
        config.client_certs != "none" and config.certfile is None,
        f"client_certs = {config.client_certs!r} has no effect without certfile: "
        "clients show certificates over TLS alone, and this is plain HTTP",
    )
    yield (
        config.client_certs != "none" and config.certfile is not None and config.ca_certs is None,
        f"client_certs = {config.client_certs!r} without ca_certs: every client that shows a certificate is "
        "refused; set ca_certs to the file of the authorities that sign clients' certificates",
    )
    yield (
        config.ca_certs is not None and config.client_certs == "none",
        f"ca_certs = {config.ca_certs!r} has no effect: clients are not asked for certificates; "
        "set client_certs to optional or required",
    )
    yield (
        config.keyfile_password is not None and config.certfile is None,
        "keyfile_password has no effect without certfile: this is plain HTTP",
    )
    for name in ("host", "port"):
        value = getattr(config, name)
        yield (
            value is not None and (config.uds is not None or config.fd is not None),
            f"{name} = {value!r} has no effect: {'fd' if config.uds is None else 'uds'} says where to listen",
        )
    yield config.http2, "http2 has no effect yet: this server speaks HTTP/1.1 and WebSocket"


def _settle(values: Mapping[str, object], origins: Origins) -> dict[str, object]:
    """`values` checked, each by itself and then one against another; raises ConfigError."""
    settled: dict[str, object] = {}
    for name, value in values.items():
        origin = origins.get(name, f"keyword {name}")
        if name not in OPTIONS:
            raise unknown_option(name, origin, NAMES)
        settled[name] = OPTIONS[name].check(value, origin)
    if "root_path" in settled:
        settled["root_path"] = _as_mount(str(settled["root_path"]))
    for rule in _RULES:
        rule(settled, origins)
    return settled


def _as_mount(path: str) -> str:
    """The path with one slash before it and none behind; empty for the root (ASGI's `root_path`)."""
    inner = path.strip("/")
    return f"/{inner}" if inner else ""


def _said(name: str, values: Mapping[str, object], origins: Origins) -> str:
    return f"{name} = {OPTIONS[name].quote(values[name])} (from {origins.get(name, f'keyword {name}')})"


def _is_set(name: str, values: Mapping[str, object]) -> bool:
    return values.get(name) not in (None, ())


def _check_listening(values: Mapping[str, object], origins: Origins) -> None:
    used = [name for way in LISTENING_WAYS for name in way if _is_set(name, values)]
    ways = [way for way in LISTENING_WAYS if not set(way).isdisjoint(used)]
    # Beside uds or fd, host and port have no effect, as with uvicorn: Config.remarks() says so.
    if len(ways) > 1 and (_is_set("bind", values) or (_is_set("uds", values) and _is_set("fd", values))):
        both = " and ".join(_said(name, values, origins) for name in used)
        raise ConfigError(f"{both} exclude each other; give every address to listen on as a bind of its own")


def _check_host(values: Mapping[str, object], origins: Origins) -> None:
    host = str(values.get("host") or "")
    if "/" in host or (":" in host and not _IPV6.fullmatch(host)):
        OPTIONS["host"].refuse(
            host,
            origins.get("host", "keyword host"),
            "a name or an IP address without a port: the port is an option of its own",
        )


def _check_certificate(values: Mapping[str, object], origins: Origins) -> None:
    certfile = values.get("certfile")
    if certfile is None and _is_set("keyfile", values):
        raise ConfigError(
            f"{_said('keyfile', values, origins)} without certfile; set certfile to the certificate's chain"
        )
    for name in ("keyfile", "keyfile_password"):
        if certfile == DEVELOPMENT and _is_set(name, values):
            raise ConfigError(
                f"{_said(name, values, origins)} with {_said('certfile', values, origins)}, "
                "which has a key of its own; set certfile to the certificate's file"
            )


def _check_header(values: Mapping[str, object], origins: Origins) -> None:
    entries = values.get("header", ())
    assert isinstance(entries, tuple)
    for entry in entries:
        if not _HEADER.fullmatch(entry):
            OPTIONS["header"].refuse(
                entry,
                origins.get("header", "keyword header"),
                "'Name: value', the name a token, the value free of control characters (RFC 9110 5.5)",
            )
        name = entry.partition(":")[0].lower()
        if name in _FRAMING or name.startswith("sec-websocket-"):
            OPTIONS["header"].refuse(
                entry,
                origins.get("header", "keyword header"),
                "a field that does not frame the message: the server sets those itself (RFC 9112 6)",
            )


def _check_trusted(values: Mapping[str, object], origins: Origins) -> None:
    for name in ("forwarded_allow_ips", "proxy_protocol_trusted"):
        entries = values.get(name, ())
        assert isinstance(entries, tuple)
        if not entries:
            continue
        from trioasgi.trust import EXPECTED, Trusted

        try:
            Trusted(entries)
        except ValueError as error:
            OPTIONS[name].refuse(entries, origins.get(name, f"keyword {name}"), f"{EXPECTED}: {error}")


def _check_forwarded_headers(values: Mapping[str, object], origins: Origins) -> None:
    names = values.get("forwarded_headers", ())
    assert isinstance(names, tuple)
    for name in ",".join(names).split(",") if names else ():
        if name.strip().lower() not in FORWARDED_HEADERS:
            OPTIONS["forwarded_headers"].refuse(
                name,
                origins.get("forwarded_headers", "keyword forwarded_headers"),
                "one of " + ", ".join(FORWARDED_HEADERS),
            )


def _check_log_config(values: Mapping[str, object], origins: Origins) -> None:
    log_config = values.get("log_config")
    if not isinstance(log_config, dict) or not _crosses(values):
        return
    import json  # few starts have one

    try:
        json.dumps(log_config)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"bad value for log_config (from {origins.get('log_config', 'keyword log_config')}): {error}, "
            "and it goes to the workers as JSON; name objects by their import path, such as 'ext://sys.stderr'"
        ) from error


def _crosses(values: Mapping[str, object]) -> bool:
    """Whether the options go to another process."""
    return bool(values.get("reload")) or values.get("workers", 1) != 1


_RULES = (
    _check_log_config,
    _check_listening,
    _check_host,
    _check_certificate,
    _check_header,
    _check_trusted,
    _check_forwarded_headers,
)
