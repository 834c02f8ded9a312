"""Which protocol a connection speaks."""

from __future__ import annotations

import contextvars

import pytest

from trioasgi.net.channel import Channel
from trioasgi.net.connection_info import ConnectionInfo
from trioasgi.server.protocols import Connection, ConnectionFactory, Protocols, ServerServices


class ChosenError(Exception):
    """Raised in place of making a connection: the name of the protocol."""


def factory(name: str) -> ConnectionFactory:
    def make(channel: Channel, info: ConnectionInfo, home: ServerServices) -> Connection:
        raise ChosenError(name)

    return make


@pytest.mark.parametrize(
    ("agreed", "chosen"), [("h2", "h2"), ("http/1.1", "http/1.1"), (None, "http/1.1"), ("spdy/3", "http/1.1")]
)
def test_the_protocol_is_the_one_that_was_agreed_on_or_else_the_first(
    agreed: str | None, chosen: str
) -> None:
    protocols = Protocols({name: factory(name) for name in ("http/1.1", "h2")})
    home = ServerServices(contextvars.copy_context(), lambda _, __: None, lambda _: None)
    info = ConnectionInfo("http", None, None, "a client")
    with pytest.raises(ChosenError, match=chosen):
        protocols.choose(agreed)(None, info, home)  # type: ignore[arg-type]
