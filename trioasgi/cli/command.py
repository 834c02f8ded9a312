"""The command line: arguments become a Config, and a Config is run.

`trioasgi MODULE:ATTR [options]` serves. If the first argument is the name of a command, that command runs
instead. The name of an application always has a colon, so its module may be named like a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from trioasgi.cli.arguments import complete_certfile, read_plain, spell_switches, typed_flags
from trioasgi.cli.starting import start


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (`sys.argv` unless given) and exit with an ExitStatus."""
    arguments = spell_switches(complete_certfile(sys.argv[1:] if arguments is None else arguments))
    plain = read_plain(arguments)
    if plain is not None:
        start(plain, typed_flags(arguments))
    # Only now, as importing and using Typer takes a tenth of a start.
    from trioasgi.cli.typed import run

    run(arguments)
