"""Certificates of a CA that only the test knows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """A CA, and the files of a certificate for localhost that it has signed."""

    ca: trustme.CA
    certfile: str
    keyfile: str

    @property
    def options(self) -> dict[str, object]:
        """What a server is told, to serve with them."""
        return {"certfile": self.certfile, "keyfile": self.keyfile}

    def context(self) -> ssl.SSLContext:
        """A client's context, which trusts that CA alone and checks the host's name."""
        # Loading the system's authorities takes sixty times as long as all else.
        context = ssl.create_default_context(cadata=self.ca.cert_pem.bytes().decode())
        assert context.check_hostname
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make a CA and a certificate, whose files go to `directory`."""
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost")
    certfile, keyfile = directory / "cert.pem", directory / "key.pem"
    leaf.private_key_pem.write_to_path(keyfile)
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(certfile, append=True)
    return Certificates(ca, str(certfile), str(keyfile))
