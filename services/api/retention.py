"""What old runs need no longer goes, by age and by size; each removal is recorded before anything is deleted.

Nothing goes of a run that is not over, nor files that another run needs: a fork that still has its own, or a live run whose spec
or state names them. What a kill leaves half-deleted, the next look deletes.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import structlog
from sqlalchemy import ColumnElement, Engine, and_, delete, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.errors import RefluxError
from reflux.views import KeptView, Removable, RemovalView, RetentionPlan
from services.api import files, removals
from services.api.advance import append, lock
from services.api.database import alone
from services.api.settings import Settings
from services.api.tables import LogRow, MetricRow, RemovalRow, RunRow

log = structlog.get_logger()

LOCK = 7205321  # one control process removes at a time
FIRST_SECONDS, EVERY_SECONDS = 60.0, 3600.0
MOST = 1000  # removals of one look
ROWS = 5000  # of one transaction
TABLES: dict[str, type[LogRow] | type[MetricRow]] = {"logs": LogRow, "metrics": MetricRow}

# Who names whose folder, in a path of its state or an address of its spec
NEEDS = text("""
    select distinct found[1], runs.id
    from runs left join removals on removals.run_id = runs.id and removals.what = 'artifacts'
    cross join lateral regexp_matches(state::text, 'runs/([^/"\\s]+)', 'g') as found
    where (ended_at is null or (jsonb_typeof(state -> 'origin') = 'object' and removals.run_id is null))
      and found[1] <> runs.id and (cast(:run_id as text) is null or found[1] = :run_id)
""")


@dataclass(frozen=True)
class Rules:
    """Days since a run's end, and GB (10^9 bytes) of all runs. None: no limit."""

    artifacts_days: float | None = None
    artifacts_gb: float | None = None
    results_days: float | None = None
    logs_days: float | None = None
    metrics_days: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(**{rule.name: getattr(settings, f"keep_{rule.name}") for rule in fields(cls)})

    def but(self, others: Mapping[str, float | None]) -> Self:
        """Those that are given instead of ours."""
        return replace(self, **{name: limit for name, limit in others.items() if limit is not None})


@dataclass
class _Use:
    """Bytes below a run's folder, and what of them only the run itself needed."""

    bytes: int = 0
    working_bytes: int = 0
    working_objects: int = 0


class _Ended(NamedTuple):
    id: str
    name: str
    ended_at: datetime | None  # there is one


def plan(session: Session, artifacts: Artifacts, rules: Rules) -> RetentionPlan:
    """What would go now, and what stays though it is old. Nothing is removed."""
    found = _Plan(session, artifacts, rules)
    removals = [removal for removal in found if removal.count]
    return RetentionPlan(removals=removals, kept=found.kept, has_more=found.has_more)


@dataclass
class _Plan:
    """Iterated once: the removals, also of what a run has nothing of; then `kept` and `has_more` are known."""

    session: Session
    artifacts: Artifacts
    rules: Rules
    kept: list[KeptView] = field(default_factory=list)
    has_more: bool = False

    def __iter__(self) -> Iterator[RemovalView]:
        self.needs = needs(self.session)
        self.going: dict[Removable, set[str]] = defaultdict(set)
        for number, removal in enumerate(self._all()):
            self.has_more = number == MOST
            if self.has_more:
                return
            yield removal

    def _all(self) -> Iterator[RemovalView]:
        days: tuple[tuple[Removable, float | None], ...] = (
            ("artifacts", self.rules.artifacts_days),
            ("results", self.rules.results_days),
            ("logs", self.rules.logs_days),
            ("metrics", self.rules.metrics_days),
        )
        for what, limit in days:
            if limit is not None:
                old = RunRow.ended_at < func.now() - timedelta(days=limit)
                for row in self._ended(what, old, RunRow.created_at.desc()):  # forks before what they go on from
                    if self._may_go(row, what):
                        yield self._removal(row, what, f"the run ended more than {limit:g} days ago", *self._size(row.id, what))
        if self.rules.artifacts_gb is not None:
            yield from self._for_room(self.rules.artifacts_gb)

    def _for_room(self, gigabytes: float) -> Iterator[RemovalView]:
        there = set(self.session.scalars(select(RunRow.id)))
        used: dict[str, _Use] = defaultdict(_Use)
        for run_id, path, size in files.everything(self.artifacts):
            if run_id in there:
                used[run_id].bytes += size
                if removals.kind_of(path) == "artifacts":
                    used[run_id].working_bytes += size
                    used[run_id].working_objects += 1
        total = sum(of_run.bytes for of_run in used.values())
        total -= sum(used[run_id].working_bytes for run_id in self.going["artifacts"] & used.keys())
        why = f"all runs together have more than {gigabytes:g} GB, and this one is the oldest"
        for row in self._ended("artifacts", RunRow.id.in_(used), RunRow.ended_at):
            of_run = used[row.id]
            if total <= gigabytes * 1e9:
                return
            if row.id not in self.going["artifacts"] and of_run.working_objects and self._may_go(row, "artifacts"):
                total -= of_run.working_bytes
                yield self._removal(row, "artifacts", why, of_run.working_objects, of_run.working_bytes)

    def _ended(self, what: Removable, which: ColumnElement[bool], order: Any) -> list[_Ended]:
        gone = and_(RemovalRow.run_id == RunRow.id, RemovalRow.what == what)
        columns = select(RunRow.id, RunRow.name, RunRow.ended_at)
        query = columns.outerjoin(RemovalRow, gone).where(RemovalRow.run_id.is_(None), RunRow.ended_at.is_not(None), which)
        return [_Ended(*row) for row in self.session.execute(query.order_by(order))]

    def _may_go(self, row: _Ended, what: Removable) -> bool:
        needing = self.needs.get(row.id, set()) - self.going["artifacts"] if what in ("artifacts", "results") else set()
        kept = KeptView(run_id=row.id, what=what, why=f"needed by {', '.join(sorted(needing))}")
        if needing and kept not in self.kept:
            self.kept.append(kept)
        return not needing

    def _removal(self, row: _Ended, what: Removable, why: str, count: int, size: int | None) -> RemovalView:
        self.going[what].add(row.id)
        run = {"run_id": row.id, "name": row.name, "ended_at": row.ended_at}
        return RemovalView(**run, what=what, why=why, count=count, bytes=size)

    def _size(self, run_id: str, what: Removable) -> tuple[int, int | None]:
        if what in TABLES:
            return self.session.scalar(select(func.count()).where(TABLES[what].run_id == run_id)) or 0, None
        sizes = [size for path, size in files.sizes(self.artifacts, run_id).items() if removals.kind_of(path) == what]
        return len(sizes), sum(sizes)


def needs(session: Session, run_id: str | None = None) -> dict[str, set[str]]:
    """By run, the others that need its files: a live run that names them, a fork that still has its own."""
    found: dict[str, set[str]] = defaultdict(set)
    for needed, by in session.execute(NEEDS, {"run_id": run_id}):
        found[needed].add(by)
    return found


def retain(engine: Engine, artifacts: Artifacts, rules: Rules, stopping: threading.Event) -> int:
    """One look; how many removals were made. RefluxError where the store is away: what is recorded is deleted later."""
    with Session(engine) as session:
        undone = session.execute(select(RemovalRow.run_id, RemovalRow.what).where(RemovalRow.done_at.is_(None))).all()
    for run_id, what in undone:
        try:
            _delete(engine, artifacts, run_id, what)
        except RefluxError as error:  # what one run's files are locked by holds no other up
            log.warning("not_removed", run_id=run_id, what=what, error=str(error))
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:  # the store may be slow
        planned = list(_Plan(session, artifacts, rules))
    made = 0
    for removal in planned:
        if stopping.is_set():
            break
        if record(engine, removal):
            _delete(engine, artifacts, removal.run_id, removal.what)
            made += removal.count > 0
    return made


def record(engine: Engine, removal: RemovalView) -> bool:
    """False where the run is gone, or is needed since the plan was made."""
    with Session(engine) as session, session.begin():
        row = lock(session, removal.run_id)
        if row is None or (removal.what in ("artifacts", "results") and needs(session, row.id)):
            return False
        told = {"what": removal.what, "why": removal.why, "count": removal.count, "bytes": removal.bytes}
        session.add(RemovalRow(run_id=row.id, **told))
        if removal.count:
            append(session, row, "removed_by_retention", told)
            log.info("removed_by_retention", run_id=row.id, **told)
    return True


def _delete(engine: Engine, artifacts: Artifacts, run_id: str, what: str) -> None:
    """Again, if it was done before."""
    if what in TABLES:
        table = TABLES[what]
        some = select(table.id).where(table.run_id == run_id).limit(ROWS)
        left = True
        while left:
            with engine.begin() as connection:
                left = connection.execute(delete(table).where(table.id.in_(some))).rowcount == ROWS
    else:
        files.remove(artifacts, run_id, lambda path: removals.kind_of(path) == what)
    with Session(engine) as session, session.begin():
        ours = (RemovalRow.run_id == run_id, RemovalRow.what == what)
        session.execute(update(RemovalRow).where(*ours).values(done_at=func.now()))


def retain_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    """Soon after the start, then every hour."""
    rules, wait = Rules.of(settings), FIRST_SECONDS
    while not stopping.wait(wait):
        wait = EVERY_SECONDS
        try:
            with alone(engine, LOCK) as mine:
                if mine:
                    retain(engine, Artifacts(settings.artifacts_url), rules, stopping)
        except DBAPIError as error:
            log.warning("database_away", during="retention", error=str(error.orig)[:200])
            wait = FIRST_SECONDS
        except RefluxError as error:
            log.warning("artifacts_away", during="retention", error=str(error))
            wait = FIRST_SECONDS
