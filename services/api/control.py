"""The control process: rings for tasks, watches leases and limits, publishes events, projects runs; where it is set, posts to
the webhook, tells MLflow, and removes what old runs need no longer.

It may be killed at any time, and run more than once: rows are taken with SKIP LOCKED, and everything is in Postgres.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import redis
import structlog
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Engine, Interval, Select, cast, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux import logs, traces
from reflux.artifacts import Artifacts
from reflux.errors import RefluxError
from reflux.events import CleanupOverdue, RunAdmitted, TimeLimitReached
from reflux.queues import GPU, ROUTES, kinds, make_app, ring
from reflux.run import Run
from reflux.stages import Stage
from services.api import errand_desk, machine_watch
from services.api.advance import CHANNEL, advance, lock
from services.api.database import make_engine, migrate
from services.api.projection import project
from services.api.publishing import publish
from services.api.retention import Rules, retain_all
from services.api.settings import Settings
from services.api.tables import RunRow, TaskRow
from services.api.tasks import lock_task, named, orphan, stop
from services.api.tracking import tell_all
from services.api.webhooks import deliver_all

log = structlog.get_logger()

AT_WORK = ("validating", "provisioning", "preparing", "teaching", "training", "refining", "evaluating", "exporting")
RING_CAP = timedelta(seconds=60)
ADMITTING = 7205315  # one control process admits at a time


def main() -> None:
    logs.set_up("control")
    traces.set_up("control")
    settings = Settings()
    engine = make_engine(settings.database_url.get_secret_value())
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    until(stopping, "migrate", lambda: migrate(engine))
    doorbell = threading.Event()
    works = [listen, ring_all, watch_all, publish_all, project_all]
    if settings.webhook_url:
        works.append(deliver_all)
    if settings.mlflow_tracking_uri:
        works.append(tell_all)
    if Rules.of(settings) != Rules():
        works.append(retain_all)
    if traces.on():
        from services.api.tracing import trace_all

        works.append(trace_all)
    loops = [
        threading.Thread(target=work, args=(stopping, settings, engine, doorbell), name=work.__name__, daemon=True)
        for work in works
    ]
    for loop in loops:
        loop.start()
    log.info("control_started")
    while not stopping.wait(0.5):
        if not all(loop.is_alive() for loop in loops):
            log.error("loop_died", loops=[loop.name for loop in loops if not loop.is_alive()])
            raise SystemExit(1)
    traces.close()


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
                for task in due(session):
                    with traces.span(f"{task.kind} ring", traces.traceparent(task.run_id, task.key), kind="producer"):
                        ring(app, task_id=task.id, run_id=task.run_id, kind=task.kind)
                    task.rings += 1
                    wait = min(settings.ring_again * 2 ** min(task.rings - 1, 10), RING_CAP)
                    task.ring_at = func.now() + wait
            admit(engine, settings)  # its own notice wakes this loop again
        except DBAPIError as error:
            log.warning("database_away", during="ring", error=str(error.orig)[:200])
            stopping.wait(1)
        except (BrokerError, ConnectionError, OSError) as error:
            log.warning("broker_away", error=str(error)[:200])
            stopping.wait(1)


def due(session: Session) -> list[TaskRow]:
    """Ready tasks that were never rung, or not heard for too long; the GPU's only where it is not the run's own machine."""
    query = (
        select(TaskRow)
        .join(RunRow, RunRow.id == TaskRow.run_id)
        .where(TaskRow.status == "ready", TaskRow.due_at <= func.now(), TaskRow.ring_at <= func.now(), TaskRow.kind.in_(ROUTES))
        .where(or_(TaskRow.kind.not_in(kinds(GPU)), RunRow.state["spec"]["compute"]["kind"].astext == "local"))
        .order_by(TaskRow.id)
        .limit(200)
        .with_for_update(skip_locked=True, of=TaskRow)
    )
    return list(session.scalars(query))


def admit(engine: Engine, settings: Settings) -> None:
    """Let the oldest queued runs begin, as many as there is room for."""
    with Session(engine) as guard, guard.begin():
        waiting = guard.scalars(select(RunRow.id).where(RunRow.status == "queued").order_by(RunRow.created_at).limit(20)).all()
        if not waiting or not guard.scalar(select(func.pg_try_advisory_xact_lock(ADMITTING))):
            return
        for run_id in waiting:
            with Session(engine) as session, session.begin():
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
                with Session(engine) as session:
                    now = session.scalar(select(func.now()))
                blind = gap > 5 or not _can_hear(api)
                hearing_since = None if blind else hearing_since or now
                watch(engine, settings, hearing_since)
            except DBAPIError as error:
                hearing_since = None
                log.warning("database_away", during="watch", error=str(error.orig)[:200])


def _can_hear(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def watch(engine: Engine, settings: Settings, hearing_since: datetime | None) -> None:
    """One look at everything that time alone can change. `hearing_since` None: the watcher itself was blind.

    Each run has a transaction of its own: nobody waits for the others, and two runs' locks are never held at once.
    """
    if hearing_since is not None:
        heard = func.greatest(TaskRow.heard_at, hearing_since)
        silent = select(TaskRow.id, TaskRow.attempt, TaskRow.heard_at).where(
            TaskRow.status == "claimed", heard < func.now() - settings.lease
        )
        for task_id, attempt, last in _read(engine, silent):
            with Session(engine) as session, session.begin():
                orphan(session, task_id, attempt, f"silent for {settings.lease.total_seconds():g} s", unheard_since=last)
        machine_watch.watch(engine, settings, hearing_since)
    with Session(engine) as session, session.begin():
        errand_desk.watch(session, settings, hearing_since)
    _force_stops(engine, settings)
    _keep_limits(engine)


def _read(engine: Engine, query: Select[*tuple[Any, ...]]) -> Sequence[Any]:
    with Session(engine) as session:
        return session.execute(query).all()


def _force_stops(engine: Engine, settings: Settings) -> None:
    """Cut off what did not stop by itself. Its worker has been told to kill since the grace ended."""
    over = func.now() - settings.grace - settings.beat - timedelta(seconds=2)
    stuck = (
        select(TaskRow.id, RunRow.stopping_since)
        .join(RunRow, RunRow.id == TaskRow.run_id)
        .where(TaskRow.status == "claimed", RunRow.stopping.is_not(None), RunRow.stopping_since < over)
    )
    for task_id, since in _read(engine, stuck):
        with Session(engine) as session, session.begin():
            row, task = lock_task(session, task_id) or (None, None)
            if row and task and row.stopping_since == since and task.status == "claimed":
                log.warning("stop_forced", **named(task))
                stop(session, row, task, forced=True)


def _keep_limits(engine: Engine) -> None:
    own = cast(func.jsonb_extract_path_text(RunRow.state, "spec", "limits", "max_stage_runtime", RunRow.stage), Interval)
    of_the_run = (RunRow.deadline_at < func.now()) & (RunRow.stage != "exporting")
    late = select(RunRow.id).where(
        RunRow.ended_at.is_(None),
        or_(RunRow.stage == "cleaning_up", of_the_run, RunRow.stage_since + own < func.now()),
        RunRow.status != "paused",
    )
    for (run_id,) in _read(engine, late):
        with Session(engine) as session, session.begin():
            row = lock(session, run_id)
            if row is not None:
                keep_limit(session, row)


def keep_limit(session: Session, row: RunRow) -> None:
    now = session.execute(select(func.now())).scalar_one()
    limits = Run.model_validate(row.state).spec.limits
    here = now - row.stage_since
    if row.stage == "cleaning_up":
        if here.total_seconds() > limits.cleanup_seconds:
            advance(session, row, CleanupOverdue())
    elif row.stopping is None and row.status != "paused":
        own = getattr(limits.max_stage_runtime, row.stage, None)
        if own is not None and here > own:
            advance(session, row, TimeLimitReached(stage=Stage(row.stage)))
        elif row.deadline_at is not None and row.deadline_at < now:
            advance(session, row, TimeLimitReached())


# Publish and project


def publish_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    valkey = redis.Redis.from_url(settings.broker_url.get_secret_value(), socket_timeout=1, socket_connect_timeout=1)
    while not stopping.wait(0.2):
        try:
            publish(engine, valkey)
        except DBAPIError as error:
            log.warning("database_away", during="publish", error=str(error.orig)[:200])
            stopping.wait(1)
        except redis.RedisError as error:
            log.warning("broker_away", during="publish", error=str(error)[:200])
            stopping.wait(1)


def project_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    """Keep each run's JSON files in the artifact store as Postgres has them."""
    artifacts: Artifacts | None = None
    while not stopping.wait(0.2):
        try:
            artifacts = artifacts or Artifacts(settings.artifacts_url)
            project(engine, artifacts)
        except DBAPIError as error:
            log.warning("database_away", during="project", error=str(error.orig)[:200])
        except RefluxError as error:
            log.warning("artifacts_away", error=str(error))
            stopping.wait(5)


if __name__ == "__main__":
    main()
