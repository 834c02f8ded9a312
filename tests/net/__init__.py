"""Sockets: streams on the hub, listeners, accepting."""
