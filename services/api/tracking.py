"""Runs at an MLflow server, told by control out of Postgres: parameters, metrics, scores by epoch, tags, status.

Each run has its own place up to which it was told. What is told again after a kill or a lost answer is the same, with Postgres'
times, and MLflow keeps it once. While the server is away runs do not notice, and what it has missed is told when it is back.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import structlog
from sqlalchemy import ColumnElement, Engine, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux import scalars
from reflux.artifacts import run_folder
from reflux.run import Run
from services.api.database import alone
from services.api.mlflow import NOT_FOUND, RUN_TAG, Away, Mlflow, Point, Refused, Status
from services.api.settings import Settings
from services.api.tables import MetricRow, RunRow, TaskRow, TrackedRow

log = structlog.get_logger()

LOCK = 7205320  # one control process tells at a time
EVERY_SECONDS = 2.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds
AT_ONCE = 100  # runs of one look
POINTS = 10_000  # of one run in one look

# Ids are given before commits: by then each row that has a lower id is there
SETTLED = timedelta(seconds=30)

ENDED: dict[str | None, Status] = {"succeeded": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}


@dataclass
class Tracker:
    mlflow: Mlflow
    engine: Engine
    artifacts_url: str
    public_url: str
    settled: timedelta = SETTLED
    waits: dict[str, tuple[int, float]] = field(default_factory=dict)  # by run: refusals, and when to try again

    def tell(self) -> None:
        """Everything that is news. Raises Away; a run that the server refuses waits, and holds no other up."""
        with alone(self.engine, LOCK) as mine:
            for run_id in self._runs() if mine else ():
                try:
                    self._tell(run_id)
                    self.waits.pop(run_id, None)
                except Refused as refused:
                    self._put_off(run_id, refused)

    def _runs(self) -> list[str]:
        """Of which there is news. An ended run's last metrics and its end are told together, once they are settled."""
        now = time.monotonic()
        waiting = [run_id for run_id, (_, at) in self.waits.items() if at > now]
        lives = RunRow.ended_at.is_(None)
        more = exists().where(MetricRow.run_id == RunRow.id, MetricRow.id > TrackedRow.metric_id, self._is_settled())
        news = or_(TrackedRow.run_id.is_(None), TrackedRow.seq < RunRow.seq, lives & more)
        settled = lives | (RunRow.ended_at < func.now() - self.settled)
        query = select(RunRow.id).outerjoin(TrackedRow, TrackedRow.run_id == RunRow.id).where(news, settled)
        with Session(self.engine) as session:
            return list(session.scalars(query.where(RunRow.id.not_in(waiting)).order_by(RunRow.id).limit(AT_ONCE)))

    def _is_settled(self) -> ColumnElement[bool]:
        return MetricRow.at < func.now() - self.settled

    def _tell(self, run_id: str) -> None:
        with Session(self.engine, expire_on_commit=False) as session:
            row, told = session.get(RunRow, run_id), session.get(TrackedRow, run_id)
            if row is None:
                return
            run = Run.model_validate(row.state)
            points, last, more = self._points(session, run, told.metric_id if told else 0)
            moved = told is None or told.seq < row.seq
            points += _known(session, row, run) if moved else []
        external_id = told.external_id if told else self.mlflow.run(run_id, row.name, row.created_at)
        if told is None:
            self.mlflow.describe(external_id, params(run), {})
        self.mlflow.log(external_id, points)
        if moved and not more:
            self.mlflow.describe(external_id, {}, self._tags(row, run))
            status = ENDED.get(run.outcome if row.ended_at else None, "RUNNING" if row.started_at else "SCHEDULED")
            self.mlflow.set_status(external_id, row.name, status, row.ended_at)
        self._note(run_id, external_id, (told.seq if told else -1) if more else row.seq, last)

    def _points(self, session: Session, run: Run, after: int) -> tuple[list[Point], int, bool]:
        """What workers told, the id of the last of it, and whether there is more."""
        before = scalars.steps_before(run.epochs)
        query = select(MetricRow).where(MetricRow.run_id == run.id, MetricRow.id > after, self._is_settled())
        rows = session.scalars(query.order_by(MetricRow.id).limit(POINTS)).all()
        points = [Point(row.name, row.value, row.at, before.get(row.epoch, 0) + row.step) for row in rows]
        return points, rows[-1].id if rows else after, len(rows) == POINTS

    def _tags(self, row: RunRow, run: Run) -> dict[str, str]:
        here = self.artifacts_url.rstrip("/")
        adapter = f"{run_folder(run.id)}/adapter" if run.model_path and row.ended_at else run.adapter_path
        tags = {f"metadata.{name}": value for name, value in row.labels.items()}
        return tags | {
            RUN_TAG: run.id,
            "reflux.url": f"{self.public_url.rstrip('/')}/runs/{run.id}",
            "reflux.recipe": run.spec.recipe,
            "reflux.status": row.status,
            "reflux.reason": run.reason,
            "reflux.error": f"{run.error.code}: {run.error.message}" if run.error else "",
            "reflux.origin": f"{run.origin.run_id}, epoch {run.origin.epoch}" if run.origin else "",
            "reflux.best_epoch": str(run.best.epoch) if run.best else "",
            "reflux.adapter_uri": f"{here}/{adapter}" if adapter else "",
            "reflux.outputs_uri": f"{here}/{run_folder(run.id)}/outputs" if run.job_path and row.ended_at else "",
        }

    def _note(self, run_id: str, external_id: str, seq: int, metric_id: int) -> None:
        place = {"external_id": external_id, "seq": seq, "metric_id": metric_id}
        with Session(self.engine) as session, session.begin():
            if session.scalar(select(RunRow.id).where(RunRow.id == run_id)):  # else it was deleted meanwhile
                new = insert(TrackedRow).values(run_id=run_id, **place)
                session.execute(new.on_conflict_do_update(index_elements=["run_id"], set_=place))

    def _put_off(self, run_id: str, refused: Refused) -> None:
        if refused.code == NOT_FOUND:  # another server, or one that has lost the run: it is told of it from the beginning
            self.mlflow.forget()
            with Session(self.engine) as session, session.begin():
                known = session.get(TrackedRow, run_id)
                if known is not None:
                    session.delete(known)
        refusals = self.waits.get(run_id, (0, 0.0))[0] + 1
        wait = min(FIRST_WAIT * 2 ** (refusals - 1), LONGEST_WAIT)
        self.waits[run_id] = refusals, time.monotonic() + wait
        log.warning("tracking_refused", run_id=run_id, why=str(refused), again_in_seconds=wait)


def params(run: Run) -> dict[str, str]:
    """Every setting of the spec, by its path."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in _settings(run.spec.model_dump(mode="json"))
    }


def _settings(spec: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in spec.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            yield prefix + name, value


def _known(session: Session, row: RunRow, run: Run) -> Iterator[Point]:
    """What is known of the finished epochs, and of a run that is over: always with the same times."""
    ends = select(TaskRow.epoch, func.max(TaskRow.ended_at)).where(
        TaskRow.run_id == run.id, TaskRow.stage.in_(("training", "refining"))
    )
    ended = {epoch: at for epoch, at in session.execute(ends.group_by(TaskRow.epoch)) if at is not None}
    for epoch in run.epochs:  # those of a fork's ancestor have no tasks here
        at = ended.get(epoch.epoch, row.created_at)
        yield from (Point(name, value, at, epoch.epoch) for name, value in scalars.of_epoch(epoch).items())
    if row.ended_at is not None:
        last = scalars.of_usage("total", run.usage) | (scalars.of_comparison(run.comparison) if run.comparison else {})
        yield from (Point(name, value, row.ended_at, run.epoch) for name, value in last.items())


def tell_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    client = client_of(settings)
    if client is None:
        log.error("tracking_is_off", why="MLFLOW_TRACKING_URI is no http:// or https:// address", hint="Unset it, or set one.")
        stopping.wait()
        return
    failures = 0
    with client as http:
        mlflow = Mlflow(http, settings.mlflow_experiment_name)
        tracker = Tracker(mlflow, engine, settings.artifacts_url, settings.public_url or settings.api_url)
        while not stopping.wait(min(EVERY_SECONDS * 2**failures, LONGEST_WAIT)):
            try:
                tracker.tell()
                failures = 0
            except Away as away:
                failures = min(failures + 1, 10)
                log.warning("tracking_away", why=str(away), again_in_seconds=min(EVERY_SECONDS * 2**failures, LONGEST_WAIT))
            except DBAPIError as error:
                log.warning("database_away", during="tracking", error=str(error.orig)[:200])


def client_of(settings: Settings) -> httpx.Client | None:
    """With the key in a header: an address is shown in logs and traces."""
    try:
        url = httpx.URL(settings.mlflow_tracking_uri or "")
    except httpx.InvalidURL:
        return None
    if url.scheme not in ("http", "https") or not url.host:
        return None
    token, password = settings.mlflow_tracking_token, settings.mlflow_tracking_password
    auth = (url.username, url.password) if url.userinfo else None
    if settings.mlflow_tracking_username and password:
        auth = settings.mlflow_tracking_username, password.get_secret_value()
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    return httpx.Client(base_url=url.copy_with(userinfo=b""), auth=auth, headers=headers, timeout=10, follow_redirects=False)
