"""/v1/tasks and /v1/workers: the task protocol, for workers alone. Each answer comes after the commit."""

import asyncio

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reflux.protocol import (
    MACHINE,
    Accepted,
    Assignment,
    Beat,
    BeatAnswer,
    Claim,
    ClaimNext,
    Completion,
    Failing,
    Registration,
    Stopping,
)
from reflux.stages import Stage
from reflux.views import WorkerView
from services.api import errand_desk, tasks
from services.api.auth import AtWork, Key, Worker
from services.api.leaving import until_left
from services.api.listening import Listener
from services.api.problems import ProblemError
from services.api.session import Configured, Database
from services.api.settings import Settings
from services.api.tables import RunRow, TaskRow, WorkerRow
from services.api.traced_calls import reported

router = APIRouter(prefix="/v1", tags=["workers"])
LOOK_SECONDS = 5.0  # a task may be due without a ring: one that is tried again after a wait


@router.post("/workers", status_code=204)
def register(key: AtWork, session: Database, body: Registration) -> Response:
    if key.run_id and (body.name != key.label or body.service != MACHINE):
        raise ProblemError(403, "wrong_role", f"This key is that of {key.label}, a {MACHINE}.", "Register under that name.")
    tasks.register(session, body)
    errand_desk.release(session, body.name, body.incarnation)
    session.commit()
    return Response(status_code=204)


@router.get("/workers")
def workers(_: Worker, session: Database, settings: Configured) -> list[WorkerView]:
    return worker_views(session, settings)


@router.post("/tasks/{task_id}/claim", response_model=None)
def claim(key: AtWork, session: Database, settings: Configured, task_id: int, body: Claim) -> Assignment | Response:
    """The task, or 204: nothing to do."""
    _own(session, key, task_id)
    if key.run_id:  # no turn at the tasks of others
        body = body.model_copy(update={"service": None})
    assignment = tasks.claim(session, task_id, body, settings)
    session.commit()
    return assignment or Response(status_code=204)


@router.post("/tasks/claim", response_model=Assignment)
async def claim_next(key: AtWork, request: Request, settings: Configured, body: ClaimNext) -> Assignment | Response:
    """The next GPU task of the run of this machine's key; 204 after `seconds` without any, 410 once there will be none."""
    if key.run_id is None:
        raise ProblemError(403, "wrong_role", "Only the machine of a run claims its next task so.", "Answer rings instead.")
    assignment = await until_left(request, _next(request, settings, key.run_id, body))
    return assignment or Response(status_code=204)


@router.post("/tasks/{task_id}/beat")
def beat(key: AtWork, session: Database, settings: Configured, task_id: int, body: Beat) -> BeatAnswer:
    _own(session, key, task_id)
    answer = tasks.beat(session, task_id, body, settings)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/complete", dependencies=[Depends(reported)])
def complete(key: AtWork, session: Database, task_id: int, body: Completion) -> Accepted:
    _own(session, key, task_id)
    answer = tasks.complete(session, task_id, body.attempt, body.event)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/fail", dependencies=[Depends(reported)])
def fail(key: AtWork, session: Database, task_id: int, body: Failing) -> Accepted:
    _own(session, key, task_id)
    answer = tasks.fail(session, task_id, body.attempt, body.failure)
    session.commit()
    return answer


@router.post("/tasks/{task_id}/stopped", dependencies=[Depends(reported)])
def stopped(key: AtWork, session: Database, task_id: int, body: Stopping) -> Accepted:
    _own(session, key, task_id)
    answer = tasks.stopped(session, task_id, body.attempt, handed_back=body.handed_back)
    session.commit()
    return answer


def _own(session: Session, key: Key, task_id: int) -> None:
    """403 for a machine whose run the task is not of."""
    if key.run_id and session.scalar(select(TaskRow.run_id).where(TaskRow.id == task_id)) != key.run_id:
        raise ProblemError(403, "wrong_role", "This key is good for the tasks of its own run alone.", "Use another key.")


async def _next(request: Request, settings: Settings, run_id: str, body: ClaimNext) -> Assignment | None:
    """Looks whenever the run moves. Within half a lease: the question is a sign of life."""

    def look() -> Assignment | None:
        with Session(request.app.state.engine, expire_on_commit=False) as session, session.begin():
            found = tasks.claim_next(session, run_id, body, settings)
            if found is None and session.scalar(select(RunRow.status).where(RunRow.id == run_id)) == Stage.CLEANING_UP:
                raise ProblemError(410, "no_more_work", f"{run_id} has no more work for its machine.", "Let the machine end.")
            return found

    listener: Listener = request.app.state.listener
    clock = asyncio.get_running_loop()
    until = clock.time() + min(body.seconds, settings.lease.total_seconds() / 2)
    with listener.watched(run_id) as rung:
        while True:
            rung.clear()
            found = await run_in_threadpool(look)
            left = until - clock.time()
            if found or left <= 0:
                return found
            try:
                await asyncio.wait_for(rung.wait(), min(left, LOOK_SECONDS))
            except TimeoutError:
                continue


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
