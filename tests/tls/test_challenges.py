"""The files that answer ACME challenges: `--acme-dir`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio

from tests.support.applications import Lived
from tests.support.certificates import Certificates
from tests.support.redirecting import (
    CHALLENGE,
    ask,
    location,
    plainly,
    redirecting,
)
from tests.support.sockets import SOON, logged, port_of, run
from trioasgi.server.challenges import LARGEST, Challenges, token_in


def test_a_challenge_gets_its_file(certificates: Certificates, directory: Path) -> None:
    async def main() -> None:
        app = Lived()
        async with (
            redirecting(certificates, app, acme_dir=str(directory)) as server,
            plainly(server) as client,
        ):
            for fields in ((), ("X: y",)):
                answer = await client.get(ask(CHALLENGE + "tok_EN-1", *fields))
                assert (answer.status, answer.body) == (200, b"tok_EN-1.thumb")
                assert dict(answer.headers)[b"content-type"].startswith(b"text/plain")
            head = await client.get(ask(CHALLENGE + "tok_EN-1", method="HEAD"), "HEAD")
            assert (head.status, head.body, dict(head.headers)[b"content-length"]) == (200, b"", b"14")
            assert len((await client.get(ask(CHALLENGE + "full"))).body) == LARGEST
            (directory / "later").write_bytes(b"later")
            assert (await client.get(ask(CHALLENGE + "later"))).body == b"later"
            post = await client.get(ask(CHALLENGE + "later", "Content-Length: 0", method="POST"), "POST")
            assert post.status == 308
            shutil.rmtree(directory)  # as certbot does
            assert (await client.get(ask(CHALLENGE + "later"))).status == 404
            os.mkdir(directory)
            (directory / "anew").write_bytes(b"anew")
            assert (await client.get(ask(CHALLENGE + "anew"))).body == b"anew"
        assert app.scopes == []

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")
@pytest.mark.parametrize(
    "token", ["nothing", "link", "within", "dangling", "pipe", "sock", "folder", "large", "x" * 128]
)
def test_what_is_no_small_regular_file_is_missing(
    certificates: Certificates, directory: Path, token: str
) -> None:
    async def main() -> None:
        async with (
            redirecting(certificates, acme_dir=str(directory)) as server,
            plainly(server) as client,
        ):
            with trio.fail_after(SOON):
                answer = await client.get(ask(CHALLENGE + token))
            assert answer.status == 404
            assert b"secret" not in answer.body
            location(await client.get(ask()))  # the connection goes on

    run(main)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "tok_EN%2D1",
        "%74ok_EN-1",
        "tok_EN-1%00",
        "tok_EN-1/",
        "tok_EN-1.",
        "./tok_EN-1",
        "/tok_EN-1",
        "folder/inner",
        "..\\secret",
        "tok_EN-1;x",
        "C:secret",
        "x" * 129,
    ],
)
def test_what_is_no_token_is_sent_to_https(certificates: Certificates, directory: Path, path: str) -> None:
    async def main() -> None:
        async with (
            redirecting(certificates, acme_dir=str(directory)) as server,
            plainly(server) as client,
        ):
            answer = await client.get(ask(CHALLENGE + path))
            assert location(answer) == f"https://h:{port_of(server)}{CHALLENGE}{path}"

    run(main)
    assert token_in((CHALLENGE + path).encode()) is None


@pytest.mark.parametrize("raw", [b"\0", b"\n", b"tok\0", b"\xe9", b"tok_EN-1\n", b" "])
def test_raw_control_characters_are_no_token(certificates: Certificates, directory: Path, raw: bytes) -> None:
    assert token_in(CHALLENGE.encode() + raw) is None

    async def main() -> None:
        async with (
            redirecting(certificates, acme_dir=str(directory)) as server,
            plainly(server) as client,
        ):
            await client.send(b"GET " + CHALLENGE.encode() + raw + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")

    run(main)


def test_a_file_that_cannot_be_read_is_no_missing_one(
    certificates: Certificates, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Challenges, "_open", fail)

    async def main() -> None:
        with logged() as log:
            async with (
                redirecting(certificates, acme_dir=str(directory)) as server,
                plainly(server) as client,
            ):
                await client.send(ask(CHALLENGE + "tok_EN-1"))
                assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
                for _ in range(3):  # a flood of them is not logged
                    async with plainly(server) as other:
                        await other.send(ask(CHALLENGE + "tok_EN-1"))
                        assert (await other.rest()).startswith(b"HTTP/1.1 503 ")
            said = [line for line in log.lines(logging.WARNING) if "503, as the file of" in line]
            assert len(said) == 1

    run(main)


def test_a_link_is_refused_also_where_directories_cannot_be_opened(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "supports_dir_fd", set())
    challenges = Challenges(str(directory))
    assert challenges.read("tok_EN-1") == b"tok_EN-1.thumb"
    assert challenges.read("nothing") is None
    assert challenges.read("folder") is None
    if sys.platform != "win32":
        assert challenges.read("link") is None


def test_the_directory_stays_if_the_application_leaves_the_current_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    challenges = Challenges("acme")
    monkeypatch.chdir(directory)
    assert challenges.read("tok_EN-1") == b"tok_EN-1.thumb"
