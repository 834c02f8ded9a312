"""What a program gives to its server: the application, the settings, objects for the application, and a
function that looks at each connection.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from trio.lowlevel import disable_ki_protection

from trioasgi.asgi.failures import split_failure
from trioasgi.errors import ConfigError
from trioasgi.net.peers import Peer
from trioasgi.server.application import takes

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

OnConnection: TypeAlias = Callable[[Peer | None], object]
"""Called with the client's address of each connection, as in ASGI's scope. False refuses the connection."""


class Given(msgspec.Struct, frozen=True):
    """What the program gives."""

    state: Mapping[str, Any] | None = None
    """The first entries of the application's state."""
    admission: Admission | None = None
    """Who may connect; None: everybody."""


NOTHING_GIVEN: Final = Given()


class Prepared(msgspec.Struct, frozen=True):
    """The arguments of a function that serves, checked."""

    app: ASGIApp
    config: Config
    given: Given


class Admission:
    """Asks the program about each connection."""

    def __init__(self, on_connection: OnConnection) -> None:
        self._on_connection = on_connection

    @disable_ki_protection  # the program's function may take long
    def admits(self, client: Peer | None) -> bool:
        """May this client connect? Not if the program's function fails, which is logged."""
        try:
            answer = self._on_connection(client)
            _refuse_coroutine(answer)
        except BaseException as exc:
            ours, outside = split_failure(exc)
            if ours is not None:
                text = "on_connection failed; the connection of %s is closed"
                logger.log(logging.ERROR, text, _name(client), exc_info=ours)
            if outside is not None:
                raise outside from None
            return False
        if answer is False:
            logger.debug("%s: closed, as on_connection has returned False", _name(client))
        return answer is not False


def _refuse_coroutine(answer: object) -> None:
    """Raise TypeError for what would admit everybody, though the program means to ask first."""
    if isinstance(answer, Coroutine):
        answer.close()  # otherwise Python warns of it, too
        raise TypeError("on_connection has returned a coroutine, and nothing waits for it")


def _name(client: Peer | None) -> str:
    if client is None:
        return "a client without an address"
    host, port = client
    return host if port is None else f"{host}:{port}"


def check_given(state: Mapping[str, Any] | None, on_connection: OnConnection | None) -> Given:
    """Raises ConfigError if one of them cannot be used."""
    if state is not None and not isinstance(state, Mapping):
        raise ConfigError(f"state must be a mapping, such as a dict, not {type(state).__name__}")
    if on_connection is None:
        return Given(state)
    if not callable(on_connection) or _is_async(on_connection):
        kind = "an async function" if callable(on_connection) else f"of type {type(on_connection).__name__}"
        raise ConfigError(
            f"on_connection must be a synchronous function of the client's address, and it is {kind}: a "
            "client that is waited for would hold up those behind it"
        )
    if not takes(on_connection, 1):
        raise ConfigError("on_connection cannot be called with one argument, the client's address")
    return Given(state, Admission(on_connection))


def _is_async(function: Callable[..., object]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - what it is, not whether
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
