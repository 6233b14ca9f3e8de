"""/healthz, /readyz, /metrics: for whoever watches the processes. /v1/system: for people."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from reflux.views import ReadyView, WorkerView
from services.api.auth import Viewer
from services.api.problems import ProblemError
from services.api.routes.tasks import worker_views
from services.api.session import Configured, Reading

router = APIRouter(tags=["system"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def ready(request: Request) -> ReadyView:
    """Ready while the database answers: then workers are heard. Without the broker or the store, `status` is degraded."""
    told = request.app.state.readiness.look()
    if told["database"] != "ok":
        away = ", ".join(name for name, state in told.items() if state != "ok")
        raise ProblemError(503, "database_away", f"There is no answer from: {away}.", headers={"Retry-After": "1"})
    return ReadyView(status="ok" if set(told.values()) == {"ok"} else "degraded", **told)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(_: Viewer, request: Request) -> Response:
    """For Prometheus, with a viewer's key as its bearer token."""
    return Response(request.app.state.measures.page(), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", response_class=JSONResponse)
def document(_: Viewer, request: Request) -> JSONResponse:
    """This API as an OpenAPI document; the same as docs/openapi.json."""
    return JSONResponse(request.app.openapi())


@router.get("/v1/system/workers")
def workers(_: Viewer, session: Reading, settings: Configured) -> list[WorkerView]:
    return worker_views(session, settings)
