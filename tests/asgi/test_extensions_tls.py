"""The extension `tls`, and clients' certificates."""

from __future__ import annotations

import shutil
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.support.certificates import Certificates, make_certificates
from tests.support.http import CODECS, Calls, echo, request
from tests.support.sockets import SOON, connected, logged, port_of, run, secured, served
from trioasgi.errors import TLSError
from trioasgi.server.handle import renew_certificate
from trioasgi.tls.context import server_context

both_codecs = pytest.mark.parametrize("codec", CODECS)


class People:
    """A CA of clients, with an intermediate one; and a stranger's."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.cafile = str(directory / "clients.pem")
        self.ca.cert_pem.write_to_path(self.cafile)
        self.alice = self.ca.create_child_ca().issue_cert(
            "alice@example.org", common_name="Alice, A.", organization_name="Wonder=land"
        )
        self.stranger = trustme.CA().issue_cert("mallory@example.org")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("people"))


def context_of(
    certificates: Certificates, who: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    context = certificates.context()
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if who is not None:
        who.configure_cert(context)
    return context


def seen(certificates: Certificates, context: ssl.SSLContext, **options: Any) -> dict[str, Any]:
    """What the scope says of a connection with that client's context."""
    calls = Calls(echo)

    async def main() -> None:
        async with (
            served(calls, **certificates.options, **options) as server,
            secured(server, context) as client,
        ):
            for _ in range(2):
                assert (await client.get(request())).status == 200

    run(main)
    first, second = (scope["extensions"]["tls"] for scope in calls.scopes if scope["type"] == "http")
    assert first == second
    described: dict[str, Any] = first
    return described


@both_codecs
@pytest.mark.parametrize(
    ("version", "number"), [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)]
)
def test_version_suite_and_the_servers_certificate(
    codec: str, version: ssl.TLSVersion, number: int, certificates: Certificates
) -> None:
    tls = seen(certificates, context_of(certificates, version=version), http=codec)
    assert tls["tls_version"] == number
    # IANA: 0x13.. are the suites of TLS 1.3, 0xC0.. and 0xCC.. those with elliptic curves.
    assert tls["cipher_suite"] >> 8 in ({0x13} if number == 0x0304 else {0xC0, 0xCC})
    own = ssl.PEM_cert_to_DER_cert(
        Path(certificates.certfile).read_text().partition("-----END")[0] + "-----END CERTIFICATE-----"
    )
    assert ssl.PEM_cert_to_DER_cert(tls["server_cert"]) == own
    assert (tls["client_cert_chain"], tls["client_cert_name"], tls["client_cert_error"]) == ((), None, None)


def test_the_number_of_a_suite_is_ianas(certificates: Certificates) -> None:
    context = context_of(certificates, version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    # RFC 5289: TLS_ECDHE_ECDSA_ and TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    assert seen(certificates, context)["cipher_suite"] in {0xC02B, 0xC02F}


def test_without_tls_there_is_no_such_extension() -> None:
    calls = Calls(echo)

    async def main() -> None:
        async with served(calls) as server, connected(server) as client:
            await client.get(request())

    run(main)
    assert all("tls" not in scope["extensions"] for scope in calls.scopes)


def test_of_a_request_that_a_proxy_has_forwarded_nothing_is_said(certificates: Certificates) -> None:
    calls = Calls(echo)

    async def main() -> None:
        async with (
            served(calls, **certificates.options) as server,
            secured(server, certificates.context()) as client,
        ):
            await client.get(request("/", "X-Forwarded-For: 192.0.2.1"))

    run(main)
    assert "tls" not in calls.scopes[-1]["extensions"]


# Certificates of clients


@both_codecs
@pytest.mark.parametrize("asked", ["optional", "required"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_clients_certificate(
    codec: str, asked: str, version: ssl.TLSVersion, certificates: Certificates, people: People
) -> None:
    tls = seen(
        certificates,
        context_of(certificates, people.alice, version),
        client_certs=asked,
        ca_certs=people.cafile,
        http=codec,
    )
    sent = [blob.bytes().decode() for blob in people.alice.cert_chain_pems]
    assert [ssl.PEM_cert_to_DER_cert(each) for each in tls["client_cert_chain"]] == [
        ssl.PEM_cert_to_DER_cert(each) for each in sent
    ]
    assert len(sent) == 2
    # RFC 4514, 2.1: the last comes first; 2.4: what means something is escaped.
    assert tls["client_cert_name"].startswith("CN=Alice\\, A.,")
    assert tls["client_cert_name"].endswith("O=Wonder=land")
    assert tls["client_cert_error"] is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_of_a_resumed_session_the_clients_own_certificate_is_said(
    mode: str, version: ssl.TLSVersion, certificates: Certificates, people: People
) -> None:
    def twice(port: int) -> list[bool]:
        context, session, reused = context_of(certificates, people.alice, version), None, []
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=SOON) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as client,
            ):
                client.sendall(request())
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
                session = client.session
                reused.append(bool(client.session_reused))
        return reused

    calls = Calls(echo)
    options = {**certificates.options, "client_certs": mode, "ca_certs": people.cafile}

    async def main() -> None:
        async with served(calls, lifespan="off", **options) as server:
            assert await trio.to_thread.run_sync(twice, port_of(server)) == [False, True]

    run(main)
    first, second = (scope["extensions"]["tls"] for scope in calls.scopes)
    assert second["client_cert_chain"] == first["client_cert_chain"][:1]
    assert second["client_cert_name"] == first["client_cert_name"]
    assert "Alice" in second["client_cert_name"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_the_authority_of_its_client(
    version: ssl.TLSVersion, certificates: Certificates, people: People, tmp_path: Path
) -> None:
    cafile, sessions = tmp_path / "clients.pem", list[ssl.SSLSession | None]((None,))
    shutil.copyfile(people.cafile, cafile)
    context = context_of(certificates, people.alice, version)

    def ask(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=SOON) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=sessions[-1]) as client,
        ):
            client.sendall(request())
            answer = client.recv(1000)
            sessions.append(client.session)
            return answer

    async def main() -> None:
        options = {**certificates.options, "client_certs": "required", "ca_certs": str(cafile)}
        async with served(Calls(echo), lifespan="off", **options) as server:
            assert await trio.to_thread.run_sync(ask, port_of(server))
            trustme.CA().cert_pem.write_to_path(cafile)
            used = trio.Event()
            renew_certificate(server, lambda _: used.set())
            await used.wait()
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                await trio.to_thread.run_sync(ask, port_of(server))

    run(main)


def test_optional_lets_a_client_without_one_in(certificates: Certificates, people: People) -> None:
    tls = seen(certificates, context_of(certificates), client_certs="optional", ca_certs=people.cafile)
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ((), None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("who", "asked"), [("stranger", "optional"), ("stranger", "required"), ("nobody", "required")]
)
def test_who_is_not_known_is_not_let_in(
    who: str, version: ssl.TLSVersion, asked: str, certificates: Certificates, people: People
) -> None:
    calls = Calls(echo)
    shown = people.stranger if who == "stranger" else None

    async def main() -> None:
        options = {"client_certs": asked, "ca_certs": people.cafile}
        async with served(calls, **certificates.options, **options, lifespan="off") as server:
            # With TLS 1.3 a client learns of it behind its own handshake.
            with suppress(trio.BrokenResourceError, AssertionError):
                async with secured(server, context_of(certificates, shown, version)) as client:
                    assert (await client.get(request())).status == 0
            await log.wait_for("TLS handshake failed", seconds=SOON)
            async with secured(server, context_of(certificates, people.alice)) as client:
                assert (await client.get(request())).status == 200
        assert len(calls.scopes) == 1

    with logged() as log:
        run(main)
        log.expect_no_errors()


# The options


def test_without_authorities_no_certificate_is_accepted(certificates: Certificates, people: People) -> None:
    calls = Calls(echo)
    options = {**certificates.options, "client_certs": "required", "lifespan": "off"}

    async def main() -> None:
        async with served(calls, **options) as server:
            with suppress(trio.BrokenResourceError, AssertionError):
                async with secured(server, context_of(certificates, people.alice)) as client:
                    await client.get(request())
            await log.wait_for("TLS handshake failed: certificate verify failed", seconds=SOON)

    with logged() as log:
        run(main)
    assert calls.scopes == []


def test_authorities_alone_ask_nobody_for_a_certificate(certificates: Certificates, people: People) -> None:
    tls = seen(certificates, context_of(certificates), ca_certs=people.cafile)
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ((), None)


@pytest.mark.parametrize("content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!\n"])
def test_a_bad_file_of_authorities_is_named(content: str, certificates: Certificates, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text(content)
    with pytest.raises(TLSError, match=r"bad\.pem"):
        server_context(
            certificates.certfile, certificates.keyfile, ca_certs=str(bad), client_certs="required"
        )
