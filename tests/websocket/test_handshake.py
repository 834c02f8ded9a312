"""The opening handshake by its rules, and permessage-deflate as it is agreed on."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cost import grows_no_faster_than_its_input
from tests.support.websocket import ACCEPT, KEY
from trioasgi.http.exchange import Refusal
from trioasgi.http.request import Header
from trioasgi.websocket.deflate import MAX_OFFERS, MAX_PARAMETERS, Deflate, negotiate
from trioasgi.websocket.handshake import (
    _TOKEN,
    Offer,
    accept_field,
    accept_key,
    answer_fields,
    check_upgrade,
    read_offer,
)


def fields(**changes: bytes | None) -> list[Header]:
    """The header fields of a good handshake, changed."""
    good: dict[str, bytes | None] = {
        "host": b"example.org",
        "upgrade": b"websocket",
        "connection": b"Upgrade",
        "sec_websocket_key": KEY.encode(),
        "sec_websocket_version": b"13",
    }
    good.update(changes)
    return [(name.replace("_", "-").encode(), value) for name, value in good.items() if value is not None]


def refused(headers: list[Header], method: str = "GET") -> Refusal:
    refusal = check_upgrade(method, headers)
    assert refusal is not None
    return refusal


def test_accept_key() -> None:
    assert accept_key(KEY.encode()) == ACCEPT


def test_a_good_one() -> None:
    headers = fields(sec_websocket_protocol=b"chat, superchat")
    assert check_upgrade("GET", headers) is None
    assert read_offer(headers) == Offer(("chat", "superchat"), ())
    assert accept_field(headers) == (b"sec-websocket-accept", ACCEPT)
    assert answer_fields("chat", None) == [(b"sec-websocket-protocol", b"chat")]


def test_subprotocols_of_several_fields_are_one_list() -> None:
    headers = [*fields(), (b"sec-websocket-protocol", b"a,,b"), (b"sec-websocket-protocol", b"c ,")]
    assert check_upgrade("GET", headers) is None
    assert read_offer(headers).subprotocols == ("a", "b", "c")


def test_however_many_subprotocols_are_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        def fullmatch(self, text: str) -> object:
            looked_at.append(text)
            return _TOKEN.fullmatch(text)

    looked_at: list[str] = []
    monkeypatch.setattr("trioasgi.websocket.handshake._TOKEN", Counted())
    headers = [*fields(), (b"sec-websocket-protocol", b"a, b," * 10_000)]
    assert check_upgrade("GET", headers) is None
    assert read_offer(headers).subprotocols == ("a", "b") * 10_000
    assert len(looked_at) == 1


@pytest.mark.parametrize("version", [None, b"", b"12", b"14", b"8", b"13, 8", b"013", b"\xff"])
def test_another_version(version: bytes | None) -> None:
    error = refused(fields(sec_websocket_version=version))
    assert error.status == 426
    assert error.headers == ((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket"))


def test_a_version_given_twice() -> None:
    assert refused([*fields(), (b"sec-websocket-version", b"13")]).status == 426


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"short",
        b"dGhlIHNhbXBsZSBub25jZQ",
        b"dGhlIHNhbXBsZSBub25jZQ==\xff",
        b"dGhlIHNhbXBsZSBub25j",
        b"dGhlIHNhbXBsZSBub25jZTE3",
        b"dGhl IHNhbXBsZSBub25jZQ==",
        b"\xe4" * 24,
    ],
)
def test_a_bad_key(key: bytes | None) -> None:
    error = refused(fields(sec_websocket_key=key))
    assert error.status == 400
    assert "Sec-WebSocket-Key" in error.reason


def test_two_keys() -> None:
    assert refused([*fields(), (b"sec-websocket-key", KEY.encode())]).status == 400


def test_another_method() -> None:
    assert refused(fields(), "POST").status == 400


@pytest.mark.parametrize("headers", [{"content_length": b"5"}, {"transfer_encoding": b"chunked"}])
def test_a_body(headers: dict[str, bytes]) -> None:
    error = refused(fields(**headers))
    assert (error.status, error.reason) == (400, "a WebSocket handshake has no body")


def test_no_body_and_said_so() -> None:
    assert check_upgrade("GET", fields(content_length=b"0")) is None


@pytest.mark.parametrize("value", [b"a b", b"\xff", b"chat;x", b'"chat"'])
def test_a_bad_subprotocol(value: bytes) -> None:
    assert refused(fields(sec_websocket_protocol=value)).status == 400


AGREED = {
    b"permessage-deflate": Deflate(server_bits=12),
    b"permessage-deflate; client_max_window_bits": Deflate(12, 12, answers_client_bits=True),
    b"permessage-deflate; client_max_window_bits=10": Deflate(12, 10, answers_client_bits=True),
    b'permessage-deflate; client_max_window_bits="15"': Deflate(12, 12, answers_client_bits=True),
    b"permessage-deflate;server_max_window_bits=9": Deflate(9),
    b"permessage-deflate ; server_no_context_takeover": Deflate(12, server_no_context_takeover=True),
    b"Permessage-Deflate; client_no_context_takeover": Deflate(12, client_no_context_takeover=True),
    b"x-webkit-deflate-frame, permessage-deflate": Deflate(12),
    b"permessage-deflate; server_max_window_bits=8, permessage-deflate": Deflate(12),
    b"permessage-deflate; unknown=1, permessage-deflate; server_max_window_bits=10": Deflate(10),
    b'other; a="b"; c, permessage-deflate': Deflate(12),
}

DECLINED = [
    b"",
    b"other",
    b"permessage-deflate2",
    b"permessage-deflate; server_max_window_bits",
    b"permessage-deflate; server_max_window_bits=",
    b"permessage-deflate; server_max_window_bits=8",
    b"permessage-deflate; server_max_window_bits=16",
    b"permessage-deflate; server_max_window_bits=x",
    b"permessage-deflate; server_max_window_bits=010",
    b"permessage-deflate; server_max_window_bits=10; server_max_window_bits=11",
    b"permessage-deflate; client_max_window_bits=7",
    b"permessage-deflate; client_max_window_bits=99999999999999999999",
    b"permessage-deflate; client_max_window_bits=\xb2",
    b"permessage-deflate; client_no_context_takeover=1",
    b"permessage-deflate; server_no_context_takeover=true",
    b"permessage-deflate; unknown",
    b"permessage-deflate; =1",
    b"permessage-deflate;",
    b";;;, permessage-deflate",
    b"\xff, permessage-deflate",
]


@pytest.mark.parametrize("offer", AGREED)
def test_agreed(offer: bytes) -> None:
    assert negotiate([offer]) == AGREED[offer]


@pytest.mark.parametrize("offer", DECLINED)
def test_declined(offer: bytes) -> None:
    assert negotiate([offer]) is None


def test_offers_of_several_fields_are_one_list() -> None:
    assert negotiate([b"other", b"permessage-deflate"]) == Deflate(12)


def test_of_many_offers_those_behind_the_first_hundred_are_not_looked_at() -> None:
    others = b"permessage-deflate; x, " * (MAX_OFFERS - 1)
    assert negotiate([others, b"permessage-deflate"]) is not None
    assert negotiate([others + b"x", b"permessage-deflate"]) is None


def test_of_endless_parameters_those_behind_the_first_thousand_are_not_looked_at() -> None:
    for others in ("x" + ";a" * MAX_PARAMETERS, ", ".join(["x" + ";a" * (MAX_PARAMETERS // 10)] * 10)):
        assert negotiate([others.encode(), b"permessage-deflate"]) is not None
        assert negotiate([others.encode(), b"permessage-deflate; client_max_window_bits"]) is None


@pytest.mark.parametrize("parameter", [b";a", b"; a=b", b';a="b"', b" ;\ta = b"])
def test_a_long_offer_takes_little_memory(parameter: bytes) -> None:
    """One pattern for all of its parameters would hold three hundred times as much as it is long."""
    offer = b"permessage-deflate" + parameter * (60_000 // len(parameter)) + b"\x01"
    tracemalloc.start()
    try:
        negotiate([offer])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.text(st.sampled_from(" \t,ab"), max_size=12)))
def test_the_members_of_a_list_of_subprotocols(values: list[str]) -> None:
    """RFC 9110, 5.6.1: without the white space around them, and the empty ones left out."""
    headers = [(b"sec-websocket-protocol", value.encode()) for value in values]
    expected = [part.strip(" \t") for value in values for part in value.split(",")]
    assert read_offer(headers).subprotocols == tuple(part for part in expected if part)


def test_what_is_answered() -> None:
    agreed = Deflate(10, 11, True, True, True)
    assert agreed.response == (
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        b"server_max_window_bits=10; client_max_window_bits=11"
    )
    # RFC 7692, 7.1.2.2: not to be answered where it was not offered.
    assert Deflate(12).response == b"permessage-deflate; server_max_window_bits=12"


def test_nothing_is_agreed_where_it_is_not_wanted() -> None:
    offer = read_offer(fields(sec_websocket_extensions=b"permessage-deflate"))
    assert offer.agree(deflate=True) is not None
    assert offer.agree(deflate=False) is None


@given(value=st.binary(max_size=200) | st.text(alphabet='permsag-dflt;=," 0123', max_size=80).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_offer_raises(value: bytes) -> None:
    negotiate([value, b"permessage-deflate; " + value])


def test_a_long_offer_is_read_in_time() -> None:
    negotiate([b"permessage-deflate;a" + b" " * 30000 + b"x", b"a" * 30000 + b";" * 30000])
    negotiate([b"permessage-deflate" + b";a=b" * 15000 + b"\xff"])


@pytest.mark.parametrize(
    "value", [b", permessage-deflate", b"permessage-deflate ,", b"\t,, a, ,permessage-deflate,,"]
)
def test_empty_elements_of_the_offers_count_for_nothing(value: bytes) -> None:
    """RFC 9110, 5.6.1.2"""
    assert negotiate([value]) is not None


@pytest.mark.parametrize(
    "filling", [b" ", b"\t", b",", b", ", b";", b"a;", b"a ;", b";a=", b'"', b"a,", b"; a"]
)
def test_offers_take_time_that_grows_with_their_length(filling: bytes) -> None:
    for before in (b"", b"a", b"a;b", b"a;b="):
        assert grows_no_faster_than_its_input(
            lambda size: negotiate([before + filling * (size // len(filling)) + b"\x01"]),  # noqa: B023
            4096,
        )
