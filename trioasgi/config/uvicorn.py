"""uvicorn's names of options and values, all of which are accepted."""

from collections.abc import Mapping

UVICORN_PREFIX = "UVICORN_"
UVICORN_NAMES = frozenset(
    {
        "access_log",
        "app",
        "app_dir",
        "backlog",
        "date_header",
        "env_file",
        "factory",
        "fd",
        "forwarded_allow_ips",
        "h11_max_incomplete_event_size",
        "headers",
        "host",
        "http",
        "http2",
        "interface",
        "lifespan",
        "limit_concurrency",
        "limit_max_requests",
        "limit_max_requests_jitter",
        "log_config",
        "log_level",
        "loop",
        "port",
        "proxy_headers",
        "reload",
        "reload_delay",
        "reload_dirs",
        "reload_excludes",
        "reload_includes",
        "reset_contextvars",
        "root_path",
        "server_header",
        "ssl_ca_certs",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_keyfile_password",
        "ssl_version",
        "timeout_graceful_shutdown",
        "timeout_keep_alive",
        "timeout_worker_healthcheck",
        "uds",
        "use_colors",
        "workers",
        "ws",
        "ws_max_queue",
        "ws_max_size",
        "ws_per_message_deflate",
        "ws_ping_interval",
        "ws_ping_timeout",
    }
)
"""uvicorn's options, by its own names. It reads a variable for each."""

DEFAULTS: Mapping[str, object] = {"ciphers": "TLSv1", "reload_delay": 0.25, "timeout_worker": 5.0}
"""uvicorn's defaults that are not ours, of options that need others, by our names."""

CERT_REQS: Mapping[str, str] = {"0": "none", "1": "optional", "2": "required"}
"""The numbers of `ssl.CERT_NONE`, `CERT_OPTIONAL` and `CERT_REQUIRED`."""

TLS_VERSIONS: Mapping[str, str] = {"2": "auto", "17": "auto", "5": "1.2"}
"""The numbers of `ssl.PROTOCOL_TLS`, `PROTOCOL_TLS_SERVER` and `PROTOCOL_TLSv1_2`."""

BROKEN_TLS_VERSIONS: Mapping[str, str] = {
    "[013-4]": "the ssl module's numbers 0, 1, 3 and 4 are SSL 2 and 3, TLS 1.0 and 1.1, "
    "which are broken and not spoken any more (RFC 8996)",
    "16": "the ssl module's number 16 is a client's; a server's is 17",
}
"""Why the other numbers are refused."""

HTTP_PROTOCOLS: Mapping[str, str] = {
    "zttp": "auto",
    "uvicorn.protocols.http.auto:autohttpprotocol": "auto",
    "uvicorn.protocols.http.zttp_impl:zttpprotocol": "auto",
    "uvicorn.protocols.http.h11_impl:h11protocol": "h11",
    "uvicorn.protocols.http.httptools_impl:httptoolsprotocol": "httptools",
}
"""Our names for uvicorn's HTTP parsers, by uvicorn's names and the paths of its classes."""

WEBSOCKET_PROTOCOLS: Mapping[str, str] = {
    "none": "off",
    "websockets-sansio": "websockets",
    "uvicorn.protocols.websockets.auto:autowebsocketsprotocol": "auto",
    "uvicorn.protocols.websockets.websockets_impl:websocketprotocol": "websockets",
    "uvicorn.protocols.websockets.websockets_sansio_impl:websocketssansioprotocol": "websockets",
    "uvicorn.protocols.websockets.wsproto_impl:wsprotocol": "wsproto",
}
"""The same for WebSockets."""

LOG_LEVELS: Mapping[str, str] = {
    "50": "critical",
    "40": "error",
    "30": "warning",
    "20": "info",
    "10": "debug",
    "5": "trace",
}
"""The numbers of the `logging` module, and uvicorn's number of its level `trace`."""

FOREIGN_CLASS: Mapping[str, str] = {r".*[.:].*": "a class for asyncio cannot run on Trio"}
"""Why a custom protocol class, which uvicorn accepts, is refused."""
