"""The rules that a request can break, and the answer to each."""

from __future__ import annotations

from enum import Enum


class Rule(Enum):
    """A rule for requests: the status and the reason of the answer, and the section that has the rule."""

    REQUEST_LINE = (400, "malformed request line", "RFC 9112, 3")
    METHOD = (501, "unknown method", "RFC 9110, 9.1")
    CONNECT = (501, "CONNECT is for proxies", "RFC 9110, 9.3.6")
    VERSION = (505, "not HTTP/1.0 or HTTP/1.1", "RFC 9110, 15.6.6")
    EMPTY_LINES = (400, "too many empty lines before a request", "RFC 9112, 2.2")
    TARGET_LENGTH = (414, "the request target is too long", "RFC 9110, 15.5.15")
    TARGET_FORM = (400, "malformed request target", "RFC 9112, 3.2")
    ASTERISK = (400, "the asterisk-form is for OPTIONS alone", "RFC 9112, 3.2.4")
    FIELDS = (400, "malformed header fields", "RFC 9112, 5")
    FIELDS_SIZE = (431, "the header fields are too large", "RFC 6585, 5")
    FIELDS_COUNT = (431, "there are too many header fields", "RFC 6585, 5")
    HOST_MISSING = (400, "no Host field", "RFC 9112, 3.2")
    HOST_REPEATED = (400, "more than one Host field", "RFC 9112, 3.2")
    HOST_INVALID = (400, "invalid Host field", "RFC 9112, 3.2; RFC 3986, 3.2")
    LENGTH_INVALID = (400, "invalid Content-Length", "RFC 9112, 6.3")
    LENGTH_REPEATED = (400, "more than one Content-Length", "RFC 9112, 6.3")
    LENGTH_AND_CODING = (400, "both Content-Length and Transfer-Encoding", "RFC 9112, 6.1")
    CODING_UNKNOWN = (501, "unknown transfer coding", "RFC 9112, 6.1")
    CODING_NOT_FINAL = (
        400,
        "chunked is not the final transfer coding, or stands twice",
        "RFC 9112, 6.3 and 7.1",
    )
    CODING_IN_1_0 = (400, "Transfer-Encoding in HTTP/1.0", "RFC 9112, 6.1")
    BODY_SIZE = (413, "the body is too large", "RFC 9110, 15.5.14")
    CHUNK = (400, "malformed chunked body", "RFC 9112, 7.1")
    TRAILERS_SIZE = (431, "the trailer fields are too large", "RFC 9112, 7.1.2")
    EXPECTATION = (417, "unknown expectation", "RFC 9110, 10.1.1")
    HEAD_TIMEOUT = (408, "the head of the request took too long", "RFC 9110, 15.5.9")
    BODY_TIMEOUT = (408, "the body of the request took too long", "RFC 9110, 15.5.9")
    BODY_RATE = (408, "the body of the request comes too slowly", "RFC 9110, 15.5.9")
    REQUEST_TIMEOUT = (504, "the application took too long", "RFC 9110, 15.6.5")
    CANCELLED = (503, "the application gave this request up", "RFC 9110, 15.6.4")
    HEAD_CUT = (400, "the connection ended within the head of a request", "RFC 9112, 8")

    def __init__(self, status: int, reason: str, section: str) -> None:
        self.status = status
        self.reason = reason
        self.section = section


class RequestError(Exception):
    """A request breaks `rule`. The server answers it, and the connection closes."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.reason)
        self.rule = rule
