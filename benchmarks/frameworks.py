"""The applications of the framework cases: the document of `apps`, by way of Starlette and of FastAPI."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .apps import DOCUMENT


async def _document(_request: Request) -> JSONResponse:
    return JSONResponse(DOCUMENT)


starlette_app = Starlette(routes=[Route("/json", _document)])

fastapi_app = FastAPI()


@fastapi_app.get("/json")
async def document() -> dict[str, object]:
    """Return what FastAPI turns into JSON."""
    return DOCUMENT
