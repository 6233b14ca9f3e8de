"""/v1/runs: what users do with runs."""

import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from reflux.events import AbortRequested, PauseRequested, ResumeRequested
from reflux.views import DryRun, EventList, RunList, RunView
from services.api import gpu_hours, history, runs, traced_calls
from services.api.auth import Operator, Viewer
from services.api.listening import Listener
from services.api.pages import Pages
from services.api.session import Configured, Database, Reading, Stored

router = APIRouter(prefix="/v1/runs", tags=["runs"])

HEARTBEAT_SECONDS = 10
METADATA_KEY = re.compile(r"metadata\[(.+)\]")
METADATA = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Runs whose metadata hold these values: `metadata[team]=gptp`",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 10},
}


@router.post("", status_code=201)
def create(
    by: Operator,
    request: Request,
    session: Database,
    settings: Configured,
    response: Response,
    spec: Annotated[dict[str, Any], Body(description="A RunSpec")],
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    dry_run: Annotated[bool, Query(description="Check and estimate only; nothing is created")] = False,
) -> RunView | DryRun:
    began = time.time_ns()
    checked, table = runs.checked(spec), request.app.state.prices
    if dry_run:
        response.status_code = 200
        return runs.dry_run(checked, table).model_copy(update={"gpu_hours": gpu_hours.expected(session, checked)})
    row, new = runs.create(session, checked, by, idempotency_key or None, table)
    session.commit()
    traced_calls.created(request, row.id, began)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/runs/{row.id}"
    return runs.view(session, row, settings.artifacts_url, full=True)


@router.get("", response_model=RunList, openapi_extra={"parameters": [METADATA]})
def newest(
    _: Viewer,
    request: Request,
    session: Reading,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="The id of the last run of the page before")] = None,
    status: Annotated[str | None, Query(max_length=20)] = None,
    recipe: Annotated[str | None, Query(max_length=20)] = None,
    name: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Newest first."""
    metadata = {found[1]: value for key, value in request.query_params.items() if (found := METADATA_KEY.fullmatch(key))}
    pages: Pages = request.app.state.pages
    page = pages.newest(session, limit=limit, after=after, status=status, recipe=recipe, name=name, metadata=metadata)
    return Response(page, media_type="application/json")


@router.get("/{run_id}")
def show(_: Viewer, session: Reading, settings: Configured, run_id: str) -> RunView:
    return runs.view(session, runs.get(session, run_id), settings.artifacts_url, full=True)


@router.delete("/{run_id}", status_code=204)
def delete(
    _: Operator,
    session: Database,
    artifacts: Stored,
    run_id: str,
    with_artifacts: Annotated[bool, Query(alias="artifacts", description="Delete its artifacts too")] = False,
) -> None:
    """Forget a run that is over, with its events, logs and metrics."""
    runs.delete(session, run_id, artifacts if with_artifacts else None)
    session.commit()


@router.post("/{run_id}/abort", status_code=202)
def abort(
    by: Operator, session: Database, settings: Configured, response: Response, run_id: str, discard: bool = False
) -> RunView:
    return _ask(session, settings.artifacts_url, response, run_id, AbortRequested(by=by, discard=discard))


@router.post("/{run_id}/pause", status_code=202)
def pause(by: Operator, session: Database, settings: Configured, response: Response, run_id: str) -> RunView:
    return _ask(session, settings.artifacts_url, response, run_id, PauseRequested(by=by))


@router.post("/{run_id}/resume", status_code=202)
def resume(by: Operator, session: Database, settings: Configured, response: Response, run_id: str) -> RunView:
    return _ask(session, settings.artifacts_url, response, run_id, ResumeRequested(by=by))


@router.get(
    "/{run_id}/events",
    response_model=EventList,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
def events(
    _: Viewer,
    request: Request,
    session: Reading,
    run_id: str,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,9}$")] = None,
) -> EventList | EventSourceResponse:
    """A page of the run's history; with `Accept: text/event-stream` all that follows `Last-Event-ID`, live to the end."""
    runs.get(session, run_id)
    if "text/event-stream" in request.headers.get("accept", ""):
        listener: Listener = request.app.state.listener
        return EventSourceResponse(listener.follow(run_id, int(last_event_id or after)), ping=HEARTBEAT_SECONDS)
    found = history.events(session, run_id, after, limit + 1)
    return EventList(data=found[:limit], has_more=len(found) > limit)


def _ask(
    session: Session,
    artifacts_url: str,
    response: Response,
    run_id: str,
    request: AbortRequested | PauseRequested | ResumeRequested,
) -> RunView:
    row, news = runs.ask(session, run_id, request)
    session.commit()
    response.status_code = 202 if news else 200
    return runs.view(session, row, artifacts_url, full=True)
