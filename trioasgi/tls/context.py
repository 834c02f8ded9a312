"""The TLS context of a server.

It is built in the worker that uses it, because it cannot cross a process boundary. Any fault of the files is
a `TLSError` that names the file and the fix.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Literal

from trioasgi.errors import TLSError
from trioasgi.tls.files import CERTIFICATE_MARK, read_file
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
    alpn: Sequence[str] = (),
    ca_certs: str | None = None,
    client_certs: Literal["none", "optional", "required"] = "none",
    version: Literal["auto", "1.2", "1.3"] = "auto",
    ciphers: str | None = None,
) -> ssl.SSLContext:
    """Build the context that a server's side of a connection needs.

    `certfile` is PEM: the server's certificate, then any intermediate ones. `keyfile` is PEM as well; None
    means that the key stands in `certfile`. `password` decrypts the key; OpenSSL is never let to ask for one
    on the terminal. `alpn` are protocol names in order of preference (RFC 7301). `client_certs` says whether
    clients are asked for a certificate, and whether they have to have one; `ca_certs`, PEM as well, has the
    authorities that must have signed it.

    TLS 1.2 is the oldest version spoken; `version` is the only one, unless it is `auto`. `ciphers`, a
    cipher list of OpenSSL's, are those of TLS 1.2 (those of TLS 1.3 are OpenSSL's to choose); otherwise
    ciphers and curves are the standard library's defaults.

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
    load_pair(context, certfile, keyfile, password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client_certs != "none":
        _verify_clients(context, ca_certs, required=client_certs == "required")
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except (ssl.SSLError, ValueError) as error:
        raise TLSError(
            f"no cipher is left by --ciphers {ciphers!r}; `openssl ciphers -v` shows what may be listed"
        ) from error


def _verify_clients(context: ssl.SSLContext, ca_certs: str | None, *, required: bool) -> None:
    if ca_certs is not None:  # without authorities no certificate is accepted
        if CERTIFICATE_MARK not in read_file(ca_certs, "ca_certs"):
            raise TLSError(
                f"ca_certs file {ca_certs!r} holds no certificate in PEM: give the certificates of the "
                "authorities that sign clients' certificates"
            )
        try:
            context.load_verify_locations(ca_certs)
        except ssl.SSLError as error:
            raise TLSError(
                f"ca_certs file {ca_certs!r} is damaged: OpenSSL cannot read it ({error}); "
                f"copy it again from where it was made"
            ) from error
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
