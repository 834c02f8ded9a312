"""The nursery tree of one worker.

::

    lifespan nursery  ─  connections nursery  ─  listeners nursery

Each outlives the one to its right. When the listeners' nursery ends, the connections drain. When their
nursery has ended, the application shuts down. No task runs outside this tree.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trioasgi.net.address import is_inherited
from trioasgi.net.hub import Hub, supported
from trioasgi.net.redirecting import is_redirecting, redirecting_urls
from trioasgi.server.acceptor import Acceptor
from trioasgi.server.assembly import codec_factory, forwarding, grace, redirecting_settings
from trioasgi.server.connections import Connections
from trioasgi.server.drain import abort_when_cancelled
from trioasgi.server.gate import WITHOUT_SUPERVISOR
from trioasgi.server.handle import Server
from trioasgi.server.hosting import Counting, Hosting
from trioasgi.server.progress import Listening, Progress
from trioasgi.server.task_pool import MOST_WAITING
from trioasgi.tasks import report_started, start_soon

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from trioasgi.config import Config
    from trioasgi.server.gate import UnderSupervisor
    from trioasgi.server.given import Given
    from trioasgi.server.hosting import OnStuck
    from trioasgi.server.redirecting import Redirects
    from trioasgi.tls.certificates import Certificate
    from trioasgi.tls.client_dates import DateFault
    from trioasgi.types import ASGIApp


class NurseryTree:
    """One run of a server on listening sockets: its nurseries, and what their tasks share."""

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        sockets: Sequence[socket.socket],
        listening: Listening,
        given: Given,
        on_stuck: OnStuck | None = None,
        stop_hint: str | None = None,
        supervised: UnderSupervisor = WITHOUT_SUPERVISOR,
    ) -> None:
        self._config = config
        self._gate = supervised.gate
        self._on_done_accepting = supervised.on_done_accepting
        self._stop_hint = stop_hint
        self._announces = listening is Listening.ALONE
        self._progress = Progress(listening, grace(config))
        tls = config.has_tls
        served = [sock for sock in sockets if not is_redirecting(sock)]
        redirecting = redirecting_urls(sockets)
        self.server = Server._create([(sock, tls) for sock in served], self._progress, redirecting)
        self._hosting = Hosting(app, config, given, self.server, self._progress, on_stuck, supervised)
        # Another server may use an inherited socket too.
        owns_sockets = not any(map(is_inherited, config.every_bind))
        self._redirects = self._make_redirects(served) if redirecting else None
        urls = (*self.server.urls, *redirecting)
        self._acceptor = Acceptor(sockets, urls, owns_sockets=owns_sockets)
        self._acceptor.latency = self._hosting.latency

    async def serve(self, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled."""
        await self._hosting.run(partial(self._serve_sockets, task_status), self._give_up_listening)

    async def _serve_sockets(self, task_status: trio.TaskStatus[Server], nursery: trio.Nursery) -> None:
        if self._hosting.access_log is not None:
            start_soon(nursery, self._hosting.access_log.write_batches)
        if supported():
            self._acceptor.hub = Hub()
        try:
            if self._acceptor.hub is not None:
                # Not `nursery.start`: if that were cancelled, it would wait for the shielded task.
                start_soon(nursery, self._acceptor.hub.run)
            await self._serve_connections(task_status)
        finally:
            if self._acceptor.hub is not None:
                self._acceptor.hub.stop()

    async def _serve_connections(self, task_status: trio.TaskStatus[Server]) -> None:
        """Listen until told to drain; return when the last connection has ended.

        The connections run in the nursery `busy`, what watches over them in `clock`, which is open longer.
        """
        last_moments = trio.CancelScope(shield=True)
        connections: Connections | None = None
        async with trio.open_nursery() as clock:
            try:
                async with trio.open_nursery() as busy:
                    self._progress.nurseries.add(busy)
                    connections = self._connections(busy)
                    start_soon(clock, abort_when_cancelled, connections, last_moments)
                    begin_drain = partial(self._drain, connections, clock, busy)
                    await self._listen(connections, begin_drain, task_status)
            finally:
                last_moments.cancel()
                clock.cancel_scope.cancel()
                if connections is not None:
                    connections.end()

    def _drain(self, connections: Connections, clock: trio.Nursery, busy: trio.Nursery) -> None:
        """Have the connections end, those in the nursery `busy` by deadlines that are watched in `clock`."""
        drain = self._hosting.drain
        connections.drain()
        drain.begin()
        start_soon(clock, drain.end_preparations, connections)
        start_soon(clock, drain.cut_at_deadline, connections, busy.cancel_scope.cancel)

    async def _listen(
        self, connections: Connections, begin_drain: Callable[[], None], task_status: trio.TaskStatus[Server]
    ) -> None:
        """Accept connections until told to drain, call `begin_drain` then, and return when there are no more
        to come.
        """
        try:
            await self._accept_until_drained(connections, begin_drain, task_status)
        except BaseException:
            self._give_up_listening()
            raise
        self._acceptor.stop(connections, self._progress.listening)
        self._on_done_accepting()

    def _give_up_listening(self) -> None:
        """Close the sockets, as nothing will be served any more. Else clients would wait in the queues until
        the lifespan has ended.
        """
        self._acceptor.close()
        self._on_done_accepting()

    async def _accept_until_drained(
        self, connections: Connections, begin_drain: Callable[[], None], task_status: trio.TaskStatus[Server]
    ) -> None:
        async with trio.open_nursery() as listening:
            start_soon(listening, self._hosting.drain_if_lifespan_crashes)
            if self._gate is not None:
                await self._gate.wait(self._acceptor, connections, self._progress.draining)
            self._acceptor.start(listening, connections)
            if self._announces:
                self._announce()
            self._progress.begin()
            report_started(task_status, self.server)
            await self._progress.draining.wait()
            begin_drain()
            await self._acceptor.refuse(self._progress.listening)
            listening.cancel_scope.cancel()

    def _connections(self, busy: trio.Nursery) -> Connections:
        """The connections that are served in `busy`."""
        application = self._hosting.application()
        settings = self._hosting.connection_settings(application)
        most = self._config.limit_connections
        connections = Connections(settings, busy, self._hosting.context(), most, most_waiting=MOST_WAITING)
        if self._redirects is not None:
            connections.redirect(redirecting_settings(self._config, settings, self._redirects.handler))
        self._progress.counts = Counting(application, connections)
        return connections

    def _make_redirects(self, served: Sequence[socket.socket]) -> Redirects:
        """What answers on the sockets that redirect to the ones on which the application is `served`."""
        from trioasgi.server.challenges import Challenges  # few servers need these
        from trioasgi.server.redirecting import Redirects, https_port

        directory = self._config.acme_dir
        return Redirects(
            https_port(served),
            challenges=None if directory is None else Challenges(directory),
            access_log=self._hosting.access_log,
            forwarding=forwarding(self._config),
        )

    def _announce(self) -> None:
        from trioasgi.observe.startup import announce
        from trioasgi.server.codecs import websocket_codec_name

        certificates: list[Certificate] = []
        faults: list[DateFault] = []
        if self._config.certfile:
            from trioasgi.server.assembly_tls import describe_certificates, faults_of_clients

            certificates = describe_certificates(self._config)
            faults = faults_of_clients(self._config)
        announce(
            self.server.urls,
            redirecting=self.server.redirecting_urls,
            workers=1,
            codec=codec_factory(self._config.http)().name,
            websocket=websocket_codec_name(self._config),
            certificates=certificates,
            faults_of_clients=faults,
            stop_hint=self._stop_hint,
        )
