"""What commands print: it may have nowhere to go, and need not be writable in the terminal's encoding."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from trioasgi.cli.starting import fail
from trioasgi.errors import ExitStatus


def say(text: object) -> None:
    """Print `text`. If nobody reads it any more, that is no error; if it cannot be written, the command ends
    with a message.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has enough
        _discard_the_rest()
    except OSError as error:
        _discard_the_rest()
        fail(f"the output cannot be written: {error}", ExitStatus.FAILED)


def _discard_the_rest() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes once more when it ends
