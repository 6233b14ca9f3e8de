"""/v1/runs/{id}/reviews: corrections that wait for a person's decision."""

from typing import Annotated, Literal

from fastapi import APIRouter, Body

from reflux.artifacts import Artifacts
from reflux.views import Decision, ReviewView, RunView
from services.api import reviews, runs
from services.api.auth import Operator, Viewer
from services.api.session import Configured, Database

router = APIRouter(prefix="/v1/runs/{run_id}/reviews", tags=["reviews"])


@router.get("")
def waiting(_: Viewer, session: Database, settings: Configured, run_id: str) -> list[ReviewView]:
    return reviews.waiting(session, Artifacts(settings.artifacts_url), run_id)


@router.post("/{key}")
def decide(
    by: Operator,
    session: Database,
    settings: Configured,
    run_id: str,
    key: str,
    decisions: Annotated[list[Decision], Body()],
    others: Annotated[Literal["approve", "refuse"] | None, Body(description="For what `decisions` do not name")] = None,
) -> RunView:
    reviews.decide(session, Artifacts(settings.artifacts_url), run_id, key, by, decisions, others)
    session.commit()
    return runs.view(session, runs.get(session, run_id), settings.artifacts_url, full=True)
