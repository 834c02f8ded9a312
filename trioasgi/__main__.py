"""`python -m trioasgi`, and the command `trioasgi`: where a process of the command line begins."""

import os
import sys

try:
    _here = os.getcwd()
except OSError:  # it was removed
    _here = ""

if not sys.flags.safe_path and sys.path and os.path.isdir(sys.path[0]) and sys.path[0] == _here:
    # `-m` has put the current directory first: an http.py there would replace the standard library's in our
    # own imports. It is put back to load the application, as for the command `trioasgi`.
    del sys.path[0]

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the server installs its handler: a KeyboardInterrupt during our imports would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if sys.platform != "win32":
    from trioasgi.process.early import survive_early_signals

    survive_early_signals()

if os.getpid() == 1:  # in a container
    from trioasgi.process.pid_one import leave_process_one

    leave_process_one()

from trioasgi.process.imports import uncollected_imports

with uncollected_imports():
    from trioasgi.cli.command import main

if __name__ == "__main__":
    main()
