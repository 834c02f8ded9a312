"""The TLS context of a server.

It is built in the worker that uses it, because it cannot cross a process boundary. Any fault of the files is
a `TLSError` that names the file and the fix.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Literal

from trioasgi.errors import TLSError
from trioasgi.tls.clients import refuse_revoked, verify_clients
from trioasgi.tls.loading import load_pair

_VERSIONS = {
    "auto": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    "1.2": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    "1.3": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
}
"""The oldest and the newest version of TLS. Older versions are deprecated (RFC 8996)."""


def server_context(
    certfile: str,
    keyfile: str | None = None,
    password: str | None = None,
    *,
    password_source: str | None = None,
    alpn: Sequence[str] = (),
    ca_certs: str | None = None,
    client_certs: Literal["none", "optional", "required"] = "none",
    version: Literal["auto", "1.2", "1.3"] = "auto",
    crl: str | None = None,
    ciphers: str | None = None,
    curves: str | None = None,
) -> ssl.SSLContext:
    """Build the context that a server's side of a connection needs.

    `certfile` is PEM: the server's certificate, then any intermediate ones. `keyfile` is PEM as well; None
    means that the key stands in `certfile`. `password` decrypts the key; OpenSSL is never let to ask for one
    on the terminal. `alpn` are protocol names in order of preference (RFC 7301). `client_certs` says whether
    clients are asked for a certificate, and whether they have to have one; `ca_certs`, PEM as well, has the
    authorities that must have signed it, and `crl` the lists of certificates that they have revoked.

    TLS 1.2 is the oldest version spoken; `version` is the only one, unless it is `auto`. `ciphers`, a
    cipher list of OpenSSL's, are those of TLS 1.2 (those of TLS 1.3 are OpenSSL's to choose). `curves` are
    the groups of the key exchange, separated by colons, the best one first; before Python 3.15 it can be only
    one. Otherwise ciphers and curves are the standard library's defaults.

    Raises TLSError, which names the file at fault and what to do about it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version, context.maximum_version = _VERSIONS[version]
    # A client of TLS 1.2 could demand renegotiations without end, and trio.SSLStream does not support them.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Many clients close their side of TCP without close_notify, as HTTP's messages say themselves where they
    # end (RFC 9112, 9.8). Without this option OpenSSL would then send nothing, and the client would get no
    # answer.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    # One for each connection, not OpenSSL's two: a client that resumes gets a new one, and each takes 6 % of
    # the time of a handshake.
    context.num_tickets = 1
    if ciphers is not None:
        _set_ciphers(context, ciphers)
    if curves is not None:
        _set_curves(context, curves)
    load_pair(context, certfile, keyfile, password, password_source)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_certs != "none":
        verify_clients(context, ca_certs, required=client_certs == "required")
        if crl is not None:
            refuse_revoked(context, crl)
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except (ssl.SSLError, ValueError) as error:
        raise TLSError(
            f"no cipher is left by --ciphers {ciphers!r}; ", "`openssl ciphers -v` shows what may be listed"
        ) from error


_CURVES = {"P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}
"""OpenSSL's names of curves, by other names."""


def _set_curves(context: ssl.SSLContext, curves: str) -> None:
    """Python 3.15 has a method for several groups. Before, there is one for a single curve."""
    names = [_CURVES.get(name.strip(), name.strip()) for name in curves.split(":")]
    set_groups: Callable[[str], None] | None = getattr(context, "set_groups", None)
    if set_groups is None and len(names) > 1:
        raise TLSError(
            f"--curves {curves!r}: this version of Python can set one curve only, Python 3.15 and later "
            f"several; ",
            "name one, such as X25519",
        )
    try:
        if set_groups is None:
            context.set_ecdh_curve(names[0])
        else:
            set_groups(":".join(names))
    except (ssl.SSLError, ValueError) as error:
        raise TLSError(
            f"--curves {curves!r} names a curve that OpenSSL does not know; ",
            "`openssl ecparam -list_curves` shows those there are, besides X25519 and X448",
        ) from error
