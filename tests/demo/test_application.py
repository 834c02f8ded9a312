"""The demo application, driven through ASGI alone: messages in, messages out."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, cast

import pytest
import trio
import trio.testing

from trioasgi.demo import app
from trioasgi.demo.application import Demo
from trioasgi.demo.pages import address, plain, security
from trioasgi.demo.request import CONTENT_SECURITY_POLICY
from trioasgi.demo.stream import STREAM_SECONDS, TICK_SECONDS, event
from trioasgi.types import ASGIApp, Message, Scope

PATIENCE = 10.0


def http_scope(method: str = "GET", path: str = "/", **changes: Any) -> Scope:
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 51234),
        "server": ("127.0.0.1", 8000),
    }
    return scope | changes  # type: ignore[operator,no-any-return]


@dataclass
class Answer:
    """What an application sent, as a client would have it."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return not self.messages[-1].get("more_body", False)


class Client:
    """The server's side of one application call: body chunks to receive, and a client that may leave."""

    def __init__(self, *chunks: bytes) -> None:
        self.answer = Answer()
        self.gone = trio.Event()
        self._chunks = list(chunks) or [b""]

    async def receive(self) -> Message:
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone.is_set():
            raise ConnectionResetError("the client has gone")
        self.answer.messages.append(message)


def call(scope: Scope, *chunks: bytes, application: ASGIApp = app) -> Answer:
    client = Client(*chunks)

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            await application(scope, client.receive, client.send)

    trio.run(main)
    assert client.answer.complete
    return client.answer


def run_with_clock(main: Callable[[], Awaitable[None]]) -> None:
    """Run on a clock that jumps ahead whenever every task waits."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


class Reader(HTMLParser):
    """Every tag with its attributes, and the text between tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [str(tag[1][name]) for tag in self.tags for name in ("src", "href") if name in tag[1]]


def test_the_page_shows_the_connection_and_the_scope() -> None:
    answer = call(http_scope())
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == str(len(answer.body))
    text = Reader(answer.body).text
    for shown in ("127.0.0.1:51234", "127.0.0.1:8000", "HTTP/1.1", "https", "TLS", "spec_version", "GET /"):
        assert shown in text


def test_the_page_keeps_to_its_own_content_security_policy() -> None:
    answer = call(http_scope())
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    page = Reader(answer.body)
    assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in page.links())
    for tag, attributes in page.tags:
        assert tag not in {"style", "iframe", "base"}
        assert tag != "script" or attributes.get("src")
        assert not any(name == "style" or name.startswith("on") for name in attributes)


def test_every_asset_and_link_of_the_page_is_there() -> None:
    links = {link.partition("?")[0] for link in Reader(call(http_scope()).body).links()}
    links -= {"#main", "/stream", "/nowhere"}
    assert {"/assets/style.css", "/assets/script.js", "/assets/icon.svg"} <= links
    for link in links:
        assert call(http_scope(path=link)).status == 200, link


@pytest.mark.parametrize("root_path", ["/api", "/api/"])
def test_links_keep_the_root_path(root_path: str) -> None:
    answer = call(http_scope(path="/api/", root_path=root_path))
    assert answer.status == 200
    links = [link for link in Reader(answer.body).links() if not link.startswith("#")]
    assert all(link.startswith("/api/") for link in links)
    assert call(http_scope(path="/api/assets/style.css", root_path=root_path)).status == 200
    assert call(http_scope(path="/api", root_path=root_path)).status == 200


def test_a_path_that_only_looks_like_the_root_path_is_not_cut() -> None:
    assert call(http_scope(path="/apiary", root_path="/api")).status == 404


def test_what_a_client_sends_is_escaped() -> None:
    evil = "<script>alert('x')</script>"
    for path in ("/", f"/{evil}"):
        answer = call(
            http_scope(
                path=path,
                raw_path=path.encode(),
                query_string=evil.encode(),
                headers=[(b"x-evil", evil.encode()), (evil.encode(), b"\xff\"'&")],
                client=(evil, 1),
                method="GET",
            )
        )
        page = Reader(answer.body)
        assert sum(tag == "script" for tag, _ in page.tags) == 1
        assert evil in page.text


def test_an_unknown_address_is_404() -> None:
    answer = call(http_scope(path="/nowhere"))
    assert answer.status == 404
    assert "nothing at this address" in Reader(answer.body).text


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("POST", "/", "GET, HEAD"), ("GET", "/echo", "POST, PUT")]
)
def test_a_method_that_is_not_taken_is_405_and_says_which_are(method: str, path: str, allowed: str) -> None:
    answer = call(http_scope(method, path))
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_headers_and_scope_in_json() -> None:
    headers = [(b"host", b"localhost"), (b"cookie", b"a=1"), (b"cookie", b"b=\xe9")]
    answer = call(http_scope(path="/headers.json", headers=headers))
    assert json.loads(answer.body) == [["host", "localhost"], ["cookie", "a=1"], ["cookie", "b=é"]]
    scope = json.loads(call(http_scope(path="/scope.json", query_string=b"q=1")).body)
    assert scope["query_string"] == "q=1"
    assert scope["client"] == ["127.0.0.1", 51234]


def test_echo_sends_each_chunk_back() -> None:
    answer = call(http_scope("POST", "/echo"), b"one ", b"two ", b"three")
    assert answer.body == b"one two three"
    assert len(answer.messages) == 4
    assert answer.headers["content-type"] == "application/octet-stream"


def test_echo_answers_before_the_body_is_complete() -> None:
    async def main() -> None:
        to_app, body = trio.open_memory_channel[Message](0)
        from_app, answers = trio.open_memory_channel[Message](0)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app, http_scope("POST", "/echo"), body.receive, from_app.send)
                assert (await answers.receive())["status"] == 200
                await to_app.send({"type": "http.request", "body": b"first", "more_body": True})
                assert (await answers.receive())["body"] == b"first"
                await to_app.send({"type": "http.disconnect"})

    trio.run(main)


def test_echo_ends_when_its_client_has_gone() -> None:
    async def main() -> None:
        client = Client(b"one", b"two")

        async def send(message: Message) -> None:
            await client.send(message)
            client.gone.set()

        with trio.fail_after(PATIENCE):
            await app(http_scope("POST", "/echo"), client.receive, send)
        assert len(client.answer.messages) == 1

    trio.run(main)


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in body.decode().split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_ticks_and_ends_by_itself() -> None:
    demo = Demo()
    client = Client()

    async def main() -> None:
        started = trio.current_time()
        await demo(http_scope(path="/stream"), client.receive, client.send)
        assert trio.current_time() - started < STREAM_SECONDS

    run_with_clock(main)
    answer = client.answer
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    assert answer.complete
    *ticks, (last, reason) = events(answer.body)
    assert len(ticks) == STREAM_SECONDS / TICK_SECONDS
    assert [data["number"] for _, data in ticks] == list(range(len(ticks)))
    assert all(name == "tick" and data["streams"] == 1 for name, data in ticks)
    assert (last, reason) == ("bye", {"reason": "renew"})


def test_an_idle_stream_notices_that_its_client_has_left() -> None:
    demo = Demo()

    async def main() -> None:
        client = Client()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo, http_scope(path="/stream"), client.receive, client.send)
            await trio.sleep(TICK_SECONDS / 2)
            client.gone.set()
        assert trio.current_time() - started < TICK_SECONDS
        assert not client.answer.complete
        later = Client()
        await demo(http_scope(path="/stream"), later.receive, later.send)
        assert events(later.answer.body)[0][1]["streams"] == 1, "the stream that was left is not counted"

    run_with_clock(main)


def test_a_stream_whose_send_fails_ends_without_an_error() -> None:
    async def main() -> None:
        client = Client()

        async def send(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.body":
                raise ConnectionResetError

        await app(http_scope(path="/stream"), client.receive, send)

    run_with_clock(main)


def test_a_cancelled_stream_ends_at_once() -> None:
    async def main() -> None:
        client = Client()
        with trio.move_on_after(TICK_SECONDS / 2) as scope:
            await app(http_scope(path="/stream"), client.receive, client.send)
        assert scope.cancelled_caught

    run_with_clock(main)


def test_head_of_a_stream_has_no_events() -> None:
    assert call(http_scope("HEAD", "/stream")).body == b""


def test_an_event_is_one_block() -> None:
    assert event("tick", {"text": "a\nb"}) == b'event: tick\ndata: {"text": "a\\nb"}\n\n'


def test_lifespan_state_counts_requests() -> None:
    demo = Demo()
    state: dict[str, Any] = {}

    async def main() -> None:
        to_app, received = trio.open_memory_channel[Message](1)
        sent: list[str] = []

        async def send(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(cast(str, message["type"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo, {"type": "lifespan", "asgi": {}, "state": state}, received.receive, send)
            await to_app.send({"type": "lifespan.startup"})
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                client = Client()
                await demo(http_scope(path="/scope.json", state=state.copy()), client.receive, client.send)
            await to_app.send({"type": "lifespan.shutdown"})
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        (life,) = state.values()
        assert life.requests == 2

    with_deadline(main)


def with_deadline(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(PATIENCE):
            await main()

    trio.run(bounded)


def test_another_scope_type_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="carrier pigeon"):
        call({"type": "carrier pigeon"})


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (["::1", 80], "[::1]:80"),
        (("/run/app.sock", None), "/run/app.sock"),
        (("", None), "—"),
        (None, "—"),
    ],
)
def test_addresses(endpoint: object, shown: str) -> None:
    assert address(endpoint) == shown


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "TLS"),
        ({"scheme": "http"}, "not encrypted"),
        ({"extensions": {"tls": {"tls_version": 0x0304}}}, "TLS 1.3"),
        ({"extensions": {"tls": {"tls_version": 0x7F1C}}}, "TLS (0x7f1c)"),
        ({"extensions": {"tls": {"tls_version": None}}}, "TLS"),
    ],
)
def test_what_protects_the_connection(changes: dict[str, Any], shown: str) -> None:
    assert security(http_scope(**changes)) == shown


def test_plain_is_always_json() -> None:
    value = {"a": (b"\xff", None, 1.5, True), 2: [object], "c": bytearray(b"x")}
    assert json.loads(json.dumps(plain(value)))["a"] == ["ÿ", None, 1.5, True]
