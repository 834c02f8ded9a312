"""Comparing trioasgi with other servers on this machine: `python -m benchmarks`."""
