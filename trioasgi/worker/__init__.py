"""A worker process, which the supervisor starts. Nothing is imported here: see `__main__.py`."""
