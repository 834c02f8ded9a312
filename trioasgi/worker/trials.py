"""Handshakes and requests of a rehearsal: clients in memory, which the real server serves."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import h11
import trio

from trioasgi.config.smoke import Probe, parse_probe
from trioasgi.findings import Finding, Outcome
from trioasgi.server.assembly import PROTOCOLS
from trioasgi.supervisor.probe_client import ProbeClient
from trioasgi.tasks import start_soon
from trioasgi.tls.failures import HandshakeFailure
from trioasgi.worker.memory import bounded_pair

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.process.rehearsal import Rehearsal
    from trioasgi.server.hosted_application import HostedApplication
    from trioasgi.worker.notes import Notes

_AGENT: Final = "trioasgi-check"
_CLIENT: Final = ("127.0.0.1", 0)
_FIRST_ERROR: Final = 500
"""`GET /` is well answered with any status below: not every application has something there."""
_SEE_OPTIONS: Final = "see --tls-version, --ciphers, --curves and --unknown-names"
_WANTS_CERTIFICATE: Final = (
    "the context of the ssl_context_factory wants certificates of clients, and the check has none"
)
_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)


class _Way:
    """How a client connects: the name that it asks for, its version of TLS, and its protocol."""

    def __init__(self, name: str, version: str | None, protocol: str) -> None:
        self.name = name
        self.version = version
        """None: without TLS."""
        self.protocol = protocol

    def __str__(self) -> str:
        return f"{self.name}, {self.version}, {self.protocol}"

    @property
    def host(self) -> str:
        """The value of the field Host."""
        return f"[{self.name}]" if ":" in self.name else self.name


class Trials:
    """What clients do to the application that is hosted."""

    def __init__(self, hosted: HostedApplication, config: Config, order: Rehearsal, notes: Notes) -> None:
        self._hosted = hosted
        self._config = config
        self._order = order
        self._notes = notes
        self._counted: Counter[str] = Counter()
        """The server's count of failed handshakes when the check under way began."""

    async def run(self) -> None:
        """Make a handshake for each name, version and protocol, and requests for the first name. Without TLS:
        requests alone.
        """
        for way in self._ways():
            if way.version is not None and not await self._try_handshake(way):
                continue
            if self._order.with_app and way.name == self._order.names[0]:
                await self._ask(way)

    def _ways(self) -> list[_Way]:
        if not self._config.has_tls:
            return [_Way(self._order.names[0], None, "http/1.1")]
        from trioasgi.tls.verifying import VERSIONS

        versions = [*VERSIONS]
        if self._config.tls_version != "auto" and self._config.ssl_context_factory is None:
            versions = [f"TLS {self._config.tls_version}"]
        return [
            _Way(name, version, protocol)
            for name in self._order.names
            for version in versions
            for protocol in PROTOCOLS
        ]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[trio.abc.Stream]:
        """The client's end of a connection that is served."""
        async with trio.open_nursery() as nursery:
            ours, theirs = bounded_pair()
            start_soon(nursery, self._serve, theirs)
            try:
                yield ours
            finally:
                nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            await self._hosted.serve_stream(stream, client=_CLIENT, server=_CLIENT)
        except trio.ClosedResourceError:
            pass  # the application has ended, and the client's end is closed

    async def _secure(
        self, stream: trio.abc.Stream, way: _Way, *, verifies: bool
    ) -> trio.SSLStream[trio.abc.Stream]:
        """Do the client's handshake. Raises trio.TooSlowError, or what is in `_BROKEN`."""
        from trioasgi.tls.verifying import VERSIONS, client_context

        assert way.version is not None
        context = client_context(self._order.bundle, VERSIONS[way.version], way.protocol)
        if not verifies:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        secured = trio.SSLStream(stream, context, server_hostname=way.name, https_compatible=True)
        with trio.fail_after(self._config.timeout_handshake):
            await secured.do_handshake()
        return secured

    async def _try_handshake(self, way: _Way) -> bool:
        """Report a handshake. True if a client that does not verify the certificate can go on."""
        self._begin("tls.handshake", str(way))
        async with self._connection() as stream:
            try:
                secured = await self._secure(stream, way, verifies=True)
            except (trio.TooSlowError, *_BROKEN) as error:
                failure = error.__cause__ or error
            else:
                self._report_handshake(secured, way)
                return True
        await self._report_failure(failure, way)
        return isinstance(failure, ssl.SSLCertVerificationError)

    def _report_handshake(self, secured: trio.SSLStream[trio.abc.Stream], way: _Way) -> None:
        cipher = secured.cipher()
        chosen = secured.selected_alpn_protocol() or "no protocol by ALPN"
        self._notes.succeed("tls.handshake", str(way), f"{cipher and cipher[0]}, {chosen}")

    async def _report_failure(self, error: BaseException, way: _Way) -> None:
        file: str | None = None
        fix: str | None
        outcome, fix = Outcome.FAILED, _SEE_OPTIONS
        if isinstance(error, ssl.SSLCertVerificationError):
            from trioasgi.tls.verifying import explain_refusal, file_of

            file = file_of(await self._shown(way), self._config.certfile)
            reason, fix = explain_refusal(error, file, way.name, self._order.cafile)
        elif isinstance(error, trio.TooSlowError):
            reason = f"it took more than {self._config.timeout_handshake:g} s (--timeout-handshake)"
        elif self._config.ssl_context_factory is not None and self._has_failed(
            HandshakeFailure.WRONG_VERSION
        ):
            outcome, fix = (
                Outcome.SKIPPED,
                "allow this version in the ssl_context_factory, if clients need it",
            )
            reason = f"the context does not offer {way.version}"
        elif self._wants_certificate():
            outcome, reason, fix = Outcome.SKIPPED, _WANTS_CERTIFICATE, None
        else:
            reason = f"it failed: {error or type(error).__name__}{self._by_the_server()}"
        self._notes.found(
            Finding(
                check="tls.handshake",
                outcome=outcome,
                about=str(way),
                file=file,
                reason=reason,
                fix=fix,
                detail=self._notes.logged(),
            )
        )

    async def _shown(self, way: _Way) -> bytes | None:
        """The certificate that the server shows, whatever clients think of it."""
        async with self._connection() as stream:
            try:
                secured = await self._secure(stream, way, verifies=False)
            except (trio.TooSlowError, *_BROKEN):
                return None
            shown: bytes | None = secured.getpeercert(binary_form=True)
        return shown

    def _begin(self, check: str, about: str) -> None:
        self._counted = self._count()
        self._notes.begin(check, about)

    def _count(self) -> Counter[str]:
        """The handshakes that have failed for the server, by reason."""
        count: Counter[str] = Counter()
        for counts in self._hosted.failed_handshakes.values():
            count.update(counts)
        return count

    def _failures(self) -> set[str]:
        """Why the server has refused handshakes since the check under way began."""
        return set(self._count() - self._counted)

    def _has_failed(self, failure: HandshakeFailure) -> bool:
        return failure.value in self._failures()

    def _wants_certificate(self) -> bool:
        """Has a context of the user's refused a client because that has no certificate?"""
        return self._config.ssl_context_factory is not None and self._has_failed(
            HandshakeFailure.NO_CLIENT_CERTIFICATE
        )

    def _by_the_server(self) -> str:
        found = ", ".join(sorted(self._failures()))
        return f" (the server counts: {found})" if found else ""

    async def _ask(self, way: _Way) -> None:
        """Send the probes, or `GET /`, each on a connection of its own: an answer may close it."""
        over = "" if way.version is None else f" over {way.version}"
        for probe in map(parse_probe, self._config.smoke or ("/",)):
            about = f"GET {probe.path}{over}"
            self._begin("request", about)
            try:
                status = await self._answer(probe, way)
            except trio.TooSlowError:
                self._fail(about, f"no answer within {self._config.smoke_timeout:g} s (--smoke-timeout)")
            except _BROKEN as error:
                self._report_no_answer(about, error)
            else:
                self._report_answer(about, probe, status)

    async def _answer(self, probe: Probe, way: _Way) -> int:
        """The status of the answer. Raises trio.TooSlowError, or what is in `_BROKEN`."""
        failure: BaseException
        async with self._connection() as stream:
            try:
                secured = stream if way.version is None else await self._secure(stream, way, verifies=False)
                client = ProbeClient(secured, agent=_AGENT, host=way.host)
                with trio.fail_after(self._config.smoke_timeout):
                    return await client.ask(probe)
            except (trio.TooSlowError, *_BROKEN) as error:
                failure = error
        raise failure  # out of the nursery, which would put it into a group

    def _report_answer(self, about: str, probe: Probe, status: int) -> None:
        if probe.accepts(status) if self._config.smoke else status < _FIRST_ERROR:
            self._notes.succeed("request", about, f"answered with {status}")
        elif not self._config.smoke:
            self._fail(about, f"answered with {status}")
        else:
            expected = "a status below 400" if probe.status is None else f"{probe.status}"
            self._fail(about, f"answered with {status}, not with {expected}")

    def _report_no_answer(self, about: str, error: BaseException) -> None:
        """With TLS 1.3 a client without certificate learns only now that the server wants one."""
        if not self._wants_certificate():
            self._fail(about, f"no answer: {error or type(error).__name__}{self._by_the_server()}")
            return
        self._notes.found(
            Finding(check="request", outcome=Outcome.SKIPPED, about=about, reason=_WANTS_CERTIFICATE)
        )

    def _fail(self, about: str, reason: str) -> None:
        self._notes.found(
            Finding(
                check="request",
                outcome=Outcome.FAILED,
                about=about,
                reason=reason,
                fix="correct the application, or what --smoke expects",
                detail=self._notes.logged(),
            )
        )
