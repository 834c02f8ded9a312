"""The few things the demo needs of HTTP: a request with its verbs, and headers for every answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from trioasgi.demo.vitals import Life
from trioasgi.types import Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_EVERY_ANSWER = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as ASGI hands it over, with the two ways of answering it."""

    scope: Scope
    receive: Receive
    send: Send
    life: Life

    @property
    def method(self) -> str:
        """The method, in upper case."""
        return str(self.scope["method"])

    @property
    def prefix(self) -> str:
        """Where the application is mounted: "" or a path without a slash at its end (ASGI `root_path`)."""
        return str(self.scope.get("root_path", "")).rstrip("/")

    @property
    def path(self) -> str:
        """The path inside the application: ASGI's `path` holds the `root_path` as well."""
        path = str(self.scope["path"])
        if self.prefix and (path + "/").startswith(self.prefix + "/"):
            path = path[len(self.prefix) :]
        return path or "/"

    async def start(
        self,
        status: HTTPStatus,
        content_type: str,
        *,
        length: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send the head of the answer; `length` is the body's length in bytes, where it is known."""
        headers = [(b"content-type", content_type.encode()), *_EVERY_ANSWER]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        headers += [(name.lower().encode(), value.encode()) for name, value in (more or {}).items()]
        await self.send({"type": "http.response.start", "status": int(status), "headers": headers})

    async def write(self, chunk: bytes, *, more: bool) -> None:
        """Send a part of the body; the last one says `more=False`."""
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def answer(
        self,
        body: str | bytes,
        content_type: str,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole answer. The server leaves the body out where HEAD asks for that."""
        content = body.encode() if isinstance(body, str) else body
        await self.start(status, content_type, length=len(content), more=more)
        await self.write(content, more=False)

    async def answer_json(self, value: object) -> None:
        """Send `value` as indented JSON."""
        await self.answer(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "application/json")
