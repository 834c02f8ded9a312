"""WSGI applications (PEP 3333) behind ASGI's interface."""
