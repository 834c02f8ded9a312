"""WSGI applications (PEP 3333) behind ASGI's interface."""

from .middleware import WSGIMiddleware

__all__ = ["WSGIMiddleware"]
