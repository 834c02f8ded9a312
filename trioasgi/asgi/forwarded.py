"""What trusted proxies say of a request: `X-Forwarded-*`, and `Forwarded` of RFC 7239.

Each proxy adds, on the right, the address from which it has received the request. So an entry can be believed
if all hops to its right are trusted. The rules:

=============================  =============================================================================
The client                     the right-most hop that is not a trusted proxy; if all are, the left-most
Proto, Host, Port, Prefix      of X-Forwarded: the entry as far from the right as the client's, at most the
                               left-most; of Forwarded: what stands in the client's own element
A hop that is no address       (`unknown`, an obfuscated name, or nonsense) is a client that is not known:
                               the scope's `client` is None. It is not the proxy's address, which may well
                               have rights that the client has not
Both families                  X-Forwarded-* alone counts: proxies that set those tend to pass on a
                               `Forwarded` that the client has made up
A `Forwarded` that cannot      says nothing, except that the client is not known: an unfinished quotation may
be read, or is far too long    have swallowed what the proxy has added
More than `MAX_HOPS` hops      are a client that is not known, where all of them are trusted
Any other malformed value      says nothing
=============================  =============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.asgi.statement import Forwarded, Node, Statement
from trioasgi.http.abnf import NO_FIELD_CHARS, TOKEN, TOKEN_CHARS
from trioasgi.http.remembering import Remembering
from trioasgi.net.trust import normal_address
from trioasgi.observe.text import escaped
from trioasgi.patterns import compiled_later

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trioasgi.http.request import Header, Request
    from trioasgi.net.connection_info import ConnectionInfo
    from trioasgi.net.peers import Peer
    from trioasgi.net.trust import Trusted

FOR: Final = b"x-forwarded-for"
PROTO: Final = b"x-forwarded-proto"
HOST: Final = b"x-forwarded-host"
PORT: Final = b"x-forwarded-port"
PREFIX: Final = b"x-forwarded-prefix"
FORWARDED: Final = b"forwarded"

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_LABEL: Final = 64

MAX_HOPS: Final = 64
MAX_PAIRS: Final = 1024
"""The most trusted hops, and the most parameters of all `Forwarded` elements, that are read. Each hop is an
address to be parsed, and a client may send thousands. An empty parameter counts too: each takes one byte.
"""

_MAX_PREFIX: Final = 2048
"""Characters of a path that an application is mounted at: to look at one takes 200 bytes for each."""

_BRACKETED: Final = compiled_later(r"\[([0-9A-Fa-f:.]+)\](?::(?:([0-9]{1,5})|_[A-Za-z0-9._\-]+))?")
_DOTTED: Final = compiled_later(r"([0-9.]+)(?::(?:([0-9]{1,5})|_[A-Za-z0-9._\-]+))?")
_BARE_V6: Final = compiled_later(r"([0-9A-Fa-f:.]+)()")
"""RFC 7239, 6: an address and a port, which may be obfuscated. Also an IPv6 address without brackets, as
usual in X-Forwarded-For.
"""

_AUTHORITY: Final = compiled_later(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~]{1,255})(?::([0-9]{1,5})?)?")
"""RFC 3986, 3.2.2 and 3.2.3, but only with the characters of host names."""

_LONGEST_HOST: Final = 261
"""Characters of the longest match of `_AUTHORITY`."""

_PREFIX: Final = compiled_later(r"(?:/(?!\.\.?(?:/|$))(?:[A-Za-z0-9\-._~!$&'()*+;=:@]|%[0-9A-Fa-f]{2})+)+")
"""A path without empty, `.` or `..` segments (RFC 3986, 3.3), and without commas, which end it in a list."""

_VALUE: Final = rf"[{TOKEN_CHARS.decode()}:\[\]]+"  # `:`, `[` and `]` should be quoted, but often are not
_NO_CHARS: Final = NO_FIELD_CHARS.decode()
_QDTEXT: Final = rf'[^"\\{_NO_CHARS}]*'
_PAIR: Final = compiled_later(
    rf'({TOKEN.decode()})=(?:({_VALUE})|"({_QDTEXT}(?:\\[^{_NO_CHARS}]{_QDTEXT})*)")'
)
_SEPARATOR: Final = compiled_later(r"[ \t]*([;,])[ \t]*")


def replace_host(headers: list[Header], host: bytes) -> None:
    """Put the Host that the client has asked for into the header fields of a request."""
    for place, (name, _value) in enumerate(headers):
        if name == b"host":
            headers[place] = (b"host", host)
            return
    headers.insert(0, (b"host", host))


class Forwarding:
    """Reads the header fields in `names` that trusted proxies send. An entry of `names` may have several
    names, separated by commas.
    """

    __slots__ = ("_believes_usual", "_names", "_trusted")

    def __init__(self, trusted: Trusted, names: Iterable[str]) -> None:
        self._trusted = trusted
        self._names = frozenset(name.strip().lower().encode() for name in ",".join(names).split(","))
        self._believes_usual = self._names >= {FOR, PROTO, HOST}

    def trusts(self, info: ConnectionInfo) -> bool:
        """Is the peer of this connection a trusted proxy? Called once for each connection."""
        return self._trusted.has_peer(info.client, info.server)

    def read(self, request: Request, info: ConnectionInfo) -> Forwarded | None:
        """Read what is said of a request on the trusted connection `info`. None if that is nothing.

        Most proxies say of one hop who it is, by which scheme it came, and for which host. This reads these
        three, and leaves all else to `_read_all`.
        """
        forwarded = request.forwarded
        if not forwarded:
            return None
        client = proto = host = None
        for name, value in forwarded:
            if name == FOR and client is None:
                client = value
            elif name == PROTO and proto is None:
                proto = value
            elif name == HOST and host is None:
                host = value
            else:
                return self._read_all(request, info)
        scheme = _USUAL_SCHEMES.get(proto)
        if scheme is None or not self._believes_usual:
            return self._read_all(request, info)
        scheme = scheme or info.scheme
        node = _UNSAID if client is None else _read_node(client)
        named = _UNNAMED if host is None else _read_host(host, scheme)
        if node is None or named is None:
            return self._read_all(request, info)
        if node is _UNSAID:
            return Forwarded(scheme, info.client, named[0] or info.server, info.peer, info.tls, named[1])
        return Forwarded(scheme, node.client, named[0] or info.server, node.label, info.tls, named[1])

    def _read_all(self, request: Request, info: ConnectionInfo) -> Forwarded | None:
        fields: dict[bytes, list[str]] = {}
        for name, value in request.forwarded:
            if name in self._names:
                fields.setdefault(name, []).append(value.decode("latin-1"))
        return read_forwarded(fields, request.headers, info, self._trusted) if fields else None


_USUAL_SCHEMES: Final[dict[bytes | None, str]] = {None: "", b"http": "http", b"https": "https"}


def read_forwarded(
    fields: Mapping[bytes, Sequence[str]],
    headers: Sequence[Header],
    info: ConnectionInfo,
    trusted: Trusted,
) -> Forwarded | None:
    """Read `fields`: the values of each name, in their order. None if they say nothing."""
    by_x = any(name != FORWARDED for name in fields)
    statement = _read_x_forwarded(fields, trusted) if by_x else _read_rfc7239(fields[FORWARDED], trusted)
    return None if statement is None else _conclude(statement, headers, info)


_NOT_KNOWN: Final = Node("an unknown client")
_UNSAID: Final = Node("nothing is said of the client")
_UNNAMED: Final[tuple[Peer | None, bytes | None]] = (None, None)


# One hop of which the usual is said. What is made of a client, and of a host, is remembered: they come again.


def _read_node(value: bytes) -> Node | None:
    """The only hop; None if there may be more of them, or none."""
    return _nodes[value] if len(value) <= _MAX_LABEL else None


def _read_short_node(value: bytes) -> Node | None:
    return _parse_node(value.decode("latin-1")) if value and b"," not in value else None


_nodes: Final = Remembering(_read_short_node, 1024)


def _read_host(value: bytes, scheme: str) -> tuple[Peer, bytes] | None:
    """The server that the only host names, and the Host field for it; None if there is no such."""
    return _hosts[scheme][value] if len(value) <= _LONGEST_HOST else None


def _read_http_host(value: bytes) -> tuple[Peer, bytes] | None:
    return _name_server(value.decode("latin-1"), "", "http")


def _read_https_host(value: bytes) -> tuple[Peer, bytes] | None:
    return _name_server(value.decode("latin-1"), "", "https")


_hosts: Final = {"http": Remembering(_read_http_host, 256), "https": Remembering(_read_https_host, 256)}


# The two families


def _read_x_forwarded(fields: Mapping[bytes, Sequence[str]], trusted: Trusted) -> Statement:
    client, distance = _find_client(_entries(fields.get(FOR, ())), trusted)

    def pick(name: bytes) -> str:
        values = fields.get(name)
        entries = _entries(values) if values else ()
        return entries[max(len(entries) - 1 - distance, 0)] if entries else ""

    return Statement(client, pick(PROTO), pick(HOST), pick(PORT), pick(PREFIX))


def _entries(values: Sequence[str]) -> list[str]:
    """The members of a list, without empty ones (RFC 9110, 5.6.1)."""
    if len(values) == 1 and "," not in values[0]:
        return [values[0]] if values[0] else []
    return [entry for value in values for part in value.split(",") if (entry := part.strip(" \t"))]


def _read_rfc7239(values: Sequence[str], trusted: Trusted) -> Statement | None:
    elements: list[dict[str, str]] = []
    room = MAX_PAIRS
    for value in values:
        room = _parse_elements(value, elements, room)
        if room < 0:
            return Statement(_NOT_KNOWN)
    if not elements:
        return None
    client, distance = _find_client([element.get("for") for element in elements], trusted)
    element = elements[-1 - distance]
    return Statement(client, element.get("proto", ""), element.get("host", ""))


def _parse_elements(value: str, elements: list[dict[str, str]], room: int) -> int:
    """Add the elements of one `Forwarded` line to `elements`, with parameter names in lower case. RFC 7239,
    4: an element has each parameter once, and empty elements are skipped.

    At most `room` parameters are read. Return how many more may be read after them; -1 if the line is
    malformed, or has too many.
    """
    element: dict[str, str] = {}
    value = value.strip(" \t")
    at = 0
    while at < len(value):
        room -= 1
        pair = _PAIR.match(value, at)
        if pair is not None:
            name = pair[1].lower()
            if name in element:
                return -1
            element[name] = pair[2] if pair[3] is None else _unquote(pair[3])
            at = pair.end()
        separator = _SEPARATOR.match(value, at)
        if separator is None or room < 0:
            break
        if separator[1] == "," and element:
            elements.append(element)
            element = {}
        at = separator.end()
    if element:
        elements.append(element)
    return room if at == len(value) else -1


def _unquote(text: str) -> str:
    """The text of a quoted-string (RFC 9110, 5.6.4). A substitution takes a microsecond for each pair."""
    if "\\" not in text:
        return text
    return "\\".join([part.replace("\\", "") for part in text.split("\\\\")])


# The client


def _find_client(nodes: Sequence[str | None], trusted: Trusted) -> tuple[Node | None, int]:
    """The client among the hops, and its distance from the right.

    A hop without an address (None) ends the search: the hop before it is the client, or the peer itself.
    """
    client: Node | None = None
    distance = 0
    for distance, text in enumerate(reversed(nodes)):
        if text is None:
            break
        if distance == MAX_HOPS:
            return _NOT_KNOWN, distance
        client = _parse_node(text)
        if not client.is_trusted(trusted):
            break
    return client, distance


def _parse_node(text: str) -> Node:
    if len(text) > _MAX_LABEL:  # longer than any address
        return Node(escaped(text[:_MAX_LABEL]))
    match = _BRACKETED.fullmatch(text) or _DOTTED.fullmatch(text) or _BARE_V6.fullmatch(text)
    address = normal_address(match[1]) if match is not None else None
    port = int(match[2] or 0) if match is not None else 0
    if address is None or port > 65535 or (text[0] == "[" and ":" not in text):
        return Node(escaped(text) or _NOT_KNOWN.label)
    shown = f"[{address}]" if ":" in address else address
    return Node(f"{shown}:{port}" if port else address, (address, port))


# The server and the Host


def _conclude(statement: Statement, headers: Sequence[Header], info: ConnectionInfo) -> Forwarded:
    scheme = _SCHEMES.get(statement.scheme.lower(), info.scheme)
    node = statement.client
    client, peer = (info.client, info.peer) if node is None else (node.client, node.label)
    server, host = info.server, None
    if statement.host or statement.port:
        server, host = _find_server(statement, headers, info.server, scheme)
    prefix = _parse_prefix(statement.prefix) if statement.prefix else None
    return Forwarded(scheme, client, server, peer, info.tls, host, prefix)


def _find_server(
    statement: Statement, headers: Sequence[Header], server: Peer | None, scheme: str
) -> tuple[Peer | None, bytes | None]:
    """The server as the client has addressed it, and the Host field for it; `server` and None if the
    statement does not say.
    """
    found = _name_server(statement.host, statement.port, scheme)
    port = None if found else _parse_port(statement.port)
    if port is not None:
        own = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
        found = _name_server(own, statement.port, scheme)
        if found is None:
            return (server[0] if server else "", port), None
    return found or (server, None)


def _name_server(host: str, port: str, scheme: str) -> tuple[Peer, bytes] | None:
    """The server that `host` names, and the Host field for it; None if it names none.

    The port is that of the host; without one, the forwarded port; without that, the default of the scheme
    (RFC 9110, 4.2.1).
    """
    named = _AUTHORITY.fullmatch(host) if len(host) <= _LONGEST_HOST else None
    if named is None or (host[0] == "[" and normal_address(named[1][1:-1]) is None):
        return None
    default = _DEFAULT_PORTS[scheme]
    own = _parse_port(named[2] or "")
    number = own or _parse_port(port) or default
    name = named[1]
    field = name if number == default and not own else f"{name}:{number}"
    return (name.strip("[]"), number), field.encode()


def _parse_port(text: str) -> int | None:
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return port if 0 < port <= 65535 else None


def _parse_prefix(text: str) -> str | None:
    prefix = text.rstrip("/")
    return prefix if len(prefix) <= _MAX_PREFIX and _PREFIX.fullmatch(prefix) else None
