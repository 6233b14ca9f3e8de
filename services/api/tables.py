"""The tables. Postgres is the truth: what is not here has not happened."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Computed, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {datetime: TIMESTAMP(timezone=True), dict[str, Any]: JSONB, str: Text, list[str]: JSONB}


class RunRow(Base):
    """A run. `state` is the loop's; the other columns are drawn from it for queries, in the same transaction."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_newest", "created_at", "id"),
        Index("runs_unfinished", "status", postgresql_where=text("ended_at is null")),
        Index("runs_unprojected", "id", postgresql_where=text("projected_seq < seq")),
        Index("runs_unnotified", "id", postgresql_where=text("notified_seq < seq")),
        Index("runs_unpublished", "id", postgresql_where=text("published_seq < seq")),
        Index("runs_untraced", "ended_at", postgresql_where=text("traced_seq < seq")),
        Index("runs_by_status", "status", "created_at", "id"),
        Index("runs_by_name", "name", "created_at", "id"),
        Index("runs_by_label", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    recipe: Mapped[str]
    status: Mapped[str]
    stage: Mapped[str]
    stage_since: Mapped[datetime] = mapped_column(server_default=func.now())
    stopping: Mapped[str | None]
    stopping_since: Mapped[datetime | None]
    labels: Mapped[dict[str, Any]]
    state: Mapped[dict[str, Any]]
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSONB, Computed("state -> 'usage'", persisted=True), deferred=True)
    seq: Mapped[int] = mapped_column(default=0)
    projected_seq: Mapped[int] = mapped_column(default=-1)
    notified_seq: Mapped[int] = mapped_column(server_default="0")
    published_seq: Mapped[int] = mapped_column(server_default="0")
    traced_seq: Mapped[int] = mapped_column(server_default="0")
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    body_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]


class EventRow(Base):
    """The append-only history of a run. `seq` has no gaps; what has a type of `reflux.events` can be replayed."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("run_id", "seq", name="events_in_order"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    seq: Mapped[int]
    type: Mapped[str]
    status: Mapped[str]
    body: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class TaskRow(Base):
    """The outbox: ready (from `due_at`) → claimed → done | failed | cancelled | stopped."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("run_id", "key", name="tasks_once"),
        Index("tasks_ready", "due_at", postgresql_where=text("status = 'ready'")),
        Index("tasks_claimed", "heard_at", postgresql_where=text("status = 'claimed'")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    key: Mapped[str]
    kind: Mapped[str]
    stage: Mapped[str]
    epoch: Mapped[int]
    command: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(default="ready")
    attempt: Mapped[int] = mapped_column(default=0)
    accepted_attempt: Mapped[int | None]
    failures: Mapped[int] = mapped_column(default=0)
    barren: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None]
    incarnation: Mapped[str | None]
    claim_token: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]
    orphaned_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    rings: Mapped[int] = mapped_column(default=0)
    ring_at: Mapped[datetime] = mapped_column(server_default=func.now())
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_at: Mapped[datetime | None]
    heard_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class ErrandRow(Base):
    """A question from a person: ready → claimed → done | failed | cancelled. `text` is what is written so far.

    A look at data is of no run, and has no spec. `waited_for_at` is when somebody last looked for the answer.
    Deleted a while after its end.
    """

    __tablename__ = "errands"
    __table_args__ = (
        Index("errands_unanswered", "service", "id", postgresql_where=text("status in ('ready', 'claimed')")),
        Index("errands_of_run", "run_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str]
    service: Mapped[str]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    asked_by: Mapped[str]
    order: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any] | None]
    status: Mapped[str] = mapped_column(server_default="ready")
    attempt: Mapped[int] = mapped_column(server_default="0")
    worker: Mapped[str | None]
    incarnation: Mapped[str | None]
    text: Mapped[str] = mapped_column(server_default="")
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    waited_for_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_at: Mapped[datetime | None]
    heard_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class MetricRow(Base):
    __tablename__ = "metrics"
    __table_args__ = (Index("metrics_series", "run_id", "name", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    epoch: Mapped[int]
    name: Mapped[str]
    step: Mapped[int]
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class LogRow(Base):
    __tablename__ = "logs"
    __table_args__ = (Index("logs_of_run", "run_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    task: Mapped[str]
    service: Mapped[str]
    level: Mapped[str]
    line: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class RemovalRow(Base):
    """What retention has taken from a run: recorded before anything is deleted, `done_at` once nothing of it is left."""

    __tablename__ = "removals"
    __table_args__ = (Index("removals_undone", "at", postgresql_where=text("done_at is null")),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    why: Mapped[str]
    count: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    done_at: Mapped[datetime | None]


class TrackedRow(Base):
    """Up to which event and metric a tracking server was told of a run, and what it calls the run."""

    __tablename__ = "tracked"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    external_id: Mapped[str]
    seq: Mapped[int]
    metric_id: Mapped[int] = mapped_column(BigInteger)


class WorkerRow(Base):
    """A worker slot. A new incarnation of the same name means that the one before is gone."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    service: Mapped[str]
    incarnation: Mapped[str]
    capabilities: Mapped[dict[str, Any]]
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DeploymentRow(Base):
    """One row: the name that the tags of this deployment's machines carry."""

    __tablename__ = "deployment"

    id: Mapped[str] = mapped_column(primary_key=True)


class ResourceRow(Base):
    """A machine that exists only for a run, recorded before it is made; it is gone when it was seen to be."""

    __tablename__ = "resources"
    __table_args__ = (
        Index("resources_of_run", "run_id"),
        Index("resources_left", "look_at", postgresql_where=text("status <> 'gone'")),
    )

    token: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    kind: Mapped[str]
    region: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="intended")
    external_id: Mapped[str | None]
    last: Mapped[dict[str, Any] | None]
    looks: Mapped[int] = mapped_column(server_default="0")
    intended_at: Mapped[datetime] = mapped_column(server_default=func.now())
    made_at: Mapped[datetime | None]
    looked_at: Mapped[datetime | None]
    look_at: Mapped[datetime] = mapped_column(server_default=func.now())
    gone_at: Mapped[datetime | None]


class PlaceRow(Base):
    """Where this deployment has ever meant to make a machine: looked through by its tag now and then."""

    __tablename__ = "places"

    kind: Mapped[str] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    look_at: Mapped[datetime] = mapped_column(server_default=func.now())


class KeyRow(Base):
    """A bearer key, by its SHA-256. The key itself was shown once, and is nowhere. A machine's is good for its run alone."""

    __tablename__ = "keys"
    __table_args__ = (Index("keys_of_run", "run_id", postgresql_where=text("run_id is not null")),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    label: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))


class SignInRow(Base):
    """A browser that is signed in to the dashboard, by the SHA-256 of its cookie's token."""

    __tablename__ = "sign_ins"

    digest: Mapped[str] = mapped_column(primary_key=True)
    key_digest: Mapped[str] = mapped_column(ForeignKey("keys.digest", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
