"""Scanners of TLS servers, as their users run them. See `__main__`."""
