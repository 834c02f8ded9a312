"""The name of a client in log lines."""

from __future__ import annotations

import pytest

from trioasgi.net.peers import Peer
from trioasgi.server.entry import peer_name

NAMES: dict[str, tuple[Peer | None, Peer | None]] = {
    "192.0.2.1:5000": (("192.0.2.1", 5000), ("192.0.2.2", 80)),
    "[2001:db8::1]:5000": (("2001:db8::1", 5000), ("2001:db8::2", 80)),
    "/run/client.sock": (("/run/client.sock", None), ("/run/app.sock", None)),
    "/run/a\\x0ab": (("/run/a\nb", None), ("/run/app.sock", None)),
    "a local client": (None, ("/run/app.sock", None)),
    "an unknown client": (None, ("192.0.2.2", 80)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_client(name: str) -> None:
    assert peer_name(*NAMES[name]) == name
