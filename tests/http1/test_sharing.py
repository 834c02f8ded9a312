"""Connections that share a codec, as all of a worker do: what one sends changes nothing for another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http1 import test_body, test_rules
from tests.support.http import ALL_CODECS, echo, make_codec, request
from tests.support.reading import LIMITS, Conversation, Reading, read_all
from tests.support.requests import cuts, streams
from tests.support.sockets import connected, run, served
from trioasgi.http.limits import Limits
from trioasgi.http.request import Header
from trioasgi.http1 import httptools_codec
from trioasgi.http1.codec import Codec, GrammarError
from trioasgi.http1.httptools_codec import HttptoolsCodec

CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")

POISONOUS = {
    "an invalid Host before a length": b"POST / HTTP/1.1\r\nHost: a/b\r\nContent-Length: 6000\r\n\r\n",
    "an unknown expectation before a length": request(
        "/", "Expect: x", "Content-Length: 6000", method="POST"
    ),
    "a length among too many fields": request(
        "/", "Content-Length: 6000", *(f"A{i}: b" for i in range(120)), method="POST"
    ),
    "a length without Host": b"POST / HTTP/1.1\r\nContent-Length: 6000\r\n\r\n",
    "a length that is too long": request("/", "Content-Length: 9999999999999999999", method="POST"),
}
"""What used to leave llhttp within a body that nobody would send."""

REFUSED = {
    **{name: data for name, (data, _) in test_rules.WRONG.items()},
    **{f"chunked: {name}": CHUNKED + data for name, (data, _) in test_body.WRONG.items()},
    **POISONOUS,
    "an upgrade without Host": b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
    "a close without Host": b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
}

NEXT = {
    version: request("/next?a", "Cookie: b", "X-Request: c", method="POST", version=version, body=b"abc")
    for version in ("1.1", "1.0")
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_request_changes_nothing_for_another_connection(codec: str, name: str) -> None:
    shared = make_codec(codec)
    for version, data in NEXT.items():
        refused = Conversation(shared)
        refused.feed(REFUSED[name])
        assert refused.reading().status
        for _ in range(2):
            other = Conversation(shared)
            other.feed(data)
            assert other.reading() == read_all("h11", [data]), version


ROUNDS = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

ANYTHING = streams() | st.binary(max_size=200) | st.sampled_from(list(REFUSED.values()))


def read_interleaved(codec: Codec, connections: Sequence[Sequence[bytes]]) -> list[Reading]:
    """Read connections that share `codec`, a piece of each in turn."""
    conversations = [Conversation(codec, LIMITS) for _ in connections]
    for pieces in zip_longest(*connections, fillvalue=b""):
        for conversation, piece in zip(conversations, pieces, strict=True):
            conversation.feed(piece)
    return [conversation.reading() for conversation in conversations]


@ROUNDS
@given(first=ANYTHING, version=st.sampled_from(sorted(NEXT)))
def test_a_valid_request_is_read_as_if_alone_after_any_bytes(first: bytes, version: str) -> None:
    for name in ALL_CODECS:
        shared = make_codec(name)
        before = Conversation(shared)
        before.feed(first)
        after = Conversation(shared)
        after.feed(NEXT[version])
        assert after.reading() == read_all("h11", [NEXT[version]])
        assert before.reading() == read_all("h11", [first])


@ROUNDS
@given(st.data())
def test_interleaved_connections_are_read_as_if_alone(data: st.DataObject) -> None:
    both = [data.draw(cuts(data.draw(ANYTHING))) for _ in range(2)]
    alone = [read_all("h11", pieces) for pieces in both]
    for name in ALL_CODECS:
        assert read_interleaved(make_codec(name), both) == alone


WHOLE = request("/")
NOT_WHOLE = {
    **{f"refused by the rules: {name}": data for name, data in REFUSED.items()},
    "a body": NEXT["1.1"],
    "to close": request("/", "Connection: close"),
    "to upgrade": request("/", "Connection: upgrade", "Upgrade: websocket"),
    "the end of the connection as the end of the body": request(
        "/", "Transfer-Encoding: gzip", method="POST"
    ),
}
"""Heads after which llhttp does not wait for another, and such as may leave it so."""


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The llhttp parsers that are made."""

    def make(receiver: object) -> object:
        made.append(parser := original(receiver))
        return parser

    original, made = httptools.HttpRequestParser, list[object]()
    monkeypatch.setattr("httptools.HttpRequestParser", make)
    return made


def fields_of(head: bytes) -> bytes:
    """What a codec reads: all behind the request line."""
    return head.partition(b"\r\n")[2]


def read_head(codec: Codec, data: bytes) -> list[Header] | None:
    """The fields of a request's head; None if the codec refuses it."""
    try:
        head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        fields = codec.read_fields(fields_of(head))
        return [(name.lower(), value) for name, value in fields]
    except GrammarError:
        return None


def test_a_parser_that_has_read_a_whole_message_reads_the_next_head(parsers: list[object]) -> None:
    codec = HttptoolsCodec()
    for _ in range(3):
        assert read_head(codec, WHOLE) == [(b"host", b"example.org")]
    assert len(parsers) == 1


@pytest.mark.parametrize("name", [name for name in NOT_WHOLE if not name.startswith("refused")])
def test_after_any_other_head_a_new_parser_reads(name: str, parsers: list[object]) -> None:
    codec = HttptoolsCodec()
    for count in (1, 2):
        read_head(codec, NOT_WHOLE[name])
        assert len(parsers) == count


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_head_is_read_as_by_a_new_parser_whatever_was_read_before(name: str) -> None:
    codec = HttptoolsCodec()
    for head in (WHOLE, NOT_WHOLE[name], WHOLE, NEXT["1.1"], NOT_WHOLE[name], NEXT["1.0"], WHOLE):
        assert read_head(codec, head) == read_head(HttptoolsCodec(), head)


@ROUNDS
@given(heads=st.lists(ANYTHING | st.sampled_from([WHOLE, *NOT_WHOLE.values()]), max_size=8))
def test_any_heads_are_read_as_by_new_parsers(heads: list[bytes]) -> None:
    codec = HttptoolsCodec()
    for head in heads:
        assert read_head(codec, head) == read_head(HttptoolsCodec(), head)


def test_a_parser_is_not_used_again_after_an_exception_of_any_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, receiver: object) -> None:
            pass

        def feed_data(self, data: bytes) -> None:
            raise MemoryError

    codec = HttptoolsCodec()
    with monkeypatch.context() as patch:
        patch.setattr("httptools.HttpRequestParser", Failing)
        with pytest.raises(MemoryError):
            codec.read_fields(fields_of(WHOLE))
    assert read_head(codec, WHOLE) == [(b"host", b"example.org")]


def test_a_refused_request_changes_nothing_for_another_client_of_the_server(codec: str) -> None:
    async def main() -> None:
        async with served(echo, http=codec, lifespan="off") as server:
            for poison in POISONOUS.values():
                async with connected(server) as client:
                    assert (await client.get(poison, "POST")).status in {400, 417, 431}
                for version in NEXT:
                    async with connected(server) as client:
                        answer = await client.get(NEXT[version])
                        assert (answer.status, answer.body) == (200, b"POST /next abc")

    run(main)


def test_a_body_is_not_served_as_a_request(codec: str) -> None:
    """A parser that waits for a body of so many bytes would take the next client's head for it, and the body
    of that request for a request.
    """
    smuggled = request("/smuggled")
    victim = request("/victim", method="POST", body=smuggled)
    swallowed = len(victim) - len(smuggled)

    async def main() -> None:
        async with served(echo, http=codec, lifespan="off") as server:
            async with connected(server) as attacker:
                await attacker.send(request("/", "Expect: x", f"Content-Length: {swallowed}", method="POST"))
                assert (await attacker.response("POST")).status == 417
            async with connected(server) as client:
                answer = await client.get(victim)
                assert (answer.status, answer.body) == (200, b"POST /victim " + smuggled)

    run(main)


def test_limits_that_refuse_in_the_middle_of_fields_change_nothing(codec: str) -> None:
    tight = Limits(header_bytes=60, header_count=3, target=12, body=20)
    shared = make_codec(codec)
    for fields in (["Content-Length: 30"], ["Content-Length: 3", "A: b", "A: b"], ["A: " + "b" * 60]):
        refused = Conversation(shared, tight)
        refused.feed(request("/", *fields, method="POST"))
        assert refused.reading().status in {413, 431}
        other = Conversation(shared)
        other.feed(NEXT["1.1"])
        assert other.reading() == read_all("h11", [NEXT["1.1"]])


def test_a_ctrl_c_within_a_head_is_no_error_of_its_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """llhttp's callbacks are Python, so the signal may come in one of them."""

    def interrupted(callbacks: object, name: bytes, value: bytes) -> None:
        raise KeyboardInterrupt

    codec = HttptoolsCodec()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(httptools_codec._Callbacks, "on_header", interrupted)
        codec.read_fields(fields_of(request()))
    assert codec.read_fields(fields_of(request())) == HttptoolsCodec().read_fields(fields_of(request()))
