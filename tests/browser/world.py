"""Runs in every look, made by the API's own functions: each task is claimed, beaten and completed as a worker would.

A run is played on a clock of its own, so that its training took minutes though the test took none; at the end its times are
moved so that the run ends, or stands, where it is wanted.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, CleanUp, Command, Correct, Generate, Train
from reflux.errands import Errand, ErrandClaim, ErrandEnd, ErrandFailing, PreviewErrand, Result, Said
from reflux.errors import RefluxError, failure
from reflux.events import Event, RunAdmitted
from reflux.protocol import Assignment, Beat, Claim, LogLine, MetricPoint, Progress, Registration
from reflux.queues import service
from reflux.records import Answer, Correction, TeacherAnswer, Verdict
from reflux.run import Run
from reflux.spec import RunSpec, check
from reflux.summary import Usage
from reflux.task import Task
from services.api import auth, errand_desk, runs, tasks
from services.api.advance import advance, lock
from services.api.database import make_engine
from services.api.settings import Settings
from services.api.tables import RunRow
from services.evaluator import tasks as evaluator
from services.teacher_worker import previews
from tests.browser import pupil
from tests.integration.by_hand import eventually
from tests.unit import stories

LONG_AGO = timedelta(days=90)  # where a run's clock begins: what has just been written is told apart by it
TOOK = {"preflight": 7, "prepare": 48, "teach": 95, "train": 1480, "generate": 390, "score": 24, "correct": 66, "judge": 18}
SETS = {"practice": 12, "dev": 4, "test": 4}
WORKERS = {"teacher_worker": "teacher-1", "evaluator": "evaluator-1", "gpu_trainer": "trainer-1"}
Until = Callable[[Command], bool]


def spec(name: str, **sections: Any) -> RunSpec:
    smallest = {
        "name": name,
        "metadata": {"team": "tsn"},
        "data": {"sources": [{"uri": "s3://our-code/tsn/", "domain": "tsn"}, {"uri": "s3://our-code/avb/", "domain": "avb"}]},
        "refining": {"max_epochs": 3},
        "limits": {"max_teacher_cost_usd": 40},
    }
    made, problems = check(smallest | sections)
    assert made is not None, problems
    return made


def before(kind: str, epoch: int = 0) -> Until:
    """Play until the first task of this kind, of this epoch, is in a worker's hands."""
    return lambda command: command.kind == kind and epoch in (0, command.epoch)


class World:
    def __init__(self, database_url: str, artifacts_url: str) -> None:
        self.engine = make_engine(database_url)
        self.artifacts = Artifacts(artifacts_url)
        self.settings = Settings(artifacts_url=artifacts_url)
        self.prompts = pupil.prompts()
        self.clocks: dict[str, datetime] = {}

    @contextmanager
    def session(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def key(self, role: auth.Role, label: str) -> str:
        with self.session() as session:
            return auth.new_key(session, role, label)

    def register(self) -> None:
        """One worker of each service, alive."""
        gpu = {"gpu": "NVIDIA L4", "gpu_memory_gb": 24.0, "cuda": True, "cpus": 8, "memory_gb": 31.2, "disk_free_gb": 210.4}
        for of, name in WORKERS.items():
            able = gpu if of == "gpu_trainer" else {"gcc": "14.2.0"} if of == "evaluator" else {"boto3": "1.44.5"}
            with self.session() as session:
                tasks.register(session, Registration(name=name, service=of, incarnation="a", capabilities=able))

    def is_up(self) -> bool:
        try:
            self.engine.connect().close()
        except OperationalError:
            return False
        return True

    # A run

    def create(self, wanted: RunSpec, *, admitted: bool = True) -> str:
        with self.session() as session:
            row, _ = runs.create(session, wanted, "ada")
        self.clocks[row.id] = datetime.now(UTC) - LONG_AGO
        self.stamp(row.id, 0)
        if admitted:
            self.tell(row.id, RunAdmitted())
        return row.id

    def tell(self, run_id: str, event: Event) -> Run:
        with self.session() as session:
            row = lock(session, run_id)
            assert row is not None
            run = advance(session, row, event)
        self.stamp(run_id, 4)
        return run

    def play(self, run_id: str, until: Until = lambda _: False) -> Assignment | None:
        """Do what the run asks for, until `until` says so of a task just claimed, or nothing is ready any more."""
        while (given := self.claim(run_id)) is not None:
            if until(given.command):
                return given
            self.complete(given, self.answer(given))
        return None

    def claim(self, run_id: str) -> Assignment | None:
        with self.session() as session:
            ready = "select id, kind from tasks where run_id = :run and status = 'ready' and kind != 'review' order by id limit 1"
            found = session.execute(text(ready), {"run": run_id}).one_or_none()
            if found is None:
                return None
            worker = WORKERS[service(found.kind)]
            given = tasks.claim(session, found.id, Claim(worker=worker, incarnation="a", token="t"), self.settings)
        assert given is not None
        self.stamp(run_id, 1)
        return given

    def complete(self, given: Assignment, event: Event) -> None:
        with self.session() as session:
            assert tasks.complete(session, given.task_id, given.attempt, event).accepted
        self.stamp(given.run_id, TOOK.get(given.command.kind, 12))

    def beat(self, given: Assignment, **report: Any) -> None:
        with self.session() as session:
            tasks.beat(session, given.task_id, Beat(attempt=given.attempt, **report), self.settings)
        self.stamp(given.run_id, 0)

    def fail(self, given: Assignment, code: str, message: str) -> None:
        with self.session() as session:
            assert tasks.fail(session, given.task_id, given.attempt, failure(code, message)).accepted
        self.stamp(given.run_id, 30)

    def stopped(self, given: Assignment) -> None:
        with self.session() as session:
            assert tasks.stopped(session, given.task_id, given.attempt, handed_back=False).accepted
        self.stamp(given.run_id, 3)

    def orphan(self, given: Assignment) -> None:
        with self.session() as session:
            tasks.orphan(session, given.task_id, given.attempt, "it was silent for 45 s")
        self.stamp(given.run_id, 45)

    # A question from the playground

    def errand(self, of: str) -> Errand:
        """The next question to this service, in its worker's hands, once there is one."""
        body = ErrandClaim(worker=WORKERS[of], incarnation="a", service=of)

        def claimed() -> Errand | None:
            with self.session() as session:
                return errand_desk.claim(session, body, self.settings)

        given = eventually(claimed, 10.0, f"nobody asked the {of}")
        assert given is not None
        return given

    def say(self, given: Errand, at: int, words: str) -> bool:
        """Whether anybody still waits."""
        with self.session() as session:
            return errand_desk.said(session, given.id, Said(attempt=given.attempt, at=at, text=words)).go_on

    def end(self, given: Errand, result: Result) -> None:
        with self.session() as session:
            errand_desk.end(session, given.id, ErrandEnd(attempt=given.attempt, at=10**6, result=result))

    def look(self) -> None:
        """Into the place that somebody asks about, as a teacher worker does."""
        given = self.errand("teacher_worker")
        assert isinstance(given.order, PreviewErrand)
        try:
            self.end(given, previews.look(given.order))
        except RefluxError as error:
            with self.session() as session:
                errand_desk.fail(session, given.id, ErrandFailing(attempt=given.attempt, failure=error.failure()))

    # What workers answer

    def answer(self, given: Assignment) -> Event:
        command = given.command
        task = Task(given.run_id, command, given.spec, self.artifacts, attempt=given.attempt)
        match command:
            case Train():
                return self.trained(given, command)
            case Generate():
                return stories.answer(
                    command, chunks=tuple(self.generated(given, command)), tokens=4810, seconds=TOOK["generate"]
                )
            case Correct():
                return self.corrected(task, command)
            case CleanUp():
                self.artifacts.put(f"runs/{given.run_id}/report.md", b"# A run\n\nIt went well.\n")
        if command.kind in evaluator.HANDLERS:
            return evaluator.HANDLERS[command.kind](task)
        facts: dict[str, Any] = {}
        if command.kind == "prepare":
            facts = {**SETS, "files": 44, "train": 149, "val": 17, "skipped": {"licence": 3, "too_large": 1}}
        if command.kind == "teach":
            price = Usage(calls=12, input_tokens=5800, output_tokens=2900, cost_usd=0.061)
            facts = {"answered": 12, "usage": price}
        return stories.answer(command, **facts)

    def trained(self, given: Assignment, command: Train, share: float = 1.0) -> Event:
        """With its series and its log told; `share` of it only, for a training that goes on."""
        steps, noise = 400, random.Random(command.epoch)
        points = []
        for step in range(10, int(steps * share) + 1, 10):
            loss = 0.35 + 1.25 * math.exp(-(step + steps * (command.epoch - 1)) / 260) + noise.uniform(-0.03, 0.03)
            values = {"loss": loss, "learning_rate": 2e-4 * (1 - step / steps), "grad_norm": noise.uniform(0.3, 0.9)}
            values |= {"tokens_per_second": 1450 + noise.uniform(-60, 60), "eta_seconds": (steps - step) * 3.7, "memory_gb": 17.3}
            points.append(MetricPoint(step=step, values=values))
            if step % 50 == 0:
                points.append(MetricPoint(step=step, values={"val_loss": loss + 0.08}))
        lines = [LogLine(line="149 rows, 21 corrections: 400 steps of 8 rows"), LogLine(line="checkpoint at step 100")]
        if command.epoch > 1:
            lines.append(LogLine(line="2 rows were cut to 4096 tokens", level="warning"))
        done = Progress(done=int(steps * share), total=steps, note="steps")
        self.beat(given, progress=done, metrics=points, logs=lines)
        path = f"runs/{given.run_id}/tasks/{command.key}/attempt-1/adapter"
        self.artifacts.put(f"{path}/adapter_config.json", b"{}")
        loss = points[-1].values.get("loss", 0.5)
        return stories.answer(command, adapter_path=path, train_loss=loss, steps=steps, rows=170, seconds=TOOK["train"])

    def generated(self, given: Assignment, command: Generate) -> Iterator[Chunk]:
        starts = {"practice": 0, "dev": SETS["practice"], "test": SETS["practice"] + SETS["dev"]}
        for prompt_set in command.sets:
            rows = []
            for place in range(starts[prompt_set], starts[prompt_set] + SETS[prompt_set]):
                asked = self.prompts[place]
                quality = pupil.level(place, 1 if command.model == "base" else command.epoch)
                for sample in range(command.samples):
                    words = pupil.written(asked, quality)
                    rows.append(Answer(prompt_id=asked.id, prompt=asked.prompt, domain=asked.domain, sample=sample, text=words))
            path = f"runs/{given.run_id}/pieces/{command.key}/{prompt_set}.jsonl"
            self.artifacts.write_rows(path, rows)
            yield Chunk(set=prompt_set, index=0, model=command.model, path=path, count=len(rows))

    def corrected(self, task: Task, command: Correct) -> Event:
        """Every poor answer gets the teacher's; one in four of the first asks is no better than the student's, and is refused."""
        rows = list(self.asked_for(task, command))
        path = f"{task.folder}/corrections.jsonl"
        self.artifacts.write_rows(path, rows)
        cost = Usage(calls=len(rows), input_tokens=1300 * len(rows), output_tokens=260 * len(rows), cost_usd=0.0078 * len(rows))
        return stories.answer(command, path=path, requested=len(rows), answered=len(rows), usage=cost)

    def asked_for(self, task: Task, command: Correct) -> Iterator[Correction]:
        by_id = {asked.id: asked for asked in self.prompts}
        if command.refused_path:
            refused = [row for row in self.artifacts.read_rows(command.refused_path, Correction) if not row.admitted]
            poor = [(row.attempt, row.attempt_verdict) for row in refused]
        else:
            answers = {row.prompt_id: row for path in command.answers_paths for row in self.artifacts.read_rows(path, Answer)}
            verdicts = [row for path in command.verdicts_paths for row in self.artifacts.read_rows(path, Verdict)]
            poor = [(answers[v.prompt_id], v) for v in verdicts if v.overall < task.spec.refining.quality_threshold]
        for number, (attempt, verdict) in enumerate(poor):
            asked = by_id[attempt.prompt_id]
            vain = command.ask == 1 and number % 4 == 3
            answer = TeacherAnswer(
                prompt_id=asked.id,
                prompt=asked.prompt,
                text=attempt.text if vain else asked.good,
                model=task.spec.teacher.model,
                provider="bedrock",
                answered_at="2026-11-25T09:12:04Z",
                input_tokens=1300,
                output_tokens=260,
                cost_usd=0.0078,
            )
            yield Correction(
                prompt_id=asked.id,
                prompt=asked.prompt,
                domain=asked.domain,
                attempt=attempt,
                attempt_verdict=verdict,
                answer=answer,
                ask=command.ask,
            )

    # Its clock

    def stamp(self, run_id: str, seconds: float) -> None:
        """What has just been written was written so many seconds later by the run's own clock; unless it is settled."""
        if run_id not in self.clocks:
            return
        at = self.clocks[run_id] = self.clocks[run_id] + timedelta(seconds=seconds)
        for table, columns in TIMES.items():
            own = "id" if table == "runs" else "run_id"
            new = ", ".join(f"{c} = case when {c} > now() - interval '30 days' then :at else {c} end" for c in columns)
            with self.session() as session:
                session.execute(text(f"update {table} set {new} where {own} = :run"), {"at": at, "run": run_id})

    def settle(self, run_id: str, ago: timedelta = timedelta(seconds=20)) -> str:
        """Move all its times, so that the last thing happened so long ago."""
        shift = datetime.now(UTC) - ago - self.clocks[run_id]
        for table, columns in TIMES.items():
            own = "id" if table == "runs" else "run_id"
            new = ", ".join(f"{column} = {column} + :shift" for column in columns)
            with self.session() as session:
                session.execute(text(f"update {table} set {new} where {own} = :run"), {"shift": shift, "run": run_id})
        del self.clocks[run_id]
        return run_id

    def row(self, run_id: str) -> RunRow:
        with self.session() as session:
            return runs.get(session, run_id)


TIMES = {
    "runs": ("created_at", "started_at", "ended_at", "stage_since", "stopping_since"),
    "events": ("at",),
    "tasks": ("created_at", "due_at", "ring_at", "claimed_at", "heard_at", "progress_at", "orphaned_at", "ended_at"),
    "metrics": ("at",),
    "logs": ("at",),
}
