"""POST /v1/runs/{id}/fork: go on from an epoch of a run, with changed settings."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from reflux.views import RunView
from services.api import forks, runs, traced_calls
from services.api.auth import Operator
from services.api.session import Configured, Database

router = APIRouter(prefix="/v1/runs/{run_id}/fork", tags=["runs"])


@router.post("", status_code=201)
def fork(
    by: Operator,
    session: Database,
    settings: Configured,
    request: Request,
    response: Response,
    run_id: str,
    epoch: Annotated[int | None, Body(ge=1, description="A finished epoch; left out: the last")] = None,
    changes: Annotated[dict[str, Any], Body(description="By section, as in a RunSpec")] = {},  # noqa: B006 FastAPI copies it
) -> RunView:
    began = time.time_ns()
    row = forks.create(session, run_id, by, epoch, changes, request.app.state.prices)
    session.commit()
    traced_calls.created(request, row.id, began)
    response.headers["Location"] = f"/v1/runs/{row.id}"
    return runs.view(session, row, settings.artifacts_url, full=True)
