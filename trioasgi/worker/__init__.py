"""A worker process, which the supervisor starts. Nothing is imported here; `__main__.py` says why."""
