"""What commands print: it may have nowhere to go, and need not be writable in the terminal's encoding."""

from __future__ import annotations

import codecs
import os
import sys
from io import TextIOWrapper
from typing import Final

from trioasgi.cli.starting import fail
from trioasgi.errors import ExitStatus

_ERRORS: Final = "trioasgi.output"
"""The name of our way with characters that an encoding lacks, as `errors` of a stream."""


def say(text: object) -> None:
    """Print `text`. If nobody reads it any more, that is no error; if it cannot be written, the command ends
    with a message.
    """
    accept_all_characters()
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has enough
        _discard_the_rest()
    except OSError as error:
        _discard_the_rest()
        fail(f"the output cannot be written: {error}", ExitStatus.FAILED)


def accept_all_characters() -> None:
    """From now on replace what cannot be written in the encoding of standard output. (Python's own standard
    error always does so.)
    """
    if isinstance(sys.stdout, TextIOWrapper):
        codecs.register_error(_ERRORS, _replace)
        sys.stdout.reconfigure(errors=_ERRORS)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].replace("…", "...")
    return lacking.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _discard_the_rest() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes once more when it ends
