"""Calls the user's factory of TLS contexts (`ssl_context_factory`), and checks what it returns.

Whatever is wrong is a `TLSError` that names the factory: at the start it ends the server, and later the
context in use stays.
"""

from __future__ import annotations

import importlib
import inspect
import ssl
from typing import TYPE_CHECKING

from trioasgi.errors import LoadError, TLSError
from trioasgi.server.application import takes, users_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.config import Config


def make_context(config: Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What the factory makes of `config` and `default`. Raises TLSError.

    The context stays as the factory has made it, but for two options that the server depends on:
    renegotiation is off, because nothing here carries it out, and a client may end TCP without close_notify.
    """
    factory = config.ssl_context_factory
    name = repr(factory) if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))
    called = f"the ssl_context_factory {name}"
    try:
        function = _load(factory, called) if isinstance(factory, str) else factory
        if not callable(function) or not takes(function, 2):
            raise TLSError(f"{called} cannot be called with two arguments, the config and a default factory")
        with users_code(f"calling {called}"):
            made: object = function(config, default)
    except LoadError as error:
        if isinstance(error.__cause__, TLSError):  # that of the default factory
            raise error.__cause__ from None
        raise TLSError(str(error)) from error.__cause__
    context = _checked(made, called)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _load(factory: str, called: str) -> object:
    module, _, attribute = factory.partition(":")
    with users_code(f"importing the module of {called}"):
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise TLSError(f"{called}: there is no module {error.name!r} on the path of imports") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise TLSError(f"{called}: {error}") from error
    return found


def _checked(made: object, called: str) -> ssl.SSLContext:
    if inspect.iscoroutine(made):
        made.close()  # otherwise Python warns of it, too
        raise TLSError(f"{called} is an async function; make it a plain one")
    if not isinstance(made, ssl.SSLContext):
        raise TLSError(f"{called} has returned {type(made).__name__}, not an ssl.SSLContext")
    if made.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise TLSError(
            f"{called} has returned a context for clients; "
            "make it with ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    # A callback may choose another context by the client's name: this one then needs no certificate.
    if made.sni_callback is None:
        _try(made, called)
    return made


def _try(context: ssl.SSLContext, called: str) -> None:
    """Begin a handshake with it in memory: Python tells in no other way whether it has a certificate."""
    secured = context.wrap_bio(incoming := ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    incoming.write(_hello())
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError as error:
        if error.reason == "NO_SHARED_CIPHER":
            raise TLSError(
                f"{called} has returned a context without a certificate; call its load_cert_chain()"
            ) from error
    if secured.selected_alpn_protocol() == "h2":
        raise TLSError(f"{called} has returned a context that offers h2, and this server speaks http/1.1")


def _hello() -> bytes:
    """The first message of a client that accepts every cipher and version, and speaks HTTP/2 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing := ssl.MemoryBIO())
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()
