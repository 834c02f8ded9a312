"""Fuzzing of the request reader, outside of the ordinary tests: `python -m tests.fuzz --seconds 60`."""
