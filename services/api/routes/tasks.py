"""/v1/tasks and /v1/workers: the task protocol, for workers alone. Each answer comes after the commit."""

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from reflux.protocol import Accepted, Assignment, Beat, BeatAnswer, Claim, Completion, Failing, Registration, Stopping
from reflux.views import WorkerView
from services.api import errand_desk, tasks
from services.api.auth import Worker
from services.api.session import Configured, Database
from services.api.tables import TaskRow, WorkerRow

router = APIRouter(prefix="/v1", tags=["workers"])


@router.post("/workers", status_code=204)
def register(_: Worker, session: Database, body: Registration) -> Response:
    tasks.register(session, body)
    errand_desk.release(session, body.name, body.incarnation)
    session.commit()
    return Response(status_code=204)


@router.get("/workers")
def workers(_: Worker, session: Database, settings: Configured) -> list[WorkerView]:
    return worker_views(session, settings)


@router.post("/tasks/{task_id}/claim", response_model=None)
def claim(_: Worker, session: Database, settings: Configured, task_id: int, body: Claim) -> Assignment | Response:
    """The task, or 204: nothing to do."""
    assignment = tasks.claim(session, task_id, body, settings)
    session.commit()
    return assignment or Response(status_code=204)


@router.post("/tasks/{task_id}/beat")
def beat(_: Worker, session: Database, settings: Configured, task_id: int, body: Beat) -> BeatAnswer:
    answer = tasks.beat(session, task_id, body, settings)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/complete")
def complete(_: Worker, session: Database, task_id: int, body: Completion) -> Accepted:
    answer = tasks.complete(session, task_id, body.attempt, body.event)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/fail")
def fail(_: Worker, session: Database, task_id: int, body: Failing) -> Accepted:
    answer = tasks.fail(session, task_id, body.attempt, body.failure)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/stopped")
def stopped(_: Worker, session: Database, task_id: int, body: Stopping) -> Accepted:
    answer = tasks.stopped(session, task_id, body.attempt, handed_back=body.handed_back)
    session.commit()
    return answer


def worker_views(session: Database, settings: Configured) -> list[WorkerView]:
    """All workers ever seen; alive: heard of within two leases."""
    now = session.execute(select(func.now())).scalar_one()
    doing: dict[str, list[str]] = {}
    for task in session.scalars(select(TaskRow).where(TaskRow.status == "claimed")):
        doing.setdefault(task.worker or "", []).append(f"{task.run_id} {task.key}")
    return [
        WorkerView(
            name=row.name,
            service=row.service,
            alive=now - row.seen_at < 2 * settings.lease,
            capabilities=row.capabilities,
            registered_at=row.registered_at,
            seen_at=row.seen_at,
            doing=doing.get(row.name, []),
        )
        for row in session.scalars(select(WorkerRow).order_by(WorkerRow.service, WorkerRow.name))
    ]
