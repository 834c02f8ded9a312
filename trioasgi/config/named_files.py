"""The files that options name."""

from __future__ import annotations

import os
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
    values = (getattr(config, option) for option in options)
    lists = (value if isinstance(value, tuple) else (value,) for value in values if value)
    return tuple(str(name) for value in lists for name in value)


def absolute(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The absolute path, or that of each."""
    return os.path.abspath(paths) if isinstance(paths, str) else tuple(map(os.path.abspath, paths))
