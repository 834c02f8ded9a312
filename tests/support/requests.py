"""Streams of requests for hypothesis: right ones, ones that are wrong somewhere, and damaged ones."""

from __future__ import annotations

from hypothesis import strategies as st

# Mostly right, so that what comes behind is looked at.
METHODS = st.sampled_from(
    ["GET", "POST"] * 8
    + ["HEAD", "OPTIONS", "M-SEARCH", "SOURCE", "QUERY", "get", "FROB", "CONNECT", "PRI", "G(T"]
)
TARGETS = st.sampled_from(
    ["/", "/a?b"] * 12
    + [
        "*",
        "http://a/b?c",
        "HTTP://[::1]:8/",
        "http://",
        "a:80",
        "/#",
        "//",
        "/%zz",
        "?",
        "/\xe9",
        "/ ",
        "/\t",
        "",
    ]
)
VERSIONS = st.sampled_from(
    ["HTTP/1.1"] * 20 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/11", ""]
)

# What means something, in the spellings that recipients are known to disagree about.
FIELDS = st.sampled_from(
    [
        *("Host: b", "Host:", "Host: a b", "host: [::1]:8000", "Host : a"),
        *("Content-Length: 3", "content-length:0", "Content-Length: 3, 3", "Content-Length: +3"),
        *("Content-Length: ", "Content-Length: 99999999999999999999", "Content-Length: 3 \t"),
        *("Transfer-Encoding: chunked", "Transfer-Encoding: CHUNKED", "Transfer-Encoding: gzip, chunked"),
        *("Transfer-Encoding: chunked, gzip", "Transfer-Encoding: identity", "Transfer-Encoding:"),
        *("Transfer-Encoding: chunked,", "Transfer-Encoding: chunked\t", "transfer-encoding:\x0bchunked"),
        *("Connection: close", "Connection: keep-alive", "Connection: Upgrade", "Connection: a, close"),
        *("Proxy-Connection: close", "Upgrade: websocket", "Upgrade: h2c", "Upgrade:"),
        *("Expect: 100-continue", "Expect: x", "TE: trailers", "Sec-WebSocket-Key1: a", "HTTP2-Settings: a"),
        *("A: b", "A:", "A: b\r\n c", " A: b", "A", ": b", "A: \xe9", "A: \x01", "A: b\nB: c", "A: b\rc"),
        *("A\xe9: b", "A(: b", "A: \x7f", "A: b\0", "A: \t b \t ", "!#$%&'*+-.^_`|~: a"),
    ]
) | st.builds(
    "{}: {}".format,
    st.text(st.sampled_from("aZ0-_!~"), min_size=1, max_size=5),
    st.text(st.characters(max_codepoint=255), max_size=8),
)

LINE_ENDS = st.sampled_from(["\r\n"] * 40 + ["\n", "\r", "\r\r\n", "\r\n "])


@st.composite
def _heads(draw: st.DrawFn) -> bytes:
    """A head of parts any of which may be wrong; mostly they are right."""
    line = f"{draw(METHODS)} {draw(TARGETS)} {draw(VERSIONS)}"
    fields = draw(st.lists(FIELDS, max_size=5))
    if draw(st.integers(0, 4)):
        fields.insert(draw(st.integers(0, len(fields))), "Host: example.org")
    return "".join(each + draw(LINE_ENDS) for each in [line, *fields, ""]).encode("latin-1")


@st.composite
def _good(draw: st.DrawFn) -> bytes:
    """A right request, with or without a body."""
    fields = draw(st.lists(st.sampled_from(["A: b", "Connection: keep-alive", "Upgrade: x"]), max_size=3))
    fields.append("Host: example.org")
    data = b"POST /a?b HTTP/1.1\r\n" + "\r\n".join(fields).encode()
    body = draw(st.binary(max_size=40))
    if draw(st.booleans()):
        return data + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return data + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + draw(_chunked(body))


@st.composite
def _chunked(draw: st.DrawFn, body: bytes) -> bytes:
    coded, pos = b"", 0
    while pos < len(body):
        size = draw(st.integers(1, len(body) - pos))
        extension = draw(st.sampled_from(["", "", ";a", ' ; a="b;\\""', ";a=b;c"]))
        coded += f"{size:x}{extension}\r\n".encode() + body[pos : pos + size] + b"\r\n"
        pos += size
    trailers = draw(st.sampled_from(["", "", "A: b\r\n", "Authorization: a\r\nHost: evil\r\n", "A\r\n"]))
    return coded + b"0\r\n" + trailers.encode() + b"\r\n"


@st.composite
def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a byte or two changed, taken out or put in."""
    for _ in range(draw(st.integers(1, 2))):
        pos = draw(st.integers(0, len(data)))
        new = draw(
            st.sampled_from([b"", b"\r", b"\n", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"\xff", b"a"])
        )
        data = data[:pos] + new + data[pos + draw(st.integers(0, 1)) :]
    return data


PIECES = st.one_of(
    _good(),
    _good(),
    _heads(),
    _good().flatmap(_damaged),
    _heads().flatmap(_damaged),
    st.sampled_from([b"\r\n", b"\n", b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"A" * 400, b"GET /\r\n\r\n"]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Pipelined requests, of which one or the other may be wrong."""
    return b"".join(draw(st.lists(PIECES, min_size=1, max_size=4)))


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
