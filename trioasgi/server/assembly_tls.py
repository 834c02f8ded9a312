"""Makes the settings of TLS from a Config, as `assembly.py` does those of the other rooms."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from trioasgi.config.named_files import CERTIFICATE_FILES, absolute, certificate_files
from trioasgi.errors import TLSError
from trioasgi.observe.text import escaped
from trioasgi.server.assembly import PROTOCOLS
from trioasgi.server.settings import LiveTLS, ServerTLS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from trioasgi.config import Config
    from trioasgi.tls.certificates import Certificate
    from trioasgi.tls.client_dates import DateFault
    from trioasgi.tls.extension import ConnectionDescriber
    from trioasgi.tls.rotation import Rotation

logger = logging.getLogger("trioasgi")


def server_tls(config: Config) -> ServerTLS | None:
    """The settings of TLS; None without TLS. Raises TLSError."""
    if not config.has_tls:
        return None
    # What connections load: the first client would wait for it, and by then no descriptor may be left.
    import trioasgi.net.secure
    import trioasgi.server.handshake_errors
    import trioasgi.server.plain_http  # noqa: F401
    from trioasgi.tls.extension import ConnectionDescriber

    if config.ssl_context_factory is None:
        described = _contexts_of_files(config)
        context = next(iter(described))
        if len(described) == 1:
            return ServerTLS(context, described[context].describe)
        return ServerTLS(context, lambda secured: described[secured.context].describe(secured))
    from trioasgi.server.context_factory import make_context

    by_context: dict[ssl.SSLContext, ConnectionDescriber] = {}

    def default() -> ssl.SSLContext:
        if not config.certfile:
            raise TLSError(
                "ssl_context_factory has called the default factory, which needs a certfile: ",
                "give one, or make the context without it",
            )
        made = _contexts_of_files(config)
        by_context.update(made)
        return next(iter(made))

    context = make_context(config, default)
    by_context.setdefault(context, ConnectionDescriber(context))

    def describe(secured: ssl.SSLObject) -> Mapping[str, object]:
        known = by_context.get(secured.context)  # None: a callback of the program has chosen it
        return (known or ConnectionDescriber(secured.context)).describe(secured)

    return ServerTLS(context, describe)


def _contexts_of_files(config: Config) -> dict[ssl.SSLContext, ConnectionDescriber]:
    """The context of each certificate, the first one first. Raises TLSError."""
    from trioasgi.tls.context import server_context
    from trioasgi.tls.extension import ConnectionDescriber
    from trioasgi.tls.sni import choose_by_name

    password = key_password(config)
    contexts = [
        server_context(
            certfile,
            keyfile,
            password,
            password_source="--keyfile-password-file" if config.keyfile_password_file else None,
            alpn=tuple(PROTOCOLS),
            ca_certs=config.ca_certs,
            client_certs=config.client_certs,
            crl=config.crl,
            version=config.tls_version,
            ciphers=config.ciphers,
            curves=config.curves,
        )
        for certfile, keyfile in zip_longest(config.certfile, config.keyfile)
    ]
    if len(contexts) > 1 or config.unknown_names == "refuse":
        choose_by_name(contexts, config.certfile, refuses=config.unknown_names == "refuse")
    return dict(zip(contexts, map(ConnectionDescriber, contexts, config.certfile), strict=True))


def describe_certificates(config: Config) -> list[Certificate]:
    """The certificates of the server, for the log. Raises TLSError."""
    if not config.certfile:
        return []
    from trioasgi.tls.certificates import describe

    return [describe(certfile) for certfile in config.certfile]


def faults_of_clients(config: Config) -> list[DateFault]:
    """What makes the server refuse certificates of clients by its dates. Raises TLSError."""
    if not config.certfile or config.client_certs == "none" or config.ssl_context_factory is not None:
        return []  # a factory's context may use other files
    from trioasgi.tls.client_dates import date_faults

    return date_faults(config.ca_certs, config.crl, datetime.now(UTC))


def key_password(config: Config) -> str | None:
    """The password of the keys, if the options give one. Raises TLSError."""
    if config.keyfile_password_file is None:
        return config.keyfile_password
    from trioasgi.tls.loading import read_password

    return read_password(config.keyfile_password_file)


Loaded: TypeAlias = "tuple[ServerTLS, list[DateFault]]"
"""What a rotation loads: the TLS, and the faults to warn of."""


def live_tls(config: Config) -> tuple[LiveTLS, Rotation[Loaded]]:
    """The TLS of a server that has it, and what replaces it when the files have changed. Raises TLSError."""
    from trioasgi.tls.rotation import Rotation, states_of

    # Absolute paths: the application may leave the current directory.
    later = config.replace(
        **{name: absolute(value) for name in CERTIFICATE_FILES if (value := getattr(config, name))}
    )
    files = certificate_files(later)
    states = states_of(files)  # before they are read: a change from now on is noticed

    first = server_tls(config)
    assert first is not None
    live = LiveTLS(first)

    def load() -> Loaded:
        made = server_tls(later)
        assert made is not None
        return made, faults_of_clients(later)

    def use(loaded: Loaded) -> bool:
        made, faults = loaded
        for fault in faults:
            logger.warning("%s", escaped(str(fault)))
        is_same = made.context is live.current.context
        if is_same:
            logger.warning(
                "ssl_context_factory has returned the context that is in use. A change of that one in a "
                "thread can crash OpenSSL, so the next call is made in the loop, and requests wait for it. "
                "Make a new context in each call"
            )
        live.use(made)
        return is_same

    return live, Rotation(files, later.certfile, states=states, load=load, use=use)
