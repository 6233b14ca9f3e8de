"""/v1/errands: people's questions, for workers alone. Each answer comes after the commit."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from reflux.errands import Errand, ErrandClaim, ErrandEnd, ErrandFailing, GoOn, Said
from services.api import errand_desk
from services.api.auth import Worker
from services.api.leaving import until_left
from services.api.listening import Listener
from services.api.session import Configured, Database
from services.api.settings import Settings

router = APIRouter(prefix="/v1/errands", tags=["workers"])


@router.post("/claim", response_model=Errand)
async def claim_errand(_: Worker, request: Request, settings: Configured, body: ErrandClaim) -> Errand | Response:
    """An errand; or 204, after `seconds` without any."""
    errand = await until_left(request, _claimed(request, settings, body))
    return errand or Response(status_code=204)


@router.post("/{errand_id}/said")
def said(_: Worker, session: Database, errand_id: int, body: Said) -> GoOn:
    answer = errand_desk.said(session, errand_id, body)
    session.commit()
    return answer


@router.post("/{errand_id}/end")
def end_errand(_: Worker, session: Database, errand_id: int, body: ErrandEnd) -> GoOn:
    answer = errand_desk.end(session, errand_id, body)
    session.commit()
    return answer


@router.post("/{errand_id}/fail")
def fail_errand(_: Worker, session: Database, errand_id: int, body: ErrandFailing) -> GoOn:
    answer = errand_desk.fail(session, errand_id, body)
    session.commit()
    return answer


async def _claimed(request: Request, settings: Settings, body: ErrandClaim) -> Errand | None:
    """Looks whenever the service is rung. Within half a lease: the question is a sign of life."""

    def look() -> Errand | None:
        with Session(request.app.state.engine) as session, session.begin():
            return errand_desk.claim(session, body, settings)

    listener: Listener = request.app.state.listener
    clock = asyncio.get_running_loop()
    until = clock.time() + min(body.seconds, settings.lease.total_seconds() / 2)
    with listener.watched(body.service) as rung:
        while True:
            rung.clear()
            errand = await run_in_threadpool(look)
            left = until - clock.time()
            if errand or left <= 0:
                return errand
            try:
                await asyncio.wait_for(rung.wait(), left)
            except TimeoutError:
                pass
