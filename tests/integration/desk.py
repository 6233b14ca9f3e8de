"""The API's own transactions on a real PostgreSQL, without its processes: each can be held open while another waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.orm import Session

from reflux.commands import Command
from reflux.errors import failure
from reflux.events import Event, RunAdmitted
from reflux.protocol import Accepted, Assignment, Claim
from reflux.run import Run
from reflux.stages import Stage
from services.api import runs, tasks
from services.api.advance import advance, lock
from services.api.database import make_engine, migrate
from services.api.settings import Settings
from services.api.tables import EventRow, RunRow, TaskRow
from tests.unit import stories

T = TypeVar("T")
U = TypeVar("U")

Work = Callable[[Session], T]


@contextmanager
def database(port: int, name: str, encoding: str = "UTF8") -> Iterator[Engine]:
    """A new, empty database on the server at `port`."""
    server = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)")  # type: ignore[arg-type]
        made = f"create database {name} template template0 encoding '{encoding}' locale 'C'"
        connection.execute(made)  # type: ignore[arg-type]
    engine = make_engine(f"postgresql+psycopg://postgres@127.0.0.1:{port}/{name}")
    yield engine
    engine.dispose()


class Desk:
    """A database with today's schema, and one worker of everything. What is not said of an attempt is that of `given`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.settings = Settings()
        migrate(engine)

    def do(self, work: Work[T]) -> T:
        """One transaction."""
        with Session(self.engine, expire_on_commit=False) as session:
            done = work(session)
            session.commit()
            return done

    def race(self, first: Work[T], second: Work[U]) -> tuple[T, U]:
        """`second` begins while `first` is not committed, waits where their rows meet, and goes on after the commit."""
        seconds: list[U] = []
        pid = list[int]()

        def wait_and_do() -> None:
            def work(session: Session) -> U:
                pid.append(session.execute(text("select pg_backend_pid()")).scalar_one())
                return second(session)

            seconds.append(self.do(work))

        with Session(self.engine, expire_on_commit=False) as session:
            done = first(session)
            session.flush()
            other = threading.Thread(target=wait_and_do)
            other.start()
            while other.is_alive() and not (pid and self._waits(pid[0])):
                time.sleep(0.002)
            session.commit()
        other.join()
        return done, seconds[0]

    def at_once(self, *works: Callable[[], None]) -> None:
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _waits(self, pid: int) -> bool:
        query = text("select wait_event_type = 'Lock' from pg_stat_activity where pid = :pid")
        return bool(self.do(lambda session: session.scalar(query, {"pid": pid})))

    # A run

    def submit(self, **sections: Any) -> str:
        return self.do(lambda session: runs.create(session, stories.spec(**sections), by="tester")[0].id)

    def create(self, **sections: Any) -> str:
        """An admitted run."""
        run_id = self.submit(**sections)
        self.tell(run_id, RunAdmitted())
        return run_id

    def clear(self) -> None:
        """Forget every run."""
        self.do(lambda session: session.execute(delete(RunRow)))

    def run(self, run_id: str) -> Run:
        return Run.model_validate(self.row(run_id).state)

    def row(self, run_id: str) -> RunRow:
        return self.do(lambda session: session.get_one(RunRow, run_id))

    def task(self, task_id: int) -> TaskRow:
        return self.do(lambda session: session.get_one(TaskRow, task_id))

    def tasks(self, run_id: str, *statuses: str) -> list[TaskRow]:
        query = select(TaskRow).where(TaskRow.run_id == run_id).order_by(TaskRow.id)
        found = self.do(lambda session: list(session.scalars(query)))
        return [task for task in found if not statuses or task.status in statuses]

    def events(self, run_id: str) -> list[EventRow]:
        query = select(EventRow).where(EventRow.run_id == run_id).order_by(EventRow.seq)
        return self.do(lambda session: list(session.scalars(query)))

    def tell(self, run_id: str, event: Event) -> None:
        self.do(telling(run_id, event))

    # Its worker

    def claim(self, task_id: int, worker: str = "w", service: str | None = None, token: str = "t") -> Assignment | None:
        body = Claim(worker=worker, incarnation="a", token=token, service=service)
        return self.do(lambda session: tasks.claim(session, task_id, body, self.settings))

    def held(self, task_id: int) -> Assignment:
        """A claimed task's assignment, asked for again."""
        given = self.claim(task_id)
        assert given
        return given

    def take_all(self, run_id: str) -> list[Assignment]:
        """Claim whatever is ready."""
        given = [self.claim(task.id) for task in self.tasks(run_id, "ready")]
        return [assignment for assignment in given if assignment is not None]

    def work(self, run_id: str, until: Callable[[Command], bool] = lambda _: False) -> list[Assignment]:
        """Do everything until the run is over or rests, or `until` says so of something just claimed; what is then in hand."""
        while given := self.take_all(run_id):
            if any(until(assignment.command) for assignment in given):
                return given
            for assignment in given:
                assert self.do(completing(assignment)).accepted
        return []

    def until_stage(self, run_id: str, stage: Stage) -> list[Assignment]:
        return self.work(run_id, lambda command: command.stage == stage)


def telling(run_id: str, event: Event) -> Work[None]:
    def work(session: Session) -> None:
        row = lock(session, run_id)
        assert row
        advance(session, row, event)

    return work


def completing(given: Assignment) -> Work[Accepted]:
    return lambda session: tasks.complete(session, given.task_id, given.attempt, stories.answer(given.command))


def failing(given: Assignment, code: str = "access_denied") -> Work[Accepted]:
    return lambda session: tasks.fail(session, given.task_id, given.attempt, failure(code, "it went wrong"))


def stopping(given: Assignment) -> Work[Accepted]:
    return lambda session: tasks.stopped(session, given.task_id, given.attempt, handed_back=False)


def handing_back(given: Assignment) -> Work[Accepted]:
    return lambda session: tasks.stopped(session, given.task_id, given.attempt, handed_back=True)


def losing(given: Assignment) -> Work[None]:
    return lambda session: tasks.orphan(session, given.task_id, given.attempt, "silent")
