"""A worker's part of the protocol played by hand over real HTTP, so that each step can be late, doubled or left out."""

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from reflux.commands import Command
from reflux.errors import failure
from reflux.events import Event
from reflux.local.stack import Stack
from reflux.protocol import Accepted, Assignment, BeatAnswer, Claim, Registration
from reflux.worker import Api
from tests.unit import stories

T = TypeVar("T")

SPEC: dict[str, Any] = {
    "name": "by hand",
    "data": {"sources": [{"uri": "file:///src", "domain": "tsn"}]},
    "refining": {"max_epochs": 2},
}


class HandWorker:
    """Claims tasks of a run by asking Postgres for their ids, as a ring would tell them."""

    def __init__(self, api: Api, stack: Stack) -> None:
        self.api = api
        self.stack = stack
        self.name = "hand-1"

    def register(self, service: str = "teacher_worker", incarnation: str = "a") -> None:
        self.api.post("/v1/workers", Registration(name=self.name, service=service, incarnation=incarnation))

    def ready(self, run_id: str, seconds: float = 20.0) -> list[tuple[int, str]]:
        """The ready tasks of a run, (id, key), once there are any."""
        return eventually(lambda: self._ready(run_id), seconds, f"run {run_id} has no ready task")

    def claim(self, task_id: int, incarnation: str = "a", token: str = "") -> Assignment | None:
        body = Claim(worker=self.name, incarnation=incarnation, token=token or secrets.token_hex(4))
        answer = self.api.post(f"/v1/tasks/{task_id}/claim", body)
        return None if answer is None else Assignment.model_validate(answer)

    def take(self, run_id: str) -> Assignment:
        """Claim the first task of the run that can be claimed."""

        def attempt() -> Assignment | None:
            return next((a for task_id, _ in self._ready(run_id) if (a := self.claim(task_id))), None)

        return eventually(attempt, 20.0, f"run {run_id} has no task to claim")

    def beat(self, a: Assignment, **report: Any) -> BeatAnswer:
        return BeatAnswer.model_validate(self.api.once(f"/v1/tasks/{a.task_id}/beat", {"attempt": a.attempt, **report}))

    def complete(self, a: Assignment, event: Event | None = None) -> Accepted:
        event = event or stories.answer(a.command)
        body = {"attempt": a.attempt, "event": event.model_dump(mode="json")}
        return Accepted.model_validate(self.api.once(f"/v1/tasks/{a.task_id}/complete", body))

    def fail(self, a: Assignment, code: str, message: str = "it went wrong") -> Accepted:
        body = {"attempt": a.attempt, "failure": failure(code, message).model_dump(mode="json")}
        return Accepted.model_validate(self.api.once(f"/v1/tasks/{a.task_id}/fail", body))

    def stopped(self, a: Assignment, *, handed_back: bool = False) -> Accepted:
        body = {"attempt": a.attempt, "handed_back": handed_back}
        return Accepted.model_validate(self.api.once(f"/v1/tasks/{a.task_id}/stopped", body))

    def work(self, run_id: str, until: Callable[[Command], bool] = lambda _: False) -> Assignment | None:
        """Do everything the run asks for until it is over, or `until` says so of a command just claimed."""
        while True:
            self.sql_wait(run_id)
            if self.sql("select ended_at is not null from runs where id = %s", run_id)[0][0]:
                return None
            a = self.take(run_id)
            if until(a.command):
                return a
            assert self.complete(a).accepted

    def sql_wait(self, run_id: str) -> None:
        """Until the run has a ready task or is over."""
        eventually(
            lambda: self._ready(run_id) or self.sql("select 1 from runs where id = %s and ended_at is not null", run_id),
            20.0,
            f"run {run_id} is stuck",
        )

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        url = f"postgresql://postgres@127.0.0.1:{self.stack.ports['postgres']}/reflux"
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(query, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def _ready(self, run_id: str) -> list[tuple[int, str]]:
        rows = self.sql(
            "select id, key from tasks where run_id = %s and status = 'ready' and due_at <= now() order by id", run_id
        )
        return [(int(task_id), str(key)) for task_id, key in rows]


def eventually(look: Callable[[], T], seconds: float, otherwise: str) -> T:
    """What `look` sees once it is true; AssertionError if it never is."""
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > until:
            raise AssertionError(otherwise)
        time.sleep(0.05)
