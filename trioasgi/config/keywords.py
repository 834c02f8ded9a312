"""The options as keywords, for type checkers: what `**options` of `serve` and `run` may be.

Made by docs/make_keywords.py from declaration.py; change that instead.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from ssl import SSLContext
from typing import Any, Literal, TypedDict

Text = str | PathLike[str]
Texts = str | PathLike[str] | Sequence[str | PathLike[str]]
"""Several texts; a single one may stand alone."""
Pairs = str | Sequence[str | tuple[str, str]]
"""Several texts, each whole or as its two parts."""


class Options(TypedDict, total=False):
    """Every option but the application. None is the default, or a value of its own (docs/options.md)."""

    factory: bool | None
    app_dir: Text | None
    env_file: Text | None
    interface: Literal["auto", "asgi", "asgi2", "wsgi", "asgi3"] | None
    threads: int | None
    lifespan: Literal["auto", "on", "off"] | None
    pathsend: bool | None
    root_path: Text | None
    bind: Texts | None
    host: Text | None
    port: int | None
    uds: Text | None
    fd: int | None
    backlog: int | None
    defer_accept: int | None
    certfile: Texts | None
    keyfile: Texts | None
    unknown_names: Literal["default", "refuse"] | None
    keyfile_password: Text | None
    keyfile_password_file: Text | None
    client_certs: Literal["none", "optional", "required"] | int | None
    ca_certs: Text | None
    crl: Text | None
    tls_version: Literal["auto", "1.2", "1.3"] | int | None
    curves: Text | None
    hsts: int | None
    redirect_plain_http: bool | None
    redirect_bind: Texts | None
    acme_dir: Text | None
    ciphers: Text | None
    ssl_context_factory: str | Callable[..., SSLContext] | None
    workers: int | Literal["auto"] | None
    reload: bool | None
    reload_dirs: Texts | None
    reload_includes: Texts | None
    reload_excludes: Texts | None
    reload_templates: bool | None
    reload_gitignore: bool | None
    reload_delay: float | None
    reload_grace: float | None
    standby: bool | None
    smoke: Texts | None
    smoke_timeout: float | None
    control: Text | None
    worker_lifetime: float | None
    worker_max_rss: int | None
    pid_file: Text | None
    user: Text | None
    group: Text | None
    umask: Text | None
    http: Literal["auto", "h1c", "h11", "httptools", "zttp"] | type[object] | None
    server_header: bool | None
    date_header: bool | None
    header: Pairs | None
    proxy_headers: bool | None
    forwarded_allow_ips: Texts | None
    forwarded_headers: Texts | None
    proxy_protocol: Literal["off", "on", "required"] | None
    proxy_protocol_trusted: Texts | None
    websocket: (
        Literal["auto", "wsproto", "websockets", "off", "none", "websockets-sansio"] | type[object] | None
    )
    websocket_max_size: int | None
    websocket_max_queue: int | None
    websocket_ping_interval: float | None
    websocket_ping_timeout: float | None
    websocket_close_timeout: float | None
    websocket_deflate: bool | None
    log_config: Text | dict[str, Any] | None
    log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] | int | None
    access_log: bool | None
    use_colors: bool | None
    limit_header_bytes: int | None
    limit_header_count: int | None
    limit_target: int | None
    limit_body: int | None
    limit_concurrency: int | None
    shed_latency: float | None
    limit_exempt: Texts | None
    limit_connections: int | None
    limit_max_requests: int | None
    limit_max_requests_jitter: int | None
    limit_body_rate: int | None
    request_timeout: float | None
    cancel_on_disconnect: Literal["streams", "always", "never"] | None
    disconnect_grace: float | None
    timeout_keep_alive: float | None
    timeout_headers: float | None
    timeout_body: float | None
    timeout_write: float | None
    timeout_handshake: float | None
    timeout_graceful_shutdown: float | None
    timeout_startup: float | None
    timeout_shutdown: float | None
    timeout_worker: float | None
    loop: Text | None
    http2: bool | None
    reset_contextvars: bool | None

    # Further names of the same options, most of them uvicorn's

    ssl_certfile: Texts | None
    ssl_keyfile: Texts | None
    ssl_keyfile_password: Text | None
    ssl_cert_reqs: Literal["none", "optional", "required"] | int | None
    ssl_ca_certs: Text | None
    ssl_version: Literal["auto", "1.2", "1.3"] | int | None
    ssl_ciphers: Text | None
    reload_dir: Texts | None
    reload_include: Texts | None
    reload_exclude: Texts | None
    headers: Pairs | None
    ws: Literal["auto", "wsproto", "websockets", "off", "none", "websockets-sansio"] | type[object] | None
    ws_max_size: int | None
    ws_max_queue: int | None
    ws_ping_interval: float | None
    ws_ping_timeout: float | None
    ws_per_message_deflate: bool | None
    h11_max_incomplete_event_size: int | None
    timeout_worker_healthcheck: float | None
