"""The built-in demo: a small ASGI 3 application that shows what its server is doing.

`trioasgi demo` and `trioasgi trioasgi.demo:app` serve it. It needs Trio and nothing else, runs on any ASGI
server that runs its applications on Trio, and is meant to be read as well as looked at.
"""

from __future__ import annotations

from trioasgi.demo.application import Demo

__all__ = ["app"]

app = Demo()
