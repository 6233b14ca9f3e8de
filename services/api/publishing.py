"""Each event on a stream in Valkey, for whoever listens: at least once, and a run's events in their order.

Each run has its own place up to which it was published. One place in all events would skip some: ids are given before commits.
"""

from typing import Any

import redis
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from services.api.tables import EventRow, RunRow

STREAM, KEPT = "reflux:events", 10_000  # its name, and about how many events it keeps
LOCK = 7205314  # one control process publishes at a time
TOGETHER = 500


def publish(engine: Engine, valkey: redis.Redis) -> None:
    """Put everything that is new on the stream. Raises RedisError when that is away; nothing is lost then."""
    with Session(engine) as session, session.begin():
        if not session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
            return
        for run_id in session.scalars(select(RunRow.id).where(RunRow.published_seq < RunRow.seq).order_by(RunRow.id)).all():
            _publish(engine, valkey, run_id)


def _publish(engine: Engine, valkey: redis.Redis, run_id: str) -> None:
    """In a transaction of its own, so that the run is locked for a moment only. A run that moves just now has its turn later."""
    ours = select(RunRow.published_seq).where(RunRow.id == run_id).with_for_update(skip_locked=True, key_share=True)
    with Session(engine) as session, session.begin():
        published = session.scalar(ours)
        if published is None:
            return
        events = session.scalars(
            select(EventRow).where(EventRow.run_id == run_id, EventRow.seq > published).order_by(EventRow.seq).limit(TOGETHER)
        ).all()
        with valkey.pipeline(transaction=False) as pipe:
            for event in events:
                fact: dict[Any, Any] = {"run_id": run_id, "seq": event.seq, "type": event.type, "status": event.status}
                pipe.xadd(STREAM, fact, maxlen=KEPT, approximate=True)
            pipe.execute()
        if events:
            session.execute(update(RunRow).where(RunRow.id == run_id).values(published_seq=events[-1].seq))
