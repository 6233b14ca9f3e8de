"""/healthz, /readyz: for whoever watches the processes. /v1/system: for people."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text

from reflux.views import WorkerView
from services.api.auth import Viewer
from services.api.routes.tasks import worker_views
from services.api.session import Configured, Database

router = APIRouter(tags=["system"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def ready(session: Database) -> dict[str, str]:
    """Ready when the database answers; else the 503 of a database that is away."""
    session.execute(text("select 1"))
    return {"status": "ok", "database": "ok"}


@router.get("/openapi.json", response_class=JSONResponse)
def document(_: Viewer, request: Request) -> JSONResponse:
    """This API as an OpenAPI document; the same as docs/openapi.json."""
    return JSONResponse(request.app.openapi())


@router.get("/v1/system/workers")
def workers(_: Viewer, session: Database, settings: Configured) -> list[WorkerView]:
    return worker_views(session, settings)
