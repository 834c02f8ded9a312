"""The files that options name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .declaration import Declaration

CERTIFICATE_FILES: Final = ("certfile", "keyfile", "keyfile_password_file", "ca_certs", "crl")
"""The options for files of TLS. A server reads them again when they change."""


def certificate_files(config: Declaration) -> tuple[str, ...]:
    """The files of the certificate, its key, and the certificates of clients."""
    return named_files(config, CERTIFICATE_FILES)


def named_files(config: Declaration, options: tuple[str, ...]) -> tuple[str, ...]:
    """The files that these options name."""
    return tuple(str(name) for option in options if (name := getattr(config, option)))
