"""Supervisor and workers, as real processes."""
