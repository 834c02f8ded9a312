"""The applications of the framework cases: what `apps` answers, by way of Starlette and of FastAPI."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, Response
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .apps import DOCUMENT, etag, items


async def _document(_request: Request) -> JSONResponse:
    return JSONResponse(DOCUMENT)


def _answer(request_id: str) -> tuple[dict[str, object], dict[str, str]]:
    """Return what `apps.api_answer` does: a document, and the header fields beside its type and length."""
    given = request_id.encode()
    return (
        {"request": request_id, "items": items(given[:2])},
        {"x-request-id": request_id, "etag": etag(given).decode()},
    )


async def _api(request: Request) -> JSONResponse:
    content, headers = _answer(request.headers["x-request-id"])
    return JSONResponse(content, headers=headers)


starlette_app = Starlette(routes=[Route("/json", _document), Route("/api/{path:path}", _api)])

fastapi_app = FastAPI()


@fastapi_app.get("/json")
async def document() -> dict[str, object]:
    """Return what FastAPI turns into JSON."""
    return DOCUMENT


@fastapi_app.get("/api/{path:path}")
async def api(x_request_id: Annotated[str, Header()], response: Response) -> dict[str, object]:
    """Return another document for each request, which FastAPI turns into JSON."""
    content, headers = _answer(x_request_id)
    response.headers.update(headers)
    return content
