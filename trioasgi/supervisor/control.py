"""The control socket: `trioasgi status`, `roll`, `scale`, `stop` and `reopen-logs` (`control_messages.py`).

Only the user whose supervisor it is may connect, and root: the file's mode says so, and the kernel checks it.
(So the peer's user is not checked again. Somebody may let a group in with `chmod`.) Still no client can do
harm: there are few at once, requests are short, and they have deadlines.

Nothing waits for a client. A client that leaves while it waits for a roll or the end changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.errors import BindError, ExitStatus
from trioasgi.net.accept import accept_connections
from trioasgi.net.kernel import is_dead
from trioasgi.net.listeners import close_listeners, open_private
from trioasgi.tasks import start_soon

from .control_messages import (
    LONGEST_REQUEST,
    Answer,
    Done,
    Ended,
    Refused,
    ReopenLogsRequest,
    Request,
    RollRequest,
    ScaleRequest,
    Shown,
    StatusRequest,
    StopRequest,
    decode_request,
    encode,
)
from .describing import supervisor_status
from .slots import LogsRotated, Promise, RollWanted, ScaleWanted, StopWanted

if TYPE_CHECKING:
    from .supervisor import Supervisor

logger = logging.getLogger("trioasgi")

_MOST_CLIENTS: Final = 16
_PATIENCE: Final = 5.0
"""Seconds in which a client must send its request, and take an answer."""
_LAST_ANSWERS: Final = 0.5
"""Seconds in which clients get their answers when the supervisor has ended."""
_MOST_WORKERS: Final = max(64, 16 * (os.cpu_count() or 1))
"""The largest number that a client may ask for: a mistake in typing must not fill the machine."""
_LOOK_EVERY: Final = 0.5
"""Seconds until it is looked again whether a client that sends no more has left."""
_BACKLOG: Final = 128
_CHUNK: Final = 4096
_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred` (unix(7)): process, user, group."""


class Control:
    """The control socket at `path`, which is open from now on. Close it with `close`. Raises BindError.

    `urls` are those of the server. `owns_process`: does the process end with the supervisor? Then a client
    that waits for the end gets the end of its connection from the kernel, when the process is gone.
    """

    def __init__(self, path: str, urls: list[str], *, version: str, owns_process: bool) -> None:
        self._urls = urls
        self._version = version
        self._owns_process = owns_process
        self._listener = _listen(path)
        self._clients: set[_Client] = set()

    def close(self) -> None:
        """Close the socket, and remove its file, unless another supervisor has replaced it."""
        close_listeners([self._listener])

    async def supervise(self, supervisor: Supervisor) -> ExitStatus:
        """As `supervisor.supervise()`, and answer clients meanwhile."""
        async with trio.open_nursery() as nursery:
            start_soon(nursery, self._serve, supervisor)
            status = await supervisor.supervise()
            # What was asked for may have failed at the very end, and have ended the supervisor.
            with trio.CancelScope(deadline=trio.current_time() + _LAST_ANSWERS, shield=True):
                for client in [*self._clients]:
                    await client.answered.wait()
            for client in self._clients:
                client.tell_end(status, until_exit=self._owns_process)
            nursery.cancel_scope.cancel()
        return status

    async def _serve(self, supervisor: Supervisor) -> None:
        async with trio.open_nursery() as nursery:

            def take(connection: socket.SocketType, _: object) -> None:
                sock = socket.socket(fileno=connection.detach())
                if len(self._clients) >= _MOST_CLIENTS:
                    with sock:
                        _send_at_once(sock, Refused(f"{_MOST_CLIENTS} clients are connected", self._version))
                    return
                client = _Client(sock, partial(self._answer, supervisor), self._version)
                self._clients.add(client)
                start_soon(nursery, self._attend, client)

            try:
                await accept_connections(self._listener, take)
            except OSError as error:
                logger.error("The control socket is broken: %s", error)  # noqa: TRY400 - no traceback needed
                close_listeners([self._listener])

    @enable_ki_protection
    async def _attend(self, client: _Client) -> None:
        try:
            await client.attend()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            logger.debug("A client of the control socket has left")
        except Exception:
            logger.exception("a client of the control socket could not be answered")
        finally:
            self._clients.discard(client)
            client.close()

    async def _answer(self, supervisor: Supervisor, request: Request, asker: str) -> Answer:
        """Do what is asked for. This may take as long as a roll."""
        promise = Promise()
        said = ""
        if not isinstance(request, StatusRequest):
            logger.info("Asked by %s: %s", asker, request.__struct_config__.tag)
        match request:
            case StatusRequest():
                return Shown(
                    supervisor_status(supervisor, version=self._version, pid=os.getpid(), urls=self._urls)
                )
            case RollRequest():
                supervisor.post(RollWanted(promise))
            case ScaleRequest(count) if not 1 <= count <= _MOST_WORKERS:
                promise.keep(f"there can be 1 to {_MOST_WORKERS} workers, not {count}")
            case ScaleRequest(count):
                said = _said_of_scaling(len(supervisor.workers.slots), count)
                supervisor.post(ScaleWanted(count, promise))
            case StopRequest():
                supervisor.post(StopWanted(f"Stopping: {asker} has asked for it"))
                promise.keep()
            case ReopenLogsRequest():
                supervisor.post(LogsRotated(promise))
        failure = await promise.wait()
        return Done(said) if failure is None else Refused(failure, self._version)


class _Client:
    """One connection."""

    def __init__(
        self, sock: socket.socket, answer: Callable[[Request, str], Awaitable[Answer]], version: str
    ) -> None:
        self._asker = _peer(sock)
        self._version = version
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._stream = trio.SocketStream(self._sock)
        self._answer = answer
        self._received = bytearray()
        self._waits_for_end = False
        self.answered = trio.Event()
        """Does it wait for no answer?"""
        self.answered.set()

    def close(self) -> None:
        """Close it. Once its end was told, that has been done, or the kernel will do it."""
        self._sock.close()

    async def attend(self) -> None:
        """Answer its requests, one after the other, until it leaves."""
        while (line := await self._next_line()) is not None:
            try:
                request = decode_request(line)
            except ValueError as error:
                await self._send(Refused(f"this is not a request: {error}", self._version))
                return
            self._waits_for_end = isinstance(request, StopRequest)
            self.answered = trio.Event()
            try:
                answer = await self._while_it_stays(request)
                if answer is None:
                    return
                await self._send(answer)
            finally:
                self.answered.set()
            if self._waits_for_end:
                await self._wait_gone()
                return

    def tell_end(self, status: ExitStatus, *, until_exit: bool) -> None:
        """Tell it of the end, if it waits for that. `until_exit`: the connection stays open as long as the
        process does.
        """
        if not self._waits_for_end:
            return
        if self._sock.fileno() < 0:
            return  # it has left
        trio.lowlevel.notify_closing(self._sock)
        sock = socket.socket(fileno=self._sock.detach())
        _send_at_once(sock, Ended(int(status)))
        if until_exit:
            sock.detach()
        else:
            sock.close()

    async def _next_line(self) -> bytes | None:
        """The next line, without its end; None if the client has left, is silent, or sends too much."""
        with trio.move_on_after(_PATIENCE):
            while (end := self._received.find(b"\n")) < 0:
                if len(self._received) > LONGEST_REQUEST:
                    await self._send(Refused(f"a request has at most {LONGEST_REQUEST} bytes", self._version))
                    return None
                data = await self._stream.receive_some(_CHUNK)
                if not data:
                    return None
                self._received += data
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            return line
        return None

    async def _wait_gone(self) -> None:
        """Return when the client has left, or sends too much."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while len(self._received) <= LONGEST_REQUEST:
                data = await self._stream.receive_some(_CHUNK)
                if not data:
                    await self._wait_closed()
                    return
                self._received += data

    async def _wait_closed(self) -> None:
        """The client sends no more. Return when it also reads no more: one that has only closed its side for
        sending, as `nc -N` does, waits for its answer.
        """
        while True:
            if is_dead(self._sock.fileno()):
                return
            await trio.sleep(_LOOK_EVERY)

    async def _while_it_stays(self, request: Request) -> Answer | None:
        """The answer, or None if the client leaves before."""
        answer: Answer | None = None
        async with trio.open_nursery() as nursery:

            @enable_ki_protection
            async def end_when_gone() -> None:
                await self._wait_gone()
                nursery.cancel_scope.cancel()

            start_soon(nursery, end_when_gone)
            answer = await self._answer(request, self._asker)
            nursery.cancel_scope.cancel()
        return answer

    async def _send(self, answer: Answer) -> None:
        """Send it, or raise BrokenResourceError if the client does not take it in time."""
        with trio.move_on_after(_PATIENCE) as scope:
            await self._stream.send_all(encode(answer))
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client takes no answer")


def _listen(path: str) -> socket.socket:
    if sys.platform == "win32":
        raise BindError("a control socket (--control) is a Unix socket, and Windows has none for Python")
    return open_private(path, f"the control socket {path} (--control)", _BACKLOG)


def _send_at_once(sock: socket.socket, answer: Answer) -> None:
    """Send what is short to a client that has had nothing yet, or little: its buffer takes it."""
    sock.setblocking(False)
    try:
        sock.send(encode(answer))
    except OSError:
        logger.debug("A client of the control socket takes nothing")


def _peer(sock: socket.socket) -> str:
    """Who it is that asks, for the log."""
    if sys.platform != "linux":
        return "somebody"
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "somebody"
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return f"process {pid} of user {uid}"


def _said_of_scaling(before: int, count: int) -> str:
    verb = "was" if before == 1 else "were"
    return f"{count} {'worker' if count == 1 else 'workers'}; there {verb} {before}"
