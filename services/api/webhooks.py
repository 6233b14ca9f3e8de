"""Status changes of runs, posted to the deployment's webhook as Standard Webhooks has it (standardwebhooks.com).

Each run has its own place up to which it was told, so its changes come in order, each at least once, whatever was killed.
A receiver that does not answer with 2xx is asked again, ever more rarely, for a day.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import structlog
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reflux.run import Run
from services.api.settings import Settings
from services.api.tables import EventRow, RunRow

log = structlog.get_logger()

LOCK = 7205313  # one control process delivers at a time
KEPT = timedelta(days=1)
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds


@dataclass
class Webhook:
    url: str
    secret: str
    engine: Engine
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10, follow_redirects=False))
    waits: dict[str, tuple[int, float]] = field(default_factory=dict)  # by run: failures, and when to try again

    def deliver(self) -> None:
        """Tell all that is news and not waiting for a further try."""
        with self.engine.begin() as guard:
            if guard.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                for run_id in self._runs():
                    self._tell(run_id)

    def _runs(self) -> list[str]:
        now = time.monotonic()
        waiting = [run_id for run_id, (_, at) in self.waits.items() if at > now]
        query = select(RunRow.id).where(RunRow.notified_seq < RunRow.seq, RunRow.id.not_in(waiting)).order_by(RunRow.id)
        with Session(self.engine) as session:
            return list(session.scalars(query.limit(100)))

    def _tell(self, run_id: str) -> None:
        with Session(self.engine) as session:
            row = session.get(RunRow, run_id)
            if row is None:
                return
            told = row.notified_seq
            query = select(EventRow).where(EventRow.run_id == run_id, EventRow.seq >= told).order_by(EventRow.seq)
            events = list(session.scalars(query))
        before: str | None = None
        for event in events:
            changed = event.status != before and event.seq > told
            if changed and event.at > datetime.now(UTC) - KEPT and not self._post(_body(row, event, before), event):
                return
            before = event.status
            if changed or event is events[-1]:
                self._note(run_id, event.seq)
        self.waits.pop(run_id, None)

    def _post(self, body: dict[str, Any], event: EventRow) -> bool:
        message_id, timestamp, content = f"{event.run_id}-{event.seq}", str(int(time.time())), json.dumps(body)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(self.secret, message_id, timestamp, content),
        }
        try:
            answer = self.http.post(self.url, content=content, headers=headers)
            why = "" if answer.is_success else f"it answered {answer.status_code}"
        except httpx.HTTPError as error:
            why = type(error).__name__
        if why:
            failures = self.waits.get(event.run_id, (0, 0.0))[0] + 1
            wait = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT)
            self.waits[event.run_id] = failures, time.monotonic() + wait
            log.warning("webhook_failed", run_id=event.run_id, seq=event.seq, why=why, again_in_seconds=wait)
        return not why

    def _note(self, run_id: str, seq: int) -> None:
        with Session(self.engine) as session:
            session.execute(update(RunRow).where(RunRow.id == run_id).values(notified_seq=seq))
            session.commit()


def sign(secret: str, message_id: str, timestamp: str, content: str) -> str:
    signed = hmac.new(secret.encode(), f"{message_id}.{timestamp}.{content}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def deliver_all(stopping: threading.Event, settings: Settings, engine: Engine, _: threading.Event) -> None:
    assert settings.webhook_url
    assert settings.webhook_secret
    webhook = Webhook(settings.webhook_url, settings.webhook_secret.get_secret_value(), engine)
    while not stopping.wait(0.5):
        try:
            webhook.deliver()
        except DBAPIError as error:
            log.warning("database_away", during="webhook", error=str(error.orig)[:200])
            stopping.wait(1)


def _body(row: RunRow, event: EventRow, before: str | None) -> dict[str, Any]:
    error = Run.model_validate(row.state).error if event.status == "failed" else None
    return {
        "type": "run.status_changed",
        "timestamp": event.at.isoformat(),
        "data": {
            "run_id": row.id,
            "name": row.name,
            "recipe": row.recipe,
            "metadata": row.labels,
            "status": event.status,
            "previous_status": before,
            "event": event.seq,
            "error": error.model_dump(mode="json", exclude={"log"}) if error else None,
        },
    }
