"""The messages on the control socket: one JSON object for each line, in both directions.

    client ─► supervisor   StatusRequest, RollRequest, ScaleRequest, StopRequest, ReopenLogsRequest
    supervisor ─► client   for each of them Shown, Done or Refused; after a StopRequest Ended too, and then
                           the end of the file as soon as the process is gone

Either side may be another version. Fields that are unknown are ignored, and those that are missing have
defaults. A request that is unknown is Refused.
"""

from __future__ import annotations

import msgspec

from .status import Status

LONGEST_REQUEST = 4096
"""Bytes of a request."""
LONGEST_ANSWER = 1 << 20
"""Bytes of an answer."""


class StatusRequest(msgspec.Struct, frozen=True, tag_field="command", tag="status"):
    """What do supervisor and workers do?"""


class RollRequest(msgspec.Struct, frozen=True, tag_field="command", tag="roll"):
    """Replace all workers. The answer comes when that has ended."""


class ScaleRequest(msgspec.Struct, frozen=True, tag_field="command", tag="scale"):
    """Have so many workers."""

    workers: int


class StopRequest(msgspec.Struct, frozen=True, tag_field="command", tag="stop"):
    """Stop, as at SIGTERM."""


class ReopenLogsRequest(msgspec.Struct, frozen=True, tag_field="command", tag="reopen-logs"):
    """Open the log files anew, in all processes."""


class Shown(msgspec.Struct, frozen=True, tag_field="answer", tag="status"):
    """The answer to a StatusRequest."""

    status: Status


class Done(msgspec.Struct, frozen=True, tag_field="answer", tag="done"):
    """What was asked for is done; a stop has begun."""

    said: str = ""
    """For people."""


class Refused(msgspec.Struct, frozen=True, tag_field="answer", tag="refused"):
    """What was asked for is not done, for this reason."""

    reason: str
    version: str = ""
    """The version of the supervisor."""


class Ended(msgspec.Struct, frozen=True, tag_field="answer", tag="ended"):
    """All workers have ended."""

    status: int
    """The exit status of the supervisor."""


Request = StatusRequest | RollRequest | ScaleRequest | StopRequest | ReopenLogsRequest
Answer = Shown | Done | Refused | Ended

_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """One message as a line."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """The request on this line. Raises ValueError, which says what is wrong with it."""
    try:
        return _request_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def decode_answer(line: bytes) -> Answer:
    """The answer on this line. Raises ValueError."""
    try:
        return _answer_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
