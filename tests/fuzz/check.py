"""What has to be true of every stream of bytes: it is read alike by both codecs, however it is cut."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import zip_longest

from tests.http1 import test_body, test_rules
from tests.support.http import ALL_CODECS, make_codec, request
from tests.support.reading import LIMITS, Conversation, Reading, read_all
from trioasgi.http.limits import Limits

TIGHT = Limits(header_bytes=60, header_count=3, target=12, body=20)
STATUSES = frozenset({0, 400, 413, 414, 417, 431, 501, 505})


def corpus() -> list[bytes]:
    """The forms that the tests know, right and wrong, alone and behind a good request."""
    good = request("/a?b", "A: b", body=b"abc")
    chunked = request("/", "Transfer-Encoding: chunked", method="POST")
    wrong = [data for data, _ in test_rules.WRONG.values()]
    wrong += [chunked + data for data, _ in test_body.WRONG.values()]
    right = list(test_rules.RIGHT.values())
    right += [chunked + data for data, _ in test_body.RIGHT.values()]
    # More of what is right: a change makes most of it wrong.
    forms = [*wrong, *4 * right, *(good + form for form in wrong), *(form + good for form in 4 * right)]
    return [form for form in forms if len(form) < 1500]


@dataclass(frozen=True)
class DisagreementError(AssertionError):
    """Two readings of one stream that differ, or one that must not be."""

    data: bytes
    how: str
    first: object
    second: object

    def __str__(self) -> str:
        return f"{self.how}\nof {self.data!r}\n{self.first!r}\n{self.second!r}"


@dataclass
class Tally:
    """What was tried so far."""

    streams: int = 0
    readings: int = 0
    requests: int = 0
    refused: int = 0

    def note(self, reading: Reading, readings: int) -> None:
        self.streams += 1
        self.readings += readings
        self.requests += len(reading.requests)
        self.refused += reading.status != 0


def check(data: bytes, tally: Tally) -> Reading:
    """Read `data` in every way; raises DisagreementError, or whatever a reader should not have raised."""
    limits = TIGHT if len(data) % 4 == 0 else LIMITS
    whole = read_all("h11", [data], limits)
    if whole.status not in STATUSES:
        raise DisagreementError(data, "a status that no rule has", whole.status, STATUSES)
    pieces = cut(data, random.Random(data))
    ways = {"whole": [data], "in pieces": pieces, "byte by byte": [data[i : i + 1] for i in range(len(data))]}
    readings = 0
    for codec in ALL_CODECS:
        for name, way in ways.items():
            if name == "byte by byte" and len(data) % 8:
                continue  # it costs as much as all the others
            reading = read_all(codec, way, limits)
            readings += 1
            if reading != whole:
                raise DisagreementError(data, f"h11 whole, {codec} {name}", whole, reading)
    tally.note(whole, readings)
    return whole


def check_pair(first: bytes, second: bytes, tally: Tally) -> tuple[Reading, Reading]:
    """Read two streams on one codec, a piece of each in turn: each has to be read as if alone."""
    streams = first, second
    pieces = [cut(data, random.Random(first + second)) for data in streams]
    alone = [read_all("h11", [data]) for data in streams]
    for codec in ALL_CODECS:
        shared = make_codec(codec)
        conversations = [Conversation(shared) for _ in streams]
        for turn in zip_longest(*pieces, fillvalue=b""):
            for conversation, piece in zip(conversations, turn, strict=True):
                conversation.feed(piece)
        # What is behind is read when both are done with: on the codec as they have left it.
        conversations.append(Conversation(shared))
        conversations[-1].feed(_BEHIND)
        readings = [conversation.reading() for conversation in conversations]
        for data, expected, found in zip(
            (*streams, _BEHIND), (*alone, read_all("h11", [_BEHIND])), readings, strict=True
        ):
            if found != expected:
                raise DisagreementError(data, f"alone, {codec} beside {streams}", expected, found)
    for reading in alone:
        tally.note(reading, len(ALL_CODECS))
    return alone[0], alone[1]


_BEHIND = request("/behind", "Cookie: a", "X-Request: b", version="1.0", body=b"abc")


def cut(data: bytes, source: random.Random) -> list[bytes]:
    """`data` in a few pieces, most of whose ends are near line ends: that is where readers err."""
    places = {source.randint(0, len(data)) for _ in range(source.randint(1, 6))}
    ends = [i for i, byte in enumerate(data) if byte in b"\r\n"]
    places |= {source.choice(ends) + source.randint(-1, 1) for _ in range(3) if ends}
    sorted_places = sorted(place for place in places if 0 < place < len(data))
    return [data[a:b] for a, b in zip([0, *sorted_places], [*sorted_places, len(data)], strict=True)]
