"""Makes the settings of each room from a Config. So only this module and
`assembly_tls.py` of the wire side know the options' names.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec.structs

from trioasgi.asgi.forwarded import Forwarding
from trioasgi.config import DEVELOPMENT
from trioasgi.config.option import origin_of
from trioasgi.errors import ConfigError
from trioasgi.http.fields import DefaultFields
from trioasgi.http.limits import Limits
from trioasgi.http1.codec import Codec
from trioasgi.http1.connection import HTTP1Connection
from trioasgi.http1.encoder import HeadEncoder
from trioasgi.http1.settings import (
    FIRST_REQUEST_SECONDS,
    LAST_REQUEST_SECONDS,
    RELOAD_SECONDS,
    GivesUp,
    HTTP1Settings,
)
from trioasgi.net.address import TCPAddress, is_inherited, parse_bind
from trioasgi.net.trust import Trusted
from trioasgi.observe.access import AccessLog
from trioasgi.observe.logs import LogSettings
from trioasgi.server.codecs import PACKAGES
from trioasgi.server.grace import Grace
from trioasgi.server.protocols import Protocols
from trioasgi.server.settings import ConnectionSettings, LiveTLS, ProxyProtocol
from trioasgi.websocket.keepalive import Keepalive
from trioasgi.websocket.settings import WebSocketSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioasgi.asgi.door import Door
    from trioasgi.config import Config
    from trioasgi.http.exchange import Handler
    from trioasgi.net.channel import Channel
    from trioasgi.net.connection_info import ConnectionInfo
    from trioasgi.net.latency import LoopLatency
    from trioasgi.server.given import Admission
    from trioasgi.server.handshakes import FailedHandshakes
    from trioasgi.server.protocols import ConnectionFactory, ServerServices
    from trioasgi.websocket.codec import FrameCodec


def grace(config: Config) -> Grace:
    """The time that running requests have when the server drains. At a change of files the supervisor sets
    `reload_grace`, which is also the default for a stop then.
    """
    options = {config.timeout_graceful_shutdown: "--timeout-graceful-shutdown"}
    if config.reload:
        options[config.reload_grace] = "--reload-grace"
    return Grace(config.timeout_graceful_shutdown, options)


def connection_settings(
    config: Config,
    *,
    tls: LiveTLS | None,
    handler: Callable[[ConnectionInfo], Handler],
    access_log: AccessLog | None,
    admission: Admission | None,
    failed_handshakes: FailedHandshakes,
) -> ConnectionSettings:
    """The settings of connections. `handler` makes what answers their exchanges."""
    return ConnectionSettings(
        protocols=Protocols({name: make(config, handler, access_log) for name, make in PROTOCOLS.items()}),
        tls=tls,
        timeout_handshake=config.timeout_handshake,
        proxy_protocol=_proxy_protocol(config),
        admission=admission,
        failed_handshakes=failed_handshakes,
        redirects_plain_http=config.redirect_plain_http,
    )


def redirecting_settings(
    config: Config, served: ConnectionSettings, handler: Callable[[ConnectionInfo], Handler]
) -> ConnectionSettings:
    """The settings of connections on which `handler` redirects to https. `served` are those of the others."""
    header = tuple(each for each in config.header if _parse_header(each)[0] != _HSTS)
    plain = config.replace(hsts=0, header=header)  # RFC 6797, 7.2: not over plain HTTP
    protocols = Protocols({"http/1.1": _http1(plain, handler, access_log(config))})
    return msgspec.structs.replace(served, protocols=protocols, tls=None)


def _http1(
    config: Config, handler: Callable[[ConnectionInfo], Handler], access_log: AccessLog | None
) -> ConnectionFactory:
    settings = _http1_settings(config, access_log)

    def connect(channel: Channel, info: ConnectionInfo, services: ServerServices) -> HTTP1Connection:
        return HTTP1Connection(
            channel, info, settings, handler(info), services.context, services.start_task, services.take_over
        )

    return connect


def _extra_fields(config: Config) -> list[tuple[bytes, bytes]]:
    """The fields of `--header`, and with TLS Strict-Transport-Security (RFC 6797, 6.1 and 7.2)."""
    extra = [_parse_header(header) for header in config.header]
    if config.hsts and config.has_tls and not any(name == _HSTS for name, _ in extra):
        extra.append((_HSTS, b"max-age=%d" % config.hsts))
    return extra


_HSTS: Final = b"strict-transport-security"

PROTOCOLS: Final = {"http/1.1": _http1}
"""For each protocol the function that makes its connections, by ALPN name (RFC 7301, 6), in order of
preference.
"""


def _http1_settings(config: Config, access_log: AccessLog | None) -> HTTP1Settings:
    return HTTP1Settings(
        codec=codec_factory(config.http)(),
        limits=Limits(
            header_bytes=config.limit_header_bytes,
            header_count=config.limit_header_count,
            target=config.limit_target,
            body=config.limit_body,
        ),
        heads=HeadEncoder(
            DefaultFields(
                date=config.date_header,
                server=config.server_header,
                extra=_extra_fields(config),
            )
        ),
        timeout_keep_alive=config.timeout_keep_alive,
        timeout_headers=config.timeout_headers,
        timeout_body=config.timeout_body,
        timeout_write=config.timeout_write,
        body_rate=config.limit_body_rate,
        request_timeout=config.request_timeout,
        gives_up=GivesUp[config.cancel_on_disconnect.upper()],
        disconnect_grace=config.disconnect_grace,
        access_log=access_log,
        last_first_request=RELOAD_SECONDS if config.reload else FIRST_REQUEST_SECONDS,
        last_request=RELOAD_SECONDS if config.reload else LAST_REQUEST_SECONDS,
    )


def codec_factory(http: str) -> Callable[[], Codec]:
    """The codec for `--http`. `auto` is the fastest that is installed. Raises ConfigError."""
    for name, package in PACKAGES.items():
        if http not in {"auto", name}:
            continue
        try:
            return _import_codec(name)
        except ImportError as exc:
            if http == name:
                raise ConfigError(
                    f"--http {name} needs the package {package} ({exc}): "
                    f"pip install -U 'trioasgi[{EXTRAS[name]}]'"
                ) from exc
    return _import_codec("h11")


EXTRAS: Final = {"h1c": "h1c", "httptools": "fast"}


def _import_codec(name: str) -> Callable[[], Codec]:
    match name:
        case "h1c":
            from trioasgi.http1.h1c_codec import H1CCodec

            return H1CCodec
        case "httptools":
            from trioasgi.http1.httptools_codec import HttptoolsCodec

            return HttptoolsCodec
    from trioasgi.http1.h11_codec import H11Codec

    return H11Codec


def websocket_codec_factory(websocket: str) -> Callable[..., FrameCodec]:
    """The codec for `--websocket`. `auto` is websockets if it is installed. Raises ConfigError."""
    match websocket:
        case "websockets":
            try:
                from trioasgi.websocket.websockets_codec import WebsocketsCodec
            except ImportError as exc:
                raise ConfigError(
                    "--websocket websockets needs the package websockets: pip install 'trioasgi[fast]'"
                ) from exc
            return WebsocketsCodec
        case "wsproto":
            from trioasgi.websocket.wsproto_codec import WsprotoCodec

            return WsprotoCodec
        case _:
            return _best_websocket_codec


def _best_websocket_codec(**options: Any) -> FrameCodec:
    """Choose the codec at the first WebSocket, because most servers never see one, and importing it takes
    time.
    """
    try:
        factory = websocket_codec_factory("websockets")
    except ConfigError:
        factory = websocket_codec_factory("wsproto")
    return factory(**options)


def websocket_settings(config: Config) -> WebSocketSettings | None:
    """The settings of WebSockets; None if they are off."""
    if config.websocket == "off":
        return None
    return WebSocketSettings(
        codec=websocket_codec_factory(config.websocket),
        keepalive=Keepalive(),
        max_size=config.websocket_max_size,
        max_queue=config.websocket_max_queue,
        ping_interval=config.websocket_ping_interval,
        ping_timeout=config.websocket_ping_timeout,
        close_timeout=config.websocket_close_timeout,
        deflate=config.websocket_deflate,
    )


@contextmanager
def resolve_certificate(config: Config) -> Iterator[Config]:
    """Yield the config. If it asks for a development certificate, make that, and put its files into the
    config.

    The files are removed at the end. Raises TLSError, and ConfigError for an address that is none.
    """
    if config.certfile != (DEVELOPMENT,):
        yield config
        return
    from trioasgi.tls.development import development_certificate

    with development_certificate(_hosts(config)) as made:
        yield config.replace(certfile=str(made.certfile), keyfile=str(made.keyfile))


def _hosts(config: Config) -> list[str]:
    """The hosts that the sockets are bound to, as given. Those of inherited sockets are not known."""
    addresses = [parse_bind(bind) for bind in config.binds if not is_inherited(bind)]
    return [
        address.host for address in addresses if isinstance(address, TCPAddress) and address.host is not None
    ]


def log_settings(config: Config) -> LogSettings:
    """The settings of the log."""
    return LogSettings(
        level=config.log_level,
        use_colors=config.use_colors,
        log_config=config.log_config,
        origin=str(origin_of("log_config", config.origins)),
        directory=config.app_dir,
        access_log=config.access_log,
    )


def access_log(config: Config) -> AccessLog | None:
    """The access log, or None if it is off. Then requests are not timed either."""
    if not config.access_log or config.log_level in ("critical", "error", "warning"):
        return None
    return AccessLog()


def forwarding(config: Config) -> Forwarding | None:
    """Reads the header fields of trusted proxies; None if no proxy is trusted."""
    if not config.proxy_headers:
        return None
    return Forwarding(Trusted(config.forwarded_allow_ips), config.forwarded_headers)


def _proxy_protocol(config: Config) -> ProxyProtocol | None:
    if config.proxy_protocol == "off":
        return None
    import trioasgi.net.proxy  # as with TLS
    import trioasgi.net.pushback  # noqa: F401

    return ProxyProtocol(Trusted(config.proxy_protocol_trusted), required=config.proxy_protocol == "required")


def loop_latency(config: Config) -> LoopLatency | None:
    """What measures the latency of the loop; None if nothing depends on it."""
    if not config.shed_latency:
        return None
    from trioasgi.net.latency import LoopLatency  # few servers need it

    return LoopLatency(config.shed_latency)


def door(config: Config, latency: LoopLatency | None) -> Door | None:
    """What turns requests away; None if no limit is on."""
    if latency is None and not config.limit_concurrency:
        return None
    from trioasgi.asgi.door import Door

    return Door(concurrency=config.limit_concurrency, latency=latency, exempt=config.limit_exempt)


def max_requests(config: Config) -> int:
    """The number of requests after which a worker ends (0: never). It is random within the jitter, to spread
    restarts.
    """
    if not config.limit_max_requests:
        return 0
    return config.limit_max_requests + random.randint(0, config.limit_max_requests_jitter)  # noqa: S311 - no secret


def _parse_header(text: str) -> tuple[bytes, bytes]:
    name, _, value = text.partition(":")
    return name.strip().lower().encode("ascii"), value.strip().encode("latin-1")
