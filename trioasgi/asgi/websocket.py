"""The WebSocket call: one invocation of the application for one WebSocket (ASGI's HTTP & WebSocket
specification, spec_version 2.5), from its handshake to its end.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

from trioasgi.asgi.failures import is_disconnect, split_failure
from trioasgi.asgi.http_call import YIELD_EVERY
from trioasgi.asgi.messages import check_body, check_message, check_status, check_type
from trioasgi.asgi.resting import rest
from trioasgi.errors import ASGIMessageError, ClientDisconnected, leaves_of
from trioasgi.http.abnf import TOKEN
from trioasgi.http.exchange import Refusal
from trioasgi.http.response import ResponsePhase
from trioasgi.http.response_fields import check_fields
from trioasgi.nurseries import abandon_nurseries
from trioasgi.observe.errors import log_app_exception
from trioasgi.websocket.frames import CloseCode, is_sendable
from trioasgi.websocket.handshake import answer_fields, read_offer
from trioasgi.websocket.session import WebSocketSession
from trioasgi.websocket.state import SessionState

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.types import ASGIApp, Message, Scope
    from trioasgi.websocket.handshake import Offer
    from trioasgi.websocket.settings import WebSocketSettings

logger = logging.getLogger("trioasgi")

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_REFUSED: Final = ResponsePhase.REFUSED
_FAILED: Final = ResponsePhase.FAILED

_SCHEMES: Final = {"http": "ws", "https": "wss"}

_SUBPROTOCOL: Final = re.compile(TOKEN.decode())


async def serve_websocket(
    app: ASGIApp,
    exchange: Exchange,
    scope: Scope,
    settings: WebSocketSettings,
    peer: str,
) -> None:
    """Answer `exchange`, which asks for a WebSocket. If its handshake is valid, call the application.

    `scope` is that of an HTTP request, and is changed here. The WebSocket and its closing handshake are over
    when this returns. Raises nothing but cancellation.
    """
    refusal = exchange.check_websocket()
    if refusal is not None:
        logger.info("%s: WebSocket handshake refused: %d %s", peer, refusal.status, refusal.reason)
        await _refuse(exchange, refusal)
        return
    offer = read_offer(exchange.request.headers)
    _make_websocket_scope(scope, offer)
    call = WebSocketCall(exchange, offer, settings, peer)
    is_interrupted = False
    try:
        await app(scope, call.receive, call.send)
    except BaseException as exc:  # noqa: BLE001 - sorted out below: cancellation goes on
        failure, outside = split_failure(exc)
        try:
            if failure is not None:
                call.end_failed(failure)
            if outside is not None:
                is_interrupted = any(not isinstance(leaf, trio.Cancelled) for leaf in leaves_of(outside))
                raise outside from None
        finally:
            # Their tracebacks hold this frame: only the collector would free it, with all that has arrived.
            del failure, outside
    else:
        call.end()
    finally:
        if abandon_nurseries(current_task()) or is_interrupted:
            call.abandon()
        else:
            await call.finish()


def _make_websocket_scope(scope: Scope, offer: Offer) -> None:
    scope["type"] = "websocket"
    scope["scheme"] = _SCHEMES.get(scope["scheme"], scope["scheme"])
    scope["subprotocols"] = list(offer.subprotocols)
    extensions = scope["extensions"]
    scope["extensions"] = {"websocket.http.response": {}}
    for name in ("tls", "trio"):  # the other extensions are for HTTP responses
        if name in extensions:
            scope["extensions"][name] = extensions[name]
    del scope["method"]


async def _refuse(exchange: Exchange, refusal: Refusal) -> None:
    """Answer with an HTTP response of the server."""
    status, reason, headers = refusal.status, refusal.reason, refusal.headers
    body = f"{status} {reason}\n".encode() if reason else b""
    headers = (*headers, (b"content-length", b"%d" % len(body)))
    if body:
        headers = (*headers, (b"content-type", b"text/plain; charset=utf-8"))
    exchange.decline_websocket()
    try:
        exchange.send_head(status, headers)
        if exchange.send_body(body, more=False):
            await exchange.flush()
    except ClientDisconnected:
        pass  # the client has gone


class WebSocketCall:
    """`receive` and `send` of one call.

    Until the handshake is accepted, or if it is denied, the exchange's `phase` is the state of the call.
    After that there is a session, with a state of its own.
    """

    __slots__ = (
        "_connect_told",
        "_ends",
        "_errors",
        "_exchange",
        "_has_told",
        "_offer",
        "_peer",
        "_pieces",
        "_session",
        "_settings",
    )

    def __init__(
        self,
        exchange: Exchange,
        offer: Offer,
        settings: WebSocketSettings,
        peer: str,
    ) -> None:
        self._exchange = exchange
        self._offer = offer
        self._settings = settings
        self._peer = peer
        self._connect_told = False
        self._has_told = False
        """Has the application been told, before it has accepted, that the client has gone?"""
        self._ends = self._errors = 0
        """How often the application was told of the end, and how often of an error."""
        self._pieces = 0
        """How many pieces a denial has."""
        self._session: WebSocketSession | None = None

    # What the application calls

    async def receive(self) -> Message:
        """The next event: `websocket.connect`, then `websocket.receive` for each message, and
        `websocket.disconnect` once either side has closed.
        """
        session = self._session
        if session is None:
            if not self._connect_told:
                self._connect_told = True
                return {"type": "websocket.connect"}
            await self._exchange.wait_disconnected()
            session = self._session
            if session is None:  # another task may have accepted meanwhile
                self._has_told = True
                await self._count_end()
                return {"type": "websocket.disconnect", "code": int(CloseCode.ABNORMAL), "reason": ""}
        try:
            message = await session.receive()
        except trio.BusyResourceError:
            await self._count_error()
            raise
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if message is not None:
            return {"type": "websocket.receive", "bytes": message}
        await self._count_end()
        return {"type": "websocket.disconnect", "code": session.close_code, "reason": session.close_reason}

    async def _count_end(self) -> None:
        self._ends += 1
        await rest(self._ends)

    async def _count_error(self) -> None:
        self._errors += 1
        await rest(self._errors)

    async def send(self, message: Message) -> None:
        """Take `websocket.accept`, `websocket.send` and `websocket.close`, or a response in place of the
        WebSocket.

        Raises ClientDisconnected, ASGIMessageError.
        """
        try:
            if not isinstance(message, dict):
                message = check_message(message)
            session = self._session
            if session is None:
                await self._send_unaccepted(message)
            elif message.get("type") == "websocket.send":
                text, payload = message.get("text"), message.get("bytes")
                # The two usual cases here, without a call; `_read_payload` has all of them.
                if payload is None and type(text) is str:
                    payload = text
                elif text is not None or type(payload) is not bytes:
                    payload = _read_payload(text, payload)
                try:
                    wait = session.send(payload)
                    if wait is not None:
                        await wait
                except UnicodeEncodeError as exc:
                    raise ASGIMessageError(f"text must be encodable in UTF-8: {exc}") from exc
            else:
                check_type(message, "websocket.send", "websocket.close")
                if session.state is not SessionState.OPEN:
                    raise ClientDisconnected("the WebSocket is closed")
                session.close(*_read_close(message))
        except (OSError, ASGIMessageError):
            await self._count_error()
            raise

    # Before it is accepted

    async def _send_unaccepted(self, message: Message) -> None:
        exchange = self._exchange
        if exchange.phase is _NOT_STARTED:
            match check_type(message, "websocket.accept", "websocket.close", "websocket.http.response.start"):
                case "websocket.accept":
                    # A client that sends no more can still read an answer, but has no use for a WebSocket.
                    if exchange.disconnected:
                        self._has_told = True
                        raise ClientDisconnected("the client has gone")
                    await self._accept(message)
                case "websocket.close":
                    # Code and reason are not sent, so they are not checked: FastAPI's reason is a list here.
                    await _refuse(exchange, Refusal(403, ""))
                case _:
                    await self._begin_response(message)
        elif exchange.phase is _STARTED:
            check_type(message, "websocket.http.response.body")
            await self._continue_response(message)
        else:
            self._has_told = True
            raise ClientDisconnected("the handshake was refused, or the client has gone")

    async def _accept(self, message: Message) -> None:
        subprotocol = self._read_subprotocol(message)
        given = check_fields(message.get("headers") or ())
        for name, _value in given:
            if name.startswith(b"sec-websocket-"):
                raise ASGIMessageError(
                    f"header {name.decode()} is the server's to send; a subprotocol goes into 'subprotocol'"
                )
        deflate = self._offer.agree(deflate=self._settings.deflate)
        exchange = self._exchange
        channel, early = exchange.accept_websocket([*answer_fields(subprotocol, deflate), *given])
        session = WebSocketSession(channel, early, self._settings, deflate, self._peer)
        self._session = session
        exchange.on_drain(session.drain)
        await session.flush()

    def _read_subprotocol(self, message: Message) -> str | None:
        subprotocol = message.get("subprotocol")
        if subprotocol is None:
            return None
        if not isinstance(subprotocol, str) or _SUBPROTOCOL.fullmatch(subprotocol) is None:
            raise ASGIMessageError(f"subprotocol must be a token as a str, or None, not {subprotocol!r}")
        if subprotocol not in self._offer.subprotocols:
            # RFC 6455, 4.1: the client would fail the connection.
            offered = ", ".join(self._offer.subprotocols) or "none"
            raise ASGIMessageError(
                f"subprotocol {subprotocol!r} is not one that the client offers ({offered})"
            )
        return subprotocol

    # A response in place of the WebSocket: https://asgi.readthedocs.io, "Websocket Denial Response"

    async def _begin_response(self, message: Message) -> None:
        status = check_status(message.get("status"))
        self._exchange.decline_websocket()
        if self._exchange.send_head(status, message.get("headers") or ()):
            await self._exchange.flush()

    async def _continue_response(self, message: Message) -> None:
        exchange = self._exchange
        exchange.send_body(check_body(message.get("body", b"")), bool(message.get("more_body")))
        await exchange.flush()
        self._pieces += 1
        if self._pieces % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()  # they may be empty

    # The end

    def end(self) -> None:
        """End the WebSocket after the application has returned."""
        exchange, session = self._exchange, self._session
        if session is not None:
            session.close()
        elif self._has_told or exchange.is_lost:
            exchange.abort("the client has gone")
        elif exchange.can_fail:
            target = exchange.request.target.decode("ascii", "replace")
            logger.error(
                "the application returned without answering the WebSocket handshake for %s from %s",
                target,
                self._peer,
            )
            exchange.fail(500, "Internal Server Error")

    def end_failed(self, exc: BaseException) -> None:
        """End the WebSocket after the application has raised: 500 before it is accepted, 1011 after."""
        exchange, session = self._exchange, self._session
        if session is not None:
            would_tell = session.state is not SessionState.OPEN
        else:
            would_tell = self._has_told or exchange.phase is _FAILED or exchange.phase is _REFUSED
        is_disconnected = would_tell and is_disconnect(exc)
        if is_disconnected:
            logger.debug("%s went away during its WebSocket", self._peer)
        else:
            request = exchange.request
            log_app_exception(exc, request.method, request.target.decode("ascii", "replace"), self._peer)
        if session is not None:
            session.close(CloseCode.INTERNAL_ERROR)
        elif is_disconnected:
            exchange.abort("the client has gone")
        else:
            exchange.fail(500, "Internal Server Error")

    def abandon(self) -> None:
        """End the session without waiting for the client: after a nursery was abandoned, this task cannot
        wait, and after Ctrl-C it should not.
        """
        if self._session is not None:
            self._session.abandon()

    async def finish(self) -> None:
        """Bring the session, if there is one, to its end."""
        if self._session is not None:
            await self._session.finish()


def _read_payload(text: object, data: object) -> str | bytes:
    """The text or the bytes of `websocket.send`; exactly one of them must be set."""
    if data is None and isinstance(text, str):
        return str.__str__(text)  # a subclass may have other methods
    if text is None and data is not None:
        return check_body(data)
    raise ASGIMessageError(
        "websocket.send needs text as a str, or bytes as a byte string, and the other None; "
        f"text is {_kind(text)}, bytes is {_kind(data)}"
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _read_close(message: Message) -> tuple[int, str]:
    code = message.get("code", CloseCode.NORMAL)
    if code is None:
        code = CloseCode.NORMAL
    number = int.__index__(code) if isinstance(code, int) else 0
    if not (is_sendable(number) or number == CloseCode.NO_STATUS):
        raise ASGIMessageError(
            f"close code {code!r} may not be sent: 1000 to 1003, 1007 to 1014 and 3000 to 4999 may "
            "(RFC 6455, 7.4)"
        )
    reason = message.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise ASGIMessageError(f"the reason of a close must be a str, not {type(reason).__name__}")
    return number, "" if reason is None else str.__str__(reason)
