"""Logs: tests of trioasgi/observe/."""
