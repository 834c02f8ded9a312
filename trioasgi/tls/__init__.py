"""TLS: server contexts, what a certificate says of itself, and certificates for development."""

from __future__ import annotations

from .context import Certificate, describe, server_context
from .development import DevelopmentCertificate, make_development_certificate, resolve_certificate

__all__ = [
    "Certificate",
    "DevelopmentCertificate",
    "describe",
    "make_development_certificate",
    "resolve_certificate",
    "server_context",
]
