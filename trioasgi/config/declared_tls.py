"""The options of the group TLS (see `declaration.py`)."""

import os
from typing import Annotated, Any, Literal

from . import uvicorn
from .bounded import Count, NonEmpty
from .declared_listening import ApplicationAndListening
from .option import Group, option


class TLSToo(ApplicationAndListening, frozen=True, kw_only=True):
    """These, and TLS."""

    certfile: Annotated[
        tuple[NonEmpty, ...],
        option(
            "HTTPS; repeatable; no FILE: development.",
            Group.TLS,
            aliases=("ssl_certfile",),
            separator=os.pathsep,
            metavar="[FILE]",
            expected="a string that is not empty, or a list of them",
        ),
    ] = ()
    """The first one is for clients that ask for no name, or for another one."""
    keyfile: Annotated[
        tuple[NonEmpty, ...],
        option(
            "Its private key; one for each --certfile.",
            Group.TLS,
            aliases=("ssl_keyfile",),
            separator=os.pathsep,
            metavar="FILE",
            expected="a string that is not empty, or a list of them",
        ),
    ] = ()
    unknown_names: Annotated[
        Literal["default", "refuse"],
        option("In SNI: default, or refuse.", Group.TLS, metavar="HOW"),
    ] = "default"
    keyfile_password: Annotated[
        str | None,
        option(
            "The key's password; better as a variable.",
            Group.TLS,
            aliases=("ssl_keyfile_password",),
            metavar="TEXT",
            secret=True,
        ),
    ] = None
    keyfile_password_file: Annotated[
        NonEmpty | None, option("Its first line is the key's password.", Group.TLS, metavar="FILE")
    ] = None
    client_certs: Annotated[
        Literal["none", "optional", "required"],
        option(
            "none, optional or required.",
            Group.TLS,
            metavar="HOW",
            aliases=("ssl_cert_reqs",),
            spellings=uvicorn.CERT_REQS,
        ),
    ] = "none"
    ca_certs: Annotated[
        NonEmpty | None,
        option(
            "Authorities that sign client certificates.", Group.TLS, aliases=("ssl_ca_certs",), metavar="FILE"
        ),
    ] = None
    crl: Annotated[
        NonEmpty | None, option("Revoked certificates of clients (CRL).", Group.TLS, metavar="FILE")
    ] = None
    tls_version: Annotated[
        Literal["auto", "1.2", "1.3"],
        option(
            "auto (both), 1.2 or 1.3.",
            Group.TLS,
            aliases=("ssl_version",),
            metavar="V",
            spellings=uvicorn.TLS_VERSIONS,
            refused=uvicorn.BROKEN_TLS_VERSIONS,
        ),
    ] = "auto"
    curves: Annotated[
        NonEmpty | None,
        option("For the key exchange: X25519, P-256 ...", Group.TLS, metavar="LIST"),
    ] = None
    hsts: Annotated[Count, option("Browsers use HTTPS only for so long.", Group.TLS, metavar="SECONDS")] = 0
    redirect_plain_http: Annotated[bool, option("Send plain HTTP on this port to https.", Group.TLS)] = False
    redirect_bind: Annotated[
        tuple[str, ...],
        option("Send plain HTTP here to https; as --bind.", Group.TLS, metavar="ADDR"),
    ] = ()
    acme_dir: Annotated[
        NonEmpty | None,
        option("ACME http-01 files, for --redirect-bind.", Group.TLS, metavar="DIR"),
    ] = None
    ciphers: Annotated[
        NonEmpty | None,
        option("OpenSSL's list of TLS 1.2 ciphers.", Group.TLS, aliases=("ssl_ciphers",), metavar="LIST"),
    ] = None
    ssl_context_factory: Annotated[
        Any,
        option(
            "Makes the TLS context: MODULE:ATTR.",
            Group.TLS,
            metavar="NAME",
            expected="an import string, MODULE:ATTRIBUTE (in Python also a function)",
        ),
    ] = None
    """Called with the Config and a function that makes the context of the other options."""

    @property
    def has_tls(self) -> bool:
        """Does the server itself speak TLS?"""
        return bool(self.certfile) or self.ssl_context_factory is not None
