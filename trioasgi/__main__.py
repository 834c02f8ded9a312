"""`python -m trioasgi`: the command line."""

from trioasgi.cli import main

main()
