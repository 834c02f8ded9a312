"""What is shown of an application that does not start: to whom, and with which lines of the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trioasgi.worker.broken import preferred
from trioasgi.worker.broken_page import policy, render
from trioasgi.worker.excerpt import Frame, pieces

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (CHROME, "text/html"),
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/json, text/plain, */*", "application/json"),  # axios
        ("text/plain, application/json", "text/plain"),
        ("text/*;q=0.5, application/json;q=0.4", "text/plain"),
        ("application/json;q=0.2, text/html;q=0.9", "text/html"),
        ("APPLICATION/JSON; charset=utf-8", "application/json"),
        ("text/html;q=0, */*", "text/plain"),
        ("text/plain;q=0, application/*", "application/json"),
        ("image/png", "text/plain"),
        ("*/*;q=0", "text/plain"),
        ("text/html;q=x", "text/plain"),
        (",,;;", "text/plain"),
    ],
)
def test_each_client_gets_what_it_accepts(accept: str, wanted: str) -> None:
    assert preferred(accept) == wanted


def traceback_of(file: Path, line: int) -> str:
    frame = f'  File "{file}", line {line}, in f\n    1 / 0\n    ~~^~~'
    return f"Traceback (most recent call last):\n{frame}\nE: <b>"


def test_the_source_around_a_frame_is_found(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("".join(f"line {number}\n" for number in range(1, 21)))
    before, frame, after = pieces(traceback_of(file, 10))
    assert before == "Traceback (most recent call last):"
    assert isinstance(frame, Frame)
    assert (frame.file, frame.line, frame.name) == (str(file), 10, "f")
    assert frame.source == tuple((number, f"line {number}") for number in range(5, 16))
    assert frame.quoted == "    1 / 0\n    ~~^~~"
    assert not frame.is_library
    assert after == "E: <b>"


def test_frames_of_a_group_and_of_a_syntax_error_are_found() -> None:
    group = (
        '  +-+---- 1 ----\n    | Traceback\n    |   File "x.py", line 1, in <module>\n    |     1/0\n    | E'
    )
    found = [piece for piece in pieces(group) if isinstance(piece, Frame)]
    assert [(frame.file, frame.name, frame.quoted) for frame in found] == [
        ("x.py", "<module>", "    |     1/0")
    ]
    (frame, text) = pieces('  File "x.py", line 3\n    def app(:\n            ^\nSyntaxError: invalid syntax')
    assert isinstance(frame, Frame)
    assert (frame.line, frame.name, frame.quoted) == (3, "", "    def app(:\n            ^")
    assert text == "SyntaxError: invalid syntax"


def test_nothing_but_pythons_source_is_shown(tmp_path: Path) -> None:
    """A message that looks like a frame may name any file."""
    for name, content in ((".env", b"SECRET=1"), ("large.py", b"#" * 2_000_001), ("odd.py", b"# coding: no")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / "directory.py").mkdir(exist_ok=True)
    for name in (".env", "large.py", "odd.py", "directory.py", "missing.py"):
        frame = list(pieces(traceback_of(tmp_path / name, 1)))[1]
        assert isinstance(frame, Frame)
        assert frame.source == ()


def test_everything_on_the_page_is_escaped(tmp_path: Path) -> None:
    evil = """<script>alert("1")</script>'"""
    file = tmp_path / f"{evil.replace('/', '').replace(chr(34), '')}.py"
    file.write_text(f"{evil}\n")
    said = f'{evil} failed with {evil}\n{evil}\n  File "{file}", line 1, in {evil}\n    {evil}\n{evil}'
    page = render(said, "id", "nonce", repeats=True)
    assert re.findall(r"<script[^>]*>", page) == ['<script nonce="nonce">']
    assert "alert(&quot;1&quot;)" in page
    assert not re.search(r"https?:|//\w|url\(|@import", page)  # it loads nothing
    assert "'nonce-nonce'" in policy("nonce").decode()
    assert "unsafe" not in policy("nonce").decode()


@pytest.mark.parametrize(
    ("said", "lead", "title"),
    [
        ("importing 'x' failed with E: y", "Importing &#x27;x&#x27; failed with", "E: y"),
        (
            'it failed: Traceback (most recent call last):\n  File "a", line 1, in b\n    c\nE: y\n',
            "It failed",
            "E: y",
        ),
        ("there is no module", "The application does not start", "There is no module"),
        ("a.run() was called", "The application does not start", "a.run() was called"),
        ("x: Traceback (most recent call last):", "X", "x: Traceback (most recent call last):"),
        ("", "The application does not start", ""),
    ],
)
def test_the_error_is_on_top(said: str, lead: str, title: str) -> None:
    page = render(said, "id", "n", repeats=True)
    assert f"<p>{lead}</p>\n<h1>{title}</h1>" in page


def test_a_form_is_not_sent_once_more() -> None:
    assert "http-equiv" in render("x", "id", "n", repeats=True)
    page = render("x", "id", "n", repeats=False)
    assert "http-equiv" not in page
    assert "repeats = false" in page
