"""Each malformed or ambiguous form of a request, and what is answered: the same on both codecs, however the
bytes arrive.
"""

from __future__ import annotations

import msgspec.structs
import pytest

from tests.support.fixtures import any_codec
from tests.support.http import make_codec, request
from tests.support.reading import LIMITS, Read, bytewise, read_all
from trioasgi.http.limits import Limits
from trioasgi.http1.reader import RequestReader
from trioasgi.http1.request_line import METHODS
from trioasgi.http1.rule import Rule
from trioasgi.http1.rules import HeadReader

codec = any_codec

HOST = "Host: example.org"


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def get(*fields: str, version: str = "1.1") -> bytes:
    return head(f"GET / HTTP/{version}", *fields)


def post(*fields: str, version: str = "1.1") -> bytes:
    return head(f"POST / HTTP/{version}", HOST, *fields)


def target(text: str, method: str = "GET") -> bytes:
    return head(f"{method} {text} HTTP/1.1", HOST)


CHUNKED = "Transfer-Encoding: chunked"

WRONG: dict[str, tuple[bytes, Rule]] = {
    # The request line: RFC 9112, 3
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(8), Rule.REQUEST_LINE),
    "HTTP/0.9": (head("GET /"), Rule.REQUEST_LINE),
    "no target": (head("GET HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "no method": (head(" / HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "two spaces before the target": (head("GET  / HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "two spaces before the version": (head("GET /  HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a tab before the target": (head("GET\t/ HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a space in the target": (head("GET /a b HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a space behind the version": (head("GET / HTTP/1.1 ", HOST), Rule.REQUEST_LINE),
    "a control byte in the target": (head("GET /\x01 HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a DEL in the target": (head("GET /\x7f HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a NUL in the target": (head("GET /\x00 HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a bare CR in the request line": (head("GET /\rX HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "a bare LF behind the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Rule.REQUEST_LINE),
    "a method that is no token": (head("G(T / HTTP/1.1", HOST), Rule.REQUEST_LINE),
    "no slash in the version": (head("GET / HTTP1.1", HOST), Rule.REQUEST_LINE),
    "a lower-case version": (head("GET / http/1.1", HOST), Rule.REQUEST_LINE),
    "a version of three digits": (head("GET / HTTP/1.10", HOST), Rule.REQUEST_LINE),
    "another protocol": (head("GET / RTSP/1.0", HOST), Rule.REQUEST_LINE),
    "HTTP/1.2": (get(HOST, version="1.2"), Rule.VERSION),
    "HTTP/0.9 with a version": (get(HOST, version="0.9"), Rule.VERSION),
    "HTTP/2.0": (get(HOST, version="2.0"), Rule.VERSION),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Rule.VERSION),
    "a lower-case method": (head("get / HTTP/1.1", HOST), Rule.METHOD),
    "a method of mixed case": (head("Get / HTTP/1.1", HOST), Rule.METHOD),
    "an unknown method": (head("FROB / HTTP/1.1", HOST), Rule.METHOD),
    "an unknown method with digits": (head("GET2 / HTTP/1.1", HOST), Rule.METHOD),
    "CONNECT": (head("CONNECT example.org:443 HTTP/1.1", HOST), Rule.CONNECT),
    "too many empty lines": (b"\r\n" * 17 + get(HOST), Rule.EMPTY_LINES),
    # The target: RFC 9112, 3.2
    "a fragment": (target("/a#b"), Rule.TARGET_FORM),
    "a byte above 127 in the target": (target("/caf\xe9"), Rule.TARGET_FORM),
    "authority-form": (target("example.org:80"), Rule.TARGET_FORM),
    "a relative path": (target("a/b"), Rule.TARGET_FORM),
    "a query alone": (target("?a"), Rule.TARGET_FORM),
    "asterisk-form with GET": (target("*"), Rule.ASTERISK),
    "more than an asterisk": (target("*/", "OPTIONS"), Rule.TARGET_FORM),
    "absolute-form, another scheme": (target("ftp://example.org/"), Rule.TARGET_FORM),
    "absolute-form without authority": (target("http:///a"), Rule.TARGET_FORM),
    "absolute-form without slashes": (target("http:example.org/"), Rule.TARGET_FORM),
    "absolute-form with userinfo": (target("http://u:p@example.org/"), Rule.TARGET_FORM),
    "absolute-form with a bad port": (target("http://example.org:8x/"), Rule.TARGET_FORM),
    "absolute-form with a fragment": (target("http://example.org/#a"), Rule.TARGET_FORM),
    "absolute-form with a backslash": (target("http://a\\b/"), Rule.TARGET_FORM),
    # Header fields: RFC 9112, 5
    "a field without colon": (get(HOST, "Accept"), Rule.FIELDS),
    "a field without name": (get(HOST, ": a"), Rule.FIELDS),
    "a name that is no token": (get(HOST, "A(b): c"), Rule.FIELDS),
    "a name with a byte above 127": (get(HOST, "A\xe9: c"), Rule.FIELDS),
    "a space before the colon": (get(HOST, "Accept : a"), Rule.FIELDS),
    "a tab before the colon": (get(HOST, "Accept\t: a"), Rule.FIELDS),
    "a space before the colon of Content-Length": (post("Content-Length : 3"), Rule.FIELDS),
    "a space before the first field": (get(" " + HOST), Rule.FIELDS),
    "a space before a later field": (get(HOST, " Accept: a"), Rule.FIELDS),
    "obs-fold": (get(HOST, "Accept: a", " b"), Rule.FIELDS),
    "obs-fold with a tab": (get(HOST, "Accept: a", "\tb"), Rule.FIELDS),
    "a fold before any field": (get("\tb", HOST), Rule.FIELDS),
    "a bare CR in a value": (get(HOST, "Accept: a\rb"), Rule.FIELDS),
    "a bare LF in a value": (get(HOST, "Accept: a\nX-Evil: b"), Rule.FIELDS),
    "bare LFs that look like the end": (
        b"GET / HTTP/1.1\r\nHost: a\n\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        Rule.FIELDS,
    ),
    "a NUL in a value": (get(HOST, "Accept: a\0b"), Rule.FIELDS),
    "a NUL in a name": (get(HOST, "Acc\0ept: ab"), Rule.FIELDS),
    "a control byte in a value": (get(HOST, "Accept: a\x01b"), Rule.FIELDS),
    "a DEL in a value": (get(HOST, "Accept: a\x7fb"), Rule.FIELDS),
    "a vertical tab in a value": (get(HOST, "Accept: a\x0bb"), Rule.FIELDS),
    # Host: RFC 9112, 3.2
    "no Host": (get("Accept: a"), Rule.HOST_MISSING),
    "no Host, no field at all": (get(), Rule.HOST_MISSING),
    "two Hosts": (get(HOST, HOST), Rule.HOST_REPEATED),
    "two Hosts that differ": (get(HOST, "Host: evil.example"), Rule.HOST_REPEATED),
    "two Hosts in HTTP/1.0": (get(HOST, HOST, version="1.0"), Rule.HOST_REPEATED),
    "an empty Host": (get("Host:"), Rule.HOST_INVALID),
    "a Host with a space": (get("Host: a b"), Rule.HOST_INVALID),
    "a Host with a path": (get("Host: a/b"), Rule.HOST_INVALID),
    "a Host with userinfo": (get("Host: u@a"), Rule.HOST_INVALID),
    "a Host that is a list": (get("Host: a, b"), Rule.HOST_INVALID),
    "a Host with a query": (get("Host: a?b"), Rule.HOST_INVALID),
    "a Host with an IPv6 address that is none": (get("Host: [1:2:3]"), Rule.HOST_INVALID),
    "a Host with quotes": (get('Host: "a"'), Rule.HOST_INVALID),
    "a Host with a byte above 127": (get("Host: \xe9"), Rule.HOST_INVALID),
    "a Host with a bad escape": (get("Host: a%zz"), Rule.HOST_INVALID),
    "a Host with a bad port": (get("Host: a:b"), Rule.HOST_INVALID),
    "a Host with a long port": (get("Host: a:123456"), Rule.HOST_INVALID),
    "a Host with two ports": (get("Host: a:1:2"), Rule.HOST_INVALID),
    "a Host with an open bracket": (get("Host: [::1"), Rule.HOST_INVALID),
    "a Host too long for a name": (get(f"Host: {'a' * 300}"), Rule.HOST_INVALID),
    "absolute-form without Host": (head("GET http://a/ HTTP/1.1"), Rule.HOST_MISSING),
    "absolute-form with two Hosts": (head("GET http://a/ HTTP/1.1", HOST, HOST), Rule.HOST_REPEATED),
    "absolute-form with a bad Host": (head("GET http://a/ HTTP/1.1", "Host: a/b"), Rule.HOST_INVALID),
    # Content-Length and Transfer-Encoding: RFC 9112, 6
    "Content-Length and Transfer-Encoding": (post("Content-Length: 3", CHUNKED), Rule.LENGTH_AND_CODING),
    "Transfer-Encoding and Content-Length": (post(CHUNKED, "Content-Length: 3"), Rule.LENGTH_AND_CODING),
    "Content-Length 0 and Transfer-Encoding": (post("Content-Length: 0", CHUNKED), Rule.LENGTH_AND_CODING),
    "two Content-Lengths": (post("Content-Length: 3", "Content-Length: 4"), Rule.LENGTH_REPEATED),
    "two equal Content-Lengths": (post("Content-Length: 3", "Content-Length: 3"), Rule.LENGTH_REPEATED),
    "a Content-Length that is a list": (post("Content-Length: 3, 3"), Rule.LENGTH_INVALID),
    "an empty Content-Length": (post("Content-Length:"), Rule.LENGTH_INVALID),
    "a Content-Length with a plus": (post("Content-Length: +3"), Rule.LENGTH_INVALID),
    "a negative Content-Length": (post("Content-Length: -3"), Rule.LENGTH_INVALID),
    "a hexadecimal Content-Length": (post("Content-Length: 0x3"), Rule.LENGTH_INVALID),
    "a fractional Content-Length": (post("Content-Length: 3.0"), Rule.LENGTH_INVALID),
    "a Content-Length with a space": (post("Content-Length: 1 2"), Rule.LENGTH_INVALID),
    "a Content-Length with an underscore": (post("Content-Length: 1_2"), Rule.LENGTH_INVALID),
    "a superscript Content-Length": (post("Content-Length: \xb2"), Rule.LENGTH_INVALID),
    "an overflowing Content-Length": (post("Content-Length: 18446744073709551616"), Rule.LENGTH_INVALID),
    "a Content-Length of 19 digits": (post("Content-Length: " + "0" * 19), Rule.LENGTH_INVALID),
    "a Content-Length of 2 to the 63": (post("Content-Length: 9223372036854775808"), Rule.LENGTH_INVALID),
    "chunked not at the end": (post("Transfer-Encoding: chunked, gzip"), Rule.CODING_NOT_FINAL),
    "chunked twice": (post("Transfer-Encoding: chunked, chunked"), Rule.CODING_NOT_FINAL),
    "chunked in two fields": (post(CHUNKED, CHUNKED), Rule.CODING_NOT_FINAL),
    "an unknown coding": (post("Transfer-Encoding: gzip"), Rule.CODING_UNKNOWN),
    "an unknown coding, then chunked": (post("Transfer-Encoding: gzip, chunked"), Rule.CODING_UNKNOWN),
    "identity": (post("Transfer-Encoding: identity"), Rule.CODING_UNKNOWN),
    "an empty Transfer-Encoding": (post("Transfer-Encoding:"), Rule.CODING_NOT_FINAL),
    "a Transfer-Encoding of empty elements": (post("Transfer-Encoding: , ,"), Rule.CODING_NOT_FINAL),
    "an empty Transfer-Encoding behind another": (post(CHUNKED, "Transfer-Encoding:"), Rule.CODING_NOT_FINAL),
    "chunked twice with an empty element": (
        post("Transfer-Encoding: chunked,,chunked"),
        Rule.CODING_NOT_FINAL,
    ),
    "chunked with quotes": (post('Transfer-Encoding: "chunked"'), Rule.CODING_UNKNOWN),
    "chunked with a parameter": (post("Transfer-Encoding: chunked;a=b"), Rule.CODING_UNKNOWN),
    "chunked with a prefix": (post("Transfer-Encoding: xchunked"), Rule.CODING_UNKNOWN),
    "chunked behind a vertical tab": (post("Transfer-Encoding: \x0bchunked"), Rule.FIELDS),
    "a folded Transfer-Encoding": (post("Transfer-Encoding:", " chunked"), Rule.FIELDS),
    "a fold behind a coding": (post("Transfer-Encoding: gzip,", "\tchunked"), Rule.FIELDS),
    "a fold behind chunked": (post("Transfer-Encoding: chunked", " "), Rule.FIELDS),
    "a fold behind an invalid Host": (get("Host: a/b", " c"), Rule.FIELDS),
    "Transfer-Encoding in HTTP/1.0": (post(CHUNKED, version="1.0"), Rule.CODING_IN_1_0),
    "an unknown expectation": (post("Expect: the best"), Rule.EXPECTATION),
    "an unknown expectation in a list": (post("Expect: 100-continue, a=b"), Rule.EXPECTATION),
    # Limits
    "a target that is too long": (target("/" + "a" * 256), Rule.TARGET_LENGTH),
    "a target without end": (b"GET /" + b"a" * 4000, Rule.TARGET_LENGTH),
    "a method without end": (b"G" * 4000, Rule.TARGET_LENGTH),
    "too many fields": (get(HOST, *(f"X-{i}: a" for i in range(20))), Rule.FIELDS_COUNT),
    "fields that are too large": (get(HOST, "X: " + "a" * 2048), Rule.FIELDS_SIZE),
    "a head without end": (get(HOST, "X: " + "a" * 4000)[:-4], Rule.FIELDS_SIZE),
    "white space without end": (get(HOST, "X:" + " " * 4000 + "a"), Rule.FIELDS_SIZE),
}

FIELD_LIMIT = LIMITS.header_bytes - len("Host" + "example.org") - len("X") - 8

RIGHT: dict[str, bytes] = {
    "an empty line first": b"\r\n\r\n" + get(HOST),
    "the most empty lines": b"\r\n" * 16 + get(HOST),
    "a bare LF first": b"\n" + get(HOST),
    "HTTP/1.0 without Host": get(version="1.0"),
    "a tab in a value": get(HOST, "Accept: a\tb"),
    "a byte above 127 in a value": get(HOST, "Accept: \xe9"),
    "an empty value": get(HOST, "Accept:"),
    "every character of a token": get(HOST, "!#$%&'*+-.^_`|~09azAZ: a"),
    "a name with a dash": get("Host: my-host_1.example"),
    "a Host with a port": get("Host: a:8000"),
    "a Host with an empty port": get("Host: a:"),
    "a Host that is an IPv6 address": get("Host: [::1]:8000"),
    "a Host that is an IPv4 address": get("Host: 127.0.0.1"),
    "a Host with an escape": get("Host: a%20b"),
    "Content-Length with zeros": post("Content-Length: 0000"),
    "a Content-Length of 18 digits": post("Content-Length: " + "0" * 18),
    "white space around a coding": post("Transfer-Encoding: \t chunked \t ") + b"0\r\n\r\n",
    "a tab on either side of a coding": post("Transfer-Encoding:\tchunked\t") + b"0\r\n\r\n",
    "a coding among empty elements": post("Transfer-Encoding: , ,chunked\t, ,") + b"0\r\n\r\n",
    "an expectation among empty elements": post("Expect: ,100-continue\t, "),
    "an expectation twice": post("Expect: 100-continue, 100-continue"),
    "an empty Expect": post("Expect:"),
    "the longest target": target("/" + "a" * 255),
    "the most fields": get(HOST, *(f"X-{i}: a" for i in range(19))),
    "the largest fields": get(HOST, "X: " + "a" * FIELD_LIMIT),
    "Upgrade to what we do not speak": get(HOST, "Connection: upgrade", "Upgrade: foo"),
    "every character of a target": target("/!$&'()*+,;=:@-._~%20?!$&'()*+,;=:@/?"),
    "what browsers leave in a target": target('/"<>[]\\^`{|}'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_form_gets_its_answer(codec: str, name: str) -> None:
    data, rule = WRONG[name]
    for pieces in ([data], bytewise(data), [data[:-3], data[-3:]]):
        reading = read_all(codec, pieces)
        assert (reading.status, reading.reason) == (rule.status, rule.reason)
        assert not reading.requests


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_form_is_taken(codec: str, name: str) -> None:
    data = RIGHT[name]
    for pieces in ([data], bytewise(data)):
        reading = read_all(codec, pieces)
        assert (reading.status, len(reading.requests)) == (0, 1)
        assert reading.requests[0].whole


@pytest.mark.parametrize("method", METHODS.values())
def test_every_method_is_served_by_both(codec: str, method: str) -> None:
    # Two at once: a parser that takes a method for another protocol's shows it in what comes behind.
    (first, second) = read_all(codec, [2 * head(f"{method} /a HTTP/1.1", HOST)]).requests
    assert first == second
    assert first.method == method


def only(codec: str, data: bytes, limits: Limits = LIMITS) -> Read:
    read, *_ = read_all(codec, [data], limits).requests
    return read


def test_names_come_in_lower_case_and_values_without_white_space(codec: str) -> None:
    read = only(codec, get("HOST:a", "Accept: \t b  c \t ", "X-A:", "x-a: 2"))
    assert read.headers == ((b"host", b"a"), (b"accept", b"b  c"), (b"x-a", b""), (b"x-a", b"2"))


def test_the_fields_that_frame_a_body_come_as_they_stood(codec: str) -> None:
    for field in (b"Content-Length:\t003 ", b"Transfer-Encoding:Chunked"):
        read = only(codec, b"POST / HTTP/1.1\r\nA: b\r\n%b\r\nHost:a\r\n\r\nabc" % field)
        name, _, value = field.partition(b":")
        assert read.headers == ((b"a", b"b"), (name.lower(), value.strip()), (b"host", b"a"))


@pytest.mark.parametrize(
    ("text", "path", "query"),
    [
        ("/", b"/", b""),
        ("/a?b=c?d", b"/a", b"b=c?d"),
        ("/a%20b?", b"/a%20b", b""),
        ("//a/../b", b"//a/../b", b""),
        ("http://example.com/a?b", b"/a", b"b"),
        ("http://example.com", b"/", b""),
        ("http://example.com?b", b"/", b"b"),
        ("HTTPS://[::1]:8443/a", b"/a", b""),
    ],
)
def test_the_target_is_taken_apart(codec: str, text: str, path: bytes, query: bytes) -> None:
    read = only(codec, target(text))
    assert (read.target, read.path, read.query) == (text.encode(), path, query)


def test_the_authority_of_an_absolute_form_replaces_host(codec: str) -> None:
    read = only(codec, head("GET http://right.example:81/ HTTP/1.1", "A: b", "Host: wrong.example"))
    assert [value for name, value in read.headers if name == b"host"] == [b"right.example:81"]


@pytest.mark.parametrize("text", ["*", "http://example.com"])
def test_an_options_request_for_the_server_itself(codec: str, text: str) -> None:
    assert only(codec, target(text, "OPTIONS")).path == b"*"


@pytest.mark.parametrize(
    ("version", "fields", "keeps"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: CLOSE , x"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.1", ["Connection: close", "Connection: keep-alive"], False),
        ("1.1", ["Connection: not-close"], True),
        ("1.1", ["Connection: , ,close\t,"], False),
        ("1.1", ["Connection:", "Connection: ,close"], False),
        ("1.1", ["Connection: ,"], True),
        ("1.0", ["Connection: ,, keep-alive ,"], True),
        ("1.0", [], False),
        ("1.0", ["Connection: Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_what_the_client_wants_of_the_connection(
    codec: str, version: str, fields: list[str], keeps: bool
) -> None:
    assert only(codec, get(HOST, *fields, version=version)).keep_alive is keeps


def test_as_many_fields_as_may_be_are_read(codec: str) -> None:
    limits = msgspec.structs.replace(LIMITS, header_count=1000, header_bytes=1 << 16)
    read = HeadReader(make_codec(codec), limits, "http").read(get(HOST, *["a:"] * 999))
    assert len(read.headers) == 1000


@pytest.mark.parametrize(("version", "expects"), [("1.1", True), ("1.0", False)])
def test_an_expectation_counts_in_1_1_alone(codec: str, version: str, expects: bool) -> None:
    data = request("/", "Expect: 100-Continue", version=version, method="POST", body=b"a")
    assert only(codec, data).expects_continue is expects


@pytest.mark.parametrize("value", ["100-continue", ", 100-Continue ,", "100-continue,100-continue"])
def test_an_expectation_is_read_as_a_list(codec: str, value: str) -> None:
    assert only(codec, request("/", f"Expect: {value}", method="POST", body=b"a")).expects_continue


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_expectation_of_nothing_is_none(codec: str, value: str) -> None:
    assert not only(codec, request("/", f"Expect:{value}", method="POST", body=b"a")).expects_continue


def test_lists_with_empty_elements_are_read_without_them(codec: str) -> None:
    """RFC 9110, 5.6.1.2"""
    head = get(HOST, "Connection: , upgrade,,TE ,", "Upgrade: ,\twebsocket ,", "TE: ,trailers ,")
    reader = RequestReader(make_codec(codec), LIMITS, "http")
    reader.receive_data(head)
    read = reader.next_request()
    assert read is not None
    assert read.websocket
    assert read.accepts_trailers


def test_a_body_above_the_limit_is_refused_by_its_length(codec: str) -> None:
    limits = msgspec.structs.replace(LIMITS, body=10)
    assert only(codec, post("Content-Length: 10") + bytes(10), limits).whole
    assert read_all(codec, [post("Content-Length: 11")], limits).status == 413


@pytest.mark.parametrize(
    ("head", "authority"),
    [
        (get("Host: example.org:81"), b"example.org:81"),
        (b"GET http://other.example/a HTTP/1.1\r\nHost: example.org\r\n\r\n", b"other.example"),
        (b"GET / HTTP/1.0\r\n\r\n", None),
    ],
    ids=["host", "absolute-form", "none"],
)
def test_scheme_and_authority_are_the_requests(codec: str, head: bytes, authority: bytes | None) -> None:
    read = HeadReader(make_codec(codec), LIMITS, "https").read(head)
    assert (read.scheme, read.authority) == ("https", authority)
