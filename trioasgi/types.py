"""The types of ASGI 3 (asgiref's specification, version 3.0), for every room that names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

# The values have many types, and later versions of ASGI may add more: Any is what ASGI itself says of them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

App: TypeAlias = (
    Callable[[Any, Any, Any], Awaitable[None]]
    | Callable[[Any], Callable[[Any, Any], Awaitable[None]]]
    | Callable[[Any, Any], Iterable[bytes]]
)
"""What `serve` and `run` take: an application for ASGI 3, ASGI 2 or WSGI.

Each framework has types of its own for the scope and the messages, and a parameter's type may not be narrower
than what it is given. So only their number is checked here.
"""
