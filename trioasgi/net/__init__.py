"""Sockets, listeners, the readiness hub and deadlines. Knows nothing of HTTP."""
