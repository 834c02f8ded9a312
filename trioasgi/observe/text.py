"""Makes text from the network safe for a line of a log."""

from __future__ import annotations

import re
from typing import TextIO

# Most servers never need these three: `re` compiles them when they are first used, and keeps them.
_UNSAFE = r"[^\x20-\x7e]"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def escaped(text: str) -> str:
    """Return `text` so that it stays in its line, and inside double quotes, wherever it is shown.

    Printable ASCII passes as it is. Everything else is written as Python would write it in a string: so
    nothing that a client sends can begin a line of its own (CWE-117), close the quotes around it, colour or
    clear a terminal, or fail to encode.
    """
    # Nearly every request returns here: these tests are faster than the search of the regular expression.
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    # A target may be nothing but quotes: a call for each would take some milliseconds.
    return re.sub(_UNSAFE, _escape, text.replace("\\", "\\\\").replace('"', '\\"'))


LONGEST_ENTRY = 1 << 16
"""The most characters of a message or a traceback in the log."""

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""Control characters but for tab and line feed, those that turn the direction of writing, and surrogates."""

_FORGEABLE = r"""(?x)
    \n (?!
        [ \t\n] | \Z
        | (?: Traceback | Stack )\ \(most\ recent\ call\ last\): (?: \n | \Z )
        | The\ above\ exception\ was\ the\ direct\ cause\ of\ the\ following\ exception: (?: \n | \Z )
        | During\ handling\ of\ the\ above\ exception,\ another\ exception\ occurred: (?: \n | \Z )
        | [^\W\d] [\w.<>]* (?: :[ \n] | :?\Z | \n )
    )
    """
"""The beginning of a line that could look like an entry: not one of a traceback, and not `Type: message`."""


def tidy(text: str) -> str:
    """Return `text`, which may have several lines, in a form that a log shows as one entry.

    Control characters are escaped as in Python. Further lines stay lines. Lines of an exception's message are
    indented if they could look like the beginning of an entry.
    """
    if text.isprintable():
        return text
    return re.sub(_FORGEABLE, "\n    ", re.sub(_CONTROL, _escape, text))


def cut(text: str, longest: int = LONGEST_ENTRY) -> str:
    """Return `text`. If it has more than `longest` characters, return its beginning and its end, and its
    length.
    """
    if len(text) <= longest:
        return text
    note = f"\n    [... {len(text):,} characters, shortened ...]\n"
    half = (longest - len(note)) // 2
    return f"{text[:half]}{note}{text[-half:]}"


def writable(text: str, stream: TextIO) -> str:
    """Return `text`, with what the encoding of `stream` lacks escaped as in Python."""
    encoding = getattr(stream, "encoding", None)
    if text.isascii() or encoding is None:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)
