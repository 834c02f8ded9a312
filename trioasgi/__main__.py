"""`python -m trioasgi`: the command line."""

import os
import sys

if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
    # `-m` has put the current directory first: an http.py there would take the place of the standard
    # library's in our own imports. It comes back, as for the command `trioasgi`, to load the application.
    del sys.path[0]

from trioasgi.cli import main

main()
