"""The control process: rings for tasks, watches leases and limits, publishes events, posts to the webhook, projects runs.

It may be killed at any time, and run more than once: rows are taken with SKIP LOCKED, and everything is in Postgres.
"""

import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import redis
import structlog
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Engine, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux import logs
from reflux.artifacts import Artifacts
from reflux.errors import RefluxError
from reflux.events import CleanupOverdue, RunAdmitted, TimeLimitReached
from reflux.queues import ROUTES, make_app, ring
from reflux.run import Run
from services.api import errand_desk, projection
from services.api.advance import CHANNEL, advance, lock
from services.api.database import make_engine, migrate
from services.api.settings import Settings
from services.api.tables import EventRow, RunRow, TaskRow
from services.api.tasks import orphan, stop
from services.api.webhooks import deliver_all

log = structlog.get_logger()

AT_WORK = ("validating", "provisioning", "preparing", "teaching", "training", "refining", "evaluating", "exporting")
RING_CAP = timedelta(seconds=60)
EVENTS, EVENTS_KEPT = "reflux:events", 10_000  # the stream's name, and about how many events it keeps


def main() -> None:
    logs.set_up("control")
    settings = Settings()
    engine = make_engine(settings.database_url.get_secret_value())
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    until(stopping, "migrate", lambda: migrate(engine))
    doorbell = threading.Event()
    loops = [
        threading.Thread(target=work, args=(stopping, settings, engine, doorbell), name=work.__name__, daemon=True)
        for work in (listen, ring_all, watch_all, publish_all, project_all, *([deliver_all] if settings.webhook_url else []))
    ]
    for loop in loops:
        loop.start()
    log.info("control_started")
    while not stopping.wait(0.5):
        if not all(loop.is_alive() for loop in loops):
            log.error("loop_died", loops=[loop.name for loop in loops if not loop.is_alive()])
            raise SystemExit(1)


def until(stopping: threading.Event, what: str, work: Callable[[], None]) -> None:
    """Do `work`, again and again while the database is away."""
    while not stopping.is_set():
        try:
            return work()
        except DBAPIError as error:
            log.warning("database_away", during=what, error=str(error.orig)[:200])
            stopping.wait(1)


def listen(stopping: threading.Event, _settings: Settings, engine: Engine, doorbell: threading.Event) -> None:
    """Wake the others at every change of a run."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    while not stopping.is_set():
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(f"listen {CHANNEL}")
                doorbell.set()
                while not stopping.is_set():
                    for _ in connection.notifies(timeout=1, stop_after=1):
                        doorbell.set()
        except psycopg.Error as error:
            log.warning("database_away", during="listen", error=str(error)[:200])
            stopping.wait(1)


# Ring


def ring_all(stopping: threading.Event, settings: Settings, engine: Engine, doorbell: threading.Event) -> None:
    app = make_app(settings.broker_url.get_secret_value())
    while not stopping.is_set():
        doorbell.wait(0.5)
        doorbell.clear()
        try:
            with Session(engine) as session, session.begin():
                admit(session, settings)
            with Session(engine) as session, session.begin():
                for task in due(session):
                    ring(app, task_id=task.id, run_id=task.run_id, kind=task.kind)
                    task.rings += 1
                    wait = min(settings.ring_again * 2 ** min(task.rings - 1, 10), RING_CAP)
                    task.ring_at = func.now() + wait
        except DBAPIError as error:
            log.warning("database_away", during="ring", error=str(error.orig)[:200])
            stopping.wait(1)
        except (BrokerError, ConnectionError, OSError) as error:
            log.warning("broker_away", error=str(error)[:200])
            stopping.wait(1)


def due(session: Session) -> list[TaskRow]:
    """Ready tasks that were never rung, or not heard for too long."""
    query = (
        select(TaskRow)
        .where(TaskRow.status == "ready", TaskRow.due_at <= func.now(), TaskRow.ring_at <= func.now(), TaskRow.kind.in_(ROUTES))
        .order_by(TaskRow.id)
        .limit(200)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(query))


def admit(session: Session, settings: Settings) -> None:
    """Let the oldest queued runs begin, as many as there is room for."""
    waiting = session.scalars(select(RunRow.id).where(RunRow.status == "queued").order_by(RunRow.created_at).limit(20)).all()
    for run_id in waiting:
        active = session.scalar(select(func.count()).where(RunRow.status.in_(AT_WORK))) or 0
        row = lock(session, run_id) if active < settings.max_active_runs else None
        if row is not None:
            advance(session, row, RunAdmitted())


# Watch


def watch_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    """Silence counts only while the API could hear: it is asked each second, and this loop's own gaps count too."""
    hearing_since: datetime | None = None
    last = time.monotonic()
    with httpx.Client(base_url=settings.api_url, timeout=3) as api:
        while not stopping.wait(1):
            gap, last = time.monotonic() - last, time.monotonic()
            try:
                with Session(engine) as session, session.begin():
                    now = session.scalar(select(func.now()))
                    blind = gap > 5 or not _can_hear(api)
                    hearing_since = None if blind else hearing_since or now
                    watch(session, settings, hearing_since)
            except DBAPIError as error:
                hearing_since = None
                log.warning("database_away", during="watch", error=str(error.orig)[:200])


def _can_hear(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def watch(session: Session, settings: Settings, hearing_since: datetime | None) -> None:
    """One look at everything that time alone can change. `hearing_since` None: the watcher itself was blind."""
    if hearing_since is not None:
        heard = func.greatest(TaskRow.heard_at, hearing_since)
        silent = select(TaskRow.id).where(TaskRow.status == "claimed", heard < func.now() - settings.lease)
        for task_id in session.scalars(silent).all():
            orphan(session, task_id, f"silent for {settings.lease.total_seconds():g} s")
    errand_desk.watch(session, settings, hearing_since)
    _force_stops(session, settings)
    _keep_limits(session)


def _force_stops(session: Session, settings: Settings) -> None:
    """Cut off what did not stop by itself. Its worker has been told to kill since the grace ended."""
    over = func.now() - settings.grace - settings.beat - timedelta(seconds=2)
    stuck = (
        select(TaskRow.run_id, TaskRow.id)
        .join(RunRow, RunRow.id == TaskRow.run_id)
        .where(TaskRow.status == "claimed", RunRow.stopping.is_not(None), RunRow.stopping_since < over)
    )
    for run_id, task_id in session.execute(stuck).all():
        row = lock(session, run_id)
        task = session.get(TaskRow, task_id, with_for_update=True, populate_existing=True)
        if row and row.stopping and task and task.status == "claimed":
            log.warning("stop_forced", run_id=run_id, task=task.key)
            stop(session, row, task, forced=True)


def _keep_limits(session: Session) -> None:
    late = select(RunRow.id).where(
        RunRow.ended_at.is_(None),
        or_(RunRow.stage == "cleaning_up", RunRow.deadline_at < func.now()),
        RunRow.status != "paused",
    )
    for run_id in session.scalars(late).all():
        row = lock(session, run_id)
        if row is None:
            continue
        limits = Run.model_validate(row.state).spec.limits
        now = session.scalar(select(func.now()))
        assert now is not None
        if row.stage == "cleaning_up":
            if (now - row.stage_since).total_seconds() > limits.cleanup_seconds:
                advance(session, row, CleanupOverdue())
        elif row.stopping is None:
            advance(session, row, TimeLimitReached())


# Publish


def publish_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    """Put each new event on a stream for whoever listens. What is lost here is lost to listeners alone."""
    valkey = redis.Redis.from_url(settings.broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5)
    last: int | None = None
    while not stopping.wait(0.2):
        try:
            with Session(engine) as session:
                if last is None:
                    last = session.scalar(select(func.max(EventRow.id))) or 0
                for event in session.scalars(select(EventRow).where(EventRow.id > last).order_by(EventRow.id).limit(500)):
                    fact: dict[Any, Any] = {"run_id": event.run_id, "seq": event.seq, "type": event.type, "status": event.status}
                    valkey.xadd(EVENTS, fact, maxlen=EVENTS_KEPT, approximate=True)
                    last = event.id
        except DBAPIError as error:
            log.warning("database_away", during="publish", error=str(error.orig)[:200])
            stopping.wait(1)
        except redis.RedisError as error:
            log.warning("broker_away", during="publish", error=str(error)[:200])
            stopping.wait(1)


# Project


def project_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    """Keep each run's JSON files in the artifact store as Postgres has them."""
    artifacts: Artifacts | None = None
    while not stopping.wait(0.2):
        try:
            artifacts = artifacts or Artifacts(settings.artifacts_url)
            with Session(engine) as session, session.begin():
                projection.project_next(session, artifacts)
        except DBAPIError as error:
            log.warning("database_away", during="project", error=str(error.orig)[:200])
        except RefluxError as error:
            log.warning("artifacts_away", error=str(error))
            stopping.wait(5)


if __name__ == "__main__":
    main()
