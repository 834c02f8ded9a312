"""The lines that a server logs when it is ready."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from .logs import SERVER
from .text import escaped

if TYPE_CHECKING:
    from trioasgi.tls.certificates import Certificate
    from trioasgi.tls.client_dates import DateFault

logger = logging.getLogger(SERVER)

STOP_HINT: Final = "Ctrl-C to stop"
"""How to stop a server that has its process to itself."""


def announce(
    urls: Sequence[str],
    *,
    redirecting: Sequence[str] = (),
    workers: int = 1,
    codec: str,
    websocket: str | None = None,
    certificates: Sequence[Certificate] = (),
    faults_of_clients: Sequence[DateFault] = (),
    is_supervised: bool = False,
    reload: bool = False,
    stop_hint: str | None = STOP_HINT,
) -> None:
    """Log where the server listens, with which processes, codec and certificate. On the URLs `redirecting` it
    only redirects to https.

    `workers` is how many processes run the application. `is_supervised`: does this process only supervise
    them? `reload` says that they are replaced on changes.
    `codec` names the HTTP/1.1 parser, `websocket` the WebSocket codec; None where there are no WebSockets.
    `stop_hint` is None where no signal of a terminal ends the server, or the program receives it.
    A certificate that clients will refuse by its dates gets a warning as well, and so do `faults_of_clients`.
    """
    hint = f" ({stop_hint})" if stop_hint else ""
    for url in urls:
        logger.info("Serving on %s%s", escaped(url), hint)
        hint = ""
    for url in redirecting:
        logger.info("Redirecting %s to https", escaped(url))
    codecs = f"HTTP/1.1 by {codec}" + (f", WebSocket by {websocket}" if websocket else "")
    logger.info("%s; %s", _processes(workers, is_supervised=is_supervised, reload=reload), codecs)
    for certificate in certificates:
        announce_certificate(certificate)
    for fault in faults_of_clients:
        logger.warning("%s", escaped(str(fault)))


def announce_certificate(certificate: Certificate, what: str = "Certificate") -> None:
    """Log whose certificate it is, and until when it is valid. `what` begins the line.

    Called once, and not where a context is built: that is in every worker.
    """
    now = datetime.now(UTC)
    logger.info("%s: %s", what, _validity(certificate, now))
    for problem in (certificate.problem(now), certificate.chain_fault):
        if problem is not None:
            logger.warning("%s", escaped(str(problem)))


def announce_new_certificates(certificates: Iterable[Certificate]) -> None:
    """Log what certificates new connections get from now on."""
    for certificate in certificates:
        announce_certificate(certificate, "Certificate for new connections")


def log_remarks(remarks: Iterable[str]) -> None:
    """Warn of options that have no effect."""
    for remark in remarks:
        logger.warning("%s", escaped(remark))


def _processes(workers: int, *, is_supervised: bool, reload: bool) -> str:
    if not (is_supervised or workers > 1 or reload):
        return f"One process, {os.getpid()}"
    count = "One worker" if workers == 1 else f"{workers} workers"
    changes = ", reloading on changes" if reload else ""
    return f"{count} under supervisor {os.getpid()}{changes}"


def _validity(certificate: Certificate, now: datetime) -> str:
    names = ", ".join(certificate.names)
    also = f" ({escaped(names)})" if names and names != certificate.subject else ""
    days = (certificate.not_after - now).days
    when = f"{certificate.not_after:%Y-%m-%d}"
    validity = f"valid until {when}, {days} days" if days >= 0 else f"expired on {when}"
    return f"{escaped(certificate.subject)}{also}, {validity}"
