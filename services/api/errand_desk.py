"""The API's half of what workers do with errands. Every function is one transaction's work; the caller commits, then answers.

    ready ──► claimed ──► done | failed
      ▲          │ lost: its worker is silent, or was started anew; given back
      └──────────┘          once: then it has failed. Given back as the worker shuts down: as often as it takes.

`cancelled` is an errand for which nobody waits any more; its worker hears of it by the answer to what it says.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Select, delete, func, select, text, update
from sqlalchemy.orm import Session

from reflux import leaks
from reflux.errands import RESULTS, SERVICES, Errand, ErrandClaim, ErrandEnd, ErrandFailing, GoOn, Said
from reflux.errors import ErrorClass, Failure, failure
from services.api.problems import ProblemError
from services.api.settings import Settings
from services.api.tables import ErrandRow, TaskRow, WorkerRow

log = structlog.get_logger()

CHANNEL = "reflux_errands"
TRIES = 2
LEFT = timedelta(seconds=30)  # without a look at it, an errand is one that nobody waits for
KEPT = timedelta(minutes=10)
LETS_NOTHING_IN = ("train", "export_model", "run_job")  # kinds of task after whose end alone a question is answered
UNANSWERED = ErrandRow.status.in_(("ready", "claimed"))


def name(errand_id: int) -> str:
    """What those listen to who wait for its answer."""
    return f"errand-{errand_id}"


def ring(session: Session, payload: str) -> None:
    """Wake, at the commit, who waits for an errand's answer (by its name), or for errands (by the service)."""
    session.execute(text("select pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload})


def claim(session: Session, body: ErrandClaim, settings: Settings) -> Errand | None:
    """The oldest errand of the service that somebody waits for, or None. Also the sign of life of an idle worker."""
    worker = session.get(WorkerRow, body.worker)
    if worker is None or worker.service != body.service:
        told = f"There is no worker {body.worker} of {body.service}."
        raise ProblemError(404, "worker_not_found", told, "Register it first.")
    if worker.incarnation != body.incarnation:
        return None  # asked by one that is gone
    _seen(session, body.worker)
    for unheard in session.scalars(_held_by(body.worker).with_for_update()).all():  # it has one at a time
        _lost(session, unheard, failure("worker_lost", f"{body.worker} never heard of the question, or gave no account of it."))
    if _another_is_free(session, body, settings):
        return None
    query = (
        select(ErrandRow)
        .where(
            ErrandRow.service == body.service,
            ErrandRow.status == "ready",
            ErrandRow.waited_for_at > func.now() - LEFT,
        )
        .order_by(ErrandRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = session.scalar(query)
    if row is None:
        return None
    row.status, row.text = "claimed", ""
    row.attempt += 1
    row.worker, row.incarnation = body.worker, body.incarnation
    row.claimed_at = row.heard_at = func.now()
    ring(session, name(row.id))
    return Errand.model_validate(
        {
            "id": row.id,
            "attempt": row.attempt,
            "run_id": row.run_id,
            "spec": row.spec,
            "order": row.order,
            "beat_seconds": settings.beat.total_seconds(),
        }
    )


def said(session: Session, errand_id: int, body: Said) -> GoOn:
    """Note what was written; whether anybody still waits for more."""
    row = _held(session, errand_id, body.attempt)
    if row is None:
        return GoOn(go_on=False)
    row.heard_at = func.now()
    _seen(session, row.worker or "")
    if row.waited_for_at < session.execute(select(func.now())).scalar_one() - LEFT:
        cancel(session, [row.id])
        return GoOn(go_on=False)
    if body.text:
        _note(session, row, body)
    return GoOn(go_on=True)


def end(session: Session, errand_id: int, body: ErrandEnd) -> GoOn:
    row = _held(session, errand_id, body.attempt)
    if row is None:
        return GoOn(go_on=False)
    if not isinstance(body.result, RESULTS[row.kind]):
        _give_up(
            session, row, failure("internal", f"{row.worker} answered an errand of the kind {row.kind} with something else.")
        )
        return GoOn(go_on=False)
    row.result = body.result.model_dump(mode="json")
    row.status, row.ended_at = "done", func.now()
    _note(session, row, body)
    return GoOn(go_on=True)


def fail(session: Session, errand_id: int, body: ErrandFailing) -> GoOn:
    """Give it to another worker once, where that may help."""
    row = _held(session, errand_id, body.attempt)
    if row is None:
        return GoOn(go_on=False)
    why = body.failure
    _lost(session, row, why.model_copy(update={"message": leaks.redacted(why.message), "log": leaks.redacted(why.log)}))
    return GoOn(go_on=False)


def cancel(session: Session, errand_ids: Sequence[int]) -> None:
    session.execute(
        update(ErrandRow).where(ErrandRow.id.in_(errand_ids), UNANSWERED).values(status="cancelled", ended_at=func.now())
    )


def release(session: Session, worker: str, incarnation: str) -> None:
    """A worker was started anew: what it had in hand before is for others."""
    held = _held_by(worker).where(ErrandRow.incarnation != incarnation)
    for row in session.scalars(held.with_for_update()).all():
        _lost(session, row, failure("worker_lost", f"{worker} was started anew while it worked on the question."))


def watch(session: Session, settings: Settings, hearing_since: datetime | None) -> None:
    """What time alone changes: workers fall silent, askers leave unheard, answers grow old."""
    if hearing_since is not None:
        heard = func.greatest(ErrandRow.heard_at, hearing_since)
        silent = select(ErrandRow).where(ErrandRow.status == "claimed", heard < func.now() - settings.lease)
        for row in session.scalars(silent.with_for_update(skip_locked=True)).all():
            seconds = settings.lease.total_seconds()
            _lost(session, row, failure("worker_lost", f"{row.worker} was silent for {seconds:g} s over the question."))
    left = select(ErrandRow.id).where(UNANSWERED, ErrandRow.waited_for_at < func.now() - 2 * LEFT)
    cancel(session, session.scalars(left).all())
    session.execute(delete(ErrandRow).where(ErrandRow.ended_at < func.now() - KEPT))


def _held(session: Session, errand_id: int, attempt: int) -> ErrandRow | None:
    """The errand, locked, if it is still this attempt's."""
    row = session.get(ErrandRow, errand_id, with_for_update=True)
    return row if row is not None and row.status == "claimed" and row.attempt == attempt else None


def _another_is_free(session: Session, body: ErrandClaim, settings: Settings) -> bool:
    """Whether this worker does what lets no question in, and another one of its service does not."""
    shut = select(TaskRow.worker).where(TaskRow.status == "claimed", TaskRow.kind.in_(LETS_NOTHING_IN))
    names = set(session.scalars(shut).all())
    if body.worker not in names:
        return False
    recent = WorkerRow.seen_at > func.now() - 2 * settings.lease
    others = session.scalars(select(WorkerRow.name).where(WorkerRow.service == body.service, recent)).all()
    return not names.issuperset(others)


def _held_by(worker: str) -> Select[ErrandRow]:
    return select(ErrandRow).where(ErrandRow.worker == worker, ErrandRow.status == "claimed")


def _note(session: Session, row: ErrandRow, body: Said) -> None:
    # A model may write NUL, which Postgres takes in no text.
    row.text = row.text[: body.at] + body.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    ring(session, name(row.id))


def _lost(session: Session, row: ErrandRow, why: Failure) -> None:
    log.warning("errand_lost", errand=row.id, attempt=row.attempt, code=why.code, why=why.message)
    if why.error_class != ErrorClass.RETRIABLE or (row.attempt >= TRIES and why.code != "handed_back"):
        _give_up(session, row, why)
        return
    row.status, row.text, row.worker = "ready", "", None
    ring(session, name(row.id))
    ring(session, SERVICES[row.kind])


def _give_up(session: Session, row: ErrandRow, why: Failure) -> None:
    row.error = why.model_dump(mode="json")
    row.status, row.ended_at = "failed", func.now()
    ring(session, name(row.id))


def _seen(session: Session, worker: str) -> None:
    old = WorkerRow.seen_at < func.now() - timedelta(seconds=1)
    session.execute(update(WorkerRow).where(WorkerRow.name == worker, old).values(seen_at=func.now()))
