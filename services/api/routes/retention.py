"""/v1/retention: what would be removed. Nothing is, by this: control does it, by its settings."""

from typing import Annotated

from fastapi import APIRouter, Query

from reflux.views import RetentionPlan
from services.api import retention
from services.api.auth import Viewer
from services.api.retention import Rules
from services.api.session import Configured, Reading, Stored

router = APIRouter(prefix="/v1/retention", tags=["retention"])

Days = Annotated[float | None, Query(ge=0, le=100_000, description="Since a run's end, in place of the setting")]


@router.get("")
def plan(
    _: Viewer,
    session: Reading,
    artifacts: Stored,
    settings: Configured,
    artifacts_days: Days = None,
    results_days: Days = None,
    logs_days: Days = None,
    metrics_days: Days = None,
    artifacts_gb: Annotated[float | None, Query(ge=0, le=1e9, description="Of all runs, 10^9 bytes each")] = None,
) -> RetentionPlan:
    """What would go at the next look, why, and what is old but needed. Nothing is removed."""
    limits = {
        "artifacts_days": artifacts_days,
        "artifacts_gb": artifacts_gb,
        "results_days": results_days,
        "logs_days": logs_days,
        "metrics_days": metrics_days,
    }
    return retention.plan(session, artifacts, Rules.of(settings).but(limits))
