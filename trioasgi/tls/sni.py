"""Chooses the certificate by the name that the client asks for (SNI; RFC 6066, 3)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence

from trioasgi.tls.certificates import describe


def choose_by_name(
    contexts: Sequence[ssl.SSLContext], certfiles: Sequence[str], *, refuses: bool = False
) -> None:
    """Let the handshakes of the first context use the one whose certificate is for the client's name.
    `certfiles` are those of the contexts.

    If several are for a name, the first one is used, and one with the name itself rather than a wildcard. A
    client that asks for no name, or for another one, gets the first certificate. With `refuses` the alert
    `unrecognized_name` ends its handshake. Raises TLSError.
    """
    by_name: dict[str, ssl.SSLContext | None] = {}
    for context, certfile in zip(contexts, certfiles, strict=True):
        certificate = describe(certfile)
        for name in certificate.names or (certificate.subject,):
            # Not the first context itself: it would refer to itself, and only the garbage collector would
            # free it.
            by_name.setdefault(_plain(name), None if context is contexts[0] else context)
    contexts[0].sni_callback = _chooser(by_name, refuses=refuses)


def _chooser(
    by_name: Mapping[str, ssl.SSLContext | None], *, refuses: bool
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]:
    def choose(secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        plain = _plain(name or "")
        found = plain if plain in by_name else _wildcard(plain)
        if found not in by_name:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if refuses else None
        context = by_name[found]
        if context is not None:
            secured.context = context
        return None

    return choose


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _wildcard(name: str) -> str:
    """The name with `*` for its first label (RFC 9525, 6.3)."""
    return f"*.{name.partition('.')[2]}"
