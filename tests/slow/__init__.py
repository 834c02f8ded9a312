"""slowhttptest against a server, outside of the ordinary tests: `python -m tests.slow`."""
